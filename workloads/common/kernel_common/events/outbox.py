"""Announcing a change: the event is a row of ``kernel.outbox``, written in the change's own transaction.

So an event exists exactly when its change does. The row is published from the write-ahead log after
the commit; nothing here waits for Kafka.
"""

import asyncpg

from kernel_common.events.catalogue import check
from kernel_common.events.envelope import Envelope

_INSERT = """
INSERT INTO kernel.outbox (id, topic, key, type, tenant_id, envelope)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::jsonb[])
"""


_NOT_DECLARED = "event_not_declared"
"""What the database names as the broken constraint."""


class EventNotDeclared(Exception):
    """This login may not publish events of ``type``: its module does not declare it. The transaction is broken."""

    def __init__(self, type: str, message: str) -> None:
        super().__init__(message)
        self.type = type


class NotInTransaction(RuntimeError):
    """An event was emitted outside a transaction: it could be announced while its change fails."""


async def emit(connection: asyncpg.Connection, *events: Envelope) -> None:
    """Write ``events`` to the outbox in the transaction that ``connection`` is in: one round trip.

    Members of ``kernel_publisher`` publish for the transaction's tenant, and what they may: a module's login the types
    of ``events.publishes``, with the module's name as the source. Raises NotInTransaction; UnfitEvent when a payload is
    not what the catalogue says of its type; EventNotDeclared.
    """
    if not connection.is_in_transaction():
        raise NotInTransaction("emit() needs the transaction of the change that it announces")
    for event in events:
        check(event.type, event.schema_version, event.data)
    if not events:
        return
    try:
        await connection.execute(
            _INSERT,
            [event.id for event in events],
            [event.topic for event in events],
            [event.key for event in events],
            [event.type for event in events],
            [event.tenant_id for event in events],
            [event.to_json() for event in events],
        )
    except asyncpg.InsufficientPrivilegeError as error:
        if error.constraint_name != _NOT_DECLARED:
            raise
        raise EventNotDeclared(error.detail, f"{error.message}: {error.hint}") from None
