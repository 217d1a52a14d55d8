"""Changes of captured tables as messages of ``platform.data.events``, one a row, by record.

A deleted row's last state carries its end: ``updated_at`` and ``deleted_at`` are the commit's time, or a microsecond
after the row's own ``updated_at`` if that is later, because whoever keeps the newest version must keep this one.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kernel_cdc import metrics
from kernel_cdc.source.pgoutput import UNCHANGED, Relation, Values, read_encoded, read_row
from kernel_cdc.source.values import encoder, iso, microseconds

TOPIC = "platform.data.events"
_SCHEMA_PREFIX = "module_"
_WHOLE = ord("O")
"""Stands before a former row that is complete; before one of which only the key is there stands K."""

Headers = list[tuple[str, str | bytes | None]]
Send = Callable[[str, bytes, bytes, Headers], None]
"""topic, key, value, headers"""


class NotAModel(Exception):
    """A published table does not look like a model's; the message is fit to log."""


@dataclass(slots=True)
class Commit:
    """The transaction that is being read: when it was committed, in microseconds since 2000 and as text."""

    at: int
    text: bytes


class CapturedTable:
    """Turns the rows of one table into messages. ``floors`` as for the decoder. Raises NotAModel."""

    def __init__(self, relation: Relation, send: Send, floors: Mapping[str, int] = MappingProxyType({})) -> None:
        names = [column.name for column in relation.columns]
        missing = {"id", "tenant_id", "updated_at", "deleted_at"} - set(names)
        if missing:
            raise NotAModel(f"{relation} is published, but has no column {', '.join(sorted(missing))}")
        self._send, self._table, self._floors = send, f"{relation.schema}.{relation.name}", floors
        self._id, self._tenant = names.index("id"), names.index("tenant_id")
        self._updated, self._deleted = names.index("updated_at"), names.index("deleted_at")
        self._encoders = [
            None if at in (self._id, self._tenant) else encoder(column.type_oid)
            for at, column in enumerate(relation.columns)
        ]
        self._names = [_literal(name) for name in names if name not in ("id", "tenant_id")]
        slug = relation.schema.removeprefix(_SCHEMA_PREFIX)
        self._event = (
            b'{"op":"%%b","module":%b,"model":%b,"tenantId":"%%b","recordId":"%%b","lsn":%%d,"committedAt":"%%b",'
            b'"row":{%%b}%%b}' % (_escaped(_literal(slug)), _escaped(_literal(relation.name)))
        )
        self._row = b",".join(_escaped(name) + b":%b" for name in self._names)
        self._headers: Headers = [
            ("type", b"data.record.changed"),
            ("module", slug.encode()),
            ("model", relation.name.encode()),
        ]

    def inserted(self, commit: Commit, lsn: int, data: bytes, at: int) -> None:
        new = read_encoded(data, at, self._encoders)
        self._publish(b"c", commit, lsn, new)

    def updated(self, commit: Commit, lsn: int, data: bytes, old_at: int | None, at: int) -> None:
        """``old_at``: where the former row is; None without REPLICA IDENTITY FULL, unless the key changed."""
        new = read_encoded(data, at, self._encoders)
        if old_at is not None:
            old = read_row(data, old_at)
            if UNCHANGED in new and data[old_at - 1] == _WHOLE:
                former = self._encoded(old)
                new = [before if after is UNCHANGED else after for before, after in zip(former, new, strict=True)]
            if old[self._id] != new[self._id] or old[self._tenant] != new[self._tenant]:
                self.deleted(commit, lsn, data, old_at)
                self._publish(b"c", commit, lsn, new)
                return
        self._publish(b"u", commit, lsn, new)

    def deleted(self, commit: Commit, lsn: int, data: bytes, at: int) -> None:
        old = read_row(data, at)
        former = microseconds(old[self._updated])
        stamp = iso(commit.at if former is None else max(commit.at, former + 1))
        gone = self._encoded(old)
        gone[self._updated] = gone[self._deleted] = b'"%b"' % stamp
        self._publish(b"d", commit, lsn, gone, b',"deletedAt":"%b"' % stamp)

    def read(self, commit: Commit, lsn: int, row: Values) -> None:
        """A row that was read from the table itself. ``commit``: when. ``lsn``: changes before it are in the row."""
        self._publish(b"s", commit, lsn, self._encoded(row))

    def _publish(self, op: bytes, commit: Commit, lsn: int, values: list[bytes], tail: bytes = b"") -> None:
        tenant, record = values[self._tenant], values[self._id]
        del values[max(self._id, self._tenant)], values[min(self._id, self._tenant)]
        row = self._incomplete(values) if UNCHANGED in values else self._row % tuple(values)
        lsn = max(lsn, self._floors.get(self._table, 0))
        value = self._event % (op, tenant, record, lsn, commit.text, row, tail)
        self._send(TOPIC, record, value, [*self._headers, ("tenantId", tenant)])

    def _encoded(self, values: Values) -> list[bytes]:
        return [
            b"null" if value is None else value if encode is None or value is UNCHANGED else encode(value)
            for value, encode in zip(values, self._encoders, strict=True)
        ]

    def _incomplete(self, values: list[bytes]) -> bytes:
        """Without the values that the log does not hold, because somebody has taken REPLICA IDENTITY FULL away:
        a NULL in their place would be a lie."""
        metrics.source_incomplete.labels(self._table).inc()
        return b",".join(b"%b:%b" % pair for pair in zip(self._names, values, strict=True) if pair[1] is not UNCHANGED)


def _literal(name: str) -> bytes:
    return json.dumps(name, ensure_ascii=False).encode()


def _escaped(part: bytes) -> bytes:
    """For a place in a format."""
    return part.replace(b"%", b"%%")
