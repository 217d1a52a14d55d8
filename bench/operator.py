"""The operator against its targets, and beside a Kopf handler that does nothing but patch a status (``peer.py``).

Both meet the same tenants on the same servers, one after the other. ``BENCH_TENANTS`` sets how many (1,000).
"""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import asyncpg
import psutil
from redis.asyncio import Redis

from bench.embedded import Administrator, administrator, delete_all, embedded_platform, ready_at, tenant
from bench.measure import Measure
from kernel_local.testing import PlatformServers
from kernel_operator.kube import MODULES, TENANTS, Kube, path_of

COUNT = int(os.environ.get("BENCH_TENANTS", "1000"))
PEERS = min(COUNT, 1000)
"""The peer does nothing that could get slower by the thousand."""
AT_ONCE = 20
SINGLES = 7
BOUND = 120.0 + COUNT * 0.1
QUIET = 70.0
"""Seconds: a minute, and so long that the comparison of everything, every 54 to 66 s, falls into it."""
RESYNC = {"OPERATOR_RESYNC_SECONDS": "60"}
"""The operator's own default; the embedded platform compares more often."""
_ROWS_WRITTEN = """
SELECT schemaname || '.' || relname, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_all_tables
WHERE relid NOT IN (
    SELECT unnest(ARRAY[oid, reltoastrelid]) FROM pg_class WHERE relname IN ('pg_statistic', 'pg_statistic_ext_data')
)
"""
"""All tables, catalogue included; only what autovacuum's ANALYZE writes is its own and no change of anybody's."""
_VALKEY_WRITES = ("mset", "set", "del", "hset", "hdel", "sadd", "srem", "exec", "publish")


async def run() -> list[Measure]:
    os.environ |= RESYNC
    with embedded_platform() as (servers, _):
        async with administrator(servers) as kube:
            await asyncio.to_thread(servers.operator.stop)
            with _process(servers, "bench.peer", {"KUBECONFIG": str(servers.kubernetes.kubeconfig)}):
                peer = await _tenants(kube, [tenant(f"peer-{n}", "owner", None) for n in range(PEERS)])
            await delete_all(kube, TENANTS, BOUND)
            await asyncio.to_thread(servers.operator.start)
            await kube.call("POST", path_of(TENANTS), tenant("root", "owner", None))
            await ready_at(kube, TENANTS, 1, BOUND)
            took = await _tenants(kube, [tenant(f"tenant-{n}") for n in range(COUNT)], there=1)
            single = statistics.median([await _single(kube, n) for n in range(SINGLES)])
            module = await _module(kube)
            quiet = await _quiet(servers, kube)
            memory = psutil.Process(servers.operator.pid).memory_info().rss / 2**20
            first, everything = await _restart(servers)
    writes, cpu = quiet
    return [
        Measure(
            name="operator",
            measure=f"{COUNT} tenants from creation to Ready in every system",
            value=COUNT / took,
            unit="tenants/s",
            reference="a Kopf handler that only patches the status",
            reference_value=PEERS / peer,
            target=1 / 3,
            better="higher",
        ),
        _limit(f"one tenant beside {COUNT}, from apply to Ready (median of {SINGLES})", single, 1.0, "s"),
        _limit("a module with five models, from apply to Ready", module, 3.0, "s"),
        _limit(
            f"writes in a quiet minute with {COUNT} tenants (0 wanted){_named(writes)}", writes.total(), 1.0, "writes"
        ),
        _limit("share of a core in that minute", cpu * 100, 5.0, "%"),
        _limit(f"resident memory with {COUNT} tenants", memory, 200.0 if COUNT <= 1000 else 400.0, "MB"),
        _limit("killed with -9 and started, to the first finished reconcile", first, 5.0, "s"),
        _limit(f"the same, until all {COUNT} were compared", everything, 15.0, "s"),
    ]


def _limit(measure: str, value: float, limit: float, unit: str) -> Measure:
    return Measure("operator", measure, value, unit, "target", limit, 1.0, "lower")


