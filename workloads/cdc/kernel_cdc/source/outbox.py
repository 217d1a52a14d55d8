"""Rows of the outbox as events: topic, key and envelope are what the row says."""

import json

from kernel_cdc.source.pgoutput import Relation, Values, read_row
from kernel_cdc.source.rows import Commit, Headers, NotAModel, Send

SCHEMA, TABLE = "kernel", "outbox"
_LONGEST_TRACE = 64


class OutboxTable:
    """Only inserts are events: a row that is moved or dropped later was published when it came. Raises NotAModel."""

    def __init__(self, relation: Relation, send: Send) -> None:
        names = [column.name for column in relation.columns]
        try:
            self._columns = [names.index(name) for name in ("topic", "key", "id", "type", "tenant_id", "envelope")]
        except ValueError as error:
            raise NotAModel(f"{relation} is not the outbox that is known here: {error}") from None
        self._send = send

    def inserted(self, commit: Commit, lsn: int, data: bytes, at: int) -> None:
        self.published(read_row(data, at))

    def published(self, new: Values) -> None:
        topic, key, event, kind, tenant, envelope = (new[at] or b"" for at in self._columns)
        headers: Headers = [("id", event), ("type", kind), ("tenantId", tenant)]
        if trace := _trace(envelope):
            headers.append(("traceId", trace))
        self._send(topic.decode(), key, envelope, headers)

    def updated(self, commit: Commit, lsn: int, data: bytes, old_at: int | None, at: int) -> None:
        pass

    def deleted(self, commit: Commit, lsn: int, data: bytes, at: int) -> None:
        pass


def _trace(envelope: bytes) -> bytes:
    """The envelope's trace; empty when it has none. Read in full, because ``data`` may hold that name too."""
    if b'"traceId": "' not in envelope:
        return b""
    trace = json.loads(envelope).get("traceId")
    return trace.encode() if isinstance(trace, str) and len(trace) <= _LONGEST_TRACE else b""
