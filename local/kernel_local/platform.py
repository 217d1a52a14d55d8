"""All parts together: up in parallel as their needs allow, down in reverse, and never half of it left behind.

``up`` either ends with everything running or leaves nothing running that was not complete before: when a part fails, or
the caller is interrupted, it takes down what it found half started and what it started itself. Only a platform that was
complete when it began stays up.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from typing import Protocol

from kernel_local.connections import SYSTEMS, Connections
from kernel_local.errors import PartFailed, PlatformError
from kernel_local.part import Part
from kernel_local.parts import postgres
from kernel_local.parts.attached import Attached
from kernel_local.parts.cdc_sink import CdcSink
from kernel_local.parts.cdc_source import CdcSource
from kernel_local.parts.clickhouse import ClickHouse
from kernel_local.parts.cluster import CurrentCluster
from kernel_local.parts.data import Data
from kernel_local.parts.envoy import Envoy
from kernel_local.parts.etcd import Etcd
from kernel_local.parts.gateway import Gateway
from kernel_local.parts.kafka import Kafka
from kernel_local.parts.kubernetes import ApiServer, ControllerManager
from kernel_local.parts.operator import Operator
from kernel_local.parts.postgres import Postgres
from kernel_local.parts.valkey import Valkey
from kernel_local.processes import Process, end
from kernel_local.site import Site

_OWN: tuple[type[Part], ...] = (
    *(Postgres, Valkey, Kafka, ClickHouse, Etcd, ApiServer, ControllerManager),
    *(Operator, Gateway, Envoy, CdcSource, CdcSink, Data),
)
PART_NAMES = tuple(part.name for part in _OWN)
_FILES = (
    *PART_NAMES,
    *("service-crm", "kafka-training", "pki", "kubeconfig", "logs", "run", "secrets.json", "state.json"),
)
"""All that a platform writes into its data directory, besides the lock."""


class Report(Protocol):
    """Who is told how it goes."""

    def __call__(self, part: str, state: str, note: str, where: str) -> None: ...


def _silent(part: str, state: str, note: str, where: str) -> None:
    pass


class Platform:
    """The parts of one data directory, as its state says they are."""

    def __init__(self, site: Site, report: Report = _silent) -> None:
        self.site, self.report = site, report
        self.parts = {part.name: part for part in self._choose()}
        self.hurry = asyncio.Event()
        """Set: stopping no longer waits for anyone."""

    def _choose(self) -> list[Part]:
        connections = Connections(self.site)
        chosen: list[Part] = []
        current = self.site.get("cluster") == "current"
        for kind in _OWN:
            part = kind(self.site, self._noting(kind.name))
            if kind.name in (*SYSTEMS, "kafka") and connections.external(kind.name):
                chosen.append(Attached(part))
            elif not current or kind not in (Etcd, ApiServer, ControllerManager):
                chosen.append(part)
            elif kind is ApiServer:
                chosen.append(CurrentCluster(self.site, self._noting(kind.name)))
        return chosen

    def _noting(self, name: str) -> Callable[[str], None]:
        return lambda note: self.report(name, "starting", note, "")

    async def up(self) -> bool:
        """Brings everything up. False when all of it was running already. Raises PartFailed, naming all that failed."""
        complete = self.site.get("phase") == "up"
        keep = {name for name, part in self.parts.items() if complete and part.process() is not None}
        self.site.put("phase", "starting")
        try:
            await self._end_strays()
            started = await self._start_all()
        except BaseException:
            await self._take_down([name for name in self.parts if name not in keep])
            self.site.put("phase", "up" if keep else "down")
            raise
        self.site.put("phase", "up")
        return any(started.values())

    async def _start_all(self) -> dict[str, bool]:
        ready = {name: asyncio.Event() for name in self.parts}
        started: dict[str, bool] = {}

        async def start(part: Part) -> None:
            for need in part.needs:
                if need in ready:
                    await ready[need].wait()
            try:
                started[part.name] = await part.start()
            except PlatformError as error:
                self.report(part.name, "failed", str(error), "")
                raise
            self.report(part.name, "ready" if started[part.name] else "reused", "", part.where)
            ready[part.name].set()

        for name in self.parts:
            self.report(name, "waiting", "", "")
        try:
            async with asyncio.TaskGroup() as group:
                for part in self.parts.values():
                    group.create_task(start(part))
        except BaseExceptionGroup as group:
            failures, others = group.split(PlatformError)
            if others is not None or failures is None:
                raise
            raise PartFailed("; ".join(str(error) for error in failures.exceptions)) from None
        return started

    async def down(self) -> bool:
        """Stops everything that is recorded. False when nothing was running."""
        running = bool(self.site.processes.recorded())
        await self._end_strays()
        await self._take_down(list(self.parts))
        self.site.put("phase", "down")
        return running

    async def _take_down(self, names: list[str]) -> None:
        """Stops parts in the reverse of the order in which they need each other."""
        gone = {name: asyncio.Event() for name in names}

        async def stop(name: str) -> None:
            users = [other for other in names if name in self.parts[other].needs]
            for user in users:
                await gone[user].wait()
            part = self.parts[name]
            if part.process() is not None:
                self.report(name, "stopping", "", "")
                await self._stop(part)
            self.report(name, "stopped", "", "")
            gone[name].set()

        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(stop(name))
        # What was being installed or formatted when we were interrupted.
        await self._end_strays()

    async def _stop(self, part: Part) -> None:
        stopping = asyncio.ensure_future(part.stop())
        hurry = asyncio.ensure_future(self.hurry.wait())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not stopping.done():
            stopping.cancel()
            await asyncio.wait({stopping})
            await part.stop(grace=0)
        else:
            await stopping

    async def _end_strays(self) -> None:
        """Ends recorded processes that are no part of ours: tools of a command that was killed, replaced servers."""
        strays = [(n, p) for n, p in self.site.processes.recorded().items() if n not in self.parts]
        strays += [(n, p) for n, p in self.site.processes.recorded().items() if isinstance(self.parts.get(n), Attached)]
        for name, process in strays:
            await end(process, stop=signal.SIGTERM if name in PART_NAMES else signal.SIGKILL)
            self.site.processes.forget(name)

    def running(self) -> dict[str, Process | None]:
        """Each part's process, as far as it lives."""
        return {name: part.process() for name, part in self.parts.items()}


