"""Tenants: rows, ancestors, events, retained names, and what a comparison costs."""

import asyncio
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from kernel_common.ids import uuid7
from kernel_operator.desired import TenantLimits, Tier
from kernel_operator.targets.postgres import PostgresTarget

from .conftest import a_tenant, outbox_of


async def test_a_tenant_is_created_once_and_announced(target: PostgresTarget, admin: asyncpg.Connection) -> None:
    tenant = a_tenant(limits=TenantLimits(burst=7))
    assert (await target.apply_tenants([tenant]))[tenant.id].changes == ("created the tenant",)
    row = await admin.fetchrow("SELECT * FROM kernel.tenants WHERE id = $1", tenant.id)
    assert (row["name"], row["display_name"], row["tier"], row["status"]) == (
        tenant.name,
        tenant.display_name,
        "client",
        "active",
    )
    assert (row["suspended"], row["blocked"], row["resource_uid"]) == (False, False, tenant.uid)
    assert await admin.fetchval("SELECT (limits->>'burst')::int FROM kernel.tenants WHERE id = $1", tenant.id) == 7
    assert await lines(admin, tenant.id) == [(tenant.id, 0)]
    [event] = await outbox_of(admin, tenant.id)
    assert (event["type"], event["topic"], event["key"]) == (
        "auth.tenant.created",
        "platform.auth.events",
        str(tenant.id),
    )

    outcome = (await target.apply_tenants([tenant]))[tenant.id]
    assert (outcome.changes, outcome.refusal) == ((), None)
    assert len(await outbox_of(admin, tenant.id)) == 1
    assert await admin.fetchval("SELECT updated_at FROM kernel.tenants WHERE id = $1", tenant.id) == row["updated_at"]


CHANGES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "display name": ({"display_name": "Other"}, ["updated"]),
    "tier": ({"tier": Tier.PARTNER}, ["updated"]),
    "owner": ({"owner_email": "new@x.example"}, ["updated"]),
    "limits": ({"limits": TenantLimits(requests_per_minute=1)}, ["updated"]),
    "suspended": ({"suspended": True, "blocked": True}, ["blocked"]),
    "blocked by an ancestor": ({"blocked": True}, ["blocked"]),
    "both": ({"display_name": "Other", "blocked": True}, ["updated", "blocked"]),
    "another resource": ({"uid": "rebuilt"}, []),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_is_written_and_announced_once(
    name: str, target: PostgresTarget, admin: asyncpg.Connection
) -> None:
    before = a_tenant()
    await target.apply_tenants([before])
    fields, verbs = CHANGES[name]
    after = replace(before, **fields)
    assert (await target.apply_tenants([after]))[after.id].changes
    assert (await target.apply_tenants([after]))[after.id].changes == ()
    events = [row["type"] for row in await outbox_of(admin, before.id)]
    assert events == ["auth.tenant.created", *(f"auth.tenant.{verb}" for verb in verbs)]
    await target.apply_tenants([before])
    if "blocked" in verbs:
        assert (await outbox_of(admin, before.id))[-1]["type"] == "auth.tenant.unblocked"


async def test_events_hold_no_address(target: PostgresTarget, admin: asyncpg.Connection) -> None:
    tenant = a_tenant()
    await target.apply_tenants([tenant])
    await target.apply_tenants([replace(tenant, owner_email="someone@else.example")])
    for row in await outbox_of(admin, tenant.id):
        assert "@" not in row["envelope"]


async def test_parents_and_ancestors_in_one_batch_in_any_order(
    target: PostgresTarget, admin: asyncpg.Connection
) -> None:
    top = a_tenant(tier=Tier.OWNER)
    middle = a_tenant(tier=Tier.PARTNER, ancestors=(top.id,))
    low = a_tenant(ancestors=(middle.id, top.id))
    outcomes = await target.apply_tenants([low, top, middle])
    assert {outcome.refusal for outcome in outcomes.values()} == {None}
    assert await lines(admin, low.id) == [(low.id, 0), (middle.id, 1), (top.id, 2)]
    other = a_tenant(tier=Tier.PARTNER)
    await target.apply_tenants([other])
    moved = replace(low, ancestors=(other.id,))
    assert "put right the tenant's ancestors" in (await target.apply_tenants([moved]))[low.id].changes
    assert await lines(admin, low.id) == [(low.id, 0), (other.id, 1)]
    await admin.execute("DELETE FROM kernel.tenant_closure WHERE descendant_id = $1", low.id)
    assert (await target.apply_tenants([moved]))[low.id].changes == ("put right the tenant's ancestors",)
    assert await lines(admin, low.id) == [(low.id, 0), (other.id, 1)]


async def test_a_tenant_whose_parent_is_not_there_takes_nobody_with_it(target: PostgresTarget) -> None:
    orphan, deep, fine = a_tenant(ancestors=(uuid7(),)), a_tenant(ancestors=(uuid7(), uuid7(), uuid7())), a_tenant()
    outcomes = await target.apply_tenants([orphan, deep, fine])
    assert outcomes[fine.id].changes == ("created the tenant",)
    assert outcomes[orphan.id].refusal.reason == "ParentNotReady"  # type: ignore[union-attr]
    assert outcomes[deep.id].refusal.reason == "TooDeep"  # type: ignore[union-attr]


