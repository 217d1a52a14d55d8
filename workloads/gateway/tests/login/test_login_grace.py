"""The window in which a refresh token still answers, and the end of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from gateway_api import Client, SomeTenant, calling, serving
from login_world import events, logged_in, refreshed

from kernel_gateway.api.services import Services
from kernel_gateway.login import links
from kernel_gateway.login.account import change_password
from kernel_gateway.login.sealing import SealBroken, seal, unseal
from kernel_gateway.login.sweep import sweep_sessions

NewTenant = Callable[..., Awaitable[SomeTenant]]


@asynccontextmanager
async def gateway(services: Services, **settings: Any) -> AsyncIterator[Client]:
    """A client of a gateway with other settings."""
    changed = replace(services, settings=services.settings.model_copy(update=settings))
    async with serving(changed) as base, calling(base) as client:
        yield client


async def make_older(admin: asyncpg.Connection, token: str, seconds: float) -> None:
    """As if ``token`` had been used ``seconds`` earlier."""
    changed = await admin.execute(
        "UPDATE auth.refresh_tokens SET used_at = used_at - make_interval(secs => $2) WHERE token_hash = $1",
        links.hashed(token),
        seconds,
    )
    assert changed == "UPDATE 1"


async def test_the_same_token_gives_the_same_pair_within_the_window(client: Client, a_tenant: NewTenant) -> None:
    tenant = await a_tenant()
    token = (await logged_in(client, tenant.owner)).json["refreshToken"]
    first = await refreshed(client, token)
    assert first.status == 200
    again = await refreshed(client, token)
    assert again.json == first.json
    assert first.json["refreshToken"] != token
    assert (await refreshed(client, first.json["refreshToken"])).json != first.json


async def test_many_at_once_get_one_pair(client: Client, a_tenant: NewTenant, admin: asyncpg.Connection) -> None:
    tenant = await a_tenant()
    token = (await logged_in(client, tenant.owner)).json["refreshToken"]
    replies = await asyncio.gather(*(refreshed(client, token) for _ in range(50)))
    assert [reply.status for reply in replies] == [200] * 50
    assert len({str(reply.json) for reply in replies}) == 1
    assert await admin.fetchval("SELECT count(*) FROM auth.refresh_tokens WHERE tenant_id = $1", tenant.id) == 2


async def test_after_the_window_it_is_revoked_for_good_and_told_once(
    client: Client, a_tenant: NewTenant, admin: asyncpg.Connection
) -> None:
    tenant = await a_tenant()
    token = (await logged_in(client, tenant.owner)).json["refreshToken"]
    young = (await refreshed(client, token)).json["refreshToken"]
    await make_older(admin, token, 9)
    assert (await refreshed(client, token)).status == 200
    await make_older(admin, token, 1.5)
    for _ in range(2):
        reply = await refreshed(client, token)
        assert (reply.status, reply.slug) == (401, "token-revoked")
    await make_older(admin, token, -60)
    assert (await refreshed(client, token)).status == 401, "no clock brings it back"
    told = await events(admin, tenant.id, "auth.session.reused")
    assert [event["familyRevoked"] for event in told] == [False]
    assert (await refreshed(client, young)).status == 200, "the session goes on"


async def test_reuse_ends_the_family_where_that_is_wanted(
    services: Services, a_tenant: NewTenant, admin: asyncpg.Connection
) -> None:
    tenant = await a_tenant()
    async with gateway(services, refresh_reuse_revokes_family=True) as client:
        token = (await logged_in(client, tenant.owner)).json["refreshToken"]
        young = (await refreshed(client, token)).json["refreshToken"]
        await make_older(admin, token, 11)
        replies = await asyncio.gather(*(refreshed(client, token) for _ in range(5)))
        assert {reply.slug for reply in replies} == {"token-revoked"}
        assert (await refreshed(client, young)).slug == "token-revoked"
    assert [event["familyRevoked"] for event in await events(admin, tenant.id, "auth.session.reused")] == [True]


async def test_without_a_window_a_token_works_once(services: Services, a_tenant: NewTenant) -> None:
    tenant = await a_tenant()
    async with gateway(services, refresh_grace_sec=0) as client:
        token = (await logged_in(client, tenant.owner)).json["refreshToken"]
        replies = await asyncio.gather(*(refreshed(client, token) for _ in range(10)))
    assert sorted(reply.status for reply in replies) == [200] + [401] * 9


async def test_an_expired_session_has_to_log_in(client: Client, a_tenant: NewTenant, admin: asyncpg.Connection) -> None:
    tenant = await a_tenant()
    token = (await logged_in(client, tenant.owner)).json["refreshToken"]
    await admin.execute(
        "UPDATE auth.refresh_tokens SET expires_at = clock_timestamp() WHERE token_hash = $1", links.hashed(token)
    )
    reply = await refreshed(client, token)
    assert (reply.status, reply.slug) == (401, "token-expired")


async def test_the_sweep_clears_the_answer_when_the_window_is_over(
    client: Client, services: Services, a_tenant: NewTenant, admin: asyncpg.Connection
) -> None:
    tenant = await a_tenant()
    token = (await logged_in(client, tenant.owner)).json["refreshToken"]
    await refreshed(client, token)
    answer = "SELECT answer FROM auth.refresh_tokens WHERE token_hash = $1"
    await sweep_sessions(services)
    assert await admin.fetchval(answer, links.hashed(token)) is not None
    await make_older(admin, token, 11)
    assert await sweep_sessions(services) >= 1
    assert await admin.fetchval(answer, links.hashed(token)) is None
    await make_older(admin, token, -11)
    assert (await refreshed(client, token)).status == 401, "an answer that is gone is not made anew"


async def test_the_table_alone_reveals_no_pair(client: Client, a_tenant: NewTenant, admin: asyncpg.Connection) -> None:
    tenant = await a_tenant()
    token = (await logged_in(client, tenant.owner)).json["refreshToken"]
    pair = (await refreshed(client, token)).json
    row = await admin.fetchrow("SELECT * FROM auth.refresh_tokens WHERE token_hash = $1", links.hashed(token))
    for secret in (token, pair["refreshToken"], pair["accessToken"]):
        assert secret.encode() not in row["answer"]
    with pytest.raises(SealBroken):
        unseal(row["token_hash"], b"refresh answer", row["answer"])
    assert b'"access_token"' in unseal(token.encode(), b"refresh answer", row["answer"])


def test_a_seal_opens_for_its_secret_and_its_context_only() -> None:
    sealed = seal(b"s" * 32, b"one", b"content")
    assert unseal(b"s" * 32, b"one", sealed) == b"content"
    for secret, context, data in (
        (b"t" * 32, b"one", sealed),
        (b"s" * 32, b"two", sealed),
        (b"s" * 32, b"one", sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (b"s" * 32, b"one", b""),
    ):
        with pytest.raises(SealBroken):
            unseal(secret, context, data)


async def test_no_session_slips_past_a_new_password_while_it_refreshes(
    services: Services, client: Client, a_tenant: NewTenant, admin: asyncpg.Connection
) -> None:
    """Somebody refreshes as fast as they can, in several chains, while the password changes."""
    tenant = await a_tenant()
    tokens = [(await logged_in(client, tenant.owner)).json["refreshToken"] for _ in range(4)]

    async def go_on(token: str) -> int:
        """Returns how many refreshes went well before the end."""
        for turn in range(1000):
            reply = await refreshed(client, token)
            if reply.status != 200:
                assert (reply.status, reply.slug) == (401, "token-revoked")
                return turn
            token = reply.json["refreshToken"]
        raise AssertionError("the session outlived the password")

    chains = [asyncio.create_task(go_on(token)) for token in tokens]
    while await admin.fetchval("SELECT count(*) FROM auth.refresh_tokens WHERE tenant_id = $1", tenant.id) < 20:
        await asyncio.sleep(0.01)
    await change_password(services, tenant.owner.id, tenant.owner.password, "another long password", "192.0.2.8")
    async with asyncio.timeout(30):
        turns = await asyncio.gather(*chains)
    assert sum(turns) >= 16
    alive = "SELECT count(*) FROM auth.refresh_tokens WHERE tenant_id = $1 AND revoked_at IS NULL"
    assert await admin.fetchval(alive, tenant.id) == 0


async def test_no_session_slips_past_a_logout_while_it_refreshes(
    client: Client, a_tenant: NewTenant, admin: asyncpg.Connection
) -> None:
    tenant = await a_tenant()
    for _ in range(5):
        token = (await logged_in(client, tenant.owner)).json["refreshToken"]
        refresh, end = await asyncio.gather(
            refreshed(client, token), client("POST", "auth/logout", {"refreshToken": token})
        )
        assert end.status == 204
        assert refresh.status in (200, 401)
        if refresh.status == 200:
            assert (await refreshed(client, refresh.json["refreshToken"])).status == 401
    alive = "SELECT count(*) FROM auth.refresh_tokens WHERE tenant_id = $1 AND revoked_at IS NULL"
    assert await admin.fetchval(alive, tenant.id) == 0