def wipe(site: Site) -> None:
    """Removes what a platform has written, secrets included; nothing else in the directory is touched."""
    postgres.discard(site)
    for name in _FILES:
        path = site.data / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    site.reset()


def claim(site: Site) -> None:
    """Refuses a directory that holds something else."""
    try:
        strange = site.data.exists() and not site.exists and any(site.data.iterdir())
    except OSError as error:
        raise PlatformError(f"{site.data} can't be used ({error.strerror}): name another with --data") from None
    if strange:
        raise PlatformError(f"{site.data} holds something that is not a platform's: name an empty folder with --data")


async def bring_up(
    site: Site,
    *,
    cluster: str | None,
    fresh: bool,
    report: Report = _silent,
    environment: Mapping[str, str] = os.environ,
    watch: Callable[[Platform], None] = lambda _: None,
) -> bool:
    """What ``kernel up`` does, inside the site's lock. False when everything was running already. ``watch`` is given
    the platform before it starts, so that it can be hurried."""
    if fresh:
        await Platform(site, report).down()
        wipe(site)
    before = site.get("cluster", "embedded")
    if cluster is not None and cluster != before and site.get("phase", "down") != "down":
        raise PlatformError(f"the platform runs on the {before} cluster: run `kernel down` first")
    site.put("cluster", cluster or before)
    Connections(site).adopt(environment)
    platform = Platform(site, report)
    watch(platform)
    return await platform.up()
