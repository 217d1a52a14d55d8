"""What the tests of the API share: one prepared database, a tenant on demand, and the API as its clients see it."""

import base64
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from gateway_api import OWNER, PASSWORD, Client, Person, SomeTenant, calling, serving

from kernel_common.ids import tenant_id
from kernel_common.tenancy import tenant_transaction
from kernel_gateway.api.services import Services
from kernel_gateway.decision.valkey import Valkey
from kernel_gateway.login.sessions import access_token
from kernel_gateway.serve import opened
from kernel_gateway.settings import Settings
from kernel_gateway.tokens import keyring
from kernel_local.testing import PostgresServer, ValkeyServer
from kernel_operator.desired import TenantState, Tier
from kernel_operator.targets.postgres import PostgresTarget

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
async def database(postgres: PostgresServer) -> AsyncIterator[PostgresTarget]:
    """The operator's hand on the prepared database: ``apply_tenants``, ``apply_module`` and so on."""
    target = PostgresTarget(postgres.operator_url)
    await target.prepare()
    yield target
    await target.close()


@pytest.fixture
async def admin(postgres: PostgresServer, database: PostgresTarget) -> AsyncIterator[asyncpg.Connection]:
    """The superuser in the database of the platform."""
    connection = await asyncpg.connect(postgres.admin_url, database="platform")
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
def keys_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With one key that signs."""
    directory = tmp_path_factory.mktemp("keys")
    keyring.rotate(directory, time.time() - 2 * keyring.SETTLE)
    return directory


@pytest.fixture(scope="session")
def environment(
    postgres: PostgresServer, valkey: ValkeyServer, keys_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The variables of a gateway process, with cheap passwords and room for many requests."""
    return {
        "DATABASE_URL": postgres.gateway_url,
        "VALKEY_URL": valkey.gateway_url,
        "KERNEL_MASTER_KEY": base64.b64encode(bytes(range(32))).decode(),
        "GATEWAY_KEYS_DIRECTORY": str(keys_directory),
        "GATEWAY_ENVOY_DIRECTORY": str(tmp_path_factory.mktemp("envoy")),
        "GATEWAY_HOST": "127.0.0.1",
        "GATEWAY_GRPC_PORT": "0",
        "GATEWAY_SHUTDOWN_DELAY": "0",
        "GATEWAY_PUBLIC_URL": "https://gateway.example",
        "KUBERNETES_TOKEN_FILE": "/nonexistent",
        "MAIL_DIRECTORY": str(tmp_path_factory.mktemp("mail")),
        "ANONYMOUS_REQUESTS_PER_MINUTE": "1000000",
        "PASSWORD_MEMORY_KIB": "64",
        "PASSWORD_PASSES": "1",
        "PASSWORD_LANES": "1",
    }


@pytest.fixture(scope="session")
def settings(environment: dict[str, str]) -> Settings:
    return Settings(**{name.lower(): value for name, value in environment.items()})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
async def services(settings: Settings, database: PostgresTarget) -> AsyncIterator[Services]:
    """What one gateway process works with, on real servers, as its own limited users."""
    async with opened(settings) as services:
        yield services


@pytest.fixture
def gateway_pool(services: Services) -> asyncpg.Pool:
    """Connections of kernel_gateway."""
    return services.pool


@pytest.fixture
def gateway_valkey(services: Services) -> Valkey:
    """The connection of the user kernel_gateway."""
    return services.valkey


@pytest.fixture(scope="session")
async def api(services: Services) -> AsyncIterator[str]:
    """The address of the API, served by this process."""
    async with serving(services) as base:
        yield base


@pytest.fixture
async def client(api: str) -> AsyncIterator[Client]:
    async with calling(api) as client:
        yield client


@pytest.fixture(scope="session")
def a_person(services: Services) -> Callable[..., Awaitable[Person]]:
    """``await a_person(tenant, role, ...)``: a new user, member of ``tenant`` with these roles (ids), and a token."""

    async def a_person(tenant: UUID, *roles: UUID, email: str | None = None, status: str = "active") -> Person:
        email = email or f"person-{next(_numbers)}-{time.time_ns()}@people.example"
        hashed = await services.passwords.hash(PASSWORD)
        async with tenant_transaction(services.pool, tenant) as connection:
            user = await connection.fetchval("SELECT kernel_cross.create_user($1, 'Somebody', $2)", email, hashed)
            if user is None:  # somebody who is in another tenant already
                user = await connection.fetchval("SELECT id FROM kernel_cross.find_user($1, NULL)", email)
            await connection.execute("INSERT INTO auth.members (user_id, status) VALUES ($1, $2)", user, status)
            for role in roles:
                await connection.execute("INSERT INTO auth.member_roles (user_id, role_id) VALUES ($1, $2)", user, role)
            names = await connection.fetch("SELECT name FROM auth.roles WHERE id = ANY ($1) ORDER BY name", list(roles))
        token, _ = access_token(services, user, tenant, tuple(row["name"] for row in names))
        return Person(user, email, tenant, {"Authorization": f"Bearer {token}"})

    return a_person


@pytest.fixture(scope="session")
def a_tenant(
    database: PostgresTarget, a_person: Callable[..., Awaitable[Person]]
) -> Callable[..., Awaitable[SomeTenant]]:
    """``await a_tenant(tier=..., suspended=...)``: a tenant (fields of TenantState) with a user who owns it."""

    async def a_tenant(**fields: Any) -> SomeTenant:
        name = f"gateway-{next(_numbers)}-{time.time_ns() % 10**9}"
        plain = TenantState(tenant_id(name), name, f"uid-{name}", name.title(), Tier.CLIENT, f"owner@{name}.example")
        state = replace(plain, **fields)
        await database.apply_tenants([state])
        return SomeTenant(state.id, name, await a_person(state.id, OWNER))

    return a_tenant
