"""What holds for every part, shown on the quickest one: ports, records, kills, what a dead boot left."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kernel_local import platform as whole
from kernel_local import testing
from kernel_local.errors import PartFailed, PlatformError
from kernel_local.part import Command
from kernel_local.parts.valkey import Valkey
from kernel_local.processes import Process, ToolFailed, end, start_ticks
from kernel_local.site import Site


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path / "a data dir")
    async with made.locked():
        yield made
        for process in made.processes.recorded().values():
            await end(process, stop=signal.SIGKILL)


async def test_start_twice_keeps_the_process(site: Site) -> None:
    part = Valkey(site)
    assert await part.start()
    first = part.process()
    assert not await part.start()
    assert part.process() == first


async def test_comes_back_on_its_port_after_a_kill(site: Site) -> None:
    part = Valkey(site)
    await part.start()
    first, port = part.process(), site.port("valkey")
    assert first is not None
    await end(first, stop=signal.SIGKILL)
    assert part.process() is None
    assert await part.start()
    assert part.process() not in (None, first)
    assert site.port("valkey") == port


async def test_a_taken_port_is_chosen_anew(site: Site) -> None:
    part = Valkey(site)
    site.settle_ports(part.port_names)
    before = site.port("valkey")
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", before))
        squatter.listen()
        await part.start()
        assert site.port("valkey") != before
        assert Site(site.data).port("valkey") == site.port("valkey")
    assert await part.ready()


async def test_a_port_taken_at_the_last_moment_is_chosen_anew(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Valkey(site)
    with socket.socket() as squatter:
        prepare = part.prepare

        async def late() -> None:
            await prepare()
            with contextlib.suppress(OSError):
                squatter.bind(("127.0.0.1", site.port("valkey")))
                squatter.listen()

        monkeypatch.setattr(part, "prepare", late)
        assert await part.start()
        assert site.port("valkey") != squatter.getsockname()[1]


async def test_what_hangs_is_killed(site: Site) -> None:
    part = Valkey(site)
    await part.start()
    process = part.process()
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    assert not await part.stop(grace=0.2)
    assert not process.alive()


async def test_a_part_that_does_not_start_says_why(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Valkey(site)
    monkeypatch.setattr(part, "command", lambda: Command(["/bin/sh", "-c", "echo no such thing >&2; exit 3"]))
    with pytest.raises(PartFailed, match=r"valkey ended: no such thing \(whole log: .*valkey.log\)"):
        await part.start()
    assert site.processes.recorded() == {}


async def test_a_record_of_another_boot_is_nobody(site: Site) -> None:
    part = Valkey(site)
    await part.start()
    record = site.run / "valkey.pid"
    process = part.process()
    assert process is not None
    record.write_text("00000000-0000-0000-0000-000000000000\n" + record.read_text().split("\n", 1)[1])
    assert part.process() is None
    assert site.processes.recorded() == {}
    assert process.alive()
    await end(process)


async def test_a_reused_pid_is_left_alone(site: Site) -> None:
    victim = Process(os.getpid(), start_ticks(os.getpid()))
    stat = Path("/proc/self/stat").read_text()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    forged = stat.replace(f" {victim.ticks} ", f" {victim.ticks - 1} ")
    assert forged != stat
    (site.run / "valkey.pid").write_text(f"{boot}\n{forged}")
    assert Valkey(site).process() is None
    assert not await whole.Platform(site).down()
    assert victim.alive()


async def test_down_ends_tools_of_a_killed_command(site: Site) -> None:
    tool = site.processes.spawn(
        "some-tool",
        ["/bin/sh", "-c", "sleep 600 & sleep 600"],
        environment={"PATH": os.defpath},
        log=site.log("some-tool"),
    )
    async with asyncio.timeout(5):
        while len(family := tool.family()) < 3:
            await asyncio.sleep(0.01)
    assert await whole.Platform(site).down()
    assert not tool.alive()
    assert not any(member.is_running() and member.status() != "zombie" for member in family)


async def test_cancelling_a_tool_kills_what_it_started(site: Site) -> None:
    call = asyncio.create_task(
        site.processes.call("some-tool", ["/bin/sh", "-c", "sleep 600 & wait"], environment={"PATH": os.defpath})
    )
    async with asyncio.timeout(5):
        while (tool := site.processes.find("some-tool")) is None or len(tool.family()) < 2:
            await asyncio.sleep(0.01)
    family = tool.family()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(5):
        while any(member.is_running() and member.status() != "zombie" for member in family):
            await asyncio.sleep(0.01)


async def test_a_tool_fails_with_its_last_words(site: Site) -> None:
    with pytest.raises(ToolFailed, match=r"^some-tool failed \(exit 7\): bad luck$"):
        await site.processes.call(
            "some-tool", ["/bin/sh", "-c", "echo noise; echo bad luck >&2; exit 7"], environment={"PATH": os.defpath}
        )
    assert await site.processes.call("some-tool", ["/bin/cat"], environment={}, data=b"in and out") == "in and out"


async def test_the_next_test_run_ends_what_a_killed_one_left() -> None:
    code = (
        "import os, signal\n"
        "from kernel_local.testing import Run\n"
        "from kernel_local.parts.valkey import Valkey\n"
        "run = Run()\n"
        "run.start(Valkey(run.site))\n"
        "print(run.site.data, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL
    left = Site(Path(killed.stdout.strip()))
    process = left.processes.find("valkey")
    assert process is not None
    await testing.sweep(left.data.parent)
    assert not process.alive()
    assert not left.data.exists()


async def test_the_lock_names_who_holds_it(site: Site) -> None:
    with pytest.raises(PlatformError, match=rf"another kernel command \(pid {os.getpid()}\) is at work"):
        async with Site(site.data).locked(wait=0.1):
            pass


async def test_fresh_removes_only_what_the_platform_wrote(site: Site) -> None:
    secret = site.secret("some")
    (site.data / "valkey").mkdir()
    mine = site.data / "notes.txt"
    mine.write_text("keep me")
    whole.wipe(site)
    assert mine.read_text() == "keep me"
    assert not (site.data / "valkey").exists()
    assert site.secret("some") != secret


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(PlatformError, match="holds something that is not a platform's"):
        whole.claim(Site(tmp_path))


def test_a_broken_state_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(PlatformError, match="start anew with --fresh"):
        Site(tmp_path)
    assert Site(tmp_path, anew=True).get("phase", "none") == "none"
