"""Whether an event is what the catalogue says of its type.

Asked when an event is published and never when one is read: a reader may be older than the publisher, and ignores
fields that it does not know.
"""

from collections.abc import Mapping

from pydantic import JsonValue, ValidationError

from kernel_common.events.catalogue.domains import DOMAINS
from kernel_common.events.catalogue.types import EVENTS


class UnfitEvent(ValueError):
    """An event of the kernel that the catalogue does not know so. ``field`` is the place: ``type``, ``schemaVersion``,
    or ``data`` and a path into it. No content of the event is told."""

    def __init__(self, type: str, field: str, problem: str) -> None:
        super().__init__(f"{type}: {field}: {problem}")
        self.type, self.field = type, field


def check(type: str, schema_version: str, data: Mapping[str, JsonValue]) -> None:
    """Raises UnfitEvent. Types of modules pass: their payloads are their own."""
    domain = type.partition(".")[0]
    if domain not in DOMAINS:
        return
    if domain == "data":
        raise UnfitEvent(type, "type", "change data capture alone publishes in this domain")
    event = EVENTS.get(type)
    if event is None:
        raise UnfitEvent(type, "type", "there is no such event; a new one is added to the catalogue first")
    if schema_version != event.version:
        raise UnfitEvent(type, "schemaVersion", f"it is {event.version}")
    try:
        event.payload.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"] if part not in ("member", "role"))
        raise UnfitEvent(type, f"data.{path}" if path else "data", first["msg"]) from None