async def test_a_name_of_another_id_is_refused(target: PostgresTarget) -> None:
    tenant = a_tenant()
    await target.apply_tenants([tenant])
    outcome = (await target.apply_tenants([replace(tenant, id=uuid7())])).popitem()[1]
    assert outcome.refusal is not None
    assert outcome.refusal.reason == "NameTaken"


async def test_a_retired_name_comes_back_only_by_adoption(target: PostgresTarget, admin: asyncpg.Connection) -> None:
    tenant = a_tenant()
    await target.apply_tenants([tenant])
    assert (await target.retire_tenant(tenant.id)).changes
    assert (await target.retire_tenant(tenant.id)).changes == ()
    row = await admin.fetchrow("SELECT status, blocked FROM kernel.tenants WHERE id = $1", tenant.id)
    assert tuple(row) == ("retired", True)

    again = replace(tenant, uid="new")
    for adopt in (None, uuid7()):
        refusal = (await target.apply_tenants([replace(again, adopt=adopt)]))[tenant.id].refusal
        assert refusal is not None
        assert refusal.reason == "RetainedDataFound"
        assert f"platform-kernel.io/adopt: {tenant.id}" in refusal.message
    child = a_tenant(ancestors=(tenant.id,))
    outcomes = await target.apply_tenants([again, child])
    assert outcomes[child.id].refusal is not None, "a child of a refused parent"

    adopted = replace(again, adopt=tenant.id)
    assert "adopted the retained data" in (await target.apply_tenants([adopted]))[tenant.id].changes
    row = await admin.fetchrow("SELECT status, blocked, resource_uid FROM kernel.tenants WHERE id = $1", tenant.id)
    assert tuple(row) == ("active", False, "new")
    assert (await target.apply_tenants([adopted]))[tenant.id].changes == ()
    types = [row["type"].rpartition(".")[2] for row in await outbox_of(admin, tenant.id)]
    assert types == ["created", "blocked", "updated", "unblocked"]


async def test_retiring_what_is_not_there_is_harmless(target: PostgresTarget) -> None:
    assert (await target.retire_tenant(uuid7())).changes == ()
    assert (await target.delete_tenant(uuid7())).changes == ()


async def test_two_operators_at_once_announce_once(target: PostgresTarget, admin: asyncpg.Connection) -> None:
    tenants = [a_tenant() for _ in range(20)]
    await asyncio.gather(*(target.apply_tenants(order) for order in (tenants, tenants[::-1], tenants)))
    for tenant in tenants:
        assert len(await outbox_of(admin, tenant.id)) == 1
    renamed = [replace(tenant, display_name="x") for tenant in tenants]
    await asyncio.gather(*(target.apply_tenants(order) for order in (renamed, renamed[::-1], renamed)))
    for tenant in tenants:
        assert len(await outbox_of(admin, tenant.id)) == 2


async def test_many_tenants_cost_a_fixed_number_of_statements_and_no_write_when_unchanged(
    target: PostgresTarget, admin: asyncpg.Connection
) -> None:
    await admin.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    partner = a_tenant(tier=Tier.PARTNER)
    await target.apply_tenants([partner])
    many = [a_tenant(ancestors=(partner.id,)) for _ in range(500)]
    few = [a_tenant(ancestors=(partner.id,)) for _ in range(5)]
    assert await statements(admin, target, many) == await statements(admin, target, few)
    assert await admin.fetchval("SELECT count(*) FROM kernel.tenants WHERE parent_id = $1", partner.id) == 505

    written = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_all_tables WHERE schemaname = 'kernel'"
    before = await admin.fetchval(written)
    unchanged = await statements(admin, target, many)
    assert unchanged == await statements(admin, target, few)
    assert unchanged == 3, "begin, read, commit"
    await admin.fetchval("SELECT pg_stat_force_next_flush()")
    assert await admin.fetchval(written) == before


async def statements(admin: asyncpg.Connection, target: PostgresTarget, tenants: list[Any]) -> int:
    """How many statements applying ``tenants`` takes, without those that the driver adds."""
    await admin.fetchval("SELECT pg_stat_statements_reset()")
    await target.apply_tenants(tenants)
    calls: int = await admin.fetchval(
        "SELECT coalesce(sum(calls), 0)::int FROM pg_stat_statements WHERE userid = 'kernel_operator'::regrole "
        "AND query NOT LIKE '%typeinfo%' AND query NOT LIKE '%pg_advisory_unlock_all%' "
        "AND query NOT IN ('CLOSE ALL', 'UNLISTEN *', 'RESET ALL')"
    )
    return calls


async def lines(admin: asyncpg.Connection, tenant: Any) -> list[tuple[Any, int]]:
    rows = await admin.fetch(
        "SELECT ancestor_id, depth FROM kernel.tenant_closure WHERE descendant_id = $1 ORDER BY depth", tenant
    )
    return [(row["ancestor_id"], row["depth"]) for row in rows]
