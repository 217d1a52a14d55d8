"""The messages of ``pgoutput``, protocol 1, as they stand in the stream.

Version 1 sends a transaction when it has committed, and none that was rolled back; PostgreSQL itself keeps the large
ones on disk until then. So each row can be passed on as it arrives, and nothing here grows with a transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kernel_cdc.source.values import Encode

HEADER = 25
"""Bytes of a message of the stream before the payload: kind, start, end, clock."""

UNCHANGED = b"\0unchanged"
"""Stands for a value that is stored apart and was not written. No text of PostgreSQL holds a NUL."""

Values = list[bytes | None]
"""A row: a value a column, as text; None for NULL."""

_TEXT, _NULL = ord("t"), ord("n")


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type_oid: int


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as it is described before its first row and after each change of it."""

    oid: int
    schema: str
    name: str
    columns: tuple[Column, ...]

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


def number(data: bytes, at: int, size: int = 4) -> int:
    return int.from_bytes(data[at : at + size], "big")


def read_row(data: bytes, at: int) -> Values:
    """The row that starts at ``at``."""
    count = data[at] << 8 | data[at + 1]
    at += 2
    values: Values = []
    append = values.append
    for _ in range(count):
        kind = data[at]
        if kind == _TEXT:
            start = at + 5
            at = start + int.from_bytes(data[at + 1 : start], "big")
            append(data[start:at])
        else:
            append(None if kind == _NULL else UNCHANGED)
            at += 1
    return values


def row_end(data: bytes, at: int) -> int:
    """Where the row that starts at ``at`` ends."""
    count = data[at] << 8 | data[at + 1]
    at += 2
    for _ in range(count):
        at += 5 + int.from_bytes(data[at + 1 : at + 5], "big") if data[at] == _TEXT else 1
    return at


def read_encoded(data: bytes, at: int, encoders: Sequence[Encode | None]) -> list[bytes]:
    """The same row with each value encoded, NULL as ``null``, in one pass: most of the work of a change is here."""
    at += 2
    values: list[bytes] = []
    append = values.append
    for encode in encoders:
        kind = data[at]
        if kind == _TEXT:
            start = at + 5
            at = start + int.from_bytes(data[at + 1 : start], "big")
            append(data[start:at] if encode is None else encode(data[start:at]))
        else:
            append(b"null" if kind == _NULL else UNCHANGED)
            at += 1
    return values


def read_relation(data: bytes, at: int) -> Relation:
    """The description whose oid starts at ``at``."""
    oid = number(data, at)
    schema, at = _name(data, at + 4)
    name, at = _name(data, at)
    count, at = number(data, at + 1, 2), at + 3  # one byte says the replica identity
    columns = []
    for _ in range(count):
        column, at = _name(data, at + 1)  # one byte says whether it is of the key
        columns.append(Column(column, number(data, at)))
        at += 8
    return Relation(oid, schema or "pg_catalog", name, tuple(columns))


def read_message(data: bytes, at: int) -> tuple[bool, int, str, bytes]:
    """What somebody wrote into the log by hand, whose flags start at ``at``: whether it belongs to a transaction, where
    the log goes on after it, its prefix, its content."""
    prefix, start = _name(data, at + 9)
    size = number(data, start)
    return bool(data[at] & 1), number(data, at + 1, 8), prefix, data[start + 4 : start + 4 + size]


def _name(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(0, at)
    return data[at:end].decode(), end + 1
