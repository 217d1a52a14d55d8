"""Somebody changes things behind the operator's back, as an administrator can; they come back."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import asyncpg

from kernel_local.demo.proof import Proof
from kernel_local.demo.systems import KafkaOption

_PATIENCE = 90.0
_TOPIC = "platform.crm.events.dlq"


async def repairs(database_url: str, kafka: Mapping[str, KafkaOption]) -> list[Proof]:
    """Drop a row-level security policy and a topic, as the administrator, and wait for both."""
    from confluent_kafka.admin import AdminClient

    admin = AdminClient(dict(kafka))
    connection = await asyncpg.connect(database_url)

    async def policy() -> bool:
        sql = "SELECT FROM pg_policies WHERE schemaname = 'module_crm' AND tablename = 'contacts'"
        return await connection.fetchrow(sql) is not None

    async def topic() -> bool:
        return _TOPIC in await asyncio.to_thread(lambda: admin.list_topics(timeout=10).topics)

    try:
        await connection.execute("DROP POLICY tenant_isolation ON module_crm.contacts")
        await asyncio.to_thread(lambda: admin.delete_topics([_TOPIC])[_TOPIC].result(10))
        await _until_gone(topic)
        return list(
            await asyncio.gather(
                _back("PostgreSQL", "the policy of contacts, dropped by the administrator", policy),
                _back("Kafka", "the dead-letter topic of crm, deleted by the administrator", topic),
            )
        )
    finally:
        await connection.close()


async def _until_gone(there: Callable[[], Awaitable[bool]]) -> None:
    """A broker tells of a deletion a moment after it. Bounded: it may be back before we have looked."""
    for _ in range(150):
        if not await there():
            return
        await asyncio.sleep(0.02)


async def _back(system: str, what: str, there: Callable[[], Awaitable[bool]]) -> Proof:
    started = time.perf_counter()
    while not await there():
        if time.perf_counter() - started > _PATIENCE:
            return Proof(system, what, f"still gone after {_PATIENCE:.0f} s", False, _PATIENCE * 1000)
        await asyncio.sleep(0.1)
    seconds = time.perf_counter() - started
    return Proof(system, what, f"back after {seconds:.1f} s", True, seconds * 1000)
