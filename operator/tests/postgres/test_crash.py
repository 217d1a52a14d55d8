"""Processes that die, two at once, and a database that is away."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import asyncpg
import pytest

from kernel_local.testing import PostgresServer
from kernel_operator.desired import Unavailable
from kernel_operator.targets.postgres import PostgresTarget

from .conftest import PASSWORD, Installed, a_module, a_tenant

Install = Callable[..., Awaitable[Installed]]


async def waiting_for_a_lock(admin: asyncpg.Connection, application: str = "kernel-operator") -> int:
    """The process id of the operator's backend that waits for a lock; waits until there is one."""
    async with asyncio.timeout(10):
        while True:
            await admin.fetchval("SELECT pg_stat_clear_snapshot()")  # what was seen once is kept for the transaction
            pid = await admin.fetchval(
                "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'", application
            )
            if pid:
                return int(pid)
            await asyncio.sleep(0.01)


async def test_a_connection_killed_in_the_middle_leaves_nothing(
    target: PostgresTarget, admin: asyncpg.Connection, install: Install
) -> None:
    """Somebody holds the table's lock, so the operator stops after its first changes, and is killed there."""
    installed = await install()
    contacts, notes = installed.module.models
    module = replace(installed.module, version="2.0.0", models=(contacts, replace(notes, analytics=True)))
    await admin.execute(f"REVOKE USAGE ON SCHEMA {module.schema} FROM {module.schema}")
    async with admin.transaction():
        await admin.execute(f"LOCK TABLE {module.schema}.notes IN ACCESS SHARE MODE")
        applying = asyncio.create_task(target.apply_module(module, "another-password"))
        pid = await waiting_for_a_lock(admin)
        assert await admin.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
        with pytest.raises(Unavailable):
            await applying
    assert await admin.fetchval("SELECT version FROM kernel.modules WHERE slug = $1", module.slug) == "1.0.0"
    assert not await admin.fetchval("SELECT has_schema_privilege($1::text, $1::text, 'USAGE')", module.schema)
    assert "set the password" in " ".join((await target.apply_module(module, "another-password")).changes)
    assert (await target.apply_module(module, "another-password")).changes == ()


async def test_a_new_module_killed_before_its_rows_leaves_no_role_or_schema(
    target: PostgresTarget, admin: asyncpg.Connection
) -> None:
    module = a_module()
    async with admin.transaction():
        await admin.execute("LOCK TABLE kernel.module_models IN SHARE MODE")
        applying = asyncio.create_task(target.apply_module(module, PASSWORD))
        pid = await waiting_for_a_lock(admin)
        await admin.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
        with pytest.raises(Unavailable):
            await applying
    for question in (
        "SELECT count(*) FROM pg_roles WHERE rolname = $1",
        "SELECT count(*) FROM pg_namespace WHERE nspname = $1",
    ):
        assert await admin.fetchval(question, module.schema) == 0
    assert (await target.apply_module(module, PASSWORD)).refusal is None


async def test_two_operators_apply_modules_at_once(postgres: PostgresServer, target: PostgresTarget) -> None:
    tenant = a_tenant()
    await target.apply_tenants([tenant])
    modules = [a_module(tenants=frozenset({tenant.id})) for _ in range(3)]
    other = PostgresTarget(postgres.operator_url)
    try:
        outcomes = await asyncio.gather(
            *(operator.apply_module(module, PASSWORD) for module in modules for operator in (target, other, target))
        )
    finally:
        await other.close()
    assert [outcome.refusal for outcome in outcomes] == [None] * 9
    assert sum(bool(outcome.changes) for outcome in outcomes) == 3, "one of them does the work"


async def test_two_operators_start_at_once(
    postgres: PostgresServer, target: PostgresTarget, admin: asyncpg.Connection
) -> None:
    await admin.execute("DROP PUBLICATION platform_cdc")
    others = [PostgresTarget(postgres.operator_url) for _ in range(3)]
    try:
        outcomes = await asyncio.gather(*(other.prepare() for other in others))
    finally:
        await asyncio.gather(*(other.close() for other in others))
    assert [change for outcome in outcomes for change in outcome.changes] == ["created publication platform_cdc"]


async def test_a_lock_that_is_held_is_no_error_but_a_wait(
    postgres: PostgresServer, admin: asyncpg.Connection, target: PostgresTarget, install: Install
) -> None:
    installed = await install()
    damaged = installed.module.schema
    await admin.execute(f"ALTER TABLE {damaged}.contacts NO FORCE ROW LEVEL SECURITY")
    async with admin.transaction():
        await admin.execute(f"LOCK TABLE {damaged}.contacts IN ACCESS SHARE MODE")
        with pytest.raises(Unavailable, match="a lock was not free in time"):
            await target.apply_module(installed.module, PASSWORD)
    assert (await target.apply_module(installed.module, PASSWORD)).changes


async def test_a_server_that_is_away_is_unavailable_and_comes_back(
    postgres: PostgresServer, target: PostgresTarget
) -> None:
    module, tenant = a_module(), a_tenant()
    await asyncio.to_thread(postgres.kill)
    try:
        calls: list[Callable[[], Awaitable[object]]] = [
            target.ping,
            target.prepare,
            target.upkeep,
            lambda: target.apply_tenants([tenant]),
            lambda: target.retire_tenant(tenant.id),
            lambda: target.delete_tenant(tenant.id),
            lambda: target.apply_module(module, PASSWORD),
            lambda: target.remove_module("x", drop_data=False),
        ]
        for call in calls:
            with pytest.raises(Unavailable) as caught:
                await call()
            assert caught.value.system == "PostgreSQL"
            for secret in ("kernel_operator", "127.0.0.1", "postgres://"):
                assert secret not in caught.value.message
    finally:
        await asyncio.to_thread(postgres.start)
    await target.ping()
    assert (await target.apply_module(module, PASSWORD)).refusal is None


async def test_a_refused_login_says_so_without_the_address(postgres: PostgresServer) -> None:
    wrong = PostgresTarget(postgres.url("kernel_operator", "not-the-password"))
    try:
        with pytest.raises(Unavailable) as caught:
            await wrong.ping()
        assert caught.value.message == "the login was refused"
    finally:
        await wrong.close()


async def test_a_password_never_reaches_the_log_in_plain_text(
    postgres: PostgresServer, admin: asyncpg.Connection, target: PostgresTarget
) -> None:
    secrets = ["plain-text-one-7fQ", "plain-text-two-7fQ"]
    module = a_module()
    await admin.execute("ALTER SYSTEM SET log_statement = 'all'")
    await admin.fetchval("SELECT pg_reload_conf()")
    try:
        async with asyncio.timeout(10):
            probe = await asyncpg.connect(postgres.operator_url)
            while await probe.fetchval("SHOW log_statement") != "all":
                await asyncio.sleep(0.02)
            await probe.close()
        for secret in secrets:
            assert (await target.apply_module(module, secret)).refusal is None
    finally:
        await admin.execute("ALTER SYSTEM RESET log_statement")
        await admin.fetchval("SELECT pg_reload_conf()")
    text = postgres.log.read_text(errors="replace")
    assert f"CREATE ROLE {module.schema}" in text, "the statements are in the log"
    assert "SCRAM-SHA-256$4096:" in text
    for secret in secrets:
        assert secret not in text
