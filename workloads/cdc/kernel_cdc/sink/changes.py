"""What messages of ``platform.data.events`` say to the sink: changes of records, sweeps of tables, heartbeats."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from confluent_kafka import Message
from pydantic_core import from_json, to_json

TOPIC = "platform.data.events"
CHANGED, SWEPT, BEAT = "data.record.changed", "data.table.swept", "data.heartbeat"

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_CHANGES = frozenset("cuds")
_MOST_LSN = 2**64
_NOT_ANALYSED = "idempotency_key"
"""A column of every model's table that analytics does not have."""


class NotAChange(Exception):
    """A message that is none of them, now and for ever. Fit to show: no content of it."""


class Change(NamedTuple):
    """A line for the analytics table of a record."""

    table: str
    line: bytes
    """JSONEachRow, without its end."""
    committed_at: str
    """ISO 8601 in UTC, with microseconds: such texts compare as their times do. Empty for a row that was read again: it
    tells nothing of the others that were committed until then."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """A table was read as a whole, and all rows of it are before this in the message's partition.

    A record of this partition that analytics has from before ``lsn`` is gone: else it would have come again."""

    table: str
    lsn: int
    partition: int
    partitions: int
    committed_at: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What was committed before ``committed_at`` and has its key here is before this in the message's partition."""

    committed_at: str
    partitions: int


def read(message: Message) -> Change | Sweep | Heartbeat | None:
    """None for an event of another type. Raises NotAChange."""
    kind = _type(message)
    reader = _READERS.get(kind)
    if reader is None:
        return None
    try:
        content = from_json(message.value() or b"")
    except ValueError:
        raise NotAChange("the value is no JSON") from None
    if not isinstance(content, dict):
        raise NotAChange("the value is no object")
    try:
        return reader(content, message.partition() or 0)
    except KeyError as missing:
        raise NotAChange(f"{missing.args[0]} is missing") from None


def _type(message: Message) -> str:
    headers = message.headers() or []
    for name, value in headers.items() if isinstance(headers, dict) else headers:
        if name == "type":
            return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""
    return CHANGED


def _change(change: dict[str, Any], _: int) -> Change:
    operation, row, record, tenant = change["op"], change["row"], change["recordId"], change["tenantId"]
    if not isinstance(operation, str) or operation not in _CHANGES:
        raise NotAChange("op is none of c, u, d, s")
    if not isinstance(row, dict):
        raise NotAChange("row is no object")
    if not isinstance(record, str) or not isinstance(tenant, str):
        raise NotAChange("recordId or tenantId is no text")
    if not row["created_at"] or not row["updated_at"]:
        # Without it the engine would take the epoch, and keep an older version.
        raise NotAChange("row.created_at or row.updated_at is empty")
    table, committed_at = _table(_name(change, "module"), _name(change, "model")), _committed_at(change)
    row.pop(_NOT_ANALYSED, None)
    row["tenant_id"], row["record_id"] = tenant, record
    row["is_deleted"] = int(operation == "d")
    row["_op"], row["_lsn"], row["_synced_at"] = operation, change["lsn"], committed_at
    return Change(table, to_json(row, inf_nan_mode="strings"), "" if operation == "s" else committed_at)


def _sweep(sweep: dict[str, Any], partition: int) -> Sweep:
    if sweep["op"] != "w":
        raise NotAChange("op of a sweep is not w")
    partitions, lsn = _number(sweep, "partitions", 1), _number(sweep, "lsn", 0)
    if _number(sweep, "partition", 0) != partition or partition >= partitions:
        raise NotAChange("partition is not the one that this came in")
    return Sweep(
        _table(_name(sweep, "module"), _name(sweep, "model")), lsn, partition, partitions, _committed_at(sweep)
    )


def _heartbeat(beat: dict[str, Any], partition: int) -> Heartbeat:
    if beat["op"] != "h":
        raise NotAChange("op of a heartbeat is not h")
    partitions = _number(beat, "partitions", 1)
    if _number(beat, "partition", 0) != partition or partition >= partitions:
        raise NotAChange("partition is not the one that this came in")
    return Heartbeat(_committed_at(beat), partitions)


_READERS: dict[str, Callable[[dict[str, Any], int], Change | Sweep | Heartbeat]] = {
    CHANGED: _change,
    SWEPT: _sweep,
    BEAT: _heartbeat,
}


def _name(content: dict[str, Any], field: str) -> str:
    value = content[field]
    if not isinstance(value, str):
        raise NotAChange(f"{field} is no name")
    return value


@lru_cache(10_000)
def _table(module: str, model: str) -> str:
    for field, value in (("module", module), ("model", model)):
        if not _NAME.fullmatch(value):
            raise NotAChange(f"{field} is no name")
    return f"module_{module}__{model}"


def _committed_at(content: dict[str, Any]) -> str:
    value = content["committedAt"]
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise NotAChange("committedAt is no time in UTC with microseconds")
    return value


def _number(content: dict[str, Any], name: str, least: int) -> int:
    value = content[name]
    if type(value) is not int or not least <= value < _MOST_LSN:
        raise NotAChange(f"{name} is no number from {least}")
    return value
