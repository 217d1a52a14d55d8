"""Gateways over HTTP, tenants and people for these tests, on real servers, with the logins that production has."""

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import uvicorn

from kernel_common.ids import tenant_id
from kernel_gateway.access import Identity
from kernel_gateway.api.app import create_app
from kernel_gateway.api.services import Services
from kernel_gateway.decision.decider import Decider
from kernel_gateway.decision.rights import Rights, RightsSource
from kernel_gateway.login.sessions import access_token
from kernel_gateway.people.permissions import ADMIN, MEMBER, OWNER
from kernel_gateway.serve import opened
from kernel_gateway.settings import Settings
from kernel_operator.desired import TenantState, Tier
from kernel_operator.targets.postgres import PostgresTarget

MODULE = "pcrm"
PERMISSIONS = ("pcrm.contacts.create", "pcrm.contacts.read", "pcrm.deals.read")
BUILT_IN = {"Owner": OWNER, "Admin": ADMIN, "Member": MEMBER}

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    headers: Any

    @property
    def slug(self) -> str:
        """Of a problem document."""
        assert self.headers["Content-Type"] == "application/problem+json", self
        assert self.body["status"] == self.status
        return str(self.body["type"]).rpartition("/")[2]

    @property
    def fields(self) -> list[tuple[str, str]]:
        """What is wrong with which field, in a problem document."""
        return [(error["field"], error["code"]) for error in self.body["errors"]]


@dataclass(frozen=True)
class Person:
    """A member of a tenant, logged in."""

    identity: Identity
    token: str

    @property
    def id(self) -> UUID:
        return self.identity.user


@dataclass(frozen=True)
class Gateway:
    """One gateway's API, served in the test's loop."""

    services: Services
    http: aiohttp.ClientSession

    async def ask(self, who: Person | str | None, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        token = who.token if isinstance(who, Person) else who
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        async with self.http.request(method, f"/api/v1{path}", json=body, headers=headers) as answer:
            read = await answer.json() if answer.content_length else None
            return Answer(answer.status, read, answer.headers)

    def token(self, identity: Identity) -> str:
        return access_token(self.services, identity.user, identity.tenant, identity.roles, identity.actor)[0]


@asynccontextmanager
async def a_gateway(settings: Settings, source: RightsSource | None = None) -> AsyncIterator[Gateway]:
    """A gateway with connections of its own; ``source`` is where its decisions read rights, instead of the database."""
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(opened(settings))
        if source is not None:
            rights = Rights(source, services.valkey, settings.rbac_cache_ttl_sec)
            decider = Decider(
                services.keys, settings.gateway_public_url, services.valkey, rights, anonymous_limit=100_000
            )
            stack.push_async_callback(decider.close)
            services = replace(services, rights=rights, decider=decider)
        sending = asyncio.create_task(services.mail.run())
        stack.callback(sending.cancel)
        address = await stack.enter_async_context(_served(services))
        http = await stack.enter_async_context(aiohttp.ClientSession(address, timeout=aiohttp.ClientTimeout(total=20)))
        yield Gateway(services, http)


@asynccontextmanager
async def _served(services: Services) -> AsyncIterator[str]:
    # Named TCP, so that asyncio sends small answers without delay.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        config = uvicorn.Config(
            create_app(services), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=5
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, 10)


@dataclass(frozen=True)
class World:
    """``admin`` is the superuser of PostgreSQL; ``operator`` writes what the operator writes to Valkey."""

    target: PostgresTarget
    admin: asyncpg.Pool
    operator: Any
    gateway: Gateway
    mails: Path

    async def tenant(self, tier: Tier = Tier.CLIENT) -> UUID:
        """A tenant that the operator has brought to both systems, with the module."""
        name = f"people-{next(_numbers)}-{uuid4().hex[:6]}"
        state = TenantState(tenant_id(name), name, f"uid-{name}", name, tier, f"owner@{name}.example")
        await self.target.apply_tenants([state])
        await self.admin.execute(
            "INSERT INTO kernel.module_tenants (slug, tenant_id) VALUES ($1, $2)", MODULE, state.id
        )
        budget = json.dumps({"rps": 1_000_000, "burst": 1_000_000, "adminRps": 1_000_000})
        await self.operator.set(f"rate_limit:config:{state.id}", budget)
        await self.operator.sadd(f"modules:active:{state.id}", MODULE)
        return state.id

    async def person(self, tenant: UUID, *roles: str | UUID, status: str = "active") -> Person:
        """A member with roles: names of built-in ones, ids of others."""
        user = await self.admin.fetchval(
            "INSERT INTO auth.users (email, display_name) VALUES ($1, 'Somebody') RETURNING id",
            f"{uuid4().hex}@people.example",
        )
        return await self.join(user, tenant, *roles, status=status)

    async def join(self, user: UUID, tenant: UUID, *roles: str | UUID, status: str = "active") -> Person:
        await self.admin.execute(
            "INSERT INTO auth.members (tenant_id, user_id, status) VALUES ($1, $2, $3)", tenant, user, status
        )
        for role in roles:
            await self.admin.execute(
                "INSERT INTO auth.member_roles (tenant_id, user_id, role_id) VALUES ($1, $2, $3)",
                tenant,
                user,
                BUILT_IN[role] if isinstance(role, str) else role,
            )
        identity = Identity(user, tenant, tuple(role for role in roles if isinstance(role, str)))
        return Person(identity, self.gateway.token(identity))

    async def role(self, tenant: UUID, *permissions: str, name: str | None = None) -> UUID:
        """A role of the tenant's own."""
        made: UUID = await self.admin.fetchval(
            "INSERT INTO auth.roles (tenant_id, name, permissions) VALUES ($1, $2, $3) RETURNING id",
            tenant,
            name or f"role {next(_numbers)}",
            list(permissions),
        )
        return made

    async def roles_of(self, person: Person) -> set[UUID]:
        rows = await self.admin.fetch(
            "SELECT role_id FROM auth.member_roles WHERE tenant_id = $1 AND user_id = $2",
            person.identity.tenant,
            person.id,
        )
        return {row["role_id"] for row in rows}

    async def version(self, tenant: UUID) -> int:
        """Of the tenant's rights, in the database."""
        found: int = await self.admin.fetchval("SELECT version FROM auth.rbac_versions WHERE tenant_id = $1", tenant)
        return found

    async def events(self, tenant: UUID) -> list[tuple[str, dict[str, Any]]]:
        """Type and data of what the tenant's changes have announced, oldest first."""
        rows = await self.admin.fetch(
            "SELECT type, envelope->>'data' AS data FROM kernel.outbox"
            " WHERE tenant_id = $1 AND envelope->>'source' = 'kernel-gateway' ORDER BY created_at, id",
            tenant,
        )
        return [(row["type"], json.loads(row["data"])) for row in rows]

    async def allows(self, gateway: Gateway, who: Person) -> bool:
        """Whether ``who`` may list roles now."""
        answer = await gateway.ask(who, "GET", "/roles")
        assert answer.status in (200, 403), answer
        return answer.status == 200
