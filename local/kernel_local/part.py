"""What a part of the platform is: how it is prepared, started, found ready, provisioned and stopped."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from kernel_local import ports
from kernel_local.errors import PartFailed, PlatformError
from kernel_local.processes import Process, end
from kernel_local.site import Site


@dataclass(frozen=True)
class Command:
    """What to run. The environment is everything the process gets beyond a minimal one; secrets belong there or in a
    file, never in ``argv``, which every user of the machine can read."""

    argv: list[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None


def minimal_environment() -> dict[str, str]:
    """What every process gets: nothing of the caller's environment that could change a server or leak a secret."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(Path.home()), "LANG": "C.UTF-8", "TZ": "UTC"}


class Part:
    """One server. A subclass says what is particular to it; this class holds the way they all go up and down.

    ``start`` is safe to repeat and to abandon at any point: a recorded process that answers is kept, one that does not
    is ended first, and provisioning (users, rights) only adds what is missing.
    """

    name: str
    needs: ClassVar[tuple[str, ...]] = ()
    port_names: ClassVar[tuple[str, ...]] = ()
    stop_signal: ClassVar[int] = signal.SIGTERM
    grace: ClassVar[float] = 10.0
    patience: ClassVar[float] = 60.0
    """Seconds from its start to its first good answer before it counts as failed."""

    runs_here: ClassVar[bool] = True
    """False for what only stands for a server elsewhere."""

    def __init__(self, site: Site, note: Callable[[str], None] = lambda _: None) -> None:
        self.site = site
        self.note = note

    @property
    def home(self) -> Path:
        return self.site.data / self.name

    @property
    def where(self) -> str:
        """Where it can be reached, for people: without passwords."""
        return f"127.0.0.1:{self.site.port(self.port_names[0])}" if self.port_names else ""

    async def prepare(self) -> None:
        """Makes what the process needs before it starts: files, directories, binaries."""

    def command(self) -> Command:
        raise NotImplementedError

    async def ready(self) -> bool:
        """One quick question: does it answer as it should?"""
        raise NotImplementedError

    async def provision(self) -> None:
        """What an administrator does once it runs. Runs at every start, so it must be harmless to repeat."""

    def process(self) -> Process | None:
        return self.site.processes.find(self.name)

    async def start(self) -> bool:
        """Brings it up, ready and provisioned. False when it was already running. Raises PartFailed."""
        running = self.process()
        if running is not None:
            self.note("found running")
            if await self._answers(running, 5.0):
                await self.provision()
                return False
            await self.stop()
        try:
            await self._start_anew(choose_ports=False)
        except PartFailed:
            if all(ports.is_free(self.site.port(name)) for name in self.port_names):
                raise
            # Someone took a port between our look and the server's. Once more, elsewhere.
            await self._start_anew(choose_ports=True)
        self.note("provisioning")
        try:
            await self.provision()
        except PartFailed:
            raise
        except PlatformError as error:
            raise PartFailed(f"{self.name}: {error}") from error
        return True

    async def _start_anew(self, *, choose_ports: bool) -> None:
        self.site.settle_ports(self.port_names, anew=choose_ports)
        self.note("preparing")
        try:
            self.home.mkdir(mode=0o700, exist_ok=True)
            await self.prepare()
        except PartFailed:
            raise
        except (PlatformError, OSError) as error:
            raise PartFailed(f"{self.name}: {error}") from error
        self.note("starting")
        self.site.log(self.name).touch(mode=0o600)
        command = self.command()
        process = self.site.processes.spawn(
            self.name,
            command.argv,
            environment=minimal_environment() | dict(command.environment),
            log=self.site.log(self.name),
            user=command.user,
        )
        if not await self._answers(process, self.patience):
            why = "did not answer in time" if process.alive() else "ended"
            problem = f"{self.name} {why}: {self._last_words()} (whole log: {self.site.log(self.name)})"
            await self.stop()
            raise PartFailed(problem)

    async def _answers(self, process: Process, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        pause = 0.01
        while process.alive():
            if await self.ready():
                return True
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(pause)
            pause = min(pause * 1.3, 0.1)
        return False

    def _last_words(self) -> str:
        try:
            lines = self.site.log(self.name).read_text(errors="replace")[-4000:].strip().splitlines()
        except OSError:
            return "it left no log"
        return lines[-1][:300] if lines else "it said nothing"

    async def stop(self, grace: float | None = None) -> bool:
        """Ends it if it runs. True when it went by itself within its grace."""
        process = self.process()
        orderly = process is None or await end(
            process, stop=self.stop_signal, grace=self.grace if grace is None else grace
        )
        self.site.processes.forget(self.name)
        return orderly
