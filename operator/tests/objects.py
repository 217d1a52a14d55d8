"""Objects as the API server stores them, for the tests of the pure parts."""

import itertools
from typing import Any
from uuid import uuid4

_versions = itertools.count(100)


def stored(kind: str, name: str, spec: dict[str, Any], namespace: str = "", **metadata: Any) -> dict[str, Any]:
    """An object with the metadata that a server gives it; each has a newer resource version than the one before."""
    meta = {
        "name": name,
        "uid": str(uuid4()),
        "generation": 1,
        "resourceVersion": str(next(_versions)),
        "creationTimestamp": "2026-01-01T00:00:00Z",
        **({"namespace": namespace} if namespace else {}),
        **metadata,
    }
    return {"apiVersion": "platform-kernel.io/v1alpha1", "kind": kind, "metadata": meta, "spec": spec}


def tenant(name: str, tier: str = "client", parent: str | None = None, **rest: Any) -> dict[str, Any]:
    metadata = {key: rest.pop(key) for key in ("labels", "annotations", "deletionTimestamp", "uid") if key in rest}
    spec = {"displayName": name, "tier": tier, "owner": {"email": f"o@{name}.example"}, **rest}
    return stored("Tenant", name, spec | ({"parent": parent} if parent else {}), **metadata)


def module(slug: str, namespace: str = "mods", name: str = "", **rest: Any) -> dict[str, Any]:
    metadata = {key: rest.pop(key) for key in ("annotations", "creationTimestamp", "uid") if key in rest}
    spec = {"moduleName": f"@test/{slug}", "version": "1.0.0", "tenants": {"names": []}, **rest}
    return stored("KernelModule", name or slug, spec, namespace=namespace, **metadata)


def changed(body: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """The object after an edit of its spec."""
    meta = {
        **body["metadata"],
        "resourceVersion": str(next(_versions)),
        "generation": body["metadata"]["generation"] + 1,
    }
    return {**body, "metadata": meta, "spec": {**body["spec"], **spec}}


def edited(body: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """The object after a change of its metadata."""
    meta = {**body["metadata"], "resourceVersion": str(next(_versions)), **metadata}
    return {**body, "metadata": meta}
