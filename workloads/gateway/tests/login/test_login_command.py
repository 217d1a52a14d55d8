"""The command line and the process: what they say, how they end."""

import asyncio
import json
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest
from gateway_api import PASSWORD, Client, SomeTenant
from gateway_process import command, free_port, running

from kernel_operator.targets.postgres import PostgresTarget

NewTenant = Callable[..., Awaitable[SomeTenant]]
SECRET = "s3cret-of-the-test"


async def test_an_owner_is_made_by_the_command_line(
    environment: dict[str, str], admin: asyncpg.Connection, client: Client, a_tenant: NewTenant
) -> None:
    new, known = "root@platform.example", (await a_tenant()).owner
    short = await command(environment, "owner", "create", "--email", new, said="short\n")
    assert (short[0], short[1]) == (1, "")
    assert "12 to 256" in short[2]
    assert short[2].count("\n") == 1
    made, taken = await asyncio.gather(
        command(environment, "owner", "create", "--email", new, said=f"{PASSWORD}\n"),
        command(environment, "owner", "create", "--email", known.email, KERNEL_OWNER_PASSWORD="not used at all"),
    )
    assert (made[0], made[1]) == (0, f"{new} is a platform owner, with a new account\n")
    assert (taken[0], taken[1]) == (0, f"{known.email} is a platform owner\n")
    owners = await admin.fetch("SELECT email FROM auth.users WHERE platform_owner")
    assert {new, known.email} <= {row["email"] for row in owners}
    for email in (new, known.email):
        assert (await client("POST", "auth/login", {"email": email, "password": PASSWORD})).status == 200


async def test_commands_that_fail_say_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    away = f"postgres://g:{SECRET}@127.0.0.1:{free_port()}/platform"
    missing = {name: value for name, value in environment.items() if name != "VALKEY_URL"}
    listener = socket.create_server(("127.0.0.1", 0))
    taken = str(listener.getsockname()[1])
    outcomes = await asyncio.gather(
        command(missing, "serve"),
        command(environment, "serve", GATEWAY_PORT=taken),
        command(environment, "serve", DATABASE_URL=f"mysql://g:{SECRET}@h/x"),
        command(environment, "keys", "list", GATEWAY_KEYS_DIRECTORY=str(tmp_path / "none")),
        command(environment, "keys", "rotate", GATEWAY_KEYS_DIRECTORY=str(tmp_path / "none")),
        command(environment, "owner", "create", "--email", "no address", said=f"{PASSWORD}\n"),
        command(environment, "owner", "create", "--email", "a@b.example", said=f"{PASSWORD}\n", DATABASE_URL=away),
    )
    listener.close()
    named = (
        "VALKEY_URL",
        "GATEWAY_PORT",
        "database URL",
        "can't be read",
        "can't be written",
        "--email",
        "the database",
    )
    for (code, out, complaint), name, expected in zip(outcomes, named, (2, 2, 2, 1, 1, 1, 1), strict=True):
        assert (code, out) == (expected, ""), complaint
        lines = [line for line in complaint.splitlines() if not line.startswith("{")]  # its log says what went before
        assert len(lines) == 1, complaint
        assert name in lines[0]
        assert SECRET not in complaint


async def test_the_document_is_printed_without_any_setting() -> None:
    code, out, _ = await command({}, "openapi")
    assert code == 0
    assert "/api/v1/auth/login" in json.loads(out)["paths"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_with_everything_away_it_lives_says_so_and_ends_in_order(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    away = {
        "DATABASE_URL": f"postgres://g:{SECRET}@127.0.0.1:{free_port()}/platform",
        "VALKEY_URL": f"redis://g:{SECRET}@127.0.0.1:{free_port()}/0",
        "GATEWAY_KEYS_DIRECTORY": str(tmp_path),
    }
    async with running(environment, **away) as gateway:
        await gateway.until("/live", 200)
        assert await gateway.answers("/ready") == 503
        gateway.process.send_signal(number)
        code, said = await gateway.ended()
    assert code == 0
    assert SECRET not in said
    assert "keys rotate" in said


async def test_a_request_under_way_is_answered_before_the_end(
    environment: dict[str, str], database: PostgresTarget, client: Client, a_tenant: NewTenant
) -> None:
    """The password of this login takes longer to compare than the signal to arrive."""
    tenant = await a_tenant()
    slow = {"PASSWORD_MEMORY_KIB": "65536", "PASSWORD_PASSES": "8"}
    async with running(environment, GATEWAY_SHUTDOWN_DELAY="0.5", **slow) as gateway:
        await gateway.until("/ready", 200)
        other = Client(client.session, gateway.base)
        body = {"email": tenant.owner.email, "password": PASSWORD}
        login = asyncio.create_task(other("POST", "auth/login", body))
        await asyncio.wait([login], timeout=0.05)
        assert not login.done()
        gateway.process.send_signal(signal.SIGTERM)
        await gateway.until("/ready", 503)
        assert (await login).status == 200
        code, said = await gateway.ended()
    assert code == 0
    lines = [json.loads(line) for line in said.splitlines()]
    served = [line for line in lines if line["logger"] == "kernel_gateway.access" and line.get("status") == 200]
    assert any(line["msg"] == "POST /api/v1/auth/login" for line in served)
    assert PASSWORD not in said
    assert "Bearer" not in said
