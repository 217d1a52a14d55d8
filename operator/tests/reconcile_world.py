"""The reconcilers against a real API server, with stand-ins for the four systems, and a watch that tells when asked.

The stand-ins remember what they were called for, in one list, so that orders can be seen. The targets themselves have
tests of their own on real servers.
"""

import base64
import json
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import kopf

from kernel_common.ids import tenant_id
from kernel_local.testing import KubernetesServer
from kernel_operator.cluster import Cluster
from kernel_operator.desired import Migration, ModuleState, NewOwner, Outcome, Refusal, TenantState
from kernel_operator.kube import MODULES, TENANTS, Kube, KubeError, log_in, path_of
from kernel_operator.owners import OwnerDatabase, Owners
from kernel_operator.queue import Key, WorkQueue
from kernel_operator.reconcile.modules import ModuleReconciler
from kernel_operator.reconcile.report import Reporter
from kernel_operator.reconcile.tenants import TenantReconciler
from kernel_operator.settings import Settings

KINDS = {TENANTS: "Tenant", MODULES: "KernelModule"}


class RecordedSystem:
    """Stands in for a target. ``trouble`` is raised by every call; ``refusals`` are by id, slug or name."""

    def __init__(self, name: str, calls: list[tuple[str, str, str]]) -> None:
        self._name, self._calls = name, calls
        self.trouble: Exception | None = None
        self.refusals: dict[object, Refusal] = {}
        self.changes: dict[object, Sequence[str]] = {}
        self.dropped: list[object] = []

    def record(self, call: str, subject: object) -> Outcome:
        self._calls.append((self._name, call, str(subject)))
        if self.trouble:
            raise self.trouble
        return Outcome(self.changes.pop(subject, ()), self.refusals.get(subject))


class RecordedDatabase(RecordedSystem):
    """PostgreSQL: it knows living tenants and holders of slugs."""

    def __init__(self, name: str, calls: list[tuple[str, str, str]]) -> None:
        super().__init__(name, calls)
        self.living: set[UUID] = set()
        self.holders: dict[str, tuple[str, str, str]] = {}
        self.migrated: dict[str, list[str]] = {}

    async def apply_tenants(self, tenants: Sequence[TenantState]) -> Mapping[UUID, Outcome]:
        found = {}
        for tenant in tenants:
            outcome = self.record("apply", tenant.id)
            if outcome.refusal is None and not set(tenant.ancestors) <= self.living:
                outcome = Outcome(refusal=Refusal("ParentNotReady", "spec.parent: no living tenant in the database"))
            if outcome.refusal is None:
                self.living.add(tenant.id)
            found[tenant.id] = outcome
        return found

    async def ownerless_tenants(self, tenants: Collection[UUID]) -> Mapping[UUID, bool]:
        return {}

    async def make_owners(self, new: Sequence[NewOwner]) -> Collection[UUID]:
        raise AssertionError("every tenant has an owner")

    async def retire_tenant(self, tenant_id: UUID) -> Outcome:
        self.living.discard(tenant_id)
        return self.record("retire", tenant_id)

    async def delete_tenant(self, tenant_id: UUID) -> Outcome:
        self.living.discard(tenant_id)
        return self.record("delete", tenant_id)

    async def migrate_module(self, slug: str, version: str, migrations: Sequence[Migration]) -> Outcome:
        self.migrated[slug] = [migration.name for migration in migrations]
        return Outcome()

    async def apply_module(self, module: ModuleState, password: str) -> Outcome:
        outcome = self.record("apply", module.slug)
        if outcome.refusal is None:
            self.holders[module.slug] = (module.module_name, module.namespace, module.name)
        return outcome

    async def module_holder(self, slug: str) -> tuple[str, str, str] | None:
        self.record("holder", slug)
        return self.holders.get(slug)

    async def remove_module(self, slug: str, *, drop_data: bool) -> Outcome:
        return self.record("drop" if drop_data else "close", slug)


class RecordedAnalytics(RecordedSystem):
    """ClickHouse."""

    async def apply_tenants(self, tenants: Sequence[TenantState]) -> Mapping[UUID, Outcome]:
        return {tenant.id: self.record("apply", tenant.id) for tenant in tenants}

    async def remove_tenant(self, tenant: UUID, *, drop_data: bool) -> Outcome:
        return self.record("drop" if drop_data else "close", tenant)

    async def apply_modules(self, modules: Sequence[ModuleState]) -> Mapping[str, Outcome]:
        return {module.slug: self.record("apply", module.slug) for module in modules}

    async def remove_module(self, slug: str, *, drop_data: bool) -> Outcome:
        return self.record("drop" if drop_data else "close", slug)


