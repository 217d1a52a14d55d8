"""Lists in pages. Ids sort by time of making, so the last id that was seen says where the next page begins.

A cursor is that id in base64url: opaque to clients, and still right when rows are added or removed between two pages.
"""

import base64
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

DEFAULT_SIZE, MAX_SIZE = 20, 100


def _read(value: object) -> UUID:
    if isinstance(value, UUID):
        return value
    try:
        return UUID(bytes=base64.b64decode(f"{value}==", altchars=b"-_", validate=True))
    except ValueError:
        raise ValueError("it must be meta.cursor of the page before") from None


def _write(value: UUID) -> str:
    return base64.urlsafe_b64encode(value.bytes).decode().rstrip("=")


Cursor = Annotated[
    UUID,
    BeforeValidator(_read),
    PlainSerializer(_write, return_type=str),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9_-]{22}$"}),
]
"""Reads as the id, is written as text."""

Limit = Annotated[int, Field(ge=1, le=MAX_SIZE)]


Item = TypeVar("Item")


class Meta(BaseModel):
    """``cursor`` asks for the next page; it is null on the last one."""

    model_config = ConfigDict(frozen=True, validate_by_name=True)

    cursor: Cursor | None
    has_more: bool = Field(alias="hasMore")


class Page(BaseModel, Generic[Item]):
    model_config = ConfigDict(frozen=True)

    data: Sequence[Item]
    meta: Meta

    @classmethod
    def cut(cls, found: Sequence[Item], limit: int, id_of: Callable[[Item], UUID]) -> "Page[Item]":
        """The page of ``found``, which was read with one item more than ``limit`` to see whether there are more."""
        data = found[:limit]
        more = len(found) > limit
        return cls(data=data, meta=Meta(cursor=id_of(data[-1]) if more else None, has_more=more))

    @classmethod
    def whole(cls, found: Sequence[Item]) -> "Page[Item]":
        """A list that is always given whole."""
        return cls(data=found, meta=Meta(cursor=None, has_more=False))
