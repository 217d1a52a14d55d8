"""Logging in, the choice of a tenant, and the end of a session."""

import time
from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest
from gateway_api import Client, Person, SomeTenant
from login_world import events, logged_in, refreshed

from kernel_common.ids import uuid7
from kernel_gateway.api.services import Services
from kernel_gateway.login.account import change_password
from kernel_gateway.login.password import PasswordHashing
from kernel_gateway.tokens.tokens import verify
from kernel_operator.targets.postgres import PostgresTarget

NewTenant = Callable[..., Awaitable[SomeTenant]]
NewPerson = Callable[..., Awaitable[Person]]


def tenant_in(services: Services, token: str) -> UUID:
    return verify(token, services.keys, services.settings.gateway_public_url, time.time()).tenant


async def test_a_login_gives_a_token_that_says_who_and_where(
    client: Client, services: Services, a_tenant: NewTenant, admin: asyncpg.Connection
) -> None:
    tenant = await a_tenant()
    reply = await logged_in(client, tenant.owner)
    claims = verify(reply.json["accessToken"], services.keys, "https://gateway.example", time.time())
    assert (claims.user, claims.tenant, claims.roles) == (tenant.owner.id, tenant.id, ("Owner",))
    assert claims.expires - claims.issued == reply.json["expiresIn"] == 900
    assert reply.headers["Cache-Control"] == "no-store"
    told = await events(admin, tenant.id, "auth.user.logged_in")
    assert [(event["userId"], event["tenantId"]) for event in told] == [(str(tenant.owner.id), str(tenant.id))]
    stored = await admin.fetchval(
        "SELECT string_agg(t::text, '') FROM auth.refresh_tokens AS t WHERE tenant_id = $1", tenant.id
    )
    assert reply.json["refreshToken"] not in stored


async def test_a_wrong_password_and_an_unknown_address_get_the_same_answer(client: Client, a_tenant: NewTenant) -> None:
    tenant = await a_tenant()
    wrong = await client("POST", "auth/login", {"email": tenant.owner.email, "password": "not the password"})
    unknown = await client("POST", "auth/login", {"email": "nobody@at.all.example", "password": "not the password"})
    assert (wrong.status, wrong.slug) == (unknown.status, unknown.slug) == (401, "invalid-credentials")
    same = {name: value for name, value in wrong.json.items() if name != "trace_id"}
    assert same == {name: value for name, value in unknown.json.items() if name != "trace_id"}


async def test_nobody_costs_as_much_as_somebody() -> None:
    hashing = PasswordHashing(memory_kib=8192, passes=3, lanes=1, threads=1)
    hashed = await hashing.hash("some password")

    async def cost(known: str | None) -> float:
        began = time.process_time()  # what others do on this machine does not count
        assert not await hashing.matches(known, "another password")
        return time.process_time() - began

    weak = await PasswordHashing(memory_kib=8, passes=1, lanes=1, threads=1).hash("some password")
    costs = [[await cost(known) for known in (hashed, None, weak)] for _ in range(7)]
    somebody, nobody, with_a_weak_hash = (min(column) for column in zip(*costs, strict=True))
    assert 0.4 < nobody / somebody < 2.5
    assert 0.4 < with_a_weak_hash / somebody < 2.5
    hashing.close()


async def test_the_address_is_the_same_in_any_case(client: Client, a_tenant: NewTenant) -> None:
    tenant = await a_tenant()
    body = {"email": tenant.owner.email.upper(), "password": tenant.owner.password}
    assert (await client("POST", "auth/login", body)).status == 200


async def test_a_user_without_a_password_can_not_log_in(
    client: Client, a_tenant: NewTenant, admin: asyncpg.Connection
) -> None:
    tenant = await a_tenant()
    await admin.execute("UPDATE auth.users SET password_hash = NULL WHERE id = $1", tenant.owner.id)
    reply = await client("POST", "auth/login", {"email": tenant.owner.email, "password": tenant.owner.password})
    assert (reply.status, reply.slug) == (401, "invalid-credentials")


