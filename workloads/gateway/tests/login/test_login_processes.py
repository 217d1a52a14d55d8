"""Several gateway processes share nothing but PostgreSQL when tabs refresh at once, or when one of them dies."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import asyncpg
import pytest
import redis.asyncio
from gateway_api import Client, SomeTenant, calling
from gateway_process import GatewayProcess, command, running
from login_world import logged_in, refreshed

from kernel_gateway.login import links
from kernel_gateway.tokens import keyring
from kernel_local.testing import ValkeyServer
from kernel_operator.targets.postgres import PostgresTarget

NewTenant = Callable[..., Awaitable[SomeTenant]]
POINTS = ("refresh.locked", "refresh.signed", "refresh.written", "refresh.committed")


@pytest.fixture(scope="module")
async def gateways(environment: dict[str, str], database: PostgresTarget) -> AsyncIterator[dict[str, GatewayProcess]]:
    """Two that live, and for each point of a refresh one that dies there."""
    async with AsyncExitStack() as stack:
        wanted = {"one": "", "two": ""} | {point: point for point in POINTS}
        started = {
            name: await stack.enter_async_context(running(environment, GATEWAY_FAULT=fault))
            for name, fault in wanted.items()
        }
        await asyncio.gather(*(gateway.until("/ready", 200) for gateway in started.values()))
        yield started


@pytest.fixture
async def clients(gateways: Mapping[str, GatewayProcess]) -> AsyncIterator[list[Client]]:
    async with calling(gateways["one"].base) as one, calling(gateways["two"].base) as two:
        yield [one, two]


async def flush(valkey: ValkeyServer) -> None:
    client = redis.asyncio.Redis.from_url(valkey.admin_url)
    await client.flushall()
    await client.aclose()


async def test_two_hundred_refreshes_of_one_token_across_two_processes_give_one_pair(
    clients: list[Client], valkey: ValkeyServer, a_tenant: NewTenant, admin: asyncpg.Connection
) -> None:
    tenant = await a_tenant()
    token = (await logged_in(clients[0], tenant.owner)).json["refreshToken"]
    half = [refreshed(clients[number % 2], token) for number in range(100)]
    replies = await asyncio.gather(*half, flush(valkey), *(refreshed(clients[n % 2], token) for n in range(100)))
    await flush(valkey)
    replies.append(await refreshed(clients[1], token))
    answers = [reply for reply in replies if reply is not None]
    assert [reply.status for reply in answers] == [200] * 201
    assert len({str(reply.json) for reply in answers}) == 1
    assert await admin.fetchval("SELECT count(*) FROM auth.refresh_tokens WHERE tenant_id = $1", tenant.id) == 2


@pytest.mark.parametrize("point", POINTS)
async def test_a_process_that_dies_while_it_refreshes_splits_nobody(
    gateways: Mapping[str, GatewayProcess],
    clients: list[Client],
    a_tenant: NewTenant,
    admin: asyncpg.Connection,
    point: str,
) -> None:
    tenant = await a_tenant()
    token = (await logged_in(clients[0], tenant.owner)).json["refreshToken"]
    mortal = gateways[point]
    async with calling(mortal.base) as client:
        with pytest.raises(aiohttp.ClientError):
            await refreshed(client, token)
    assert (await mortal.ended())[0] == -9
    used = await admin.fetchval("SELECT used_at FROM auth.refresh_tokens WHERE token_hash = $1", links.hashed(token))
    assert (used is not None) == (point == "refresh.committed")

    replies = await asyncio.gather(*(refreshed(clients[number % 2], token) for number in range(10)))
    assert [reply.status for reply in replies] == [200] * 10
    assert len({str(reply.json) for reply in replies}) == 1
    assert await admin.fetchval("SELECT count(*) FROM auth.refresh_tokens WHERE tenant_id = $1", tenant.id) == 2
    assert (await refreshed(clients[0], replies[0].json["refreshToken"])).status == 200


async def test_a_session_survives_the_rotation_of_keys(
    environment: dict[str, str],
    clients: list[Client],
    gateways: Mapping[str, GatewayProcess],
    a_tenant: NewTenant,
    keys_directory: Path,
) -> None:
    tenant = await a_tenant()
    token = (await logged_in(clients[0], tenant.owner)).json["accessToken"]
    kid = (await command(environment, "keys", "rotate"))[1].strip()
    try:
        assert (keys_directory / f"{kid}.pem").stat().st_mode & 0o077 == 0
        listed = (await command(environment, "keys", "list"))[1].splitlines()
        assert [line[:2].strip() for line in listed] == ["*", ""], "the new one settles first"
        assert kid in listed[1]
        async with running(environment) as young, calling(young.base) as fresh:
            await young.until("/ready", 200)
            for client in (fresh, clients[0]):
                assert (await client("GET", "auth/me", Authorization=f"Bearer {token}")).status == 200
            known = (await fresh("GET", "/.well-known/jwks.json")).json["keys"]
            assert {key["kid"] for key in known} == set(keyring.KeyRing.load(keys_directory).kids())
            assert all("d" not in key for key in known)
    finally:
        (keys_directory / f"{kid}.pem").unlink()
