"""Reads the stream of one connection, message by message, and has each change published as it comes."""

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from kernel_cdc.source.outbox import SCHEMA, TABLE, OutboxTable
from kernel_cdc.source.pgoutput import HEADER, Relation, number, read_message, read_relation, row_end
from kernel_cdc.source.rows import CapturedTable, Commit, NotAModel, Send
from kernel_cdc.source.values import EPOCH_SECONDS, iso

_BEGIN, _COMMIT, _RELATION = ord("B"), ord("C"), ord("R")
_INSERT, _UPDATE, _DELETE, _NEW = ord("I"), ord("U"), ord("D"), ord("N")
_MESSAGE = ord("M")
_START = 1
"""Where a message says which place in the log it comes from."""

log = logging.getLogger(__name__)


class Table(Protocol):
    """Publishes changes. ``at``: where a row starts in ``data``."""

    def inserted(self, commit: Commit, lsn: int, data: bytes, at: int) -> None: ...
    def updated(self, commit: Commit, lsn: int, data: bytes, old_at: int | None, at: int) -> None: ...
    def deleted(self, commit: Commit, lsn: int, data: bytes, at: int) -> None: ...


Heard = Callable[[int, str, bytes], None]
"""Where the log goes on after it, prefix, content."""


def _unheard(lsn: int, prefix: str, content: bytes) -> None:
    pass


class Decoder:
    """``changes`` counts the rows read. ``heard`` is told what was written into the log outside of transactions: all
    that was committed before it has been published. ``floors``: no change of such a table ("schema.table") is published
    as of an earlier place."""

    def __init__(self, send: Send, heard: Heard = _unheard, floors: Mapping[str, int] = MappingProxyType({})) -> None:
        self._send, self._heard, self._floors = send, heard, floors
        self._tables: dict[int, Table | None] = {}
        self._commit = Commit(0, b"")
        self.in_transaction = False
        self.changes = 0

    @property
    def committed_at(self) -> float:
        """Unix seconds of the transaction that was read last."""
        return self._commit.at / 1_000_000 + EPOCH_SECONDS

    def feed(self, message: bytes) -> int | None:
        """Publishes what the message says; where the log goes on after its transaction, when it ends one."""
        kind = message[HEADER]
        if kind == _INSERT:
            self.changes += 1
            if table := self._tables[number(message, HEADER + 1)]:
                table.inserted(self._commit, number(message, _START, 8), message, HEADER + 6)
        elif kind == _UPDATE:
            self.changes += 1
            if table := self._tables[number(message, HEADER + 1)]:
                at, old_at = HEADER + 5, None
                if message[at] != _NEW:
                    old_at = at + 1
                    at = row_end(message, old_at)
                table.updated(self._commit, number(message, _START, 8), message, old_at, at + 1)
        elif kind == _DELETE:
            self.changes += 1
            if table := self._tables[number(message, HEADER + 1)]:
                table.deleted(self._commit, number(message, _START, 8), message, HEADER + 6)
        elif kind == _BEGIN:
            at = number(message, HEADER + 9, 8)
            self._commit = Commit(at, iso(at))
            self.in_transaction = True
        elif kind == _COMMIT:
            self.in_transaction = False
            return number(message, HEADER + 10, 8)
        elif kind == _RELATION:
            relation = read_relation(message, HEADER + 1)
            self._tables[relation.oid] = self._table(relation)
        elif kind == _MESSAGE:
            transactional, lsn, prefix, content = read_message(message, HEADER + 1)
            if not transactional:
                self._heard(lsn, prefix, content)
        return None

    def _table(self, relation: Relation) -> Table | None:
        """None for one whose rows can't be told: publishing goes on without it."""
        try:
            if (relation.schema, relation.name) == (SCHEMA, TABLE):
                return OutboxTable(relation, self._send)
            return CapturedTable(relation, self._send, self._floors)
        except NotAModel as error:
            log.error("%s: its changes are left out", error)
            return None
