"""The functions that cross tenants, called by the gateway's login: what they do, and what they do for two at once."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest

from kernel_common.database import open_pool
from kernel_common.ids import tenant_id, uuid7
from kernel_local.testing import PostgresServer
from kernel_operator.desired import Tier
from kernel_operator.targets.postgres import PostgresTarget

from .auth_people import HASH, MEMBER, OWNER, a_member, a_session, a_user, an_address
from .conftest import a_tenant

NewTenant = Callable[..., Awaitable[UUID]]


@pytest.fixture
async def gateways(postgres: PostgresServer, target: PostgresTarget) -> AsyncIterator[asyncpg.Pool]:
    """Several connections of kernel_gateway at once."""
    pool = await open_pool(postgres.gateway_url, application="tests")
    yield pool
    await pool.close()


async def at_once(pool: asyncpg.Pool, statement: str, *arguments: object, times: int = 8) -> list[object]:
    return list(await asyncio.gather(*(pool.fetchval(statement, *arguments) for _ in range(times))))


async def under(connection: asyncpg.Connection, tenant: UUID) -> None:
    await connection.execute("SELECT set_config('app.tenant_id', $1, true)", str(tenant))


async def sessions(gateway: asyncpg.Connection, tenant: UUID) -> list[asyncpg.Record]:
    async with gateway.transaction():
        await under(gateway, tenant)
        return list(await gateway.fetch("SELECT * FROM auth.refresh_tokens ORDER BY issued_at, id"))


def token(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


async def waiting(admin: asyncpg.Connection, role: str = "kernel_gateway") -> None:
    """Until a session of ``role`` waits for a lock."""
    async with asyncio.timeout(10):
        while not await admin.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND wait_event_type = 'Lock'", role
        ):
            await asyncio.sleep(0.01)


# Users


async def test_of_registrations_of_one_address_at_once_one_makes_the_account(gateways: asyncpg.Pool) -> None:
    address = an_address()
    made = await at_once(gateways, "SELECT kernel_cross.create_user($1, 'Ada', $2)", address, HASH)
    [user] = [one for one in made if one is not None]
    found = await gateways.fetchrow("SELECT * FROM kernel_cross.find_user($1, NULL)", address.upper())
    assert (found["id"], found["email"], found["password_hash"], found["platform_owner"]) == (
        user,
        address,
        HASH,
        False,
    )
    assert found == await gateways.fetchrow("SELECT * FROM kernel_cross.find_user(NULL, $1)", user)
    assert await gateways.fetch("SELECT * FROM kernel_cross.find_user(NULL, NULL)") == []


async def test_a_display_name_is_set_once(gateway: asyncpg.Connection) -> None:
    user = await gateway.fetchval("SELECT kernel_cross.create_user($1, '', NULL)", an_address())
    for name in ("Ada", "Eve"):
        await gateway.execute("SELECT kernel_cross.set_first_display_name($1, $2)", user, name)
    found = await gateway.fetchrow("SELECT * FROM kernel_cross.find_user(NULL, $1)", user)
    assert found["display_name"] == "Ada"


async def test_small_facts_of_a_user(gateway: asyncpg.Connection, new_tenant: NewTenant) -> None:
    user, tenant = await a_user(gateway), await new_tenant()
    assert await gateway.fetchval("SELECT kernel_cross.make_platform_owner($1)", user) is True
    assert await gateway.fetchval("SELECT kernel_cross.make_platform_owner($1)", uuid7()) is None
    await gateway.execute("SELECT kernel_cross.verify_email($1), kernel_cross.set_last_tenant($1, $2)", user, tenant)
    found = await gateway.fetchrow("SELECT * FROM kernel_cross.find_user(NULL, $1)", user)
    assert (found["platform_owner"], found["last_tenant_id"]) == (True, tenant)
    assert found["email_verified_at"]
    await gateway.execute("SELECT kernel_cross.verify_email($1)", user)
    again = await gateway.fetchrow("SELECT * FROM kernel_cross.find_user(NULL, $1)", user)
    assert again["email_verified_at"] == found["email_verified_at"]


async def test_a_rehash_neither_ends_sessions_nor_undoes_a_new_password(
    gateway: asyncpg.Connection, new_tenant: NewTenant
) -> None:
    tenant = await new_tenant()
    user = await a_member(gateway, tenant)
    await gateway.execute("SELECT kernel_cross.rehash_password($1, $2, $3)", user, HASH, HASH + "2")
    await gateway.execute("SELECT kernel_cross.rehash_password($1, $2, $3)", user, HASH, HASH + "3")
    assert await gateway.fetchval("SELECT password_hash FROM kernel_cross.find_user(NULL, $1)", user) == HASH + "2"
    assert [row["revoked_at"] for row in await sessions(gateway, tenant)] == [None]


async def test_a_new_password_ends_every_session_in_all_tenants_and_no_others(
    gateway: asyncpg.Connection, new_tenant: NewTenant
) -> None:
    a, b = await new_tenant(), await new_tenant()
    user, other = await a_member(gateway, a), await a_member(gateway, a)
    await a_member(gateway, b, user=user)
    await gateway.execute("SELECT kernel_cross.set_password($1, $2)", user, HASH + "2")
    for row in [*await sessions(gateway, a), *await sessions(gateway, b)]:
        assert (row["revoked_at"] is None, row["answer"] is None) == (row["user_id"] == other, row["user_id"] == user)


async def test_a_refresh_at_the_same_moment_leaves_no_session_of_the_old_password(
    gateway: asyncpg.Connection, gateways: asyncpg.Pool, admin: asyncpg.Connection, new_tenant: NewTenant
) -> None:
    tenant = await new_tenant()
    user = await a_member(gateway, tenant)
    async with gateways.acquire() as refreshing:
        async with refreshing.transaction():
            await under(refreshing, tenant)
            await refreshing.execute("UPDATE auth.refresh_tokens SET used_at = now()")
            setting = asyncio.create_task(
                gateways.execute("SELECT kernel_cross.set_password($1, $2)", user, HASH + "2")
            )
            await waiting(admin)
            await refreshing.execute(
                "INSERT INTO auth.refresh_tokens (user_id, family_id, token_hash, expires_at) "
                "VALUES ($1, uuidv7(), $2, now() + interval '1 day')",
                user,
                token("successor"),
            )
        await setting
    found = await sessions(gateway, tenant)
    assert len(found) == 2
    assert all(row["revoked_at"] for row in found)


async def test_a_login_at_the_same_moment_leaves_no_session_of_the_old_password(
    gateway: asyncpg.Connection, gateways: asyncpg.Pool, admin: asyncpg.Connection, new_tenant: NewTenant
) -> None:
    tenant = await new_tenant()
    user = await a_member(gateway, tenant)
    same = "SELECT kernel_cross.is_password($1, $2)"
    async with gateways.acquire() as login:
        async with login.transaction():
            assert await login.fetchval(same, user, HASH) is True
            setting = asyncio.create_task(
                gateways.execute("SELECT kernel_cross.set_password($1, $2)", user, HASH + "2")
            )
            await waiting(admin)
            await under(login, tenant)
            await login.execute(
                "INSERT INTO auth.refresh_tokens (user_id, family_id, token_hash, expires_at) "
                "VALUES ($1, uuidv7(), $2, now())",
                user,
                token("late login"),
            )
        await setting
    assert all(row["revoked_at"] for row in await sessions(gateway, tenant))
    assert await gateway.fetchval(same, user, HASH) is False
    assert await gateway.fetchval(same, user, HASH + "2") is True


# The second factor


async def test_a_time_step_is_used_once_whoever_asks(gateways: asyncpg.Pool) -> None:
    user = await a_user(gateways)
    use = "SELECT kernel_cross.use_mfa_step($1, $2)"
    assert await gateways.fetchval(use, user, 7) is False, "without a secret there is no code"
    start = "SELECT kernel_cross.start_mfa($1, 'secret', $2)"
    assert await gateways.fetchval(start, user, ["one", "two"]) is True
    assert await gateways.fetchval("SELECT mfa_enabled_at FROM kernel_cross.find_user(NULL, $1)", user) is None
    assert sorted(await at_once(gateways, use, user, 10)) == [False] * 7 + [True]
    assert await gateways.fetchval(use, user, 10) is False
    assert await gateways.fetchval(use, user, 9) is False, "an earlier step is a replay as well"
    assert await gateways.fetchval(use, user, 11) is True
    assert await gateways.fetchval(start, user, ["three"]) is False, "what is in force is not replaced"
    assert await gateways.fetchval("SELECT mfa_enabled_at FROM kernel_cross.find_user(NULL, $1)", user)


async def test_a_recovery_code_is_used_once_whoever_asks(gateways: asyncpg.Pool) -> None:
    user = await a_user(gateways)
    use = "SELECT kernel_cross.use_recovery_code($1, $2)"
    await gateways.execute("SELECT kernel_cross.start_mfa($1, 'secret', '{one,two}')", user)
    assert await gateways.fetchval(use, user, "one") is False, "not in force yet"
    await gateways.execute("SELECT kernel_cross.use_mfa_step($1, 1)", user)
    assert sorted(await at_once(gateways, use, user, "one")) == [False] * 7 + [True]
    found = await gateways.fetchrow("SELECT * FROM kernel_cross.find_user(NULL, $1)", user)
    assert found["recovery_codes"] == ["two"]
    await gateways.execute("SELECT kernel_cross.disable_mfa($1)", user)
    found = await gateways.fetchrow("SELECT * FROM kernel_cross.find_user(NULL, $1)", user)
    assert (found["mfa_secret"], found["mfa_enabled_at"], found["recovery_codes"]) == (None, None, [])


# Tokens that work once


async def test_a_one_time_token_is_taken_once_whoever_asks(gateways: asyncpg.Pool) -> None:
    user, mine = await a_user(gateways), token("once")
    put = "SELECT kernel_cross.put_one_time_token($1, $2, $3, NULL, $4::text::interval)"
    await gateways.execute(put, mine, "reset_password", user, "1 h")
    take = "SELECT state FROM kernel_cross.take_one_time_token($1, $2)"
    see = "SELECT user_id FROM kernel_cross.see_one_time_token($1, $2)"
    assert await gateways.fetchval(see, mine, "reset_password") == user
    assert await gateways.fetchval(take, mine, "verify_email") is None, "of another kind it is no token"
    states = await at_once(gateways, take, mine, "reset_password")
    assert sorted(map(str, states)) == ["taken", *["used"] * 7]
    assert await gateways.fetchval(see, mine, "reset_password") is None
    late = token("late")
    await gateways.execute(put, late, "reset_password", user, "-1 s")
    assert await gateways.fetchval(see, late, "reset_password") is None
    assert await gateways.fetchval(take, late, "reset_password") == "expired"
    assert await gateways.fetchval(take, token("none"), "reset_password") is None


async def test_a_taker_that_fails_leaves_the_token(gateways: asyncpg.Pool) -> None:
    user, mine = await a_user(gateways), token("kept")
    await gateways.execute("SELECT kernel_cross.put_one_time_token($1, 'invite', $2, NULL, '1 h')", mine, user)
    take = "SELECT state FROM kernel_cross.take_one_time_token($1, 'invite')"
    async with gateways.acquire() as first:
        attempt = first.transaction()
        await attempt.start()
        assert await first.fetchval(take, mine) == "taken"
        second = asyncio.create_task(gateways.fetchval(take, mine))
        await attempt.rollback()
        assert await second == "taken"


async def test_no_more_tokens_than_allowed_however_many_ask_at_once(gateways: asyncpg.Pool) -> None:
    user = await a_user(gateways)
    put = "SELECT kernel_cross.put_limited_one_time_token($1, 'verify_email', $2, NULL, '1 h', 3, '1 h')"
    given = await asyncio.gather(*(gateways.fetchval(put, token(f"{user}{n}"), user) for n in range(8)))
    assert sorted(given) == [False] * 5 + [True] * 3
    count = "SELECT kernel_cross.count_one_time_tokens($1, $2, '1 h')"
    assert await gateways.fetchval(count, user, "verify_email") == 3
    assert await gateways.fetchval(count, user, "reset_password") == 0


# Failed logins


async def test_failures_count_by_account_and_address(gateways: asyncpg.Pool) -> None:
    account, other = token(an_address()), token(an_address())
    failed = "SELECT kernel_cross.login_failed($1, $2::text::inet)"
    await at_once(gateways, failed, account, "192.0.2.1", times=12)
    await gateways.execute(failed, account, "192.0.2.2")
    await gateways.execute(failed, other, "192.0.2.1")
    count = "SELECT failures, seconds_left FROM kernel_cross.login_failures($1, $2::text::inet, '15 min')"
    row = await gateways.fetchrow(count, account, "192.0.2.1")
    assert row["failures"] == 12
    assert 890 < row["seconds_left"] <= 900
    await gateways.execute("SELECT kernel_cross.login_succeeded($1, '192.0.2.1')", account)
    assert tuple(await gateways.fetchrow(count, account, "192.0.2.1")) == (0, 0)
    assert (await gateways.fetchrow(count, account, "192.0.2.2"))["failures"] == 1
    assert (await gateways.fetchrow(count, other, "192.0.2.1"))["failures"] == 1


# Tenants of a user, sessions


async def test_a_users_tenants_are_the_living_ones(
    gateway: asyncpg.Connection, target: PostgresTarget, new_tenant: NewTenant
) -> None:
    here, blocked, gone, others = (
        await new_tenant(),
        await new_tenant(blocked=True),
        await new_tenant(),
        await new_tenant(),
    )
    user = await a_member(gateway, here, OWNER)
    await a_member(gateway, blocked, MEMBER, "invited", user)
    await a_member(gateway, gone, user=user)
    await a_member(gateway, others)
    await target.retire_tenant(gone)
    rows = await gateway.fetch("SELECT * FROM kernel_cross.user_tenants($1)", user)
    found = {row["tenant_id"]: (row["blocked"], row["member_status"], row["roles"]) for row in rows}
    assert found == {here: (False, "active", ["Owner"]), blocked: (True, "invited", ["Member"])}


async def test_a_refresh_token_leads_to_its_tenant(gateway: asyncpg.Connection, new_tenant: NewTenant) -> None:
    tenant = await new_tenant()
    mine = await a_session(gateway, tenant, await a_member(gateway, tenant))
    whose = "SELECT kernel_cross.refresh_token_tenant($1)"
    assert await gateway.fetchval(whose, mine) == tenant
    assert await gateway.fetchval(whose, token("nobody's")) is None


async def test_the_sweep_clears_and_forgets_what_is_over_and_nothing_else(
    gateway: asyncpg.Connection, gateways: asyncpg.Pool, admin: asyncpg.Connection, new_tenant: NewTenant
) -> None:
    tenant = await new_tenant()
    user = await a_member(gateway, tenant)
    # long expired, expired, in its window, out of it
    for used, expires in (("-9 d", "-2 d"), ("-9 d", "-1 h"), ("-5 s", "1 d"), ("-11 s", "1 d")):
        mine = await a_session(gateway, tenant, user)
        await admin.execute(
            "UPDATE auth.refresh_tokens SET used_at = now() + $2::text::interval, "
            "expires_at = now() + $3::text::interval WHERE token_hash = $1",
            mine,
            used,
            expires,
        )
    for expires in ("-8 d", "-6 d"):
        await gateway.execute(
            "SELECT kernel_cross.put_one_time_token($1, 'invite', $2, NULL, $3::text::interval)",
            token(f"{user}{expires}"),
            user,
            expires,
        )
    await admin.execute(
        "INSERT INTO auth.login_failures SELECT $1, '::1', now() - age "
        "FROM unnest(ARRAY['25 h', '23 h']::interval[]) AS age",
        token(str(user)),
    )
    sweep = "SELECT kernel_cross.sweep_sessions('10 s', 1)"
    while sum(await at_once(gateways, sweep, times=4)):  # type: ignore[arg-type]
        pass
    left = [(row["answer"] is None, row["expires_at"]) for row in await sessions(gateway, tenant)]
    assert [cleared for cleared, _ in left] == [False, True, False, True]
    assert await admin.fetchval("SELECT count(*) FROM auth.one_time_tokens WHERE user_id = $1", user) == 1
    assert await admin.fetchval("SELECT count(*) FROM auth.login_failures WHERE account = $1", token(str(user))) == 1


# Registration


async def a_parent(target: PostgresTarget, **fields: object) -> str:
    tenant = a_tenant(tier=Tier.OWNER, **fields)
    await target.apply_tenants([tenant])
    return tenant.name


REGISTER = "SELECT kernel_cross.register_tenant($1, $2, 'Mine', $3, $4, '{}')"


async def test_of_registrations_of_one_name_at_once_one_gets_it(
    gateways: asyncpg.Pool, admin: asyncpg.Connection, target: PostgresTarget
) -> None:
    parent, name = await a_parent(target), f"reg-{uuid7().hex[-8:]}"
    users = [await a_user(gateways) for _ in range(6)]
    made = await asyncio.gather(*(gateways.fetchval(REGISTER, tenant_id(name), name, parent, user) for user in users))
    assert [one for one in made if one] == [tenant_id(name)]
    owner = users[made.index(tenant_id(name))]
    row = await admin.fetchrow("SELECT * FROM kernel.tenants WHERE name = $1", name)
    assert (row["status"], row["blocked"], row["resource_uid"], row["tier"]) == ("active", False, None, "client")
    assert row["registered_at"]
    assert row["owner_email"] == await admin.fetchval("SELECT email FROM auth.users WHERE id = $1", owner)
    lines = await admin.fetch(
        "SELECT t.name, c.depth FROM kernel.tenant_closure c JOIN kernel.tenants t ON t.id = ancestor_id "
        "WHERE descendant_id = $1 ORDER BY depth",
        tenant_id(name),
    )
    assert [tuple(line) for line in lines] == [(name, 0), (parent, 1)]
    roles = await admin.fetch("SELECT user_id, role_id FROM auth.member_roles WHERE tenant_id = $1", tenant_id(name))
    assert [tuple(role) for role in roles] == [(owner, OWNER)]
    waiting_for = await gateways.fetch("SELECT * FROM kernel_cross.unbound_registrations()")
    assert (tenant_id(name), name, "Mine", row["owner_email"], parent) in [tuple(one) for one in waiting_for]


async def test_who_can_not_register(gateways: asyncpg.Pool, target: PostgresTarget) -> None:
    parent, user = await a_parent(target), await a_user(gateways)
    taken, client, gone = a_tenant(), a_tenant(), a_tenant(tier=Tier.OWNER)
    await target.apply_tenants([taken, client, gone])
    assert await gateways.fetchval(REGISTER, taken.id, taken.name, parent, user) is None
    for above, who in (("no-such", user), (client.name, user), (gone.name, user), (parent, uuid7())):
        await target.retire_tenant(gone.id)
        with pytest.raises(asyncpg.ForeignKeyViolationError, match=r"no tenant|no user"):
            await gateways.fetchval(REGISTER, uuid7(), f"reg-{uuid7().hex[-8:]}", above, who)
    await target.retire_tenant(taken.id)
    await target.delete_tenant(taken.id)
    assert await gateways.fetchval(REGISTER, taken.id, taken.name, parent, user) is None, "a name is never given twice"


async def test_who_registers_below_a_suspended_tenant_is_blocked(
    gateways: asyncpg.Pool, target: PostgresTarget
) -> None:
    parent, user, name = await a_parent(target, suspended=True, blocked=True), await a_user(gateways), "reg-below"
    await gateways.fetchval(REGISTER, tenant_id(name), name, parent, user)
    [row] = await gateways.fetch("SELECT * FROM kernel_cross.user_tenants($1)", user)
    assert row["blocked"] is True


async def test_the_retirement_of_a_parent_waits_for_a_registration_and_blocks_it(
    gateways: asyncpg.Pool, target: PostgresTarget, admin: asyncpg.Connection
) -> None:
    above = a_tenant(tier=Tier.OWNER)
    await target.apply_tenants([above])
    user, name = await a_user(gateways), "reg-orphan"
    async with gateways.acquire() as registering:
        async with registering.transaction():
            await registering.fetchval(REGISTER, tenant_id(name), name, above.name, user)
            retiring = asyncio.create_task(target.retire_tenant(above.id))
            await waiting(admin, "kernel_operator")
        await retiring
    assert await admin.fetchval("SELECT blocked FROM kernel.tenants WHERE id = $1", tenant_id(name)) is True
    waiting_for = await gateways.fetch("SELECT name FROM kernel_cross.unbound_registrations()")
    assert name not in {row["name"] for row in waiting_for}, "its resource could not be had"
