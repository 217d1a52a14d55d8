"""Tenants, people and tokens for the tests of the decision, in real servers, with the logins that production has."""

import itertools
import json
import time
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import redis.asyncio

from kernel_common.ids import tenant_id
from kernel_gateway.access import Identity
from kernel_gateway.decision.decider import Decider
from kernel_gateway.decision.rights import Database, Rights, RightsSource
from kernel_gateway.decision.valkey import Valkey
from kernel_gateway.tokens.holder import KeyHolder
from kernel_gateway.tokens.tokens import Claims, issue
from kernel_operator.desired import TenantState, Tier
from kernel_operator.targets.postgres import PostgresTarget

ISSUER = "https://gateway.example"
MODULE = "dcrm"
PERMISSIONS = ("dcrm.contacts.read", "dcrm.contacts.create", "dcrm.deals.read")
ROLES = {
    name: UUID(f"00000000-0000-7000-8000-00000000000{n}")
    for n, name in enumerate(("Owner", "Admin", "Member"), start=1)
}
CLIENT = "203.0.113.7"

_numbers = itertools.count(1)


@dataclass
class Seat:
    """One gateway process's worth of decision."""

    valkey: Valkey
    rights: Rights
    decider: Decider

    async def close(self) -> None:
        await self.decider.close()
        await self.valkey.close()


@dataclass
class World:
    """``operator`` writes what the operator writes to Valkey; ``admin_url`` is the superuser of PostgreSQL."""

    target: PostgresTarget
    admin_url: str
    operator: redis.asyncio.Redis
    pool: asyncpg.Pool
    valkey_url: str
    keys: KeyHolder
    seats: list[Seat] = field(default_factory=list)

    async def seat(
        self, source: RightsSource | None = None, *, anonymous_limit: int = 120, keep_seconds: int = 300
    ) -> Seat:
        valkey = Valkey(self.valkey_url)
        await valkey.start()
        rights = Rights(source or Database(self.pool), valkey, keep_seconds)
        decider = Decider(self.keys, ISSUER, valkey, rights, anonymous_limit=anonymous_limit)
        self.seats.append(Seat(valkey, rights, decider))
        return self.seats[-1]

    async def tenant(
        self, *, limit: int = 100_000, burst: int = 10_000, admin: int = 100_000, module: bool = True
    ) -> UUID:
        """A tenant that the operator has brought to both systems, with or without the module."""
        name = f"decision-{next(_numbers)}-{uuid4().hex[:6]}"
        state = TenantState(tenant_id(name), name, f"uid-{name}", name, Tier.CLIENT, f"owner@{name}.example")
        await self.target.apply_tenants([state])
        if module:
            await self.sql("INSERT INTO kernel.module_tenants (slug, tenant_id) VALUES ($1, $2)", MODULE, state.id)
        await self.told(state.id, limit=limit, burst=burst, admin=admin, module=module)
        return state.id

    async def told(
        self, tenant: UUID, *, limit: int = 100_000, burst: int = 10_000, admin: int = 100_000, module: bool = True
    ) -> None:
        """What the operator keeps in Valkey for ``tenant``."""
        config = json.dumps({"rps": limit, "burst": burst, "adminRps": admin}, separators=(",", ":"))
        await self.operator.set(f"rate_limit:config:{tenant}", config)
        if module:
            await self.operator.sadd(f"modules:active:{tenant}", MODULE)

    async def person(self, tenant: UUID, *roles: str, status: str = "active") -> Identity:
        """A member with built-in roles, or with roles of the tenant's own that ``role`` made."""
        user = await self.sql(
            "INSERT INTO auth.users (email) VALUES ($1) RETURNING id", f"{uuid4().hex}@people.example"
        )
        await self.sql(
            "INSERT INTO auth.members (tenant_id, user_id, status) VALUES ($1, $2, $3)", tenant, user, status
        )
        for role in roles:
            await self.assign(tenant, user, role)
        return Identity(user, tenant, tuple(roles))

    async def assign(self, tenant: UUID, user: UUID, role: str) -> None:
        await self.sql(
            "INSERT INTO auth.member_roles (tenant_id, user_id, role_id)"
            " SELECT tenant_id, $2, id FROM auth.roles WHERE tenant_id = $1 AND name = $3",
            tenant,
            user,
            role,
        )

    async def role(self, tenant: UUID, name: str, *permissions: str) -> None:
        await self.sql(
            "INSERT INTO auth.roles (tenant_id, name, permissions) VALUES ($1, $2, $3)", tenant, name, list(permissions)
        )

    async def sql(self, statement: str, *values: object) -> Any:
        """As the superuser; the first value of the first row."""
        connection = await asyncpg.connect(self.admin_url, database="platform")
        try:
            return await connection.fetchval(statement, *values)
        finally:
            await connection.close()

    def bearer(self, identity: Identity, *, lives: int = 900) -> str:
        """An Authorization header for ``identity``."""
        now = int(time.time())
        claims = Claims(identity.user, identity.tenant, identity.roles, now, now + lives, uuid4(), actor=identity.actor)
        return "Bearer " + issue(claims, self.keys.signer(now), ISSUER)
