"""What each login may publish: what its module declares, from its module, and nothing of the kernel's."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from kernel_common.events import Envelope, EventNotDeclared, emit
from kernel_common.ids import uuid7
from kernel_operator.desired import ModuleState
from kernel_operator.targets.postgres import PostgresTarget

from .conftest import PASSWORD, Installed, Login

Install = Callable[..., Awaitable[Installed]]

LOGGED_OUT = {"userId": str(uuid7()), "tenantId": str(uuid7())}


@pytest.fixture
async def installed(install: Install) -> Installed:
    """A module that publishes ``{slug}.deal.won``."""
    slug = f"p{uuid7().hex}"[:30]
    return await install(slug=slug, module_name=f"@acme/{slug}", publishes=(f"{slug}.deal.won",))


def deal(installed: Installed, **other: Any) -> Envelope:
    module = installed.module
    return Envelope(
        **{"type": module.publishes[0], "source": module.module_name, "tenant_id": installed.a, "data": {}, **other}
    )


async def rights(admin: asyncpg.Connection, module: ModuleState) -> list[str]:
    rows = await admin.fetch("SELECT type FROM kernel.event_rights WHERE login = $1 ORDER BY type", module.schema)
    return [row["type"] for row in rows]


async def refused(connection: asyncpg.Connection, event: Envelope) -> EventNotDeclared:
    with pytest.raises(EventNotDeclared) as caught:
        async with connection.transaction():
            await emit(connection, event)
    assert caught.value.type == event.type
    return caught.value


async def test_a_module_publishes_what_it_declares_and_nothing_else(
    installed: Installed, install: Install, login: Login
) -> None:
    slug = f"q{uuid7().hex}"[:30]
    other = (await install(slug=slug, module_name=f"@acme/{slug}", publishes=(f"{slug}.deal.won",))).module
    module = installed.module
    async with login(module.schema, tenant=installed.a) as connection:
        await emit(connection, deal(installed))
        error = await refused(connection, deal(installed, type=f"{module.slug}.deal.lost"))
        assert str(error).startswith(f"{module.schema} may not publish {module.slug}.deal.lost")
        assert "spec.events.publishes" in str(error)
        await refused(connection, deal(installed, type=other.publishes[0], source=other.module_name))
        await refused(connection, deal(installed, source=other.module_name))
        await refused(connection, deal(installed, type="auth.user.logged_out", data=LOGGED_OUT))
        await refused(
            connection, deal(installed, type="auth.user.logged_out", source="kernel-gateway", data=LOGGED_OUT)
        )


async def test_no_event_goes_to_another_topic_than_its_type_says(installed: Installed, login: Login) -> None:
    event = deal(installed)
    async with login(installed.module.schema, tenant=installed.a) as connection:
        for topic in ("platform.auth.events", "platform.other.events"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match=topic):
                async with connection.transaction():
                    await connection.execute(
                        "INSERT INTO kernel.outbox (id, topic, key, type, tenant_id, envelope) "
                        "VALUES ($1, $2, 'k', $3, $4, $5)",
                        event.id,
                        topic,
                        event.type,
                        event.tenant_id,
                        event.to_json(),
                    )


async def test_rights_follow_the_resource(
    target: PostgresTarget, admin: asyncpg.Connection, installed: Installed, login: Login
) -> None:
    module = installed.module
    assert (await target.apply_module(module, PASSWORD)).changes == ()
    more = replace(module, publishes=(f"{module.slug}.deal.lost", *module.publishes))
    assert (await target.apply_module(more, PASSWORD)).changes == ("recorded what it may publish",)
    assert await rights(admin, module) == sorted(more.publishes)
    # Somebody else's hand:
    await admin.execute("DELETE FROM kernel.event_rights WHERE type = $1", more.publishes[0])
    await admin.execute("UPDATE kernel.event_rights SET source = '@acme/x' WHERE login = $1", module.schema)
    assert (await target.apply_module(more, PASSWORD)).changes == ("recorded what it may publish",)
    async with login(module.schema, tenant=installed.a) as connection:
        await emit(connection, deal(installed))
        assert (
            "recorded what it may publish" in (await target.apply_module(replace(more, active=False), PASSWORD)).changes
        )
        await refused(connection, deal(installed))
    silent = replace(module, publishes=())
    assert (
        f"took membership in kernel_publisher from {module.schema}"
        in (await target.apply_module(silent, PASSWORD)).changes
    )
    await target.apply_module(module, PASSWORD)
    await target.remove_module(module.slug, drop_data=False)
    assert await rights(admin, module) == []
    await target.apply_module(module, PASSWORD)
    assert await rights(admin, module) == list(module.publishes)
    await target.remove_module(module.slug, drop_data=True)
    assert await rights(admin, module) == []


async def test_who_only_consumes_may_remember_and_not_publish(install: Install, login: Login) -> None:
    installed = await install(subscribes=("auth.user.created",))
    role = installed.module.schema
    async with login(role, tenant=installed.a) as connection:
        await connection.execute(
            "INSERT INTO kernel.processed_event_ids (consumer_group, event_id, event_type) VALUES ($1, $2, 'a.b.c')",
            f"{role}/x",
            uuid7(),
        )
        undeclared = f"{installed.module.slug}.deal.won"
        await refused(connection, Envelope(type=undeclared, source=installed.module.module_name, tenant_id=installed.a))


async def test_who_neither_publishes_nor_consumes_reaches_no_table_of_events(install: Install, login: Login) -> None:
    installed = await install()
    event = Envelope(type="auth.user.logged_out", source="x", tenant_id=installed.a, data=LOGGED_OUT)
    async with login(installed.module.schema, tenant=installed.a) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="schema kernel"):
            await emit(connection, event)


async def test_the_gateway_publishes_its_own_events_and_for_modules_what_they_declare(
    installed: Installed, login: Login, admin: asyncpg.Connection
) -> None:
    async with login("kernel_gateway", tenant=installed.a) as connection:
        own = deal(installed, type="auth.user.logged_out", source="kernel-gateway", data=LOGGED_OUT)
        await emit(connection, own, deal(installed))
        await refused(connection, deal(installed, type=f"{installed.module.slug}.deal.lost"))
        await refused(connection, deal(installed, source="kernel-gateway"))
        await refused(connection, deal(installed, type="auth.user.logged_out", data=LOGGED_OUT))
        for source in ("kernel-gateway", "@kernel/notify"):
            sent = {"notificationId": str(uuid7()), "channel": "mail"}
            await refused(connection, deal(installed, type="notify.notification.sent", source=source, data=sent))
    assert not await admin.fetchval("SELECT has_table_privilege('kernel_gateway', 'kernel.event_rights', 'SELECT')")


async def test_the_kernels_domains_are_its_modules_alone(pool: asyncpg.Pool) -> None:
    """Whatever the operator is told to write."""
    write = "INSERT INTO kernel.event_rights (login, type, source) VALUES ('module_' || $1, $1 || '.a.b', $2)"
    for domain in ("auth", "module", "data", "audit"):
        with pytest.raises(asyncpg.CheckViolationError, match="no_kernel_domain"):
            await pool.execute(write, domain, "@kernel/x")
    for domain in ("money", "billing", "files", "notify"):
        with pytest.raises(asyncpg.CheckViolationError, match="no_kernel_domain"):
            await pool.execute(write, domain, "@acme/x")
    with pytest.raises(asyncpg.CheckViolationError, match="own_domain"):
        await pool.execute("INSERT INTO kernel.event_rights VALUES ('module_a', 'b.c.d', '@acme/a')")


async def test_a_module_of_the_kernel_publishes_in_its_domain(install: Install, login: Login) -> None:
    kernel = await install(
        slug="notify", module_name="@kernel/notify", models=(), publishes=("notify.notification.sent",)
    )
    sent = {"notificationId": str(uuid7()), "channel": "mail"}
    async with login("module_notify", tenant=kernel.a) as connection:
        await emit(connection, deal(kernel, data=sent))


async def test_the_operator_tells_of_tenants_modules_and_first_owners_alone(pool: asyncpg.Pool) -> None:
    tenant = uuid7()
    deleted = {"tenantId": str(tenant), "name": "a", "tier": "client"}
    async with pool.acquire() as connection, connection.transaction():
        await emit(
            connection, Envelope(type="auth.tenant.deleted", source="kernel-operator", tenant_id=tenant, data=deleted)
        )
        for kind, source, data in (
            ("auth.tenant.deleted", "kernel-gateway", deleted),
            ("auth.user.logged_out", "kernel-operator", LOGGED_OUT),
            ("crm.deal.won", "kernel-operator", {}),
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
                async with connection.transaction():
                    await emit(connection, Envelope(type=kind, source=source, tenant_id=tenant, data=data))