class RecordedGateway(RecordedSystem):
    """Valkey."""

    async def apply_tenants(self, tenants: Sequence[TenantState]) -> Mapping[UUID, Outcome]:
        return {tenant.id: self.record("apply", tenant.id) for tenant in tenants}

    async def remove_tenant(self, tenant: UUID) -> Outcome:
        return self.record("remove", tenant)

    async def apply_modules(self, modules: Sequence[ModuleState]) -> Mapping[str, Outcome]:
        return {module.slug: self.record("apply", module.slug) for module in modules}

    async def remove_module(self, slug: str) -> Outcome:
        return self.record("remove", slug)


class RecordedTopics(RecordedSystem):
    """Kafka."""

    async def apply_modules(
        self, modules: Sequence[ModuleState], *, allow_growth: Collection[str] = ()
    ) -> Mapping[str, Outcome]:
        return {module.slug: self.record("apply", module.slug) for module in modules}

    async def remove_module(self, slug: str, *, drop_data: bool) -> Outcome:
        return self.record("drop" if drop_data else "close", slug)


class CountingKube(Kube):
    """The operator's client, with a list of the writes that it made: method and what was written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    async def call(self, method: str, path: str, *args: Any, **options: Any) -> dict[str, Any]:
        if method != "GET":
            resource = path.rsplit("/namespaces/", maxsplit=1)[-1].split("/", 1)[-1] if "/namespaces/" in path else path
            last = resource.rsplit("/", 1)[-1]
            what = next((w for w in ("events", "secrets") if w in resource.split("/")), None)
            self.writes.append(f"{method} {what or ('status' if last == 'status' else 'object')}")
        return await super().call(method, path, *args, **options)


class World:
    """One operator without its process: what ``tell`` says is what its watch has told."""

    def __init__(self, people: Kube) -> None:
        self.people, self.kube, self.cluster, self.queue = people, CountingKube(), Cluster(), WorkQueue()
        self.calls: list[tuple[str, str, str]] = []
        self.postgres = RecordedDatabase("PostgreSQL", self.calls)
        self.owners: OwnerDatabase = self.postgres
        self.clickhouse = RecordedAnalytics("ClickHouse", self.calls)
        self.valkey = RecordedGateway("Valkey", self.calls)
        self.kafka = RecordedTopics("Kafka", self.calls)
        self.mark = uuid4().hex[:6]
        self._made: list[Key] = []
        self.restart()

    def restart(self) -> None:
        """Forget everything that a process forgets."""
        self.cluster, self.queue = Cluster(), WorkQueue()
        reporter = Reporter(self.kube, self.cluster)
        systems = {"postgres": self.postgres, "clickhouse": self.clickhouse, "valkey": self.valkey}
        owners = Owners(self.kube, self.owners, "platform-kernel")
        self.tenants = TenantReconciler(self.kube, self.cluster, self.queue, reporter, owners=owners, **systems)
        self.modules = ModuleReconciler(
            self.kube, self.cluster, reporter, operator_settings(), kafka=self.kafka, **systems
        )

    async def make(self, kind: str, name: str, spec: Mapping[str, Any], namespace: str = "", **metadata: Any) -> Key:
        """Create an object as a person does; its name gets a mark that no other test has."""
        key = Key(kind, namespace, f"{name}-{self.mark}")
        meta = {"name": key.name, **({"namespace": namespace} if namespace else {}), **metadata}
        body = {"apiVersion": "platform-kernel.io/v1alpha1", "kind": KINDS[kind], "metadata": meta, "spec": dict(spec)}
        await self.people.call("POST", path_of(kind, namespace), body)
        self._made.append(key)
        return key

    async def tenant(self, name: str, tier: str = "owner", parent: Key | None = None, **rest: Any) -> Key:
        metadata = {word: rest.pop(word) for word in ("annotations", "finalizers") if word in rest}
        spec = {"displayName": name, "tier": tier, "owner": {"email": f"o@{name}.example"}, **rest}
        return await self.make(TENANTS, name, spec | ({"parent": parent.name} if parent else {}), **metadata)

    async def module(self, name: str, slug: str = "", **rest: Any) -> Key:
        metadata = {word: rest.pop(word) for word in ("annotations", "finalizers") if word in rest}
        spec = {
            "moduleName": f"@test/{slug or self.slug(name)}",
            "version": "1.0.0",
            "tenants": {"names": []},
            **rest,
        }
        return await self.make(MODULES, name, spec, "default", **metadata)

    def slug(self, name: str) -> str:
        return f"{name}{self.mark}"

    def id(self, key: Key) -> UUID:
        return tenant_id(key.name)

    async def edit(self, key: Key, change: Mapping[str, Any], part: str = "") -> dict[str, Any]:
        """Merge ``change`` into the object, or into its subresource ``part``, as a person does."""
        path = path_of(key.kind, key.namespace, key.name) + (f"/{part}" if part else "")
        return await self.people.call("PATCH", path, change, content_type="application/merge-patch+json")

    async def delete(self, key: Key) -> None:
        await self.people.call("DELETE", path_of(key.kind, key.namespace, key.name))

    async def read(self, key: Key) -> dict[str, Any] | None:
        return await self.people.read(key.kind, key.namespace, key.name)

    async def tell(self, *keys: Key) -> list[Key]:
        """Have the watch tell the objects as they are; returns what is to be looked at."""
        found: list[Key] = []
        for key in keys:
            body = await self.read(key)
            if body is not None:
                found += self.cluster.observe(key.kind, body)
            elif (last := self.cluster.body(key)) is not None:
                found += self.cluster.observe(key.kind, last, deleted=True)
        return found

    async def reconcile(self, *keys: Key) -> set[Key]:
        """What the worker does with a batch; returns what is to be tried again. ``calls`` and ``writes`` begin anew."""
        self.calls.clear()
        self.kube.writes.clear()
        work = self.tenants if keys[0].kind == TENANTS else self.modules
        return await work.reconcile(keys)

    async def settle(self, *keys: Key) -> None:
        """Tell and reconcile; everything must succeed."""
        await self.tell(*keys)
        assert await self.reconcile(*keys) == set()
        await self.tell(*keys)

    async def condition(self, key: Key, kind: str = "Ready") -> dict[str, Any]:
        body = await self.read(key) or {}
        conditions = body.get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), {})

    async def status(self, key: Key) -> dict[str, Any]:
        found: dict[str, Any] = (await self.read(key) or {}).get("status", {})
        return found

    def called(self, system: str) -> list[str]:
        return [call for who, call, _ in self.calls if who == system]

    async def secret(self, name: str, **data: str) -> dict[str, Any]:
        """Create a Secret of somebody else's."""
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": "default"},
            "stringData": data,
        }
        return await self.people.call("POST", "/api/v1/namespaces/default/secrets", body)

    async def events(self, key: Key) -> list[str]:
        """The reasons of the Events about the object."""
        place = key.namespace or "default"
        path = f"/apis/events.k8s.io/v1/namespaces/{place}/events"
        found = await self.people.call("GET", path, query={"fieldSelector": f"regarding.name={key.name}"})
        return [event["reason"] for event in found["items"]]

    async def clear(self) -> None:
        for key in self._made:
            with suppress(KubeError):
                await self.edit(key, {"metadata": {"finalizers": None}})
            with suppress(KubeError):
                await self.delete(key)


