"""From the creation of resources to Ready, against what the API server alone needs for the same writes.

The reference makes as many objects of the same kind and gives each the writes that the operator gives
it (finalizer, status, Event), from one client with the same concurrency: no operator that keeps the same
record can be faster. Both run against the same server, one after the other.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from bench.embedded import administrator, embedded_platform, ready_at, tenant
from bench.measure import Measure
from kernel_local.testing import PlatformServers
from kernel_operator.announce import announce
from kernel_operator.conditions import Condition, merged, ready
from kernel_operator.kube import FINALIZER, MODULES, TENANTS, Kube, path_of

COUNT = 500
AT_ONCE = 20
BOUND = 180.0


async def run() -> list[Measure]:
    with embedded_platform() as (servers, _):
        async with administrator(servers) as kube:
            await asyncio.to_thread(servers.operator.stop)
            floor = await _floor(kube)
            await asyncio.to_thread(servers.operator.start)
            await kube.call("POST", path_of(TENANTS), tenant("root", "owner", None))
            await ready_at(kube, TENANTS, 1, BOUND)
            took, slowest = await _tenants(kube)
            module = await _module(kube)
            restart = await _restart(servers)
    return [
        Measure(
            name="operator",
            measure=f"{COUNT} tenants from creation to Ready in every system",
            value=COUNT / took,
            unit="tenants/s",
            reference="the API server alone: create, finalizer, status, Event",
            reference_value=COUNT / floor,
            target=0.5,
            better="higher",
        ),
        _limit("the slowest of them", slowest, 10.0),
        _limit("a module with a model, from creation to Ready", module, 5.0),
        _limit(f"killed with -9 among {COUNT} tenants, started, everything compared", restart, 15.0),
    ]


def _limit(measure: str, value: float, limit: float) -> Measure:
    return Measure("operator", measure, value, "s", "limit", limit, 1.0, "lower")


async def _floor(kube: Kube) -> float:
    """Seconds for the bare writes of COUNT tenants that no operator looks at; they are removed again."""

    async def write(name: str) -> None:
        body = await kube.call("POST", path_of(TENANTS), tenant(name, "owner", None))
        held = await kube.set_finalizers(body, TENANTS, [FINALIZER]) or body
        conditions = [Condition.met(kind) for kind in ("DatabaseReady", "AnalyticsReady", "RateLimitReady")]
        status = {"phase": "Ready", "conditions": merged([ready(conditions), *conditions], [], 1)}
        written = await kube.patch_status(TENANTS, "", name, status) or held
        await announce(kube, written, "Reconciled", "everything is as the resource asks")

    async def remove(name: str) -> None:
        body = await kube.read(TENANTS, "", name)
        if body is not None:
            await kube.call("DELETE", path_of(TENANTS, "", name))
            await kube.set_finalizers(await kube.read(TENANTS, "", name) or body, TENANTS, [])

    names = [f"floor-{n}" for n in range(COUNT)]
    started = time.perf_counter()
    await _at_once(write, names)
    took = time.perf_counter() - started
    await _at_once(remove, names)
    return took


async def _tenants(kube: Kube) -> tuple[float, float]:
    """Seconds until COUNT tenants are Ready, and until the slowest of them was, from its own creation."""
    created: dict[str, float] = {}

    async def create(name: str) -> None:
        created[name] = time.perf_counter()
        await kube.call("POST", path_of(TENANTS), tenant(name))

    started = time.perf_counter()
    watching = asyncio.create_task(ready_at(kube, TENANTS, COUNT + 1, BOUND))
    await _at_once(create, [f"tenant-{n}" for n in range(COUNT)])
    ended = await watching
    return max(ended) - started, max(ended) - min(created.values())


async def _module(kube: Kube) -> float:
    await kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": "bench"}})
    field = {"name": "body", "type": "text", "required": True}
    body: dict[str, Any] = {
        "apiVersion": "platform-kernel.io/v1alpha1",
        "kind": "KernelModule",
        "metadata": {"name": "bench", "namespace": "bench"},
        "spec": {
            "moduleName": "@test/bench",
            "version": "1.0.0",
            "tenants": {"names": [f"tenant-{n}" for n in range(COUNT)]},
            "events": {"publishes": ["bench.note.created"]},
            "dataApi": {"models": [{"name": "notes", "fields": [field], "analytics": {"enabled": True}}]},
        },
    }
    started = time.perf_counter()
    await kube.call("POST", path_of(MODULES, "bench"), body)
    return max(await ready_at(kube, MODULES, 1, BOUND)) - started


async def _restart(servers: PlatformServers) -> float:
    """Seconds from the start of a killed operator until it has compared everything once."""
    await asyncio.to_thread(servers.operator.kill)
    started = time.perf_counter()
    await asyncio.to_thread(servers.operator.start)
    while await _finished(servers) < COUNT:
        if time.perf_counter() - started > BOUND:
            raise TimeoutError("the operator does not finish its first comparison")
        await asyncio.sleep(0.02)
    return time.perf_counter() - started


async def _finished(servers: PlatformServers) -> float:
    import aiohttp

    url = f"http://127.0.0.1:{servers.operator.port}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        text = await response.text()
    wanted = 'controller_runtime_reconcile_total{controller="tenants",result="success"} '
    return sum(float(line.removeprefix(wanted)) for line in text.splitlines() if line.startswith(wanted))


async def _at_once(work: Callable[[str], Awaitable[None]], names: list[str]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def guarded(name: str) -> None:
        async with gate:
            await work(name)

    await asyncio.gather(*(guarded(name) for name in names))
