"""Processes that outlive the command that starts them, and that a later command can find again.

Every process of a platform, server or short tool, is started by ``Processes.spawn`` and leaves a record
``run/NAME.pid`` that says which process it is: pid, start time in clock ticks, and the boot they belong to. A pid
alone may have been given to somebody else since; together the three name one process for good, so nothing is ever
looked up by name.

The record must not miss a process even if the command is killed with -9 right after the fork. So the child writes it,
before it becomes the program: a few lines of bash take the record's descriptor, print ``/proc/self/stat`` into it, and
exec. And a ``kernel down`` that starts at that very moment must not read the record too early: the child also holds a
copy of the descriptor that locks the data directory (an flock belongs to the open file, so copies keep it), and closes
it only after writing. Whoever gets the lock therefore sees every record that will ever be written.

Each process leads a session of its own: Ctrl-C in the terminal reaches only the command, and a signal to the group
reaches a tool's children (compilers under ``go build``). Signals and waits go through pidfds, which name one process.
"""

import asyncio
import contextlib
import os
import pwd
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from kernel_local.errors import PlatformError

_LAUNCH = """
read -r boot </proc/sys/kernel/random/boot_id && read -r stat </proc/self/stat || exit 126
printf '%s\\n%s\\n' "$boot" "$stat" >&"$1" || exit 126
record=$1 lock=$2
shift 2
exec {record}>&- {lock}>&-
exec "$@"
"""

