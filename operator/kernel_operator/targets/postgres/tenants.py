"""Tenants: any number of them in one transaction and a fixed number of round trips.

The rows are read and compared first. Only when something differs is the table locked against other
writers, read again, and changed; so a comparison that finds nothing writes nothing and waits for
nobody, and two operators at once can't both announce the same change.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import asyncpg

from kernel_common.events import Envelope, emit
from kernel_common.tenancy import set_tenant
from kernel_operator.desired import Outcome, Refusal, TenantState
from kernel_operator.targets.postgres.batches import in_batches
from kernel_operator.targets.postgres.session import query, transaction

MAX_ANCESTORS = 2
SOURCE = "kernel-operator"

_ANNOUNCED = ("display_name", "tier", "parent_id", "owner_email", "limits", "suspended")
"""Fields whose change is an auth.tenant.updated."""
_FIELDS = (*_ANNOUNCED, "status", "blocked", "resource_uid")


@dataclass(frozen=True, slots=True)
class _Decision:
    """What is to be done for one tenant; ``differs`` names columns, and ``line`` for its ancestors."""

    state: TenantState
    refusal: Refusal | None = None
    created: bool = False
    adopted: bool = False
    differs: tuple[str, ...] = ()
    was_blocked: bool = False

    @property
    def writes(self) -> bool:
        return self.refusal is None and (self.created or bool(self.differs))


async def apply_tenants(pool: asyncpg.Pool, tenants: Sequence[TenantState]) -> dict[UUID, Outcome]:
    """Make the rows of ``tenants`` as they are given; an outcome for each id. Raises Unavailable."""
    if not tenants:
        return {}
    async with transaction(pool) as connection:
        decisions = await _decide(connection, tenants)
        if any(decision.writes for decision in decisions):
            await connection.execute("LOCK TABLE kernel.tenants IN SHARE ROW EXCLUSIVE MODE")
            decisions = await _decide(connection, tenants)
            await _write(connection, [decision.state for decision in decisions if decision.writes])
            for decision in decisions:
                if decision.writes and decision.adopted:
                    await _end_sessions(connection, decision.state.id)
            await emit(connection, *(event for decision in decisions for event in _events(decision)))
    return {decision.state.id: Outcome(tuple(_clauses(decision)), decision.refusal) for decision in decisions}


async def retire_tenant(pool: asyncpg.Pool, tenant_id: UUID) -> Outcome:
    """Keep the tenant's data, end its people's sessions and take its name out of use. Harmless when repeated or when
    it isn't there."""
    async with transaction(pool) as connection:
        changes = list((await retire(connection, tenant_id)).changes)
    if ended := await in_batches(pool, query("end_tenant_sessions"), tenant_id):
        changes.append(f"ended {ended} sessions")
    return Outcome(tuple(changes))


async def retire(connection: asyncpg.Connection, tenant_id: UUID) -> Outcome:
    """As ``retire_tenant``, in the transaction that ``connection`` is in."""
    row = await connection.fetchrow(query("retire_tenant"), tenant_id)
    if row is None:
        return Outcome()
    await connection.execute(query("block_unbound_tenants"), tenant_id)
    if not row["was_blocked"]:
        parent = str(row["parent_id"]) if row["parent_id"] else None
        data = {"name": row["name"], "displayName": row["display_name"], "tier": row["tier"], "parentId": parent}
        await emit(connection, tenant_event("blocked", tenant_id, data))
    return Outcome(("retired the tenant; its data is kept",))


def tenant_event(verb: str, tenant_id: UUID, data: Mapping[str, Any]) -> Envelope:
    return Envelope(
        type=f"auth.tenant.{verb}", source=SOURCE, tenant_id=tenant_id, data={"tenantId": str(tenant_id), **data}
    )


async def _decide(connection: asyncpg.Connection, tenants: Sequence[TenantState]) -> list[_Decision]:
    ids = {state.id for state in tenants}.union(*(state.ancestors for state in tenants))
    rows = await connection.fetch(query("read_tenants"), list(ids), [state.name for state in tenants])
    by_id = {row["id"]: row for row in rows}
    by_name = {row["name"]: row for row in rows}
    living = {row["id"] for row in rows if row["status"] in ("active", "suspended")}
    decisions = []
    for state in sorted(tenants, key=lambda state: len(state.ancestors)):
        decision = _decide_one(state, by_id.get(state.id), by_name.get(state.name), living)
        decisions.append(decision)
        (living.discard if decision.refusal else living.add)(state.id)
    return decisions


