"""Modules, in batches: PostgreSQL first, because it knows whose slug it is; then topics and analytics, side by
side; what makes a module visible when all of that stands.

So an update that can't be done leaves the running version as it was: routes, permissions and event
rights in Valkey still are the former ones. And a module that is refused a slug, because another's data is
retained under it, can't change the topics and tables of that other.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from kernel_operator.cluster import Body, Cluster
from kernel_operator.conditions import Condition
from kernel_operator.credentials import SecretTaken, module_password, remove_secret, secret_name
from kernel_operator.desired import Migration, ModuleState, Outcome, Refusal, Unavailable
from kernel_operator.kube import Kube, KubeError
from kernel_operator.migration_files import migration_files
from kernel_operator.plan import ACCEPTED, missing_tenants, plan_module
from kernel_operator.queue import Key
from kernel_operator.reconcile.attempt import Result, alone, attempt, attempt_all
from kernel_operator.reconcile.finalizer import hold, is_held, release
from kernel_operator.reconcile.report import Reporter
from kernel_operator.resources import KernelModule
from kernel_operator.resources.annotations import CONFIRM_DELETION, GROW_PARTITIONS, GROW_PARTITIONS_VALUE
from kernel_operator.settings import Settings

DATABASE, EVENTS, ANALYTICS, GATEWAY, TENANTS = (
    "DatabaseReady",
    "EventsReady",
    "AnalyticsReady",
    "GatewayReady",
    "TenantsReady",
)
_SYSTEMS = {DATABASE: "PostgreSQL", EVENTS: "Kafka", ANALYTICS: "ClickHouse", GATEWAY: "Valkey"}
_WAITING = {
    EVENTS: "waiting for PostgreSQL to take the module",
    ANALYTICS: "waiting for PostgreSQL to take the module",
    GATEWAY: "waiting for the other systems: the former version serves until they are ready",
}
_DATABASE_AT_ONCE = 4
"""Modules are changed one after the other in PostgreSQL; more would only wait for the lock, and not for long."""


class ModuleDatabase(Protocol):
    async def apply_module(self, module: ModuleState, password: str) -> Outcome: ...
    async def migrate_module(self, slug: str, version: str, migrations: Sequence[Migration]) -> Outcome: ...
    async def module_holder(self, slug: str) -> tuple[str, str, str] | None: ...
    async def remove_module(self, slug: str, *, drop_data: bool) -> Outcome: ...


class ModuleTopics(Protocol):
    async def apply_modules(
        self, modules: Sequence[ModuleState], *, allow_growth: Collection[str] = ()
    ) -> Mapping[str, Outcome]: ...
    async def remove_module(self, slug: str, *, drop_data: bool) -> Outcome: ...


class ModuleAnalytics(Protocol):
    async def apply_modules(self, modules: Sequence[ModuleState]) -> Mapping[str, Outcome]: ...
    async def remove_module(self, slug: str, *, drop_data: bool) -> Outcome: ...


class ModuleGateway(Protocol):
    async def apply_modules(self, modules: Sequence[ModuleState]) -> Mapping[str, Outcome]: ...
    async def remove_module(self, slug: str) -> Outcome: ...


@dataclass(slots=True)
class _Work:
    key: Key
    body: Body
    module: KernelModule
    state: ModuleState
    results: dict[str, Result] = field(default_factory=dict)

    @property
    def installed_before(self) -> bool:
        return bool((self.body.get("status") or {}).get("installedVersion"))

    @property
    def may_follow(self) -> bool:
        """PostgreSQL has taken the module; or it can't be asked, and had taken it before."""
        database = self.results[DATABASE]
        return self.installed_before if isinstance(database, Exception) else database.refusal is None

    def stands(self, *kinds: str) -> bool:
        """Each of ``kinds`` is as desired."""
        found = [self.results.get(kind) for kind in kinds]
        return all(isinstance(result, Outcome) and result.refusal is None for result in found)


