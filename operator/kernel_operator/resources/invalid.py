"""The one error of reading a resource, and how pydantic's errors become it."""

from collections.abc import Sequence
from typing import Self

from pydantic import ValidationError
from pydantic_core import PydanticCustomError


class InvalidResource(Exception):
    """A resource breaks a rule. ``field`` is its path (``spec.events.partitions``), ``message`` names the fix."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message

    @classmethod
    def from_validation(cls, error: ValidationError, root: str) -> Self:
        """The first complaint of ``error`` about a value that lies at ``root``."""
        first = error.errors(include_url=False, include_input=False)[0]
        return cls(_path(root, first["loc"]) + first.get("ctx", {}).get("at", ""), first["msg"])


def broken(message: str, at: str = "") -> PydanticCustomError:
    """What a validator raises: ``message`` reaches the reader as it is.

    ``at`` is the path of the wrong field below the value that the validator saw (``.parent``).
    """
    return PydanticCustomError("rule", "{message}", {"message": message, "at": at})


def _path(root: str, location: Sequence[int | str]) -> str:
    return root + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
