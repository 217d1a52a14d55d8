"""Puts the operator together and runs it until it is told to stop."""

import asyncio
import logging
from contextlib import AsyncExitStack

import kopf
from aiohttp import web

from kernel_operator import faults
from kernel_operator.cluster import Cluster
from kernel_operator.handlers import registry
from kernel_operator.http import Health, application
from kernel_operator.kube import MODULES, TENANTS, Kube
from kernel_operator.loop import compare_periodically, until_caught_up, work
from kernel_operator.owners import Owners
from kernel_operator.queue import WorkQueue
from kernel_operator.reconcile.modules import ModuleReconciler
from kernel_operator.reconcile.report import Reporter
from kernel_operator.reconcile.tenants import TenantReconciler
from kernel_operator.settings import Settings
from kernel_operator.systems import Systems
from kernel_operator.targets.clickhouse.optimize import optimize_nightly

log = logging.getLogger(__name__)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Run until ``stop`` is set."""
    if settings.operator_fault_after_writes:
        faults.arm(settings.operator_fault_after_writes)
    kube, cluster, queue = Kube(), Cluster(), WorkQueue()
    health = Health(queue, cluster, settings.operator_stall_seconds)
    reporter = Reporter(kube, cluster)
    async with AsyncExitStack() as stack:
        await _serve(stack, settings, health)
        systems = Systems(settings)
        stack.push_async_callback(systems.close)
        tenants = TenantReconciler(
            kube,
            cluster,
            queue,
            reporter,
            postgres=systems.postgres,
            clickhouse=systems.clickhouse,
            valkey=systems.valkey,
            owners=Owners(kube, systems.postgres, settings.operator_namespace),
        )
        modules = ModuleReconciler(
            kube,
            cluster,
            reporter,
            settings,
            postgres=systems.postgres,
            kafka=systems.kafka,
            clickhouse=systems.clickhouse,
            valkey=systems.valkey,
        )
        caught_up = asyncio.Event()

        async def reconcile() -> None:
            await until_caught_up(kube, cluster)
            caught_up.set()
            await systems.postgres.judged.wait()
            async with asyncio.TaskGroup() as loops:
                loops.create_task(work(queue, TENANTS, tenants.reconcile))
                loops.create_task(work(queue, MODULES, modules.reconcile))
                loops.create_task(compare_periodically(kube, cluster, queue, settings.operator_resync_seconds))

        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(reconcile()),
                group.create_task(_prepare(systems, cluster, queue, health, caught_up)),
                group.create_task(systems.keep_up("Kafka", systems.kafka.ensure_kernel_topics)),
                group.create_task(systems.keep_up("ClickHouse", systems.erase_late)),
                group.create_task(optimize_nightly(systems.clickhouse.optimize, settings.operator_optimize_hour)),
            ]

            def end() -> None:
                stop.set()
                for task in tasks:
                    task.cancel()

            # Kopf takes SIGTERM itself, and waits 5 s for every task that it then finds: ours, and its own on ``stop``.
            await kopf.operator(
                registry=registry(kube, cluster, queue, end),
                clusterwide=True,
                standalone=True,
                stop_flag=stop,
            )
            end()


async def _prepare(
    systems: Systems, cluster: Cluster, queue: WorkQueue, health: Health, caught_up: asyncio.Event
) -> None:
    """Prepare PostgreSQL, have everything that waited for it looked at, tell that we are ready, and keep it up."""
    await systems.postgres.prepare()
    queue.submit([*cluster.keys(TENANTS), *cluster.keys(MODULES)])
    await caught_up.wait()
    health.ready = True
    log.info("ready")
    await systems.keep_up("PostgreSQL", systems.postgres.upkeep)


async def _serve(stack: AsyncExitStack, settings: Settings, health: Health) -> None:
    runner = web.AppRunner(application(health), access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, settings.operator_http_host, settings.operator_http_port).start()
