"""The resources as the watch last told them, and what it means that one changed.

Plans are made from this view alone, so that planning asks nobody. A change of an object can change
the plan of others: a tenant's children inherit its suspension, modules select tenants by label,
a route prefix becomes free when its holder goes. ``observe`` answers with the keys of all of them.

The answers to our own writes come in beside the watch (``wrote``), often before it, and may hold an edit
that somebody made in between. The view takes such an answer in whole, so that a status never speaks of a
generation that was not looked at; but what the watch has told is kept apart (``_told``), so that the edit
still brings its keys when the watch tells it.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from kernel_operator.kube import FINALIZER, MODULES, TENANTS
from kernel_operator.queue import Key
from kernel_operator.resources import InvalidResource, KernelModule, Tenant

Body = Mapping[str, Any]


def key_of(kind: str, metadata: Mapping[str, Any]) -> Key:
    return Key(kind, metadata.get("namespace", ""), metadata["name"])


class Cluster:
    """See the module's text. Raw bodies are kept for what is written back, without the managed fields, which are half
    of them; typed objects for plans."""

    def __init__(self) -> None:
        self._bodies: dict[str, dict[Key, Body]] = {TENANTS: {}, MODULES: {}}
        self._told: dict[Key, _Essence] = {}
        self._gone: dict[Key, int] = {}
        self._listed: dict[str, tuple[int, Mapping[Key, int]]] = {TENANTS: (-1, {}), MODULES: (-1, {})}
        self._tenants: dict[str, Tenant] = {}
        self._modules: dict[Key, KernelModule] = {}
        self._invalid: dict[Key, InvalidResource] = {}
        self._children: dict[str, set[str]] = {}
        self._lagging: dict[Key, tuple[int, float]] = {}
        self.bound: set[str] = set()
        """Names of tenants that PostgreSQL has, as far as this process knows."""

    def observe(self, kind: str, body: Body, *, deleted: bool = False) -> list[Key]:
        """Take in ``body`` and return the keys of what has to be looked at because of it."""
        key = key_of(kind, body["metadata"])
        before = self.body(key)
        if deleted:
            self._gone[key] = _version(body)
            known = before is not None and before["metadata"]["uid"] == body["metadata"]["uid"]
            return self._forget(key) if known else []
        if _version(body) < self._oldest(key):
            return []  # an older event that came late
        told, essence = self._told.get(key), _essence(body)
        self._told[key] = essence
        if told is not None and told.shared == essence.shared:
            self._take(key, body)
            return [] if told == essence else [key]
        affected = self._affected(key)
        self._take(key, body)
        return list(dict.fromkeys([key, *affected, *self._affected(key)]))

    def wrote(self, kind: str, body: Body) -> None:
        """Take in the answer to our own write, before the watch brings it."""
        key = key_of(kind, body["metadata"])
        before = self.body(key)
        if before is None or before["metadata"]["uid"] != body["metadata"]["uid"] or _version(body) < _version(before):
            return
        self._take(key, body)
        told, essence = self._told[key], _essence(body)
        if told._replace(finalizers=essence.finalizers) == essence:
            self._told[key] = essence  # only what we wrote ourselves

    def reconcile_list(self, kind: str, listed: Iterable[Mapping[str, Any]], version: int) -> list[Key]:
        """Hold the view against the metadata of all objects as they were at ``version``: drop what is no longer
        there, note what the watch has not told.

        Returns the keys of objects that are gone and of those they affect.
        """
        there = {key_of(kind, metadata): int(metadata["resourceVersion"]) for metadata in listed}
        self._listed[kind] = version, there
        touched: list[Key] = []
        for key, body in list(self._bodies[kind].items()):
            if key not in there and _version(body) <= version:  # a newer one was made after the list
                touched += self._forget(key)
        now = time.monotonic()
        lagging = {key: late for key, late in self._lagging.items() if key.kind != kind}
        for key, listed_version in there.items():
            if not self._knows(key, listed_version):
                earlier = self._lagging.get(key)
                lagging[key] = earlier if earlier and not self._knows(key, earlier[0]) else (listed_version, now)
        self._lagging = lagging
        self._gone = {key: last for key, last in self._gone.items() if key.kind != kind or last > version}
        return touched

    def watch_lag(self) -> float:
        """For how many seconds the watch has owed us a version that a list has shown; 0 when it owes none."""
        now = time.monotonic()
        return max((now - since for _, since in self._owed()), default=0.0)

    @property
    def behind(self) -> bool:
        """The last lists have shown something that the watch has not told yet."""
        return any(True for _ in self._owed())

    def _owed(self) -> Iterator[tuple[Key, float]]:
        for key, (version, since) in self._lagging.items():
            if not self._knows(key, version):
                yield key, since

    def _knows(self, key: Key, version: int) -> bool:
        body = self.body(key)
        return (body is not None and version <= _version(body)) or version <= self._gone.get(key, -1)

    def _oldest(self, key: Key) -> int:
        """The oldest version that can still be news of ``key``. A watch that was broken goes on where it was, and
        tells of objects that a list has meanwhile shown to be gone: taken for alive, they would be made again."""
        if (body := self.body(key)) is not None:
            return _version(body)
        version, there = self._listed[key.kind]
        return max(there.get(key, version + 1), self._gone.get(key, -1) + 1)

    def body(self, key: Key) -> Body | None:
        return self._bodies[key.kind].get(key)

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
        return list(self._bodies[kind])

    def family(self, name: str) -> list[Key]:
        """The keys of all descendants of the tenant ``name``. Tenants that name each other as parents, which no
        plan accepts, are met once."""
        found: dict[str, None] = {}
        pending = [name]
        while pending:
            fresh = [child for child in sorted(self._children.get(pending.pop(), ())) if child not in found]
            found.update(dict.fromkeys(fresh))
            pending += fresh
        return [Key(TENANTS, "", child) for child in found if child != name]

    def _take(self, key: Key, body: Body) -> None:
        before = self.body(key)
        self._bodies[key.kind][key] = _kept(body)
        if before is not None and _essence(before) == _essence(body):
            return
        if before is not None and before["metadata"]["uid"] != body["metadata"]["uid"]:
            self.bound.discard(key.name)
        self._detach(key)
        try:
            if key.kind == TENANTS:
                tenant = Tenant.parse(body)
                self._tenants[key.name] = tenant
                if tenant.spec.parent:
                    self._children.setdefault(tenant.spec.parent, set()).add(key.name)
                if _is_bound(body):
                    self.bound.add(key.name)
            else:
                self._modules[key] = KernelModule.parse(body)
        except InvalidResource as error:
            self._invalid[key] = error

    def _affected(self, key: Key) -> list[Key]:
        if key.kind == MODULES:
            return [other for other in self.keys(MODULES) if other != key]
        affected = self.family(key.name) + self.keys(MODULES)
        tenant = self._tenants.get(key.name)
        if tenant and tenant.spec.parent:
            parent = Key(TENANTS, "", tenant.spec.parent)
            if (self.body(parent) or {}).get("metadata", {}).get("deletionTimestamp"):
                affected.append(parent)  # its deletion may wait for this one
        return affected

    def _forget(self, key: Key) -> list[Key]:
        """Drop the object; its own key is among those that are returned, so that what is kept about it goes too."""
        affected = self._affected(key)
        del self._bodies[key.kind][key]
        self._told.pop(key, None)
        self._detach(key)
        if key.kind == TENANTS:
            self.bound.discard(key.name)
        return [key, *affected]

    def _detach(self, key: Key) -> None:
        self._invalid.pop(key, None)
        if key.kind == TENANTS:
            old = self._tenants.pop(key.name, None)
            if old and old.spec.parent:
                siblings = self._children[old.spec.parent]
                siblings.discard(key.name)
                if not siblings:
                    del self._children[old.spec.parent]
        else:
            self._modules.pop(key, None)


class _Essence(NamedTuple):
    """What a plan can depend on; our own status and the managed fields are not. ``shared`` is what the plans of
    other objects can depend on as well."""

    shared: tuple[object, ...]
    annotations: object
    finalizers: object


def _essence(body: Body) -> _Essence:
    meta = body["metadata"]
    finalizers, deleted = meta.get("finalizers"), meta.get("deletionTimestamp")
    let_go = bool(deleted) and FINALIZER not in (finalizers or ())  # a parent's deletion waits for it
    shared = (meta["uid"], meta.get("generation"), meta.get("labels"), deleted, let_go)
    return _Essence(shared, meta.get("annotations"), finalizers)


def _kept(body: Body) -> Body:
    metadata = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    return {**body, "metadata": metadata}


def _version(body: Body) -> int:
    """Resource versions of one resource are ordered since Kubernetes 1.35 promises that they are integers."""
    return int(body["metadata"]["resourceVersion"])


def _is_bound(body: Body) -> bool:
    """PostgreSQL has taken the tenant for this object, and nothing has taken it away since."""
    held = FINALIZER in (body["metadata"].get("finalizers") or ())
    return held and bool((body.get("status") or {}).get("tenantId"))
