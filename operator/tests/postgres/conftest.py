"""One prepared database for all of these tests; each test takes names of its own, so none sees another's things."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from uuid import UUID

import asyncpg
import pytest

from kernel_common.database import open_pool
from kernel_common.ids import tenant_id, uuid7
from kernel_common.tenancy import set_tenant
from kernel_local.testing import PostgresServer
from kernel_operator.desired import Column, ColumnType, Model, ModuleState, TenantState, Tier
from kernel_operator.targets.postgres import PostgresTarget

PASSWORD = "a-random-password-Zq8"

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


@dataclass(frozen=True)
class Installed:
    """A module with two tenants."""

    module: ModuleState
    a: UUID
    b: UUID

    @property
    def table(self) -> str:
        return f"{self.module.schema}.contacts"


def a_tenant(name: str | None = None, **fields: object) -> TenantState:
    name = name or f"tenant-{next(_numbers)}"
    plain = TenantState(
        id=tenant_id(name),
        name=name,
        uid=f"uid-{name}",
        display_name=name.title(),
        tier=Tier.CLIENT,
        owner_email=f"owner@{name}.example",
    )
    return replace(plain, **fields)  # type: ignore[arg-type]


CONTACTS = Model(
    "contacts", (Column("email", ColumnType.TEXT, True), Column("score", ColumnType.INTEGER)), analytics=True
)
NOTES = Model("notes", (Column("body", ColumnType.TEXT),))


def a_module(**fields: object) -> ModuleState:
    slug = f"m{next(_numbers)}"
    plain = ModuleState(
        slug=slug,
        module_name=f"@acme/{slug}",
        namespace=slug,
        name=slug,
        uid=f"uid-{slug}",
        version="1.0.0",
        models=(CONTACTS, NOTES),
    )
    return replace(plain, **fields)  # type: ignore[arg-type]


@pytest.fixture
def install(target: PostgresTarget) -> Callable[..., Awaitable[Installed]]:
    async def install(**fields: object) -> Installed:
        a, b = a_tenant(), a_tenant()
        await target.apply_tenants([a, b])
        module = a_module(tenants=frozenset({a.id, b.id}), **fields)
        outcome = await target.apply_module(module, PASSWORD)
        assert outcome.refusal is None
        return Installed(module, a.id, b.id)

    return install


Login = Callable[..., AbstractAsyncContextManager[asyncpg.Connection]]


@pytest.fixture
def login(postgres: PostgresServer) -> Login:
    """``login("module_crm", tenant=...)``: a connection as that role, in a transaction of that tenant."""

    @asynccontextmanager
    async def login(
        role: str, password: str = PASSWORD, tenant: UUID | None = None
    ) -> AsyncIterator[asyncpg.Connection]:
        kernel = {
            "kernel_cdc": postgres.cdc_url,
            "kernel_operator": postgres.operator_url,
            "kernel_gateway": postgres.gateway_url,
        }
        connection = await asyncpg.connect(kernel.get(role) or postgres.url(role, password))
        try:
            if tenant is None:
                yield connection
                return
            async with connection.transaction():
                await set_tenant(connection, tenant)
                yield connection
        finally:
            await connection.close()

    return login


@pytest.fixture
async def gateway(login: Login, target: PostgresTarget) -> AsyncIterator[asyncpg.Connection]:
    """A connection of kernel_gateway, in no transaction."""
    async with login("kernel_gateway") as connection:
        yield connection


@pytest.fixture
def new_tenant(target: PostgresTarget) -> Callable[..., Awaitable[UUID]]:
    async def new_tenant(**fields: object) -> UUID:
        tenant = a_tenant(**fields)  # type: ignore[arg-type]
        assert (await target.apply_tenants([tenant]))[tenant.id].refusal is None
        return tenant.id

    return new_tenant


async def add_rows(connection: asyncpg.Connection, table: str, tenant: UUID, count: int = 1) -> list[UUID]:
    """Rows of ``tenant``, written by the superuser; returns their ids."""
    ids = [uuid7() for _ in range(count)]
    await connection.executemany(
        f"INSERT INTO {table} (id, tenant_id, email) VALUES ($1, $2, $3)",
        [(row, tenant, f"{number}@x.example") for number, row in enumerate(ids)],
    )
    return ids


async def outbox_of(admin: asyncpg.Connection, tenant: UUID) -> list[asyncpg.Record]:
    return list(await admin.fetch("SELECT * FROM kernel.outbox WHERE tenant_id = $1 ORDER BY created_at", tenant))
