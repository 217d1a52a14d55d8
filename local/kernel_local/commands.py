"""What each command does. Every function returns the exit status and raises PlatformError with one line."""

import asyncio
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from rich.console import Console
from rich.table import Table

from kernel_local import service_account
from kernel_local.connections import DATABASE, Connections
from kernel_local.errors import PlatformError
from kernel_local.parts import postgres
from kernel_local.platform import Platform, bring_up, claim, wipe
from kernel_local.progress import Progress
from kernel_local.site import Site

_INTERRUPTED = 130


def up(site: Site, *, fresh: bool, cluster: str | None) -> int:
    """Starts what does not run. Interrupted, it leaves nothing half started."""
    claim(site)
    console, began = Console(), time.monotonic()

    async def work(hurry: Callable[[Platform], None]) -> bool:
        async with site.locked():
            with Progress(console) as progress:
                return await bring_up(site, cluster=cluster, fresh=fresh, report=progress, watch=hurry)

    started = _interruptible(work)
    if started is None:
        return _INTERRUPTED
    seconds = time.monotonic() - began
    said = f"up in {seconds:.1f} s" if started else "it was up already: everything was found running"
    console.print(
        f'{said} ({site.data})\nnext: kernel status · eval "$(kernel env)" · kernel down',
        highlight=False,
        soft_wrap=True,
    )
    return 0


def down(site: Site, *, delete_data: bool) -> int:
    """Stops everything that is recorded in the data directory."""
    if not site.exists:
        print(f"nothing to stop: there is no platform in {site.data}")  # noqa: T201
        return 0

    async def work(hurry: Callable[[Platform], None]) -> bool:
        async with site.locked():
            with Progress(Console()) as progress:
                platform = Platform(site, progress)
                hurry(platform)
                running = await platform.down()
            if delete_data:
                wipe(site)
                shutil.rmtree(site.logs, ignore_errors=True)
            return running

    running = _interruptible(work, stubborn=True)
    print("stopped" if running else "nothing was running")  # noqa: T201
    if delete_data:
        for folder in (site.run, site.logs):
            shutil.rmtree(folder, ignore_errors=True)
        (site.data / "lock").unlink(missing_ok=True)
        if not any(site.data.iterdir()):
            site.data.rmdir()
        print(f"removed the data in {site.data}")  # noqa: T201
    return 0


def _interruptible(
    work: Callable[[Callable[[Platform], None]], Coroutine[Any, Any, bool]], *, stubborn: bool = False
) -> bool | None:
    """Runs it; the first Ctrl-C (or SIGTERM, SIGHUP) cancels it, the next makes it stop without patience. ``stubborn``
    work is not cancelled, only hurried. None: it was interrupted, and has put everything away."""

    async def run() -> bool | None:
        loop = asyncio.get_running_loop()
        platforms: list[Platform] = []
        task = asyncio.ensure_future(work(platforms.append))
        signals = 0

        def interrupt() -> None:
            nonlocal signals
            signals += 1
            if signals == 1 and not stubborn:
                task.cancel()
            else:
                for platform in platforms:
                    platform.hurry.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, interrupt)
        try:
            return await task
        except asyncio.CancelledError:
            return None

    return asyncio.run(run())


def status(site: Site) -> int:
    """A table of the parts. 1 unless all run."""
    _must_exist(site)
    platform = Platform(site)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("part", "state", "pid", "where", "memory", "uptime"):
        right = heading in ("pid", "memory", "uptime")
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    all_run, total = True, 0
    for name, process in platform.running().items():
        part = platform.parts[name]
        if process is not None:
            memory = process.memory()
            total += memory
            state = "[green]running[/]"
            row = (str(process.pid), part.where, f"{memory / 2**20:.0f} MB", _duration(process.seconds()))
        elif not part.runs_here:
            state, row = "[green]external[/]", ("", part.where, "", "")
        else:
            all_run, state, row = False, "[red]stopped[/]", ("", "", "", "")
        table.add_row(name, state, *row)
    console = _console()
    console.print(table)
    console.print(
        f"{site.data} · {site.get('phase', 'down')} · {total / 2**20:.0f} MB", highlight=False, soft_wrap=True
    )
    return 0 if all_run else 1


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def logs(site: Site, name: str, *, follow: bool) -> int:
    """Prints one log to the end, or from its end on."""
    _must_exist(site)
    known = sorted(path.stem for path in site.logs.glob("*.log"))
    if name not in known:
        raise PlatformError(f"there is no log of {name}; there are: {', '.join(known) or 'none'}")
    arguments = ["tail", "-n", "100", "-F"] if follow else ["cat"]
    os.execvp(arguments[0], [*arguments, "--", str(site.log(name))])  # noqa: S606


def env(site: Site) -> int:
    """Lines for a shell's eval."""
    _must_exist(site)
    values = Connections(site).administrator() | {"KUBECONFIG": str(site.data / "kubeconfig")}
    for name, value in values.items():
        print(f"export {name}={shlex.quote(value)}")  # noqa: T201
    return 0


def psql(site: Site, arguments: list[str]) -> int:
    """Becomes psql. The password is in its environment, not on its command line."""
    _must_exist(site)
    url = Connections(site).administrator()["DATABASE_URL"]
    environment = dict(os.environ) | postgres.connection_environment(url) | {"PGDATABASE": DATABASE}
    program = str(postgres.psql(url))
    os.execve(program, [program, *arguments], environment)  # noqa: S606


def kubectl(site: Site, arguments: list[str]) -> int:
    """Becomes kubectl."""
    _must_exist(site)
    program = str(service_account.program(site.get("cluster")))
    if not os.access(program, os.X_OK):
        raise PlatformError("kubectl is not there yet: run `kernel up` first")
    environment = dict(os.environ) | {"KUBECONFIG": str(site.data / "kubeconfig")}
    os.execve(program, [program, *arguments], environment)  # noqa: S606


def demo(site: Site) -> int:
    """Brings the platform up and tells the story of ``kernel_local.demo``. 1 when an answer was wrong."""
    from kernel_local.demo.run import run

    return up(site, fresh=False, cluster=None) or run(site, _console())


def _console() -> Console:
    """Wide where nobody's terminal limits it, so that tables in a log or a pipe stay whole."""
    return Console() if sys.stdout.isatty() else Console(width=160)


def _must_exist(site: Site) -> None:
    if not site.exists:
        raise PlatformError(f"there is no platform in {site.data}: run `kernel up` first, or name it with --data")