class ModuleReconciler:
    """Reconciles modules; see ``reconcile``."""

    def __init__(
        self,
        kube: Kube,
        cluster: Cluster,
        reporter: Reporter,
        settings: Settings,
        *,
        postgres: ModuleDatabase,
        kafka: ModuleTopics,
        clickhouse: ModuleAnalytics,
        valkey: ModuleGateway,
    ) -> None:
        self._kube, self._cluster, self._reporter, self._settings = kube, cluster, reporter, settings
        self._postgres, self._kafka, self._clickhouse, self._valkey = postgres, kafka, clickhouse, valkey
        self._applied: dict[Key, ModuleState] = {}
        self._database_gate = asyncio.Semaphore(_DATABASE_AT_ONCE)

    async def reconcile(self, keys: Sequence[Key]) -> set[Key]:
        """Bring the modules of ``keys`` to what their resources ask; returns the keys to try again."""
        admitted = await asyncio.gather(*(alone(key, self._admit(key)) for key in keys))
        retry = {key for key, it in zip(keys, admitted, strict=True) if it is False or isinstance(it, Exception)}
        work = [item for item in admitted if isinstance(item, _Work)]
        await asyncio.gather(*(self._tables(item) for item in work))
        follow = [item for item in work if item.may_follow]
        await asyncio.gather(self._topics(follow), self._analytics(follow))
        await self._show([item for item in follow if item.stands(DATABASE, EVENTS, ANALYTICS)])
        finished = await asyncio.gather(*(alone(item.key, self._finish(item)) for item in work))
        retry.update(item.key for item, failed in zip(work, finished, strict=True) if failed is not False)
        return retry

    async def _admit(self, key: Key) -> _Work | bool:
        """What is to be done for ``key``; True when it is finished already, False when it must be tried again."""
        body, module = self._cluster.body(key), self._cluster.module(key)
        if body is None:
            self._applied.pop(key, None)
            self._reporter.forget(key)
            return True
        if body["metadata"].get("deletionTimestamp"):
            return await self._remove(key, body, module)
        if module is None:
            refusal = Refusal("InvalidSpec", str(self._cluster.invalid(key)))
            await self._reporter.report(key, body, [Condition.refused(ACCEPTED, refusal)], {"phase": "Failed"})
            return True
        planned = plan_module(self._cluster, module, self._settings)
        if isinstance(planned, ModuleState):
            files = await migration_files(self._kube, module)
            planned = files if isinstance(files, Refusal) else replace(planned, migrations=files)
        if isinstance(planned, Refusal):
            running = (body.get("status") or {}).get("installedVersion")
            fields = {"slug": module.slug, "phase": "Active" if running else "Failed"}
            await self._reporter.report(key, body, [Condition.refused(ACCEPTED, planned)], fields)
            return True
        if self._applied.get(key) != planned:
            self._applied.pop(key, None)
        try:
            held = await hold(self._kube, self._cluster, key, body)
        except KubeError as error:
            await self._reporter.report(key, body, [Condition.failed(ACCEPTED, error)], {"phase": "Pending"})
            raise
        return True if held is None else _Work(key, held, module, planned)

    async def _topics(self, work: list[_Work]) -> None:
        growing = frozenset(
            item.state.slug for item in work if item.module.annotations.get(GROW_PARTITIONS) == GROW_PARTITIONS_VALUE
        )

        async def apply(states: Sequence[ModuleState]) -> Mapping[str, Outcome]:
            return await self._kafka.apply_modules(states, allow_growth=growing)

        found = await attempt_all("Kafka", apply, [item.state for item in work], _slug)
        for item in work:
            item.results[EVENTS] = found[item.state.slug]

    async def _analytics(self, work: list[_Work]) -> None:
        found = await attempt_all("ClickHouse", self._clickhouse.apply_modules, [item.state for item in work], _slug)
        for item in work:
            item.results[ANALYTICS] = found[item.state.slug]

    async def _tables(self, item: _Work) -> None:
        async with self._database_gate:
            item.results[DATABASE] = await attempt("PostgreSQL", self._database(item))

    async def _database(self, item: _Work) -> Outcome:
        url = self._settings.database_url.get_secret_value()
        try:
            password = await module_password(self._kube, item.module, url, self._settings.module_database_host)
        except SecretTaken as error:
            return Outcome(refusal=Refusal("SecretTaken", f"metadata.name: {error}"))
        except KubeError as error:
            raise Unavailable("Kubernetes", f"the Secret {secret_name(item.module)!r}: {error}") from error
        made = await self._postgres.apply_module(item.state, password)
        if made.refusal:
            return made
        migrated = await self._postgres.migrate_module(item.state.slug, item.state.version, item.state.migrations)
        return Outcome([*made.changes, *migrated.changes], migrated.refusal)

    async def _show(self, work: list[_Work]) -> None:
        shown = await attempt_all("Valkey", self._valkey.apply_modules, [item.state for item in work], _slug)
        for item in work:
            item.results[GATEWAY] = shown[item.state.slug]

    async def _finish(self, item: _Work) -> bool:
        """Report on one module; True when it has to be tried again."""
        conditions = [Condition.met(ACCEPTED), *(_condition(kind, item.results.get(kind)) for kind in _SYSTEMS)]
        missing = missing_tenants(self._cluster, item.module)
        if missing:
            names = ", ".join(missing[:10]) + (" ..." if len(missing) > 10 else "")
            conditions.append(
                Condition(TENANTS, False, "TenantNotFound", f"spec.tenants.names: no such tenant yet: {names}")
            )
        else:
            conditions.append(Condition.met(TENANTS, message=f"{len(item.state.tenants)} tenants"))
        stands = item.stands(*_SYSTEMS)
        fields: dict[str, Any] = {"slug": item.state.slug, "phase": self._phase(item, stands)}
        if stands:
            fields |= {"installedVersion": item.state.version, "tenants": len(item.state.tenants)}
        if self._applied.get(item.key) == item.state:
            for kind, result in item.results.items():
                if isinstance(result, Outcome) and result.changes:
                    await self._reporter.repaired(item.key, item.body, _SYSTEMS[kind], result.changes)
        await self._reporter.report(item.key, item.body, conditions, fields)
        if stands:
            self._applied[item.key] = item.state
        return any(isinstance(result, Exception) for result in item.results.values())

    @staticmethod
    def _phase(item: _Work, stands: bool) -> str:
        if stands:
            return "Active" if item.state.active else "Disabled"
        if item.installed_before:
            return "Active"  # the former version still serves
        refused = any(isinstance(r, Outcome) and r.refusal for r in item.results.values())
        return "Failed" if refused else "Installing"

    async def _remove(self, key: Key, body: Body, module: KernelModule | None) -> bool:
        """Take the module away, then let the resource go. False: try again.

        Only what the slug's holder in PostgreSQL asks for is done: a resource that was refused the slug
        takes nothing with it.
        """
        if not is_held(body):
            return True  # nothing was made for it, or all of it is gone; it waits for somebody else's finalizer
        slug = module.slug if module else (body.get("status") or {}).get("slug")
        results: dict[str, Result] = {}
        if slug:
            try:
                holder = await self._postgres.module_holder(slug)
            except Unavailable as error:
                await self._report_deleting(key, body, {DATABASE: error})
                return False
            if holder == (body["spec"].get("moduleName"), key.namespace, key.name) or (
                holder is None and not self._is_wanted_by_another(slug, key)
            ):
                results = await self._take_away(body, module, slug)
        if any(isinstance(result, Exception) for result in results.values()):
            await self._report_deleting(key, body, results)
            return False
        try:
            if module:
                await remove_secret(self._kube, module)
            await release(self._kube, key, body)
        except KubeError as error:
            await self._report_deleting(key, body, {DATABASE: error})
            raise
        return True

    def _is_wanted_by_another(self, slug: str, key: Key) -> bool:
        """PostgreSQL does not know the slug yet, and another module may be about to get it."""
        modules = self._cluster.modules()
        return any(other.slug == slug and (other.namespace, other.name) != key[1:] for other in modules)

    async def _take_away(self, body: Body, module: KernelModule | None, slug: str) -> dict[str, Result]:
        """First what makes it visible, then the rest. Data goes when both the policy and the annotation say so."""
        confirmed = (body["metadata"].get("annotations") or {}).get(CONFIRM_DELETION) == slug
        drop = module is not None and module.spec.deletion_policy == "Delete" and confirmed
        hidden = await attempt("Valkey", self._valkey.remove_module(slug))
        others = await asyncio.gather(
            attempt("PostgreSQL", self._postgres.remove_module(slug, drop_data=drop)),
            attempt("ClickHouse", self._clickhouse.remove_module(slug, drop_data=drop)),
            attempt("Kafka", self._kafka.remove_module(slug, drop_data=drop)),
        )
        return {GATEWAY: hidden, **dict(zip((DATABASE, ANALYTICS, EVENTS), others, strict=True))}

    async def _report_deleting(self, key: Key, body: Body, results: Mapping[str, Result]) -> None:
        conditions = [_condition(kind, result) for kind, result in results.items()]
        await self._reporter.report(key, body, conditions, {"phase": "Deleting"})


def _slug(state: ModuleState) -> str:
    return state.slug


def _condition(kind: str, result: Result | None) -> Condition:
    if result is None:
        return Condition.waiting(kind, _WAITING[kind])
    if isinstance(result, Exception):
        return Condition.failed(kind, result)
    return Condition.refused(kind, result.refusal) if result.refusal else Condition.met(kind)
