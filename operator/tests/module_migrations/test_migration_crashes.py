"""Processes and connections that die at every step: the next run ends it right, and nothing unprotected is seen."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import asyncpg
import pytest
from migrated_module import DEALS, MORE, Install, Installed, as_tenant, recorded, relations, require_clean

from kernel_local.testing import PostgresServer
from kernel_operator.desired import Migration, Outcome, Unavailable
from kernel_operator.targets.postgres import PostgresTarget
from kernel_operator.targets.postgres.module_migrations import close_abandoned
from kernel_operator.targets.postgres.module_migrations.login import Migrator, close_login, open_login

VICTIM = Path(__file__).with_name("migration_victim.py")
FILES = [("1.sql", DEALS), ("2.sql", MORE)]

HOLDER = """
SELECT pid FROM pg_stat_activity WHERE application_name = 'kernel-operator' AND state = 'idle in transaction'
"""


async def run_victim(postgres: PostgresServer, installed: Installed, step: int, moment: str) -> bool:
    """Whether it was killed; False: it came to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(VICTIM),
        postgres.operator_url,
        installed.slug,
        str(step),
        moment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await asyncio.wait_for(process.communicate(json.dumps(FILES).encode()), 60)
    assert process.returncode in (0, -signal.SIGKILL), printed.decode()
    return process.returncode != 0


async def require_nothing_unprotected(admin: asyncpg.Connection, installed: Installed) -> None:
    """What is committed is protected, and belongs to nobody but the operator."""
    rows = await admin.fetch(
        "SELECT relname, relrowsecurity AND relforcerowsecurity AS forced, pg_get_userbyid(relowner) AS owner, "
        "(SELECT count(*) FROM pg_policy WHERE polrelid = c.oid) AS policies "
        "FROM pg_class AS c WHERE relnamespace = $1::regnamespace AND relkind = 'r'",
        installed.schema,
    )
    for row in rows:
        assert (row["forced"], row["owner"], row["policies"]) == (True, "kernel_operator", 1), row
    made = {row["relname"] for row in rows} - {"contacts"}
    done = {name for name, _ in await recorded(admin, installed)}
    assert made == {table for name, table in (("1.sql", "deals"), ("2.sql", "lines")) if name in done}