@contextmanager
def _process(servers: PlatformServers, module: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """``python -m module``, ended by -9; what it prints is kept with the platform's logs."""
    with (servers.site.logs / f"{module}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module], env=dict(os.environ) | environment, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def _tenants(kube: Administrator, bodies: list[dict[str, Any]], *, there: int = 0) -> float:
    """Seconds until all of ``bodies`` and the ``there`` before them are Ready, from the first creation on."""

    async def create(body: dict[str, Any]) -> None:
        await kube.call("POST", path_of(TENANTS), body)

    started = time.perf_counter()
    watching = asyncio.create_task(ready_at(kube, TENANTS, len(bodies) + there, BOUND))
    await _at_once(create, bodies)
    return max(await watching) - started


async def _single(kube: Kube, number: int) -> float:
    name = f"single-{number}"
    started = time.perf_counter()
    await kube.call("POST", path_of(TENANTS), tenant(name))
    await _ready(kube, TENANTS, "", name)
    return time.perf_counter() - started


async def _module(kube: Kube) -> float:
    await kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": "bench"}})
    fields = [{"name": "body", "type": "text", "required": True}, {"name": "score", "type": "integer"}]
    models = [{"name": f"notes{n}", "fields": fields, "analytics": {"enabled": True}} for n in range(5)]
    body: dict[str, Any] = {
        "apiVersion": "platform-kernel.io/v1alpha1",
        "kind": "KernelModule",
        "metadata": {"name": "bench", "namespace": "bench"},
        "spec": {
            "moduleName": "@test/bench",
            "version": "1.0.0",
            "tenants": {"names": [f"tenant-{n}" for n in range(min(COUNT, 1000))]},
            "events": {"publishes": ["bench.note.created"]},
            "dataApi": {"models": models},
        },
    }
    started = time.perf_counter()
    await kube.call("POST", path_of(MODULES, "bench"), body)
    await _ready(kube, MODULES, "bench", "bench")
    return time.perf_counter() - started


async def _ready(kube: Kube, kind: str, namespace: str, name: str) -> None:
    async with asyncio.timeout(BOUND):
        while True:
            body = await kube.read(kind, namespace, name) or {}
            conditions = (body.get("status") or {}).get("conditions") or ()
            if any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
                return
            await asyncio.sleep(0.01)


async def _quiet(servers: PlatformServers, kube: Kube) -> tuple[Counter[str], float]:
    """The writes of the operator in a minute without a change, and its share of a core."""
    await asyncio.sleep(15)  # what came with the last change ends, and PostgreSQL tells what it counted within 10 s
    operator = psutil.Process(servers.operator.pid)
    before, used = await _written(servers, kube), _seconds(operator)
    await asyncio.sleep(QUIET)
    share = (_seconds(operator) - used) / QUIET
    after = await _written(servers, kube)
    return Counter({name: abs(count - before.get(name, 0)) for name, count in after.items()}), share


def _named(writes: Counter[str]) -> str:
    moved = ", ".join(f"{name} {count}" for name, count in writes.items() if count)
    return f": {moved}" if moved else ""


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _written(servers: PlatformServers, kube: Kube) -> dict[str, int]:
    """Counters that move with each write: versions of our resources, Events, rows of PostgreSQL, commands of Valkey,
    and ClickHouse's statements that are no questions."""
    listed = [item for kind in (TENANTS, MODULES) for item in (await kube.list_metadata(kind))[0]]
    events = await kube.call("GET", "/apis/events.k8s.io/v1/events")
    connection = await asyncpg.connect(servers.env["DATABASE_URL"])
    try:
        rows = await connection.fetch(_ROWS_WRITTEN)
    finally:
        await connection.close()
    async with Redis.from_url(servers.env["VALKEY_URL"]) as valkey:
        commands = await valkey.info("commandstats")
    return {
        "resources": sum(int(metadata["resourceVersion"]) for metadata in listed),
        "events": len(events["items"]),
        **{f"rows of {table}": count for table, count in rows},
        "statements": _statements(servers.clickhouse.log.read_text()),
        "commands": sum(commands.get(f"cmdstat_{name}", {}).get("calls", 0) for name in _VALKEY_WRITES),
    }


def _statements(log: str) -> int:
    """Lines of the development server's log about the operator's statements, but for SELECT."""
    return sum(" user=kernel_operator " in line and " select user=" not in line for line in log.splitlines())


async def _restart(servers: PlatformServers) -> tuple[float, float]:
    """Seconds from the kill of the operator to the first finished reconcile of the next, and until it has looked at
    everything once."""
    environment = servers.operator_env
    started = time.perf_counter()
    await asyncio.to_thread(servers.operator.kill)
    with _process(servers, "kernel_operator", environment):
        first = await _finished(servers, 1) - started
        everything = await _finished(servers, COUNT) - started
    return first, everything


async def _finished(servers: PlatformServers, count: int) -> float:
    """When ``count`` reconciles were finished."""
    url = f"http://127.0.0.1:{servers.operator.port}/metrics"
    wanted = 'controller_runtime_reconcile_total{controller="tenants",result="success"} '
    async with aiohttp.ClientSession() as session, asyncio.timeout(BOUND):
        while True:
            try:
                async with session.get(url) as response:
                    lines = (await response.text()).splitlines()
                done = sum(float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted))
                if done >= count:
                    return time.perf_counter()
            except aiohttp.ClientError:
                pass  # it does not listen yet
            await asyncio.sleep(0.02)


async def _at_once(work: Callable[[dict[str, Any]], Awaitable[None]], bodies: list[dict[str, Any]]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def guarded(body: dict[str, Any]) -> None:
        async with gate:
            await work(body)

    await asyncio.gather(*(guarded(body) for body in bodies))
