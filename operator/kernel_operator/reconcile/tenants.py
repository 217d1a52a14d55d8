"""Tenants, in batches: PostgreSQL first, because it knows which names are retained; then the rest together.

``status.tenantId`` is there from the moment that PostgreSQL has taken the tenant for this very object, and goes
when PostgreSQL refuses it. Two things hang on it: who is counted as being in the database after a restart, also
while PostgreSQL is away; and whether the deletion of the object may delete data. An object that was never
taken, because its name's data is retained, must not take that data with it.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from kernel_common.ids import tenant_id
from kernel_operator.cluster import Body, Cluster
from kernel_operator.conditions import Condition
from kernel_operator.desired import Outcome, Refusal, TenantState, Unavailable
from kernel_operator.kube import FINALIZER, MODULES, TENANTS, Kube, KubeError
from kernel_operator.owners import Owners, with_owner
from kernel_operator.plan import plan_tenant
from kernel_operator.queue import Key, WorkQueue
from kernel_operator.reconcile.attempt import Result, alone, attempt, attempt_all
from kernel_operator.reconcile.finalizer import hold, is_held, release
from kernel_operator.reconcile.report import Reporter
from kernel_operator.resources import Tenant

DATABASE, ANALYTICS, RATE_LIMIT, PARENT = "DatabaseReady", "AnalyticsReady", "RateLimitReady", "ParentReady"
SYSTEMS = {DATABASE: "PostgreSQL", ANALYTICS: "ClickHouse", RATE_LIMIT: "Valkey"}

_PARENT_NOT_READY = "ParentNotReady"
"""PostgreSQL's refusal of a tenant whose parent it does not have."""

_REMOVAL_SECONDS = 10.0
"""What the removal of a tenant's data may take of one batch, which holds up the others in it."""


class TenantDatabase(Protocol):
    async def apply_tenants(self, tenants: Sequence[TenantState]) -> Mapping[UUID, Outcome]: ...
    async def retire_tenant(self, tenant_id: UUID) -> Outcome: ...
    async def delete_tenant(self, tenant_id: UUID) -> Outcome: ...


class TenantAnalytics(Protocol):
    async def apply_tenants(self, tenants: Sequence[TenantState]) -> Mapping[UUID, Outcome]: ...
    async def remove_tenant(self, tenant: UUID, *, drop_data: bool) -> Outcome: ...


class TenantGateway(Protocol):
    async def apply_tenants(self, tenants: Sequence[TenantState]) -> Mapping[UUID, Outcome]: ...
    async def remove_tenant(self, tenant: UUID) -> Outcome: ...


@dataclass(slots=True)
class _Work:
    key: Key
    body: Body
    tenant: Tenant
    state: TenantState


