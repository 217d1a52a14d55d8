"""The resources as the watch last told them, and what it means that one changed.

Plans are made from this view alone, so that planning asks nobody. A change of an object can change
the plan of others: a tenant's children inherit its suspension, modules select tenants by label,
a route prefix becomes free when its holder goes. ``observe`` answers with the keys of all of them.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kernel_operator.kube import MODULES, TENANTS
from kernel_operator.queue import Key
from kernel_operator.resources import InvalidResource, KernelModule, Tenant

Body = Mapping[str, Any]


def key_of(kind: str, metadata: Mapping[str, Any]) -> Key:
    return Key(kind, metadata.get("namespace", ""), metadata["name"])


class Cluster:
    """See the module's text. Raw bodies are kept for what is written back; typed objects for plans."""

    def __init__(self) -> None:
        self._bodies: dict[Key, Body] = {}
        self._tenants: dict[str, Tenant] = {}
        self._modules: dict[Key, KernelModule] = {}
        self._invalid: dict[Key, InvalidResource] = {}
        self._children: dict[str, set[str]] = {}
        self._lagging: dict[Key, tuple[str, float]] = {}
        self.bound: set[str] = set()
        """Names of tenants that PostgreSQL has, as far as this process knows."""

    def observe(self, kind: str, body: Body, *, deleted: bool = False) -> list[Key]:
        """Take in ``body`` and return the keys of what has to be looked at because of it."""
        key = key_of(kind, body["metadata"])
        before = self._bodies.get(key)
        if deleted:
            known = before is not None and before["metadata"]["uid"] == body["metadata"]["uid"]
            return self._forget(key) if known else []
        if before is not None and _version(body) < _version(before):
            return []  # an older event that came late
        self._bodies[key] = body
        if before is not None and _essence(before) == _essence(body):
            return []
        self._parse(key, body)
        return [key, *self._affected(key)]

    def wrote(self, kind: str, body: Body) -> None:
        """Take in the answer to our own write, before the watch brings it."""
        key = key_of(kind, body["metadata"])
        if key in self._bodies and _version(body) >= _version(self._bodies[key]):
            self._bodies[key] = body

    def reconcile_list(self, kind: str, listed: Iterable[Mapping[str, Any]]) -> list[Key]:
        """Hold the view against a list of metadata: drop what is no longer there, note what the watch has not told.

        Returns the keys of objects that are gone and of those they affect.
        """
        there = {key_of(kind, metadata): metadata["resourceVersion"] for metadata in listed}
        touched: list[Key] = []
        for key in [known for known in self._bodies if known.kind == kind and known not in there]:
            touched += self._forget(key)
        now = time.monotonic()
        for key, version in there.items():
            if key in self._bodies and int(version) <= _version(self._bodies[key]):
                self._lagging.pop(key, None)
            else:
                self._lagging.setdefault(key, (version, now))
        return touched

    def watch_lag(self) -> float:
        """For how many seconds the watch has owed us a version that a list has shown; 0 when it owes none."""
        now = time.monotonic()
        late = [
            now - since
            for key, (version, since) in self._lagging.items()
            if key not in self._bodies or _version(self._bodies[key]) < int(version)
        ]
        return max(late, default=0.0)

    def body(self, key: Key) -> Body | None:
        return self._bodies.get(key)

    def invalid(self, key: Key) -> InvalidResource | None:
        """Why the object can't be understood, when it can't."""
        return self._invalid.get(key)

    def tenant(self, name: str) -> Tenant | None:
        return self._tenants.get(name)

    def tenants(self) -> Iterator[Tenant]:
        yield from self._tenants.values()

    def children(self, name: str) -> Iterator[Tenant]:
        """Tenants whose parent is ``name``."""
        for child in sorted(self._children.get(name, ())):
            yield self._tenants[child]

    def module(self, key: Key) -> KernelModule | None:
        return self._modules.get(key)

    def modules(self) -> Iterator[KernelModule]:
        yield from self._modules.values()

    def keys(self, kind: str) -> list[Key]:
        return [key for key in self._bodies if key.kind == kind]

    def family(self, name: str) -> list[Key]:
        """The keys of all descendants of the tenant ``name``."""
        below = [Key(TENANTS, "", child.name) for child in self.children(name)]
        return below + [key for child in below for key in self.family(child.name)]

    def _parse(self, key: Key, body: Body) -> None:
        self._detach(key)
        try:
            if key.kind == TENANTS:
                tenant = Tenant.parse(body)
                self._tenants[key.name] = tenant
                if tenant.spec.parent:
                    self._children.setdefault(tenant.spec.parent, set()).add(key.name)
                if _has_database(body):
                    self.bound.add(key.name)
            else:
                self._modules[key] = KernelModule.parse(body)
        except InvalidResource as error:
            self._invalid[key] = error

    def _affected(self, key: Key) -> list[Key]:
        if key.kind == TENANTS:
            return self.family(key.name) + self.keys(MODULES)
        return [other for other in self.keys(MODULES) if other != key]

    def _forget(self, key: Key) -> list[Key]:
        if self._bodies.pop(key, None) is None:
            return []
        affected = self._affected(key)
        tenant = self._tenants.get(key.name) if key.kind == TENANTS else None
        if tenant is not None and tenant.spec.parent:
            affected.append(Key(TENANTS, "", tenant.spec.parent))  # its deletion may wait for this one
        self._detach(key)
        self._lagging.pop(key, None)
        if key.kind == TENANTS:
            self.bound.discard(key.name)
        return affected

    def _detach(self, key: Key) -> None:
        self._invalid.pop(key, None)
        if key.kind == TENANTS:
            old = self._tenants.pop(key.name, None)
            if old and old.spec.parent:
                self._children.get(old.spec.parent, set()).discard(key.name)
        else:
            self._modules.pop(key, None)


def _version(body: Body) -> int:
    """Resource versions of one resource are ordered since Kubernetes 1.35 promises that they are integers."""
    return int(body["metadata"]["resourceVersion"])


def _essence(body: Body) -> tuple[object, ...]:
    """What a plan can depend on; our own status and the managed fields are not."""
    meta = body["metadata"]
    return (
        meta["uid"],
        meta.get("generation"),
        meta.get("labels"),
        meta.get("annotations"),
        meta.get("deletionTimestamp"),
        meta.get("finalizers"),
    )


def _has_database(body: Body) -> bool:
    conditions = (body.get("status") or {}).get("conditions") or []
    return any(c.get("type") == "DatabaseReady" and c.get("status") == "True" for c in conditions)
