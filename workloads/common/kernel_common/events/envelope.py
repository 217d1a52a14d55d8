"""The form of every domain event, on the wire and in the outbox."""

import re
from datetime import UTC, datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic.alias_generators import to_camel

from kernel_common.events.catalogue import key_field, version_of
from kernel_common.ids import uuid7

MAX_BYTES = 1_000_000
"""The largest envelope, as JSON in UTF-8."""

MAX_KEY = 400
"""The longest key, in characters."""

_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""An escaped U+0000, but not an escaped backslash before the letters u0000."""


def _version_7(value: UUID) -> UUID:
    if value.version != 7:
        raise ValueError("an event's id must be a UUIDv7")
    return value


class Envelope(BaseModel):
    """An event. JSON names are camelCase (``tenantId``). Frozen; two with the same id are the same event."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    id: Annotated[UUID, AfterValidator(_version_7)] = Field(default_factory=uuid7)
    type: str = Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*){2}$", max_length=200)
    """{domain}.{entity}.{verb}, the verb in the past tense."""
    source: str = Field(min_length=1, max_length=100)
    """The service or module that publishes it."""
    tenant_id: UUID
    schema_version: str = Field(
        default_factory=lambda fields: version_of(fields.get("type")),
        pattern=r"^(0|[1-9]\d{0,5})(\.(0|[1-9]\d{0,5})){2}$",
    )
    timestamp: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    """The publisher's clock."""
    trace_id: str | None = Field(None, max_length=64, pattern=r"^[\x21-\x7e]+$")
    data: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        text = self.to_json()
        if len(text.encode()) > MAX_BYTES:
            raise ValueError(
                f"an event is at most {MAX_BYTES} bytes of JSON; put large content elsewhere and refer to it"
            )
        if len(self.key) > MAX_KEY:
            raise ValueError(f"the value that an event is ordered by is at most {MAX_KEY} characters")
        if _NUL.search(text):
            raise ValueError("data must not hold the character U+0000, which PostgreSQL can't store")
        return self

    @property
    def domain(self) -> str:
        return self.type.partition(".")[0]

    @property
    def topic(self) -> str:
        return f"platform.{self.domain}.events"

    @property
    def key(self) -> str:
        """What the topic is partitioned by: events of one key keep their order."""
        value = self.data.get(key_field(self.domain) or "")
        return value if isinstance(value, str) and value else str(self.tenant_id)

    def to_json(self) -> str:
        """The event as it goes over the wire."""
        return self.model_dump_json(by_alias=True)