async def test_of_several_tenants_the_user_chooses_and_the_last_one_is_remembered(
    client: Client, services: Services, a_tenant: NewTenant, a_person: NewPerson
) -> None:
    first, second = await a_tenant(), await a_tenant()
    await a_person(second.id, email=first.owner.email)
    choice = await logged_in(client, first.owner)
    assert {tenant["id"] for tenant in choice.json["tenants"]} == {str(first.id), str(second.id)}
    assert "accessToken" not in choice.json

    elsewhere = {"sessionToken": choice.json["sessionToken"], "tenantId": str(uuid7())}
    assert (await client("POST", "auth/select-tenant", elsewhere)).status == 403
    chosen = {"sessionToken": choice.json["sessionToken"], "tenantId": str(second.id)}
    selected = await client("POST", "auth/select-tenant", chosen)
    assert selected.status == 200, "a choice that was refused leaves the token as it was"
    assert tenant_in(services, selected.json["accessToken"]) == second.id
    again = await client("POST", "auth/select-tenant", chosen)
    assert (again.status, again.slug) == (401, "token-revoked")

    assert tenant_in(services, (await logged_in(client, first.owner)).json["accessToken"]) == second.id
    asked_for = await logged_in(client, first.owner, tenantId=str(first.id))
    assert tenant_in(services, asked_for.json["accessToken"]) == first.id


async def test_a_choice_ends_when_the_password_changes(
    client: Client, services: Services, a_tenant: NewTenant, a_person: NewPerson
) -> None:
    first, second = await a_tenant(), await a_tenant()
    await a_person(second.id, email=first.owner.email)
    choice = await logged_in(client, first.owner)
    await change_password(services, first.owner.id, first.owner.password, "another long password", "192.0.2.7")
    body = {"sessionToken": choice.json["sessionToken"], "tenantId": str(second.id)}
    reply = await client("POST", "auth/select-tenant", body)
    assert (reply.status, reply.slug) == (401, "token-revoked")


async def test_a_foreign_tenant_is_refused(client: Client, a_tenant: NewTenant) -> None:
    mine, other = await a_tenant(), await a_tenant()
    body = {"email": mine.owner.email, "password": mine.owner.password, "tenantId": str(other.id)}
    reply = await client("POST", "auth/login", body)
    assert (reply.status, reply.slug) == (403, "forbidden")
    assert other.name not in str(reply.json)


async def test_who_is_in_no_tenant_is_offered_to_make_one(
    client: Client, a_tenant: NewTenant, admin: asyncpg.Connection
) -> None:
    tenant = await a_tenant()
    await admin.execute("DELETE FROM auth.members WHERE user_id = $1", tenant.owner.id)
    reply = await logged_in(client, tenant.owner)
    assert reply.json["tenants"] == []
    assert reply.json["sessionToken"]


@pytest.mark.parametrize("blocked", ["member", "tenant"])
async def test_whoever_is_blocked_gets_no_session(
    client: Client, a_tenant: NewTenant, admin: asyncpg.Connection, blocked: str
) -> None:
    tenant = await a_tenant()
    before = await logged_in(client, tenant.owner)
    if blocked == "member":
        await admin.execute("UPDATE auth.members SET status = 'blocked' WHERE user_id = $1", tenant.owner.id)
    else:
        await admin.execute("UPDATE kernel.tenants SET blocked = true WHERE id = $1", tenant.id)
    slug = "forbidden" if blocked == "member" else "tenant-blocked"
    body = {"email": tenant.owner.email, "password": tenant.owner.password}
    for more in ({}, {"tenantId": str(tenant.id)}):
        reply = await client("POST", "auth/login", body | more)
        assert (reply.status, reply.slug) == (403, slug)
    reply = await refreshed(client, before.json["refreshToken"])
    assert (reply.status, reply.slug) == (403, slug)


async def test_a_retired_tenant_is_none(client: Client, a_tenant: NewTenant, database: PostgresTarget) -> None:
    tenant = await a_tenant()
    await database.retire_tenant(tenant.id)
    assert (await logged_in(client, tenant.owner)).json["tenants"] == []


async def test_a_logout_ends_the_family_and_says_so_once(
    client: Client, a_tenant: NewTenant, admin: asyncpg.Connection
) -> None:
    tenant = await a_tenant()
    old = (await logged_in(client, tenant.owner)).json["refreshToken"]
    other = (await logged_in(client, tenant.owner)).json["refreshToken"]
    young = (await refreshed(client, old)).json["refreshToken"]
    for _ in range(2):
        reply = await client("POST", "auth/logout", {"refreshToken": old})
        assert reply.status == 204
    for token in (old, young):
        reply = await refreshed(client, token)
        assert (reply.status, reply.slug) == (401, "token-revoked")
    assert (await refreshed(client, other)).status == 200, "another session goes on"
    assert len(await events(admin, tenant.id, "auth.user.logged_out")) == 1