class TenantReconciler:
    """Reconciles tenants; see ``reconcile``."""

    def __init__(
        self,
        kube: Kube,
        cluster: Cluster,
        queue: WorkQueue,
        reporter: Reporter,
        *,
        postgres: TenantDatabase,
        clickhouse: TenantAnalytics,
        valkey: TenantGateway,
        owners: Owners,
    ) -> None:
        self._kube, self._cluster, self._queue, self._reporter = kube, cluster, queue, reporter
        self._postgres, self._clickhouse, self._valkey, self._owners = postgres, clickhouse, valkey, owners
        self._applied: dict[Key, TenantState] = {}

    async def reconcile(self, keys: Sequence[Key]) -> set[Key]:
        """Bring the tenants of ``keys`` to what their resources ask; returns the keys to try again."""
        admitted = await asyncio.gather(*(alone(key, self._admit(key)) for key in keys))
        retry = {key for key, it in zip(keys, admitted, strict=True) if it is False or isinstance(it, Exception)}
        work = await self._with_parents([item for item in admitted if isinstance(item, _Work)], retry)
        reports = [alone(item.key, report) for item, report in zip(work, await self._apply(work), strict=True)]
        for item, failed in zip(work, await asyncio.gather(*reports), strict=True):
            if failed is not False:
                retry.add(item.key)
        return retry

    async def _admit(self, key: Key) -> _Work | bool:
        """What is to be done for ``key``; True when it is finished already, False when it must be tried again."""
        body, tenant = self._cluster.body(key), self._cluster.tenant(key.name)
        if body is None:
            self._applied.pop(key, None)
            self._reporter.forget(key)
            return True
        if body["metadata"].get("deletionTimestamp"):
            return await self._remove(key, body, tenant)
        if tenant is None:
            refusal = Refusal("InvalidSpec", str(self._cluster.invalid(key)))
            await self._reporter.report(key, body, [Condition.refused(DATABASE, refusal)], {"phase": "Failed"})
            return True
        planned = plan_tenant(self._cluster, tenant)
        if isinstance(planned, Refusal):
            await self._reporter.report(key, body, [Condition.refused(PARENT, planned)], {"phase": "Failed"})
            return True
        if self._applied.get(key) != planned:
            self._applied.pop(key, None)
        try:
            held = await hold(self._kube, self._cluster, key, body)
        except KubeError as error:
            await self._reporter.report(key, body, [Condition.failed(DATABASE, error)], {"phase": "Pending"})
            raise
        return True if held is None else _Work(key, held, tenant, planned)

    async def _with_parents(self, work: list[_Work], retry: set[Key]) -> list[_Work]:
        """Those whose parent PostgreSQL has or gets with them, parents first; the others are told to wait."""
        work.sort(key=lambda item: len(item.state.ancestors))
        coming = set(self._cluster.bound)
        ready = []
        for item in work:
            parent = item.tenant.spec.parent
            if parent is None or parent in coming:
                coming.add(item.tenant.name)
                ready.append(item)
                continue
            waiting = Condition.waiting(PARENT, f"waiting for Tenant {parent!r} to be in the database")
            report = self._reporter.report(item.key, item.body, [waiting], {"phase": "Pending"})
            if isinstance(await alone(item.key, report), Exception):
                retry.add(item.key)
        return ready

    async def _apply(self, work: list[_Work]) -> list[Coroutine[Any, Any, bool]]:
        states = [item.state for item in work]
        database = await attempt_all("PostgreSQL", self._postgres.apply_tenants, states, _id)
        for item in work:
            database[item.state.id] = self._judged(item, database[item.state.id])
        follow = [item.state for item in work if self._may_follow(item, database[item.state.id])]
        stand = [item.tenant for item in work if _stands(database[item.state.id])]
        analytics, gateway, owners = await asyncio.gather(
            attempt_all("ClickHouse", self._clickhouse.apply_tenants, follow, _id),
            attempt_all("Valkey", self._valkey.apply_tenants, follow, _id),
            self._owners.ensure(stand),
        )
        others = {ANALYTICS: analytics, RATE_LIMIT: gateway}
        return [self._finish(item, database[item.state.id], owners.get(item.state.id), others) for item in work]

    def _judged(self, item: _Work, database: Result) -> Result:
        """``database``, with a parent that is not there yet as what it is: nothing to refuse, only to wait for."""
        if not isinstance(database, Outcome) or database.refusal is None:
            return database
        if database.refusal.reason != _PARENT_NOT_READY:
            if item.tenant.name in self._cluster.bound:
                self._cluster.bound.discard(item.tenant.name)
                self._queue.submit(self._cluster.keys(MODULES))
            return database
        parent = item.tenant.spec.parent or ""
        self._cluster.bound.discard(parent)  # so that this one waits for it, and is woken by it
        self._queue.submit([Key(TENANTS, "", parent)])
        return Unavailable("PostgreSQL", database.refusal.message)

    def _may_follow(self, item: _Work, database: Result) -> bool:
        """Without PostgreSQL's word only a tenant that it had before goes on: another's name may be retained."""
        if isinstance(database, Exception):
            return item.tenant.name in self._cluster.bound
        return database.refusal is None

    async def _finish(
        self, item: _Work, database: Result, owner: Result | None, others: Mapping[str, Mapping[UUID, Result]]
    ) -> bool:
        """Report on one tenant; True when it has to be tried again."""
        results = {DATABASE: with_owner(database, owner)}
        results.update((kind, found[item.state.id]) for kind, found in others.items() if item.state.id in found)
        conditions = [_condition(kind, results.get(kind)) for kind in SYSTEMS]
        failed = any(isinstance(result, Exception) for result in results.values())
        fields: dict[str, Any] = {"phase": self._phase(item, conditions)}
        if isinstance(database, Outcome):
            fields["tenantId"] = None if database.refusal else str(item.state.id)
        await self._tell_repairs(item, results)
        await self._reporter.report(item.key, item.body, conditions, fields)
        if isinstance(database, Outcome) and database.refusal is None and item.tenant.name not in self._cluster.bound:
            self._cluster.bound.add(item.tenant.name)
            self._queue.submit(self._cluster.family(item.tenant.name))
            self._queue.submit(self._cluster.keys(MODULES))
        if not failed:
            self._applied[item.key] = item.state
        return failed

    async def _tell_repairs(self, item: _Work, results: Mapping[str, Result]) -> None:
        if self._applied.get(item.key) != item.state:
            return
        for kind, result in results.items():
            if isinstance(result, Outcome) and result.changes:
                await self._reporter.repaired(item.key, item.body, SYSTEMS[kind], result.changes)

    @staticmethod
    def _phase(item: _Work, conditions: Sequence[Condition]) -> str:
        if any(c.status is False and not c.reason.endswith("Unavailable") for c in conditions):
            return "Failed"
        if any(c.status is not True for c in conditions):
            return "Pending"
        if item.state.suspended:
            return "Suspended"
        return "Blocked" if item.state.blocked else "Ready"

    async def _remove(self, key: Key, body: Body, tenant: Tenant | None) -> bool:
        """Do what the deletion policy says, then let the resource go. False: try again."""
        if not is_held(body):
            return True  # nothing was made for it, or all of it is gone; it waits for somebody else's finalizer
        children = [child.name for child in self._cluster.children(key.name) if FINALIZER in child.finalizers]
        if children:
            message = f"waiting until its tenants are deleted first: {', '.join(children[:10])}"
            condition = Condition(DATABASE, False, "HasChildren", message)
            await self._reporter.report(key, body, [condition], {"phase": "Deleting"})
            return True  # the deletion of the last child brings it back
        taken = bool((body.get("status") or {}).get("tenantId"))
        drop_data = taken and tenant is not None and tenant.spec.deletion_policy == "Delete"
        results = await self._take_away(tenant_id(key.name), drop_data=drop_data)
        if any(isinstance(result, Exception) for result in results.values()):
            conditions = [_condition(kind, result) for kind, result in results.items()]
            await self._reporter.report(key, body, conditions, {"phase": "Deleting"})
            return False
        if key.name in self._cluster.bound:
            self._cluster.bound.discard(key.name)
            self._queue.submit(self._cluster.keys(MODULES))
        try:
            await release(self._kube, key, body)
        except KubeError as error:
            await self._reporter.report(key, body, [Condition.failed(DATABASE, error)], {"phase": "Deleting"})
            raise
        return True

    async def _take_away(self, identity: UUID, *, drop_data: bool) -> dict[str, Result]:
        """Whoever reads loses the right to before the rows go, and modules let the tenant go after it."""
        gateway, analytics = await asyncio.gather(
            attempt("Valkey", self._valkey.remove_tenant(identity)),
            attempt(
                "ClickHouse",
                self._clickhouse.remove_tenant(identity, drop_data=drop_data),
                seconds=_REMOVAL_SECONDS,
            ),
        )
        removal = self._postgres.delete_tenant(identity) if drop_data else self._postgres.retire_tenant(identity)
        database = await attempt("PostgreSQL", removal, seconds=_REMOVAL_SECONDS)
        return {DATABASE: database, ANALYTICS: analytics, RATE_LIMIT: gateway}


def _id(state: TenantState) -> UUID:
    return state.id


def _stands(result: Result) -> bool:
    return isinstance(result, Outcome) and result.refusal is None


def _condition(kind: str, result: Result | None) -> Condition:
    if result is None:
        return Condition.waiting(kind, "waiting for PostgreSQL to take the tenant")
    if isinstance(result, Exception):
        return Condition.failed(kind, result)
    return Condition.refused(kind, result.refusal) if result.refusal else Condition.met(kind)
