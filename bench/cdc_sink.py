"""The sink of change data capture: a backlog from Kafka into ClickHouse, beside the same rows inserted directly.

The real source has published the backlog before the sink starts. The direct way inserts what then is in the table into
another one like it, in the sink's batches, one after the other.
"""

import asyncio
import os
import time

import aiohttp
import psutil

from bench.cdc_tables import INSERT, TABLE, Analytics, bench_tenant, connect, peak, prepare, streaming
from bench.embedded import embedded_platform
from bench.measure import Measure
from kernel_local.testing import PlatformServers

ROWS = int(os.environ.get("BENCH_SINK_ROWS", "300000"))
BATCH = 10_000
LIMIT_MB = 200.0


async def run() -> list[Measure]:
    with embedded_platform() as (servers, _):
        async with aiohttp.ClientSession() as session:
            await prepare(servers)
            analytics = Analytics(servers, session)
            await asyncio.to_thread(servers.sink.stop)
            await _publish(servers)
            source = peak(servers.source.pid)
            drained, cpu, sink = await _drained(servers, analytics)
            direct = await _directly(analytics)
    return [
        Measure(
            "cdc_sink", "backlog into ClickHouse", drained, "rows/s", "the same rows directly", direct, 0.5, "higher"
        ),
        Measure("cdc_sink", "CPU of 100,000 rows", cpu, "s", "a core busy all the time", 1e5 / drained, 1, "lower"),
        Measure("cdc_sink", "most memory of the sink", sink / 1e6, "MB", "limit", LIMIT_MB, 1, "lower"),
        Measure("cdc_sink", "most memory of the source", source / 1e6, "MB", "limit", LIMIT_MB, 1, "lower"),
    ]


async def _publish(servers: PlatformServers) -> None:
    """Has the source bring the backlog to Kafka."""
    admin = await connect(servers)
    try:
        await streaming(admin)
        for batch in range(ROWS // BATCH):
            await admin.execute(INSERT, bench_tenant(), batch, BATCH)
        end = await admin.fetchval("SELECT pg_current_wal_lsn()")
        async with asyncio.timeout(300):
            while not await admin.fetchval(  # noqa: ASYNC110 - it is another process
                "SELECT confirmed_flush_lsn >= $1 FROM pg_replication_slots WHERE slot_name = 'platform_cdc_slot'", end
            ):
                await asyncio.sleep(0.1)
    finally:
        await admin.close()


async def _drained(servers: PlatformServers, analytics: Analytics) -> tuple[float, float, float]:
    """Rows per second from the first row to the last, CPU seconds for 100,000 rows, and the most memory in bytes."""
    await asyncio.to_thread(servers.sink.start)
    before = psutil.Process(servers.sink.pid).cpu_times()
    first, began = 0, 0.0
    async with asyncio.timeout(300):
        while (there := await analytics.count()) < ROWS:
            if there and not first:
                first, began = there, time.perf_counter()
            await asyncio.sleep(0.02)
    seconds = time.perf_counter() - began
    used = psutil.Process(servers.sink.pid).cpu_times()
    spent = used.user + used.system - before.user - before.system
    return (ROWS - first) / seconds, spent / ROWS * 1e5, peak(servers.sink.pid)


async def _directly(analytics: Analytics) -> float:
    """Rows per second of inserts, each when the one before has been answered."""
    await analytics.ask(f"CREATE TABLE direct AS {TABLE}")
    lines = (await analytics.ask(f"SELECT * FROM {TABLE} FORMAT JSONEachRow")).encode().splitlines(keepends=True)
    bodies = [b"".join(lines[at : at + BATCH]) for at in range(0, len(lines), BATCH)]
    began = time.perf_counter()
    for body in bodies:
        await analytics.ask("INSERT INTO direct FORMAT JSONEachRow", body)
    return len(lines) / (time.perf_counter() - began)