async def until_done(installed: Installed) -> Outcome:
    """As the operator's queue does: again while it is unavailable."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await installed.target.migrate_module(
                    installed.slug, "1.0.0", [Migration(name, sql) for name, sql in FILES]
                )
            except Unavailable:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("moment", [pytest.param("before", marks=pytest.mark.soak), "during"])
async def test_killed_at_every_step(
    moment: str, postgres: PostgresServer, admin: asyncpg.Connection, install: Install
) -> None:
    step, killed = 0, True
    while killed:
        step += 1
        assert step < 100
        installed = await install()
        killed = await run_victim(postgres, installed, step, moment)
        await require_nothing_unprotected(admin, installed)
        outcome = await until_done(installed)
        assert outcome.refusal is None, (step, outcome)
        assert await recorded(admin, installed) == [("1.sql", "1.0.0"), ("2.sql", "1.0.0")]
        await require_clean(admin, installed)
        service = await installed.login()
        deal = await as_tenant(service, installed.a, "INSERT INTO deals (title) VALUES ('x') RETURNING id")
        await as_tenant(service, installed.a, "INSERT INTO lines (deal, n) VALUES ($1, 1)", deal)
        assert await as_tenant(service, installed.b, "SELECT count(*) FROM lines") == 0
        await service.close()
    assert step > 25, "the steps were counted"


async def waiting(admin: asyncpg.Connection, login: str) -> int:
    """The process of the session of ``login`` that waits for a lock."""
    async with asyncio.timeout(10):
        while True:
            pid = await admin.fetchval(
                "SELECT pid FROM pg_stat_get_activity(NULL) JOIN pg_roles AS r ON r.oid = usesysid "
                "WHERE rolname = $1 AND wait_event_type = 'Lock'",
                login,
            )
            if pid:
                return int(pid)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("whose", ["migrator", "operator"])
async def test_a_connection_killed_in_the_middle_of_a_file(
    whose: str, postgres: PostgresServer, admin: asyncpg.Connection, install: Install
) -> None:
    installed = await install()
    assert (await installed.migrate(DEALS)).refusal is None
    blocker = await asyncpg.connect(postgres.admin_url, database="platform")
    async with blocker.transaction():
        await blocker.execute(f"LOCK TABLE {installed.schema}.contacts IN SHARE UPDATE EXCLUSIVE MODE")
        running = asyncio.create_task(installed.migrate(DEALS, MORE))
        pid = await waiting(admin, installed.migrator)
        if whose == "operator":
            pid = await admin.fetchval(HOLDER)
        assert await admin.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
        if whose == "migrator":
            with pytest.raises(Unavailable):
                await running
    await blocker.close()
    if whose == "operator":
        with pytest.raises(Unavailable):
            await running
    await require_nothing_unprotected(admin, installed)
    outcome = await installed.migrate(DEALS, MORE)
    assert outcome.refusal is None
    assert [name for name, _ in await recorded(admin, installed)] == ["1.sql", "2.sql"]
    await require_clean(admin, installed)


async def test_a_run_whose_lock_was_lost_is_ended_by_the_next(
    postgres: PostgresServer, admin: asyncpg.Connection, install: Install
) -> None:
    """Its session still works in the database; the next operator ends it before it reads what was applied."""
    installed = await install()
    assert (await installed.migrate(DEALS)).refusal is None
    blocker = await asyncpg.connect(postgres.admin_url, database="platform")
    other = PostgresTarget(postgres.operator_url)
    async with blocker.transaction():
        await blocker.execute(f"LOCK TABLE {installed.schema}.contacts IN SHARE UPDATE EXCLUSIVE MODE")
        running = asyncio.create_task(installed.migrate(DEALS, MORE))
        first = await waiting(admin, installed.migrator)
        lock = await admin.fetchval(HOLDER)
        with pytest.raises(Unavailable, match="another operator runs the migrations"):
            await other.migrate_module(installed.slug, "1.0.0", [Migration(name, sql) for name, sql in FILES])
        await admin.fetchval("SELECT pg_terminate_backend($1, 5000)", lock)
        taking = asyncio.create_task(
            other.migrate_module(installed.slug, "1.0.0", [Migration(name, sql) for name, sql in FILES])
        )
        second = first
        async with asyncio.timeout(10):
            while second == first:
                await asyncio.sleep(0.01)
                second = await waiting(admin, installed.migrator)
        with pytest.raises(Unavailable):
            await running
    assert (await taking).changes[-1] == "applied migration 2.sql of version 1.0.0"
    await blocker.close()
    await other.close()
    await require_clean(admin, installed)


async def test_a_cancelled_run_closes_its_login(
    postgres: PostgresServer, admin: asyncpg.Connection, install: Install
) -> None:
    installed = await install()
    blocker = await asyncpg.connect(postgres.admin_url, database="platform")
    async with blocker.transaction():
        await blocker.execute(f"LOCK TABLE {installed.schema}.contacts IN SHARE UPDATE EXCLUSIVE MODE")
        running = asyncio.create_task(installed.migrate(DEALS, MORE))
        await waiting(admin, installed.migrator)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await admin.fetchval("SELECT to_regrole($1) IS NULL", installed.migrator)
    await blocker.close()
    assert await relations(admin, installed) == {"contacts", "deals", "numbers"}
    assert (await installed.migrate(DEALS, MORE)).changes == ("applied migration 2.sql of version 1.0.0",)


async def test_a_server_that_dies_under_a_run(
    postgres: PostgresServer, admin: asyncpg.Connection, install: Install
) -> None:
    installed = await install()
    blocker = await asyncpg.connect(postgres.admin_url, database="platform")
    try:
        await blocker.execute(f"BEGIN; LOCK TABLE {installed.schema}.contacts IN SHARE UPDATE EXCLUSIVE MODE")
        running = asyncio.create_task(installed.migrate(DEALS, MORE))
        await waiting(admin, installed.migrator)
        await asyncio.to_thread(postgres.kill)
        with pytest.raises(Unavailable):
            await running
        with pytest.raises(Unavailable):
            await installed.migrate(DEALS, MORE)
    finally:
        await asyncio.to_thread(postgres.start)
        blocker.terminate()
    fresh = await asyncpg.connect(postgres.admin_url, database="platform")
    await require_nothing_unprotected(fresh, installed)
    assert await fresh.fetchval("SELECT to_regrole($1) IS NOT NULL", installed.migrator), "it was left"
    outcome = await until_done(installed)
    assert outcome.changes == (
        f"closed login {installed.migrator}",
        "applied migration 2.sql of version 1.0.0",
    )
    await require_clean(fresh, installed)
    await fresh.close()


async def test_logins_that_were_left_are_closed(
    pool: asyncpg.Pool, admin: asyncpg.Connection, install: Install
) -> None:
    await close_abandoned(pool)
    left, removed, busy = await install(), await install(), await install()
    for installed in (left, removed, busy):
        await open_login(pool, Migrator(installed.slug))
    await removed.target.remove_module(removed.slug, drop_data=True)
    async with admin.transaction():
        await admin.execute("SELECT FROM kernel.module_migrators WHERE slug = $1 FOR UPDATE", busy.slug)
        assert await close_abandoned(pool) == [f"closed login {left.migrator}", f"closed login {removed.migrator}"]
        assert await admin.fetchval("SELECT to_regrole($1) IS NOT NULL", busy.migrator), "somebody is at work with it"
    assert (await busy.target.upkeep()).changes == (f"closed login {busy.migrator}",)
    assert await close_abandoned(pool) == []


async def test_a_run_closes_no_login_but_its_own(
    pool: asyncpg.Pool, admin: asyncpg.Connection, install: Install
) -> None:
    installed = await install()
    first, second = Migrator(installed.slug), Migrator(installed.slug)
    await open_login(pool, first)
    await open_login(pool, second)
    assert not await close_login(pool, first)
    assert await admin.fetchval("SELECT rolcanlogin FROM pg_roles WHERE rolname = $1", installed.migrator)
    assert await close_login(pool, second)
    assert not await close_login(pool, second)
    await require_clean(admin, installed)