_children: list[subprocess.Popen[bytes]] = []
"""Handles of what this process started: kept so that the dead are reaped and the living outlive us quietly."""


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True)
class Process:
    """One process for good: a pid and the clock ticks between boot and its start."""

    pid: int
    ticks: int

    def alive(self) -> bool:
        """False also for a zombie, which has ended and only waits for its parent to notice. A process of which only
        the first thread has ended still holds its files and ports, and counts as alive."""
        _reap()
        try:
            handle = os.pidfd_open(self.pid)
        except (ProcessLookupError, OverflowError):
            return False
        try:
            ended = select.poll()
            ended.register(handle, select.POLLIN)
            return not ended.poll(0) and self._began_then()
        finally:
            os.close(handle)

    def _began_then(self) -> bool:
        try:
            return start_ticks(self.pid) == self.ticks
        except (OSError, ValueError, IndexError):
            return False

    def seconds(self) -> float:
        """How long it has been running."""
        return _uptime() - self.ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Bytes of it and its descendants; shared pages count once (proportional set size where readable)."""
        return sum(_memory(p) for p in self.family())

    def family(self) -> list[psutil.Process]:
        """It and what it started, as far as they live."""
        with contextlib.suppress(psutil.Error):
            leader = psutil.Process(self.pid)
            if self.alive():
                return [leader, *leader.children(recursive=True)]
        return []

    def signal(self, number: int, *, group: bool = False) -> None:
        """Sends a signal to exactly this process (and its group); does nothing when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(self.pid)
            try:
                if self.alive():
                    if group:
                        with contextlib.suppress(ProcessLookupError, PermissionError):
                            os.killpg(self.pid, number)
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)

    async def ended(self) -> None:
        """Returns when the process has ended, whoever its parent is."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        try:
            if self.alive():
                loop.add_reader(handle, over.set_result, None)
                await over
        finally:
            loop.remove_reader(handle)
            os.close(handle)
            _reap()


async def end(process: Process, *, stop: int = signal.SIGTERM, grace: float = 10.0) -> bool:
    """Asks a process to stop, waits ``grace`` seconds, then kills it and its descendants. True: it went by itself."""
    family = process.family()
    process.signal(stop, group=stop == signal.SIGKILL)
    try:
        await asyncio.wait_for(process.ended(), grace)
        orderly = True
    except TimeoutError:
        process.signal(signal.SIGKILL, group=True)
        await process.ended()
        orderly = False
    for member in family[1:]:
        # psutil compares the start time before it signals, so a pid that was reused is safe.
        with contextlib.suppress(psutil.Error):
            if not orderly:
                member.kill()
    await _gone(family[1:])
    return orderly


async def _gone(family: Sequence[psutil.Process]) -> None:
    """Waits (5 s at most) until descendants, which end by themselves when their leader does, have ended."""
    for _ in range(500):
        if not any(p.is_running() and _status(p) != psutil.STATUS_ZOMBIE for p in family):
            return
        await asyncio.sleep(0.01)
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.kill()


class ToolFailed(PlatformError):
    """A short-lived program ended with an error; ``output`` is its last line."""

    def __init__(self, name: str, how: str, output: str) -> None:
        super().__init__(f"{name} failed ({how}): {output}" if output else f"{name} failed ({how})")
        self.output = output


class Processes:
    """Starts and finds the processes of one data directory. ``run`` holds their records, ``lock`` is the open
    descriptor that locks the directory; nothing can be started without it."""

    def __init__(self, run: Path, lock: int | None) -> None:
        self.run, self.lock = run, lock

    def find(self, name: str) -> Process | None:
        """The living process recorded under ``name``. A record of an earlier boot, or of an ended one, is nobody."""
        return _read(self.run / f"{name}.pid")

    def recorded(self) -> dict[str, Process]:
        """Every living recorded process by name, tools included."""
        found = {path.stem: _read(path) for path in sorted(self.run.glob("*.pid"))}
        return {name: process for name, process in found.items() if process is not None}

    def forget(self, name: str) -> None:
        (self.run / f"{name}.pid").unlink(missing_ok=True)

    def spawn(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        log: Path,
        user: str | None = None,
    ) -> Process:
        """Starts a program in a session of its own, with exactly this environment, in ``/``. Returns once it is
        recorded; what it prints goes to the end of ``log``."""
        with log.open("ab") as output:
            streams = (subprocess.DEVNULL, output, subprocess.STDOUT)
            child = self._launch(name, argv, environment, user, streams)
        return self._identify(name, child)

    async def call(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        environment: Mapping[str, str],
        data: bytes = b"",
        log: Path | None = None,
        timeout: float = 60.0,
        user: str | None = None,
    ) -> str:
        """Runs a short program to its end and returns what it printed. ``data`` is its input; its stderr is added to
        ``log``. Raises ToolFailed with its last line. Cancelling kills it, and all it started."""
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            stdin.write(data)
            stdin.seek(0)
            child = self._launch(name, argv, environment, user, (stdin, output, errors))
            process = self._identify(name, child)
            try:
                await asyncio.wait_for(process.ended(), timeout)
            except TimeoutError:
                raise ToolFailed(name, "time-out", f"no end after {timeout:.0f} s") from None
            finally:
                process.signal(signal.SIGKILL, group=True)
                self.forget(name)
                status = child.wait(5)
            output.seek(0)
            errors.seek(0)
            printed, complaints = output.read().decode(errors="replace"), errors.read().decode(errors="replace")
            if log is not None and complaints:
                with log.open("a") as file:
                    file.write(complaints)
            if status != 0:
                lines = [line for line in f"{printed}\n{complaints}".splitlines() if line.strip()]
                raise ToolFailed(name, f"exit {status}", lines[-1].strip() if lines else "")
            return printed

    def _launch(
        self,
        name: str,
        argv: Sequence[str | Path],
        environment: Mapping[str, str],
        user: str | None,
        streams: tuple[IO[bytes] | int, IO[bytes], IO[bytes] | int],
    ) -> subprocess.Popen[bytes]:
        if self.lock is None:
            raise PlatformError("the data directory is not locked, so nothing can be started in it")
        with (self.run / f"{name}.pid").open("wb") as record:
            descriptors = (record.fileno(), self.lock)
            child = subprocess.Popen(
                ["/bin/bash", "-c", _LAUNCH, "launch", *map(str, descriptors), *map(str, argv)],
                stdin=streams[0],
                stdout=streams[1],
                stderr=streams[2],
                env=dict(environment),
                cwd="/",
                pass_fds=descriptors,
                start_new_session=True,
                user=user,
                group=pwd.getpwnam(user).pw_gid if user else None,
                extra_groups=[] if user else None,
            )
        _children.append(child)
        return child

    def _identify(self, name: str, child: subprocess.Popen[bytes]) -> Process:
        """Waits, a few milliseconds, for the child to write its record. It blocks on purpose: a task that could be
        cancelled here would leave a process that nobody finds yet."""
        for _ in range(5000):
            if (process := _parse(self.run / f"{name}.pid")) is not None:
                return process
            if child.poll() is not None:
                return Process(child.pid, -1)  # it could not even write its record; nobody, which has ended
            time.sleep(0.002)
        child.kill()
        raise PlatformError(f"{name} could not be started: its launcher hangs")


def start_ticks(pid: int) -> int:
    """When a living process began, in clock ticks since boot. Raises OSError."""
    return _ticks(Path(f"/proc/{pid}/stat").read_text())


def _parse(record: Path) -> Process | None:
    """Which process a record names, if it is complete and of this boot."""
    try:
        boot, stat = record.read_text().split("\n", 1)
        process = Process(int(stat.split(" ", 1)[0]), _ticks(stat))
    except (OSError, ValueError, IndexError):
        return None
    return process if boot == boot_id() else None


def _read(record: Path) -> Process | None:
    process = _parse(record)
    return process if process is not None and process.alive() else None


def _ticks(stat: str) -> int:
    """Field 22 of ``/proc/PID/stat``. The name in field 2 may hold anything, so count from its closing bracket."""
    return int(stat.rpartition(")")[2].split()[19])


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.Error:
        return str(psutil.STATUS_ZOMBIE)


def _uptime() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _reap() -> None:
    for child in list(_children):
        if child.poll() is not None:
            with contextlib.suppress(ValueError):
                _children.remove(child)
