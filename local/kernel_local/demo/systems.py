"""What the demo asks of PostgreSQL, Kafka, ClickHouse and Valkey, each as the role that a service or a tenant has."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid5

import asyncpg

from kernel_common.analytics import tenant_password
from kernel_common.ids import tenant_id
from kernel_local.demo.proof import Proof, prove, refused_with

KafkaOption = str | int | float | bool
"""What confluent-kafka takes as a value of its configuration."""
ACME, GLOBEX = tenant_id("acme"), tenant_id("globex")
_PATIENCE = 30.0
"""Seconds for a row to come from PostgreSQL to ClickHouse: on a new platform the stream has only just begun."""
_ROW = UUID("00000000-0000-7000-8000-000000000001")


async def postgres(module_url: str) -> list[Proof]:
    """As the login of the crm module's service, whose URL is in its Secret."""
    connection = await asyncpg.connect(module_url)
    try:
        insert = (
            "INSERT INTO module_crm.contacts (id, tenant_id, email) VALUES ($1, $2, $3)"
            " ON CONFLICT (tenant_id, id) DO UPDATE SET email = excluded.email"
        )

        @asynccontextmanager
        async def as_tenant(tenant: UUID | None) -> AsyncIterator[None]:
            async with connection.transaction():
                await connection.execute("SELECT set_config('app.tenant_id', $1, true)", str(tenant or ""))
                yield

        async def write(session: UUID, owner: UUID, email: str) -> str:
            async with as_tenant(session):
                return str(await connection.execute(insert, uuid5(_ROW, email), owner, email))

        async def seen(session: UUID | None) -> str:
            async with as_tenant(session):
                rows = await connection.fetch("SELECT email FROM module_crm.contacts WHERE id = ANY($1)", ids)
                return ", ".join(sorted(row["email"] for row in rows))

        ids = [uuid5(_ROW, email) for email in ("ada@acme.example", "hank@globex.example")]
        name = "PostgreSQL"
        return [
            await prove(
                name,
                "acme writes a contact",
                lambda: write(ACME, ACME, "ada@acme.example"),
                "INSERT 0 1",
                say="written",
            ),
            await prove(
                name,
                "globex writes a contact",
                lambda: write(GLOBEX, GLOBEX, "hank@globex.example"),
                "INSERT 0 1",
                say="written",
            ),
            await prove(name, "what acme sees", lambda: seen(ACME), "ada@acme.example"),
            await prove(name, "what globex sees", lambda: seen(GLOBEX), "hank@globex.example"),
            await prove(name, "what a session without a tenant sees", lambda: seen(None), "", say="nothing"),
            await prove(
                name,
                "acme writes a row of globex",
                lambda: refused_with(
                    lambda: write(ACME, GLOBEX, "mallory@acme.example"), asyncpg.InsufficientPrivilegeError
                ),
                "refused",
            ),
            await prove(
                name,
                "the module switches row-level security off",
                lambda: refused_with(
                    lambda: connection.execute("ALTER TABLE module_crm.contacts DISABLE ROW LEVEL SECURITY"),
                    asyncpg.InsufficientPrivilegeError,
                ),
                "refused",
            ),
        ]
    finally:
        await connection.close()


async def kafka(config: Mapping[str, KafkaOption]) -> list[Proof]:
    """As the cluster's administrator."""
    from confluent_kafka.admin import (  # type: ignore[attr-defined]  # re-exported without saying so
        AdminClient,
        ConfigResource,
    )

    admin = AdminClient(dict(config))

    def hours(topic: str) -> str:
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        found = admin.describe_configs([resource], request_timeout=10)[resource].result()
        partitions = len(admin.list_topics(topic, timeout=10).topics[topic].partitions)
        return f"{int(found['retention.ms'].value) // 3_600_000} h, {partitions} partitions"

    def ask(topic: str) -> Any:
        return lambda: asyncio.to_thread(hours, topic)

    return [
        await prove("Kafka", "platform.crm.events keeps", ask("platform.crm.events"), "168 h, 6 partitions"),
        await prove("Kafka", "its dead letters keep", ask("platform.crm.events.dlq"), "720 h, 3 partitions"),
        await prove("Kafka", "platform.audit.events keeps", ask("platform.audit.events"), "720 h, 12 partitions"),
    ]


async def clickhouse(url: str, database: str, master_key: str) -> list[Proof]:
    """What was written into PostgreSQL has come here by itself; each tenant reads with its own user."""
    import clickhouse_connect

    address = urlsplit(url)
    records = ", ".join(f"'{uuid5(_ROW, email)}'" for email in ("ada@acme.example", "hank@globex.example"))

    async def seen(tenant: UUID) -> str:
        reader = await clickhouse_connect.get_async_client(
            host=address.hostname or "",
            port=address.port or 8123,
            username=f"tenant_{tenant}",
            password=tenant_password(base64.b64decode(master_key), tenant),
            database=database,
        )
        question = f"SELECT email FROM module_crm__contacts__current WHERE record_id IN ({records})"  # noqa: S608
        deadline = time.monotonic() + _PATIENCE
        try:
            while True:
                rows = (await reader.query(question)).result_rows
                if rows or time.monotonic() > deadline:
                    return ", ".join(row[0] for row in rows)
                await asyncio.sleep(0.02)
        finally:
            await reader.close()

    return [
        await prove("ClickHouse", "what acme's user sees", lambda: seen(ACME), "ada@acme.example"),
        await prove("ClickHouse", "what globex's user sees", lambda: seen(GLOBEX), "hank@globex.example"),
    ]


async def valkey(url: str) -> list[Proof]:
    """What the gateway will read."""
    from redis.asyncio import Redis

    async with Redis.from_url(url, decode_responses=True) as client:

        async def limit() -> object:
            return json.loads(await client.get(f"rate_limit:config:{ACME}") or "{}").get("rps")

        async def active() -> object:
            return ", ".join(sorted(map(str, await client.smembers(f"modules:active:{ACME}"))))

        async def route() -> object:
            return json.loads(await client.hget("routes:table", "crm") or "{}").get("prefix")

        return [
            await prove("Valkey", "acme's requests a minute", limit, 3000),
            await prove("Valkey", "acme's active modules", active, "crm"),
            await prove("Valkey", "the route of crm", route, "/api/v1/crm"),
        ]
