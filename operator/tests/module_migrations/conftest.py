"""A prepared database of its own; each test takes a module of its own, with two tenants."""

import itertools
from collections.abc import AsyncIterator

import asyncpg
import pytest
from migrated_module import PASSWORD, Install, Installed

from kernel_common.database import open_pool
from kernel_common.ids import tenant_id
from kernel_local.testing import PostgresServer
from kernel_operator.desired import Column, ColumnType, Model, ModuleState, TenantState, Tier
from kernel_operator.targets.postgres import PostgresTarget

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
async def target(postgres: PostgresServer) -> AsyncIterator[PostgresTarget]:
    target = PostgresTarget(postgres.operator_url)
    await target.prepare()
    yield target
    await target.close()


@pytest.fixture(scope="session")
async def pool(postgres: PostgresServer, target: PostgresTarget) -> AsyncIterator[asyncpg.Pool]:
    """Connections of kernel_operator."""
    pool = await open_pool(postgres.operator_url, application="tests")
    yield pool
    await pool.close()


@pytest.fixture
async def admin(postgres: PostgresServer, target: PostgresTarget) -> AsyncIterator[asyncpg.Connection]:
    """The superuser in the database of the platform."""
    connection = await asyncpg.connect(postgres.admin_url, database="platform")
    yield connection
    await connection.close()


@pytest.fixture
def install(target: PostgresTarget, postgres: PostgresServer) -> Install:
    async def install() -> Installed:
        number = next(_numbers)
        names = [f"migrated-{number}-{letter}" for letter in "ab"]
        tenants = [
            TenantState(tenant_id(name), name, f"uid-{name}", name, Tier.CLIENT, f"owner@{name}.example")
            for name in names
        ]
        await target.apply_tenants(tenants)
        slug = f"mig{number}"
        module = ModuleState(
            slug=slug,
            module_name=f"@acme/{slug}",
            namespace=slug,
            name=slug,
            uid=f"uid-{slug}",
            version="1.0.0",
            models=(Model("contacts", (Column("email", ColumnType.TEXT),), analytics=True),),
            tenants=frozenset(tenant.id for tenant in tenants),
        )
        outcome = await target.apply_module(module, PASSWORD)
        assert outcome.refusal is None
        return Installed(target, postgres, module, tenants[0].id, tenants[1].id)

    return install