async def test_browsers_keep_the_refresh_token_where_no_script_reads_it(client: Client, a_tenant: NewTenant) -> None:
    tenant = await a_tenant()
    reply = await client("POST", "auth/login", {"email": tenant.owner.email, "password": tenant.owner.password})
    assert "refreshToken" not in reply.json
    cookie = reply.cookies["pk_refresh"]
    assert (cookie["httponly"], cookie["secure"], cookie["samesite"]) == (True, True, "strict")
    assert (cookie["path"], cookie["max-age"]) == ("/api/v1/auth", "604800")
    assert cookie["domain"] == ""

    sent = {"Cookie": f"pk_refresh={cookie.value}"}
    next_one = await client("POST", "auth/refresh", None, **sent)
    assert next_one.status == 200
    assert next_one.cookies["pk_refresh"].value != cookie.value
    ended = await client("POST", "auth/logout", None, **sent)
    assert ended.status == 204
    assert ended.cookies["pk_refresh"].value == ""
    assert (await client("POST", "auth/refresh", None, **sent)).status == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "https://gateway.example"}, 200),
        ({"Origin": "https://evil.gateway.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://localhost:9999", "Sec_Fetch_Site": "same-origin"}, 200),
        ({"Origin": "https://gateway.example.evil", "Sec_Fetch_Site": "same-site"}, 403),
    ],
)
async def test_a_foreign_page_can_not_use_the_cookie(
    client: Client, a_tenant: NewTenant, headers: dict[str, str], status: int
) -> None:
    tenant = await a_tenant()
    reply = await client("POST", "auth/login", {"email": tenant.owner.email, "password": tenant.owner.password})
    sent = {"Cookie": f"pk_refresh={reply.cookies['pk_refresh'].value}", **headers}
    assert (await client("POST", "auth/refresh", None, **sent)).status == status


async def test_without_a_refresh_token_there_is_nothing_to_refresh(client: Client) -> None:
    for path in ("auth/refresh", "auth/logout"):
        reply = await client("POST", path)
        assert (reply.status, reply.slug) == (401, "unauthenticated")
    reply = await refreshed(client, "A" * 43)
    assert (reply.status, reply.slug) == (401, "unauthenticated")


async def test_me_tells_roles_and_rights_as_they_are_now(
    client: Client, a_tenant: NewTenant, a_person: NewPerson
) -> None:
    tenant = await a_tenant()
    reply = await client("GET", "auth/me", **tenant.owner.headers)
    assert reply.status == 200
    assert reply.json["tenant"]["name"] == tenant.name
    assert (reply.json["roles"], reply.json["permissions"]) == (["Owner"], ["*"])
    assert (reply.json["email"], reply.json["emailVerified"]) == (tenant.owner.email, False)
    plain = await a_person(tenant.id)
    assert (await client("GET", "auth/me", **plain.headers)).json["permissions"] == []
    assert (await client("GET", "auth/me")).status == 401


async def test_both_base_paths_serve(client: Client, a_tenant: NewTenant) -> None:
    tenant = await a_tenant()
    assert (await client("GET", "/v1/auth/me", **tenant.owner.headers)).status == 200


async def test_an_old_hash_becomes_a_strong_one_and_no_session_ends(
    client: Client, a_tenant: NewTenant, admin: asyncpg.Connection, services: Services
) -> None:
    tenant = await a_tenant()
    weak = PasswordHashing(memory_kib=8, passes=1, lanes=1, threads=1)
    old = await weak.hash(tenant.owner.password)
    weak.close()
    await admin.execute("UPDATE auth.users SET password_hash = $2 WHERE id = $1", tenant.owner.id, old)
    reply = await logged_in(client, tenant.owner)
    new = await admin.fetchval("SELECT password_hash FROM auth.users WHERE id = $1", tenant.owner.id)
    assert new != old
    assert not services.passwords.is_weak(new)
    assert (await refreshed(client, reply.json["refreshToken"])).status == 200
    await logged_in(client, tenant.owner)
