"""What Valkey holds of a tenant: its rate limit, its other limits, and whether it is blocked.

``rate_limit:config:{id}`` keeps the field names that its readers know: ``rps`` and ``adminRps`` are
requests a *minute*. None of the keys expires: the operator owns them, and puts back what is lost.

A tenant whose block comes or goes gets a new epoch: one that was removed and comes back under its name has
none of the rights that were remembered before.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast
from uuid import UUID

from redis.asyncio import Redis

from kernel_operator.desired import Outcome, TenantState
from kernel_operator.targets.valkey.connection import commit, version_key

TABLE = "tenants"
BLOCKED = "1"


@dataclass(frozen=True, slots=True)
class TenantKeys:
    """The three values of one tenant; None where there is no key."""

    rate_limit: str | None = None
    limits: str | None = None
    blocked: str | None = None


def names(tenant: UUID) -> tuple[str, str, str]:
    """The keys of ``tenant``, in the order of TenantKeys."""
    return f"rate_limit:config:{tenant}", f"tenant:limits:{tenant}", f"tenant:blocked:{tenant}"


def desired(tenant: TenantState) -> TenantKeys:
    limits = tenant.limits
    return TenantKeys(
        rate_limit=_text(
            {
                "rps": limits.requests_per_minute,
                "burst": limits.burst,
                "adminRps": limits.admin_requests_per_minute,
            }
        ),
        limits=_text(
            {
                "notifications": {
                    "maxConnections": limits.max_connections,
                    "messagesPerSecond": limits.messages_per_second,
                },
                "money": {
                    "maxOpenHoldsPerWallet": limits.max_open_holds_per_wallet,
                    "maxAmount": limits.max_amount,
                },
            }
        ),
        blocked=BLOCKED if tenant.blocked else None,
    )


def _text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


async def observe(client: Redis, tenants: Iterable[UUID]) -> tuple[dict[UUID, TenantKeys], bool]:
    """The keys of ``tenants``, and whether the table's version is there: one round trip."""
    wanted = list(tenants)
    keys = [version_key(TABLE), *(key for tenant in wanted for key in names(tenant))]
    answers = cast("list[str | None]", await client.mget(keys))
    values = answers[1:]
    found = {tenant: TenantKeys(*values[3 * at : 3 * at + 3]) for at, tenant in enumerate(wanted)}
    return found, answers[0] is not None


def compare(wanted: TenantKeys, found: TenantKeys) -> list[str]:
    """A clause for each key that differs."""
    changes = []
    if wanted.rate_limit != found.rate_limit:
        changes.append("set the rate limit in Valkey" if wanted.rate_limit else "removed the rate limit from Valkey")
    if wanted.limits != found.limits:
        changes.append("set the limits in Valkey" if wanted.limits else "removed the limits from Valkey")
    if wanted.blocked != found.blocked:
        changes.append("blocked the tenant in Valkey" if wanted.blocked else "unblocked the tenant in Valkey")
    return changes


async def apply(client: Redis, tenants: Sequence[TenantState]) -> dict[UUID, Outcome]:
    """Two round trips at most, and no write for a tenant that is as it should be."""
    return await reach(client, {tenant.id: desired(tenant) for tenant in tenants})


async def reach(client: Redis, wanted: dict[UUID, TenantKeys]) -> dict[UUID, Outcome]:
    found, versioned = await observe(client, wanted)
    changes = {tenant: compare(keys, found[tenant]) for tenant, keys in wanted.items()}
    values: dict[str, str] = {}
    gone: list[str] = []
    for tenant, keys in wanted.items():
        if not changes[tenant]:
            continue
        for key, value in zip(names(tenant), (keys.rate_limit, keys.limits, keys.blocked), strict=True):
            if value is None:
                gone.append(key)
            else:
                values[key] = value
    if values or gone or (wanted and not versioned):
        async with client.pipeline(transaction=True) as transaction:
            if values:
                transaction.mset(values)
            if gone:
                transaction.delete(*gone)
            turned = [str(tenant) for tenant, keys in wanted.items() if keys.blocked != found[tenant].blocked]
            await commit(transaction, [TABLE], new_epoch_of=turned)
    return {tenant: Outcome(clauses) for tenant, clauses in changes.items()}
