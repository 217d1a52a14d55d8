"""How long a committed row takes to be seen in ClickHouse, and a committed event to be read from Kafka.

Rows are committed at a steady rate. ClickHouse is asked again and again which batches are complete, so what is measured
holds the time of a question too. The limits are the promises of ``docs/cdc-sink.md``.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable

import aiohttp
from confluent_kafka import Consumer

from bench.cdc_tables import INSERT, TABLE, Analytics, bench_tenant, connect, prepare, streaming
from bench.embedded import embedded_platform
from bench.measure import Measure
from kernel_common.ids import uuid7
from kernel_local.testing import PlatformServers

SECONDS = 15.0
EVERY = 0.05
FLUSHES = (("1", 1.5), ("0.2", 1.0))
"""CDC_SINK_FLUSH_SEC, and the limit of p99 in seconds."""
RATES = (500, 2000)
EVENTS = 200
EVENT_LIMIT_MS = 100.0

_EVENT = """
INSERT INTO kernel.outbox (id, topic, key, type, tenant_id, envelope)
SELECT $1::uuid, 'platform.module.events', 'bench', 'module.registry.updated', $2::uuid,
  jsonb_build_object('id', $1::uuid, 'type', 'module.registry.updated', 'tenantId', $2::uuid)
"""


async def run() -> list[Measure]:
    found: list[Measure] = []
    with embedded_platform() as (servers, _):
        async with aiohttp.ClientSession() as session:
            await prepare(servers)
            analytics = Analytics(servers, session)
            for flush, limit in FLUSHES:
                os.environ["CDC_SINK_FLUSH_SEC"] = flush
                await asyncio.to_thread(servers.sink.start)  # anew: its settings have changed
                for rate in RATES:
                    lags = await _rows(servers, analytics, rate)
                    what = f"commit to visible, {rate:,} rows/s, flush {flush} s"
                    found += [_measure(f"{what}, p50", lags, 50, limit), _measure(f"{what}, p99", lags, 99, limit)]
            lags = await _events(servers)
    found += [
        _measure(f"commit to Kafka's reader, {EVENTS} events/s, p{p}", lags, p, EVENT_LIMIT_MS / 1000) for p in (50, 99)
    ]
    return found


def _measure(what: str, lags: list[float], percent: int, limit: float) -> Measure:
    value = statistics.quantiles(lags, n=100)[percent - 1]
    return Measure("cdc_lag", what, value * 1000, "ms", "limit of p99", limit * 1000, 1, "lower")


async def _paced(rate: float, what: Callable[[int], Awaitable[None]]) -> None:
    """Calls ``what`` with 0, 1, 2, ... ``rate`` times a second, for ``SECONDS``."""
    began = time.perf_counter()
    for number in range(int(SECONDS * rate)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        await what(number)


async def _rows(servers: PlatformServers, analytics: Analytics, rate: int) -> list[float]:
    """Seconds from a batch's commit until all of it is seen, after the first fifth of them."""
    admin = await connect(servers)
    await streaming(admin)
    await analytics.ask(f"TRUNCATE TABLE {TABLE}")
    size = round(rate * EVERY)
    committed: dict[int, float] = {}
    seen: dict[int, float] = {}

    async def write(batch: int) -> None:
        await admin.execute(INSERT, bench_tenant(), batch, size)
        committed[batch] = time.perf_counter()

    async def look() -> None:
        oldest = 0
        while True:
            question = f"SELECT batch FROM {TABLE} WHERE batch >= {oldest} GROUP BY batch HAVING count() >= {size}"
            answer, now = await analytics.ask(question), time.perf_counter()
            for batch in map(int, answer.split()):
                seen.setdefault(batch, now)
            while oldest in seen:
                oldest += 1
            await asyncio.sleep(0.01)

    looking = asyncio.create_task(look())
    try:
        await _paced(1 / EVERY, write)
        async with asyncio.timeout(60):
            while not committed.keys() <= seen.keys():  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.05)
    finally:
        looking.cancel()
        await admin.close()
    return [seen[batch] - committed[batch] for batch in sorted(committed)[len(committed) // 5 :]]


async def _events(servers: PlatformServers) -> list[float]:
    """Seconds from an event's commit until a consumer has it, after the first fifth of them."""
    admin = await connect(servers)
    committed: dict[bytes, float] = {}
    received: dict[bytes, float] = {}
    consumer = Consumer({**servers.kafka.admin_conf, "group.id": "bench", "auto.offset.reset": "latest"})
    consumer.subscribe(["platform.module.events"])
    done = asyncio.Event()

    def read() -> None:
        while not done.is_set():
            message = consumer.poll(0.2)
            if message is not None and message.error() is None:
                event = dict(message.headers() or [])["id"]
                received.setdefault(event if isinstance(event, bytes) else b"", time.perf_counter())

    async def write(_: int) -> None:
        event = uuid7()
        await admin.execute(_EVENT, event, bench_tenant())
        committed[str(event).encode()] = time.perf_counter()

    reading = asyncio.create_task(asyncio.to_thread(read))
    try:
        async with asyncio.timeout(60):
            while not received:  # its group has partitions
                await write(0)
                await asyncio.sleep(0.2)
        committed.clear()
        await _paced(EVENTS, write)
        async with asyncio.timeout(60):
            while not committed.keys() <= received.keys():  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.05)
    finally:
        done.set()
        await reading
        consumer.close()
        await admin.close()
    order = list(committed)
    return [max(0.0, received[event] - committed[event]) for event in order[len(order) // 5 :]]
