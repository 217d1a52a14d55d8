"""A database that an older version bootstrapped: what to do is told, and when it is done the operator goes on."""

import asyncio

import asyncpg
import pytest

from kernel_local.testing import PostgresServer
from kernel_operator import systems
from kernel_operator.desired import Unavailable
from kernel_operator.systems import Database
from kernel_operator.targets.postgres import PostgresTarget

from .auth_people import a_user
from .conftest import Login, a_module, a_tenant
from .test_bootstrap import bootstrap, the_passwords

AS_IT_WAS = """
DROP SCHEMA kernel_cross, auth CASCADE;
ALTER TABLE kernel.modules DROP COLUMN permissions;
ALTER TABLE kernel.tenants DROP COLUMN registered_at;
DROP POLICY remember_own ON kernel.processed_event_ids;
DROP POLICY publish_own ON kernel.outbox;
DROP POLICY publish_of_operator ON kernel.outbox;
DROP FUNCTION kernel.may_publish;
CREATE POLICY publish_own_tenant ON kernel.outbox FOR INSERT TO kernel_publisher WITH CHECK (true);
CREATE POLICY publish_any ON kernel.outbox FOR INSERT TO kernel_operator WITH CHECK (true);
DROP TABLE kernel.dlq_records, kernel.outbox_days, kernel.event_rights, kernel.cdc_snapshots;
DROP FUNCTION kernel.sweep_dead_letters;
DROP FUNCTION kernel.declared_events;
DELETE FROM kernel.schema_migrations WHERE number >= 6;
DROP OWNED BY kernel_gateway;
DROP ROLE kernel_gateway;
"""


async def test_an_older_database_waits_for_the_bootstrap_and_is_taken_further(
    postgres: PostgresServer, target: PostgresTarget, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = a_tenant(), a_tenant()
    module = a_module(tenants=frozenset({before.id}))
    await target.apply_tenants([before])
    await target.apply_module(module, "a-random-password-Zq8")
    await admin.execute(AS_IT_WAS)
    monkeypatch.setattr(systems, "_PREPARE_PAUSE", 0.05)
    database = Database(PostgresTarget(postgres.operator_url))
    preparing = asyncio.create_task(database.prepare())
    try:
        await database.judged.wait()
        with pytest.raises(Unavailable) as caught:
            await database.apply_tenants([after])
        for part in ("the role kernel_gateway is missing", "kernel_cross is missing", "running bootstrap.sql again"):
            assert part in caught.value.message
        applied = await admin.fetchval("SELECT max(number) FROM kernel.schema_migrations")
        assert applied == 5, "nothing is begun that can't be ended"

        assert bootstrap(postgres, **the_passwords(postgres)).returncode == 0
        async with asyncio.timeout(20):
            await preparing
        assert (await database.apply_tenants([before, after]))[after.id].refusal is None
        await database.apply_module(module, "a-random-password-Zq8")
    finally:
        preparing.cancel()
        await database.close()
        bootstrap(postgres, **the_passwords(postgres))
        await target.prepare()
    for tenant in (before, after):
        built_in = "SELECT count(*) FROM auth.roles WHERE tenant_id = $1 AND built_in"
        assert await admin.fetchval(built_in, tenant.id) == 3
        assert await admin.fetchval("SELECT version FROM auth.rbac_versions WHERE tenant_id = $1", tenant.id) == 1
    strangers = (
        "SELECT count(*) FROM kernel.tenants t WHERE NOT EXISTS (SELECT FROM auth.roles r WHERE r.tenant_id = t.id)"
    )
    assert await admin.fetchval(strangers) == 0


async def test_a_gateway_at_work_goes_on_over_a_bootstrap(
    postgres: PostgresServer, target: PostgresTarget, login: Login
) -> None:
    """Its prepared statements call functions that are made anew; its rights are never away."""
    async with login("kernel_gateway") as gateway:
        user, stop, calls = await a_user(gateway), asyncio.Event(), 0

        async def work() -> None:
            nonlocal calls
            while not stop.is_set():
                found = await gateway.fetchval("SELECT id FROM kernel_cross.find_user(NULL, $1)", user)
                assert found == user
                calls += 1

        working = asyncio.create_task(work())
        done = await asyncio.to_thread(bootstrap, postgres, **the_passwords(postgres))
        ended = calls
        stop.set()
        await working
    assert done.returncode == 0
    assert ended > 20
