"""The operator's process: how it starts, what it says when it can't, and how it ends."""

import asyncio
import base64
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from reconcile_world import World

from kernel_operator.settings import SettingsError, load

SECRET = "s3cret-of-the-test"
KEY = base64.b64encode(b"k" * 32).decode()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(kubeconfig: Path | str) -> dict[str, str]:
    """All settings, with systems that are all away."""
    return {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": f"postgres://o:{SECRET}@127.0.0.1:{free_port()}/platform",
        "CLICKHOUSE_URL": f"http://o:{SECRET}@127.0.0.1:{free_port()}",
        "VALKEY_URL": f"redis://o:{SECRET}@127.0.0.1:{free_port()}/0",
        "KAFKA_BROKERS": f"127.0.0.1:{free_port()}",
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_USERNAME": "o",
        "KAFKA_PASSWORD": SECRET,
        "KERNEL_MASTER_KEY": KEY,
        "KUBECONFIG": str(kubeconfig),
        "OPERATOR_HTTP_HOST": "127.0.0.1",
        "OPERATOR_HTTP_PORT": str(free_port()),
        "OPERATOR_RESYNC_SECONDS": "1",
    }


@asynccontextmanager
async def running(env: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kernel_operator", env=env, stderr=asyncio.subprocess.PIPE, limit=1 << 22
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ask(env: dict[str, str], path: str) -> tuple[int, str]:
    """The probe's answer; 0 while nobody listens."""
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"http://127.0.0.1:{env['OPERATOR_HTTP_PORT']}{path}") as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientError:
            return 0, ""


async def until(question: Callable[[], Any], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not await question():
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", f"mysql://o:{SECRET}@h/x"),
        ("DATABASE_URL", f"postgres://o:{SECRET}@h:port/x"),
        ("CLICKHOUSE_URL", f"h:{SECRET}"),
        ("VALKEY_URL", f"http://o:{SECRET}@h"),
        ("KERNEL_MASTER_KEY", SECRET),
        ("OPERATOR_HTTP_PORT", "70000"),
    ],
)
def test_a_wrong_setting_is_named_and_never_shown(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    for variable, good in environment("").items():
        monkeypatch.setenv(variable, good)
    load()
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as error:
        load()
    assert SECRET not in str(error.value)


async def test_a_missing_setting_ends_the_process_with_one_line() -> None:
    env = environment("")
    del env["VALKEY_URL"]
    async with running(env) as process, asyncio.timeout(30):
        _, said = await process.communicate()
    assert process.returncode == 2
    assert said.decode().count("\n") == 1
    assert "VALKEY_URL" in said.decode()


@pytest.mark.parametrize("content", [None, "", f"users: [{{user: {{token: {SECRET}}}", "{}"])
async def test_no_way_to_the_cluster_ends_the_process_with_one_line(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    async with running(environment(path)) as process, asyncio.timeout(30):
        _, said = await process.communicate()
    assert process.returncode == 2
    assert said.decode().count("\n") == 1
    assert "KUBECONFIG" in said.decode()
    assert SECRET not in said.decode()


async def test_with_every_system_away_it_lives_says_so_and_ends_in_order(world: World, operator_login: Path) -> None:
    env = environment(operator_login)
    key = await world.tenant("a")
    async with running(env) as process:

        async def told() -> bool:
            return (await world.condition(key)).get("reason") == "PostgreSQLUnavailable"

        await until(told)
        assert await ask(env, "/livez") == (200, '{"status": "ok"}'), "a restart would not bring them back"
        assert (await ask(env, "/readyz"))[0] == 503
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(4):
            _, said = await process.communicate()
    assert process.returncode == 0
    assert SECRET not in said.decode()
    assert KEY not in said.decode()
    assert SECRET not in str(await world.read(key))


async def test_an_api_server_that_is_away_is_waited_for_and_the_end_does_not_wait(
    operator_login: Path, tmp_path: Path
) -> None:
    login = tmp_path / "elsewhere"
    text = operator_login.read_text()
    port = text.partition("https://127.0.0.1:")[2].partition('"')[0]
    login.write_text(text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}"))
    env = environment(login)
    async with running(env) as process:

        async def listens() -> bool:
            return (await ask(env, "/readyz"))[0] == 503

        await until(listens)
        assert (await ask(env, "/livez"))[0] == 200
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            await process.communicate()
    assert process.returncode == 0
