"""First owners of tenants: account, membership and role, in one transaction for any number of tenants."""

import json
from collections.abc import Collection, Sequence
from uuid import UUID

import asyncpg

from kernel_common.events import Envelope, emit
from kernel_operator.desired import NewOwner
from kernel_operator.targets.postgres.session import query, transaction
from kernel_operator.targets.postgres.tenants import SOURCE


async def ownerless_tenants(pool: asyncpg.Pool, tenants: Collection[UUID]) -> dict[UUID, bool]:
    """Of the living among ``tenants`` those without an owner, each with whether the account of its
    ``spec.owner.email`` is there. Raises Unavailable."""
    async with transaction(pool) as connection:
        rows = await connection.fetch(query("ownerless_tenants"), list(tenants))
    return {row["id"]: row["known"] for row in rows}


async def make_owners(pool: asyncpg.Pool, owners: Sequence[NewOwner]) -> frozenset[UUID]:
    """Give tenants their owners; returns the tenants that got one. The others have one by now, are gone, or their
    account came or went since they were asked about. Raises Unavailable."""
    if not owners:
        return frozenset()
    async with transaction(pool) as connection:
        rows = await connection.fetch(
            "SELECT * FROM auth.make_owners($1)",
            json.dumps([{"tenant": str(new.tenant), "email": new.email, "hash": new.password_hash} for new in owners]),
        )
        await emit(connection, *(event for row in rows for event in _events(row)))
    return frozenset(row["tenant_id"] for row in rows)


def _events(row: asyncpg.Record) -> list[Envelope]:
    user, tenant = str(row["user_id"]), row["tenant_id"]
    became = {"userId": user, "oldRoles": row["old_roles"], "newRoles": sorted({*row["old_roles"], "Owner"})}
    events = [Envelope(type="auth.role.changed", source=SOURCE, tenant_id=tenant, data=became)]
    if row["account_made"]:
        # Not the address: an event is kept for days and read by many.
        made = {"userId": user, "tenantId": str(tenant), "roles": ["Owner"]}
        events.insert(0, Envelope(type="auth.user.created", source=SOURCE, tenant_id=tenant, data=made))
    return events