def _decide_one(
    state: TenantState, row: asyncpg.Record | None, namesake: asyncpg.Record | None, living: set[UUID]
) -> _Decision:
    if len(state.ancestors) > MAX_ANCESTORS:
        return _Decision(
            state, Refusal("TooDeep", f"spec.parent: a tenant has at most {MAX_ANCESTORS} others above it")
        )
    missing = [str(ancestor) for ancestor in state.ancestors if ancestor not in living]
    if missing:
        return _Decision(
            state, Refusal("ParentNotReady", f"spec.parent: no living tenant in the database: {', '.join(missing)}")
        )
    if namesake is not None and namesake["id"] != state.id:
        return _Decision(state, Refusal("NameTaken", f"metadata.name: {state.name} belongs to tenant {namesake['id']}"))
    if row is None or row["status"] == "deleted":
        return _Decision(state, created=True)
    if row["status"] == "retired" and state.adopt != state.id:
        return _Decision(state, Refusal("RetainedDataFound", _how_to_adopt(state)))
    wanted = _columns(state)
    differs = [name for name in _FIELDS if _comparable(name, row[name]) != wanted[name]]
    if row["line"] != [state.id, *state.ancestors]:
        differs.append("line")
    adopted = row["status"] == "retired"
    return _Decision(state, adopted=adopted, differs=tuple(differs), was_blocked=row["blocked"])


def _how_to_adopt(state: TenantState) -> str:
    return (
        f"a deleted Tenant {state.name} left its data behind: to take it over, annotate this one with "
        f"platform-kernel.io/adopt: {state.id}; otherwise choose another name"
    )


def _columns(state: TenantState) -> dict[str, Any]:
    return {
        "id": str(state.id),
        "name": state.name,
        "display_name": state.display_name,
        "tier": str(state.tier),
        "parent_id": str(state.parent_id) if state.parent_id else None,
        "owner_email": state.owner_email,
        "status": "suspended" if state.suspended else "active",
        "suspended": state.suspended,
        "blocked": state.blocked,
        "limits": asdict(state.limits),
        "resource_uid": state.uid,
    }


def _comparable(name: str, value: Any) -> Any:
    if name == "limits":
        return json.loads(value)
    return str(value) if isinstance(value, UUID) else value


async def _write(connection: asyncpg.Connection, states: Sequence[TenantState]) -> None:
    if not states:
        return
    await connection.execute(query("write_tenants"), json.dumps([_columns(state) for state in states]))
    pairs = [(above, s.id, depth) for s in states for depth, above in enumerate((s.id, *s.ancestors))]
    ancestors, descendants, depths = (list(column) for column in zip(*pairs, strict=True))
    await connection.execute(query("write_closure"), [state.id for state in states], ancestors, descendants, depths)


async def _end_sessions(connection: asyncpg.Connection, tenant_id: UUID) -> None:
    """Of a session that was being made while the tenant was retired: it is not to live again with the tenant."""
    await set_tenant(connection, tenant_id)
    await connection.execute(query("end_tenant_sessions"), tenant_id, 2**31 - 1)


def _events(decision: _Decision) -> list[Envelope]:
    if not decision.writes:
        return []
    state = decision.state
    parent = str(state.parent_id) if state.parent_id else None
    data = {"name": state.name, "displayName": state.display_name, "tier": str(state.tier), "parentId": parent}
    events = []
    if decision.created:
        events.append(tenant_event("created", state.id, data))
    flipped = state.blocked != decision.was_blocked
    changed = [name for name in _ANNOUNCED if name in decision.differs and not (name == "suspended" and flipped)]
    if changed or decision.adopted:
        # Which fields, not what they hold: an event is kept for days and read by many.
        events.append(tenant_event("updated", state.id, {**data, "changed": changed}))
    if flipped:
        events.append(tenant_event("blocked" if state.blocked else "unblocked", state.id, data))
    return events


def _clauses(decision: _Decision) -> list[str]:
    if not decision.writes:
        return []
    if decision.created:
        return ["created the tenant"]
    clauses = ["adopted the retained data"] if decision.adopted else []
    if "resource_uid" in decision.differs and not decision.adopted:
        clauses.append("bound the tenant to its new resource")
    if decision.was_blocked != decision.state.blocked:
        clauses.append("blocked the tenant" if decision.state.blocked else "unblocked the tenant")
    if fields := [name for name in _ANNOUNCED if name in decision.differs]:
        clauses.append(f"updated {', '.join(fields)}")
    if "line" in decision.differs:
        clauses.append("put right the tenant's ancestors")
    return clauses or ["put right the tenant's status"]
