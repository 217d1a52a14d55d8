"""A real Valkey, emptied before each test, and the target as its limited user."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from redis.asyncio import Redis

from kernel_common.ids import tenant_id
from kernel_operator.desired import ModuleState, Route, RouteRule, TenantState, Tier
from kernel_operator.targets.valkey import ValkeyTarget

WRITES = ("set", "mset", "del", "hset", "hdel", "sadd", "srem", "publish", "exec")


@pytest.fixture
async def admin(valkey: Any) -> AsyncIterator[Redis]:
    client = Redis.from_url(valkey.admin_url, decode_responses=True)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
async def target(valkey: Any, admin: Redis) -> AsyncIterator[ValkeyTarget]:
    target = ValkeyTarget(valkey.operator_url)
    await target.ping()
    yield target
    await target.close()


class Commands:
    """How often the server ran each command while a block ran (the admin's own INFO and RESETSTAT left out)."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    @property
    def writes(self) -> int:
        return sum(self.calls.get(name, 0) for name in WRITES)


@pytest.fixture
def counted(admin: Redis) -> Callable[[], Any]:
    @asynccontextmanager
    async def block() -> AsyncIterator[Commands]:
        counts = Commands()
        await admin.config_resetstat()
        yield counts
        stats = await admin.info("commandstats")
        counts.calls = {name.removeprefix("cmdstat_"): entry["calls"] for name, entry in stats.items()}

    return block


@pytest.fixture
def dump(admin: Redis) -> Callable[[], Awaitable[dict[str, Any]]]:
    """Everything that Valkey holds, versions and epochs left out."""

    async def read() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key in await admin.keys("*"):
            kind = await admin.type(key)
            if not key.startswith(("kernel:version:", "modules:epoch:")):
                found[key] = (
                    await admin.get(key)
                    if kind == "string"
                    else await admin.smembers(key)
                    if kind == "set"
                    else await admin.hgetall(key)
                )
        return found

    return read


@pytest.fixture
def tenant() -> Callable[..., TenantState]:
    def make(name: str, **changes: Any) -> TenantState:
        state = TenantState(
            id=tenant_id(name),
            name=name,
            uid=f"uid-{name}",
            display_name=name.title(),
            tier=Tier.CLIENT,
            owner_email=f"owner@{name}.example",
        )
        return replace(state, **changes)

    return make


@pytest.fixture
def module() -> Callable[..., ModuleState]:
    def make(slug: str = "crm", tenants: frozenset[UUID] = frozenset(), **changes: Any) -> ModuleState:
        state = ModuleState(
            slug=slug,
            module_name=f"@acme/{slug}",
            namespace=slug,
            name=slug,
            uid=f"uid-{slug}",
            version="1.4.0",
            permissions=(f"{slug}.contacts.read", f"{slug}.contacts.create"),
            publishes=(f"{slug}.contact.created",),
            subscribes=("money.wallet.credited",),
            route=Route(
                f"/api/v1/{slug}", slug, 8080, (RouteRule(("GET",), "/contacts", f"{slug}.contacts.read"),), 1024
            ),
            health_path="/live",
            notification_channels=(f"{slug}-alerts",),
            tenants=tenants,
        )
        return replace(state, **changes)

    return make
