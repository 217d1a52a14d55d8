"""Tenants, in batches: PostgreSQL first, because it knows which names are retained; then the rest together."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from kernel_common.ids import tenant_id
from kernel_operator.cluster import Body, Cluster
from kernel_operator.conditions import Condition
from kernel_operator.desired import Outcome, Refusal, TenantState, Unavailable
from kernel_operator.kube import MODULES, Kube
from kernel_operator.plan import plan_tenant
from kernel_operator.queue import Key, WorkQueue
from kernel_operator.reconcile import finalizer
from kernel_operator.reconcile.attempt import Result, attempt, attempt_all
from kernel_operator.reconcile.report import Reporter
from kernel_operator.resources import Tenant

DATABASE, ANALYTICS, RATE_LIMIT, PARENT = "DatabaseReady", "AnalyticsReady", "RateLimitReady", "ParentReady"
SYSTEMS = {DATABASE: "PostgreSQL", ANALYTICS: "ClickHouse", RATE_LIMIT: "Valkey"}


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
    ) -> None:
        self._kube, self._cluster, self._queue, self._reporter = kube, cluster, queue, reporter
        self._postgres, self._clickhouse, self._valkey = postgres, clickhouse, valkey
        self._applied: dict[Key, TenantState] = {}

    async def reconcile(self, keys: Sequence[Key]) -> set[Key]:
        """Bring the tenants of ``keys`` to what their resources ask; returns the keys to try again."""
        retry: set[Key] = set()
        results = await asyncio.gather(*(self._admit(key) for key in keys), return_exceptions=True)
        work: list[_Work] = []
        for key, result in zip(keys, results, strict=True):
            if isinstance(result, Unavailable) or result is False:
                retry.add(key)
            elif isinstance(result, BaseException):
                raise result
            elif isinstance(result, _Work):
                work.append(result)
        work = await self._with_parents(work)
        reports = await self._apply(work)
        for item, outcome in zip(work, await asyncio.gather(*reports, return_exceptions=True), strict=True):
            if isinstance(outcome, BaseException):
                if not isinstance(outcome, Unavailable):
                    raise outcome
                retry.add(item.key)
            elif outcome:
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
            error = self._cluster.invalid(key)
            refusal = Refusal("InvalidSpec", str(error))
            await self._reporter.report(key, body, [Condition.refused(DATABASE, refusal)], {"phase": "Failed"})
            return True
        held = await finalizer.hold(self._kube, self._cluster, key, body)
        if held is None:
            return True
        planned = plan_tenant(self._cluster, tenant)
        if isinstance(planned, Refusal):
            await self._reporter.report(key, held, [Condition.refused(PARENT, planned)], _fields(tenant, "Failed"))
            return True
        return _Work(key, held, tenant, planned)

    async def _with_parents(self, work: list[_Work]) -> list[_Work]:
        """Those whose parent PostgreSQL has or gets with them, parents first; the others are told to wait."""
        work.sort(key=lambda item: len(item.state.ancestors))
        coming = set(self._cluster.bound)
        ready = []
        for item in work:
            parent = item.tenant.spec.parent
            if parent is None or parent in coming:
                coming.add(item.tenant.name)
                ready.append(item)
            else:
                waiting = Condition.waiting(PARENT, f"waiting for Tenant {parent!r} to be in the database")
                await self._reporter.report(item.key, item.body, [waiting], _fields(item.tenant, "Pending"))
        return ready

    async def _apply(self, work: list[_Work]) -> list[Any]:
        states = [item.state for item in work]
        database = await attempt_all("PostgreSQL", self._postgres.apply_tenants, states, _id)
        follow = [item.state for item in work if self._may_follow(item, database[item.state.id])]
        analytics, gateway = await asyncio.gather(
            attempt_all("ClickHouse", self._clickhouse.apply_tenants, follow, _id),
            attempt_all("Valkey", self._valkey.apply_tenants, follow, _id),
        )
        others = {ANALYTICS: analytics, RATE_LIMIT: gateway}
        return [self._finish(item, database[item.state.id], others) for item in work]

    def _may_follow(self, item: _Work, database: Result) -> bool:
        """Without PostgreSQL's word only a tenant that it had before goes on: another's name may be retained."""
        if isinstance(database, Exception):
            return item.tenant.name in self._cluster.bound
        return database.refusal is None

    async def _finish(self, item: _Work, database: Result, others: Mapping[str, Mapping[UUID, Result]]) -> bool:
        """Report on one tenant; True when it has to be tried again."""
        results = {DATABASE: database}
        results.update((kind, found[item.state.id]) for kind, found in others.items() if item.state.id in found)
        conditions = [_condition(kind, results.get(kind)) for kind in SYSTEMS]
        failed = any(isinstance(result, Exception) for result in results.values())
        fields = {**_fields(item.tenant, self._phase(item, conditions)), "tenantId": str(item.state.id)}
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
        children = [child.name for child in self._cluster.children(key.name)]
        if children:
            message = f"waiting until its tenants are deleted first: {', '.join(children[:10])}"
            condition = Condition(DATABASE, False, "HasChildren", message)
            await self._reporter.report(key, body, [condition], {"phase": "Deleting"})
            return True  # the deletion of the last child brings it back
        drop_data = tenant is not None and tenant.spec.deletion_policy == "Delete"
        identity = tenant_id(key.name)
        # Whoever reads loses the right to before the rows go, and modules let the tenant go after it.
        gateway, analytics = await asyncio.gather(
            attempt("Valkey", self._valkey.remove_tenant(identity)),
            attempt("ClickHouse", self._clickhouse.remove_tenant(identity, drop_data=drop_data)),
        )
        removal = self._postgres.delete_tenant(identity) if drop_data else self._postgres.retire_tenant(identity)
        database = await attempt("PostgreSQL", removal)
        results: dict[str, Result] = {DATABASE: database, ANALYTICS: analytics, RATE_LIMIT: gateway}
        if any(isinstance(result, Exception) for result in results.values()):
            conditions = [_condition(kind, result) for kind, result in results.items()]
            await self._reporter.report(key, body, conditions, {"phase": "Deleting"})
            return False
        self._cluster.bound.discard(key.name)
        self._queue.submit(self._cluster.keys(MODULES))
        return await finalizer.release(self._kube, self._cluster, key, body)


def _id(state: TenantState) -> UUID:
    return state.id


def _fields(tenant: Tenant, phase: str) -> dict[str, Any]:
    return {"phase": phase, "tenantId": str(tenant_id(tenant.name))}


def _condition(kind: str, result: Result | None) -> Condition:
    if result is None:
        return Condition.waiting(kind, "waiting for PostgreSQL to take the tenant")
    if isinstance(result, Exception):
        return Condition.failed(kind, result)
    return Condition.refused(kind, result.refusal) if result.refusal else Condition.met(kind)
