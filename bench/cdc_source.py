"""The source of change data capture: a backlog to Kafka, beside ``pg_recvlogical`` writing the same log to a file.

The backlog is written first, half of it in large transactions and half in small ones. Time runs from the moment at
which PostgreSQL sees the stream's connection to Kafka's acknowledgement of the last message.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from uuid import UUID

import aiohttp
import asyncpg
import psutil

from bench.measure import Measure
from kernel_common.ids import tenant_id
from kernel_local.parts import kafka as kafka_part
from kernel_local.parts import postgres as postgres_part
from kernel_local.ports import choose
from kernel_local.testing import KafkaServer, PostgresServer, Run
from kernel_operator.desired import Column, ColumnType, Model, ModuleState, TenantState, Tier
from kernel_operator.targets.kafka import KafkaTarget
from kernel_operator.targets.postgres import PostgresTarget

ROWS = int(os.environ.get("BENCH_CDC_ROWS", "500000"))
SLOT, PEER = "platform_cdc_slot", "bench_peer"
DEBEZIUM_ROWS, DEBEZIUM_CPU, DEBEZIUM_BYTES = 33_700, 5.2, 450e6
"""Debezium 3.6, embedded, on two cores with such a backlog: rows/s, CPU seconds for 100,000 rows, bytes."""

CONTACTS = Model(
    "contacts",
    (
        Column("email", ColumnType.TEXT, True),
        Column("name", ColumnType.TEXT),
        Column("score", ColumnType.INTEGER),
        Column("extra", ColumnType.JSON),
    ),
    analytics=True,
)


async def run() -> list[Measure]:
    with _servers() as (postgres, kafka):
        await _prepare(postgres, kafka)
        admin = await asyncpg.connect(postgres.admin_url, database="platform")
        try:
            await _begin(postgres, kafka, admin)
            await _write_backlog(admin)
            peer = await _peer(postgres, admin)
            rate, cpu, memory = await _source(postgres, kafka, admin)
        finally:
            await admin.close()
    of_debezium = "Debezium 3.6 embedded"
    return [
        Measure("cdc_source", "backlog to Kafka", rate, "rows/s", of_debezium, DEBEZIUM_ROWS, 1, "higher"),
        Measure("cdc_source", "backlog to Kafka", rate, "rows/s", "pg_recvlogical to a file", peer, 0.5, "higher"),
        Measure("cdc_source", "CPU of 100,000 rows", cpu, "s", of_debezium, DEBEZIUM_CPU, 1, "lower"),
        Measure("cdc_source", "most memory", memory / 1e6, "MB", of_debezium, DEBEZIUM_BYTES / 1e6, 1, "lower"),
    ]


@contextmanager
def _servers() -> Iterator[tuple[PostgresServer, KafkaServer]]:
    run = Run("-bench-cdc")
    try:
        postgres, kafka = postgres_part.Postgres(run.site), kafka_part.Kafka(run.site)
        run.start(postgres, kafka)
        yield PostgresServer(run.background, postgres), KafkaServer(run.background, kafka)
    finally:
        run.close()


async def _prepare(postgres: PostgresServer, kafka: KafkaServer) -> None:
    conf = kafka.operator_conf
    topics = KafkaTarget(
        conf["bootstrap.servers"],
        username=conf["sasl.username"],
        password=conf["sasl.password"],
        security_protocol=conf["security.protocol"],
        sasl_mechanism=conf["sasl.mechanisms"],
    )
    await topics.ensure_kernel_topics()
    await topics.close()
    target = PostgresTarget(postgres.operator_url)
    await target.prepare()
    tenant = TenantState(_tenant(), "bench", "uid", "Bench", Tier.OWNER, "owner@bench.example")
    await target.apply_tenants([tenant])
    module = ModuleState(
        "bench", "@acme/bench", "bench", "bench", "uid", "1.0.0", (CONTACTS,), tenants=frozenset({_tenant()})
    )
    await target.apply_module(module, "a-random-password-Zq8")
    await target.close()


def _tenant() -> UUID:
    return tenant_id("bench")


async def _begin(postgres: PostgresServer, kafka: KafkaServer, admin: asyncpg.Connection) -> None:
    """Has the source make its slot and read what was there before it, which is nothing yet."""
    async with _process(postgres, kafka), asyncio.timeout(60):
        while not await admin.fetchval(  # noqa: ASYNC110 - it is another process
            "SELECT count(*) = 2 AND bool_and(finished_at IS NOT NULL) FROM kernel.cdc_snapshots"
        ):
            await asyncio.sleep(0.05)


async def _write_backlog(admin: asyncpg.Connection) -> None:
    await admin.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", PEER)
    for size, count in ((ROWS // 10, 5), (50, ROWS // 100)):
        for _ in range(count):
            await admin.execute(
                "INSERT INTO module_bench.contacts (tenant_id, email, name, score, extra) "
                "SELECT $1, n || '@customers.example', 'Customer number ' || n, n, "
                "jsonb_build_object('plan', 'growth', 'seats', n) FROM generate_series(1, $2::integer) AS n",
                _tenant(),
                size,
            )


async def _peer(postgres: PostgresServer, admin: asyncpg.Connection) -> float:
    """Rows per second of pg_recvlogical."""
    end = await admin.fetchval("SELECT pg_current_wal_lsn()::text")
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            postgres_part.binaries() / "pg_recvlogical",
            *(
                "--start",
                "--dbname",
                "platform",
                "--slot",
                PEER,
                "--endpos",
                end,
                "--no-loop",
                "--file",
                str(Path(folder) / "log"),
            ),
            *("-o", "proto_version=1", "-o", "publication_names=platform_cdc,platform_outbox"),
            env=postgres_part.connection_environment(postgres.cdc_url),
        )
        if await process.wait() != 0:
            raise RuntimeError("pg_recvlogical failed")
        return ROWS / (time.perf_counter() - began)


async def _source(
    postgres: PostgresServer, kafka: KafkaServer, admin: asyncpg.Connection
) -> tuple[float, float, float]:
    """Rows per second, CPU seconds for 100,000 rows, and the most memory in bytes, of the whole process."""
    async with _process(postgres, kafka) as (pid, port):
        async with asyncio.timeout(60):
            while not await admin.fetchval(  # noqa: ASYNC110 - it is another process
                "SELECT active FROM pg_replication_slots WHERE slot_name = $1", SLOT
            ):
                await asyncio.sleep(0.005)
        began = time.perf_counter()
        async with aiohttp.ClientSession() as session, asyncio.timeout(300):
            while await _acknowledged(session, port) < ROWS:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.05)
        seconds = time.perf_counter() - began
        used = psutil.Process(pid).cpu_times()
        return ROWS / seconds, (used.user + used.system) / ROWS * 100_000, _peak(pid)


def _peak(pid: int) -> float:
    """The most memory in bytes that the process ever held."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


@asynccontextmanager
async def _process(postgres: PostgresServer, kafka: KafkaServer) -> AsyncIterator[tuple[int, int]]:
    conf, port = kafka.cdc_conf, choose(set())
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "kernel_cdc", "source"),
        env={
            "PATH": os.environ["PATH"],
            "DATABASE_URL": postgres.cdc_url,
            "KAFKA_BROKERS": conf["bootstrap.servers"],
            "KAFKA_SECURITY_PROTOCOL": conf["security.protocol"],
            "KAFKA_SASL_MECHANISM": conf["sasl.mechanisms"],
            "KAFKA_USERNAME": conf["sasl.username"],
            "KAFKA_PASSWORD": conf["sasl.password"],
            "CDC_HOST": "127.0.0.1",
            "CDC_PORT": str(port),
        },
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process.pid, port
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 30)


async def _acknowledged(session: aiohttp.ClientSession, port: int) -> float:
    try:
        async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
            lines = (await answer.text()).splitlines()
    except aiohttp.ClientError:
        return 0
    return next(float(line.split()[1]) for line in lines if line.startswith("kernel_cdc_source_messages_total "))
