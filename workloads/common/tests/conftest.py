"""A real database with the kernel's schema, and a module's login, which is what a service connects as."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import pytest

from kernel_common.database import open_pool
from kernel_common.ids import tenant_id
from kernel_local.testing import PostgresServer
from kernel_operator.desired import Column, ColumnType, Model, ModuleState, TenantState, Tier
from kernel_operator.targets.postgres import PostgresTarget

_PASSWORD = "a-random-password-Yt3"


@dataclass(frozen=True)
class Service:
    url: str
    a: UUID
    b: UUID


@pytest.fixture(scope="session")
async def service(postgres: PostgresServer) -> AsyncIterator[Service]:
    """The login of the module ``common_tests`` with the table ``things``, active for two tenants."""
    target = PostgresTarget(postgres.operator_url)
    await target.prepare()
    names = ("common-tests-a", "common-tests-b")
    tenants = [TenantState(tenant_id(name), name, name, name, Tier.CLIENT, f"{name}@x.example") for name in names]
    await target.apply_tenants(tenants)
    module = ModuleState(
        slug="common_tests",
        module_name="@tests/common-tests",
        namespace="tests",
        name="common-tests",
        uid="uid",
        version="1.0.0",
        models=(Model("things", (Column("label", ColumnType.TEXT),)),),
        publishes=("common_tests.thing.made",),
        tenants=frozenset(tenant.id for tenant in tenants),
    )
    outcome = await target.apply_module(module, _PASSWORD)
    assert outcome.refusal is None
    yield Service(postgres.url(module.schema, _PASSWORD), tenants[0].id, tenants[1].id)
    await target.remove_module(module.slug, drop_data=True)
    await target.close()


@pytest.fixture
async def pool(service: Service) -> AsyncIterator[asyncpg.Pool]:
    """One connection, so that whoever comes next gets the one that was used before."""
    pool = await open_pool(service.url, application="common-tests", max_size=1)
    yield pool
    await pool.close()
