"""Announcing a change: the event is a row of ``kernel.outbox``, written in the change's own transaction.

So an event exists exactly when its change does. The row is published from the write-ahead log after
the commit; nothing here waits for Kafka.
"""

import asyncpg

from kernel_common.events.envelope import Envelope

_INSERT = """
INSERT INTO kernel.outbox (id, topic, key, type, tenant_id, envelope)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::jsonb[])
"""


class NotInTransaction(RuntimeError):
    """An event was emitted outside a transaction: it could be announced while its change fails."""


async def emit(connection: asyncpg.Connection, *events: Envelope) -> None:
    """Write ``events`` to the outbox in the transaction that ``connection`` is in: one round trip.

    Under row-level security (members of ``kernel_publisher``) each event's tenant must be the
    transaction's. Raises NotInTransaction.
    """
    if not connection.is_in_transaction():
        raise NotInTransaction("emit() needs the transaction of the change that it announces")
    if events:
        await connection.execute(
            _INSERT,
            [event.id for event in events],
            [event.topic for event in events],
            [event.key for event in events],
            [event.type for event in events],
            [event.tenant_id for event in events],
            [event.to_json() for event in events],
        )
