"""Manifests for the end-to-end tests, as small as the CRDs allow."""

from typing import Any

Manifest = dict[str, Any]


def tenant(name: str, *, tier: str = "client", parent: str | None = None, **spec: Any) -> Manifest:
    """A Tenant; ``labels`` may be among ``spec``."""
    labels = spec.pop("labels", {})
    annotations = spec.pop("annotations", {})
    body = {"displayName": name.title(), "tier": tier, "owner": {"email": f"owner@{name}.example"}, **spec}
    if parent:
        body["parent"] = parent
    return {
        "apiVersion": "platform-kernel.io/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": name, "labels": labels, "annotations": annotations},
        "spec": body,
    }


def module(slug: str, *, namespace: str, tenants: dict[str, Any], **spec: Any) -> Manifest:
    """A KernelModule @test/slug with one analysed model ``notes`` and one event, unless ``spec`` says otherwise."""
    annotations = spec.pop("annotations", {})
    return {
        "apiVersion": "platform-kernel.io/v1alpha1",
        "kind": "KernelModule",
        "metadata": {"name": slug, "namespace": namespace, "annotations": annotations},
        "spec": {
            "moduleName": f"@test/{slug}",
            "version": "1.0.0",
            "tenants": tenants,
            "permissions": [f"{slug}.notes.read"],
            "events": {"publishes": [f"{slug}.note.created"]},
            "dataApi": {
                "models": [
                    {
                        "name": "notes",
                        "fields": [{"name": "body", "type": "text", "required": True}],
                        "analytics": {"enabled": True},
                    }
                ]
            },
            "route": {
                "prefix": f"/api/v1/{slug}",
                "service": {"name": slug, "port": 8080},
                "rules": [{"methods": ["GET"], "path": "/notes", "permission": f"{slug}.notes.read"}],
            },
            **spec,
        },
    }


def namespace(name: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