async def logged_in(kubeconfig: Path) -> kopf.AiohttpSession:
    """A session as the operator makes it."""
    before = os.environ.get("KUBECONFIG")
    os.environ["KUBECONFIG"] = str(kubeconfig)
    try:
        return await log_in(kopf.OperatorSettings())
    finally:
        if before is None:
            del os.environ["KUBECONFIG"]
        else:
            os.environ["KUBECONFIG"] = before


def operator_kubeconfig(server: KubernetesServer, path: Path, account: str = "kernel-operator") -> Path:
    """A kubeconfig with a token of the service account ``account`` of the operator's namespace."""
    token = server.kubectl("create", "token", account, "--namespace=platform-kernel").stdout.strip()
    admin = json.loads(server.kubeconfig.read_text())
    admin["users"] = [{"name": user["name"], "user": {"token": token}} for user in admin["users"]]
    path.write_text(json.dumps(admin))
    return path


def operator_settings(**values: Any) -> Settings:
    return Settings.model_validate(
        {
            "database_url": "postgres://kernel_operator:secret@db.example:5432/platform",
            "clickhouse_url": "http://h",
            "valkey_url": "redis://h",
            "kafka_brokers": "h:9092",
            "kernel_master_key": base64.b64encode(b"k" * 32),
            **values,
        }
    )
