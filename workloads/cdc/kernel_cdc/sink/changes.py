"""A change of one record, from a message of ``platform.data.events`` to a line for its analytics table."""

import re
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Message
from pydantic_core import from_json, to_json

from kernel_common.events.received import headers_of

TOPIC = "platform.data.events"
EVENT = "data.record.changed"

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_OPERATIONS = frozenset("cuds")
_NOT_ANALYSED = "idempotency_key"
"""A column of every model's table that analytics does not have."""


class NotAChange(Exception):
    """A message that is none, now and for ever. Fit to show: no content of it."""


@dataclass(frozen=True, slots=True)
class Change:
    table: str
    line: bytes
    """JSONEachRow, without its end."""
    committed_at: str
    """ISO 8601 in UTC, with microseconds: such texts compare as their times do."""


def read(message: Message) -> Change | None:
    """None for an event of another type. Raises NotAChange."""
    if headers_of(message).get("type", EVENT) != EVENT:
        return None
    try:
        change = from_json(message.value() or b"")
    except ValueError:
        raise NotAChange("the value is no JSON") from None
    if not isinstance(change, dict):
        raise NotAChange("the value is no object")
    try:
        return _change(change)
    except KeyError as missing:
        raise NotAChange(f"{missing.args[0]} is missing") from None


def _change(change: dict[str, Any]) -> Change:
    operation, row = change["op"], change["row"]
    module, model, committed_at = (_text(change, name) for name in ("module", "model", "committedAt"))
    if not isinstance(operation, str) or operation not in _OPERATIONS:
        raise NotAChange("op is none of c, u, d, s")
    if not isinstance(row, dict):
        raise NotAChange("row is no object")
    for name in ("module", "model"):
        if not _NAME.fullmatch(change[name]):
            raise NotAChange(f"{name} is no name")
    if not _TIME.fullmatch(committed_at):
        raise NotAChange("committedAt is no time in UTC with microseconds")
    for name in ("created_at", "updated_at"):
        # Without it the engine would take the epoch, and keep an older version.
        if not row[name]:
            raise NotAChange(f"row.{name} is empty")
    row.pop(_NOT_ANALYSED, None)
    row["tenant_id"], row["record_id"] = _text(change, "tenantId"), _text(change, "recordId")
    row["is_deleted"] = int(operation == "d")
    row["_op"], row["_lsn"], row["_synced_at"] = operation, change["lsn"], committed_at
    return Change(f"module_{module}__{model}", to_json(row, inf_nan_mode="strings"), committed_at)


def _text(change: dict[str, Any], name: str) -> str:
    value = change[name]
    if not isinstance(value, str):
        raise NotAChange(f"{name} is no text")
    return value
