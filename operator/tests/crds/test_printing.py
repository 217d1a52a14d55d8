"""What kubectl shows: columns, short names, the category, explanations; and the status of both kinds."""

from collections.abc import Iterator
from typing import Any

import pytest

from kernel_local.testing import KubernetesServer

from .conftest import CRDS, Refused, Server, load_cases, renamed

READY = {"type": "Ready", "status": "True", "reason": "Reconciled", "message": "", "observedGeneration": 1}
NOW = "2026-11-24T10:00:00Z"


@pytest.fixture
def tenant(server: Server) -> Iterator[dict[str, Any]]:
    stored = server.create(renamed(load_cases("tenants")["base"]))
    yield stored
    server.delete(stored)


@pytest.fixture
def module(server: Server) -> Iterator[dict[str, Any]]:
    stored = server.create(renamed(load_cases("kernelmodules")["base"]))
    yield stored
    server.delete(stored)


def columns(crds: KubernetesServer, short: str, body: dict[str, Any]) -> dict[str, str]:
    printed = crds.kubectl("get", short, body["metadata"]["name"], "-o", "wide").stdout.splitlines()
    return dict(zip(printed[0].split(), printed[1].split(), strict=True))


def test_columns_of_a_tenant(crds: KubernetesServer, server: Server, tenant: dict[str, Any]) -> None:
    status = {
        "tenantId": "5e6e1f2c-7a0e-5a57-9d1c-5a8c0c0de001",
        "phase": "Ready",
        "observedGeneration": 1,
        "conditions": [{**READY, "lastTransitionTime": NOW}],
    }
    assert not isinstance(server.patch_status(tenant, status), Refused)
    shown = columns(crds, "tnt", tenant)
    assert list(shown) == ["NAME", "READY", "PHASE", "TIER", "PARENT", "AGE", "REASON", "TENANTID"]
    shown.pop("AGE")
    assert list(shown.values())[1:] == ["True", "Ready", "client", "contoso", "Reconciled", status["tenantId"]]


def test_columns_of_a_module(crds: KubernetesServer, server: Server, module: dict[str, Any]) -> None:
    status = {
        "slug": "crm",
        "phase": "Active",
        "installedVersion": "1.3.0",
        "tenants": 12,
        "steps": [{"name": "tables", "state": "Done", "finishedAt": NOW}],
        "observedGeneration": 1,
        "conditions": [{**READY, "lastTransitionTime": NOW}],
    }
    written = server.patch_status(module, status)
    assert not isinstance(written, Refused), written
    assert written["status"] == status, "the schema of the status drops what the operator writes"
    shown = columns(crds, "kmod", module)
    assert list(shown) == ["NAME", "READY", "PHASE", "MODULE", "VERSION", "TENANTS", "AGE", "SLUG", "REASON"]
    shown.pop("AGE")
    assert list(shown.values())[1:] == ["True", "Active", "@acme/crm", "1.3.0", "12", "crm", "Reconciled"]


def test_wait_sees_the_condition(crds: KubernetesServer, server: Server, tenant: dict[str, Any]) -> None:
    name = tenant["metadata"]["name"]
    waiting = ("wait", "--for=condition=Ready", f"tenant/{name}")
    assert crds.kubectl(*waiting, "--timeout=0s", check=False).returncode != 0
    server.patch_status(tenant, {"conditions": [{**READY, "lastTransitionTime": NOW}]})
    assert "condition met" in crds.kubectl(*waiting, "--timeout=10s").stdout


def test_category_finds_both(crds: KubernetesServer, tenant: dict[str, Any], module: dict[str, Any]) -> None:
    found = crds.kubectl("get", "platform", "-A", "-o", "name").stdout
    assert f"tenant.platform-kernel.io/{tenant['metadata']['name']}" in found
    assert f"kernelmodule.platform-kernel.io/{module['metadata']['name']}" in found


def test_status_can_not_be_written_with_the_spec(server: Server, tenant: dict[str, Any]) -> None:
    answer = server.dry_replace(tenant, {**tenant, "status": {"phase": "Ready"}})
    assert not isinstance(answer, Refused)
    assert "status" not in answer


@pytest.mark.parametrize(
    ("status", "field"),
    [
        ({"phase": "Happy"}, "status.phase"),
        ({"conditions": [{**READY, "lastTransitionTime": NOW, "reason": "two words"}]}, "status.conditions[0].reason"),
        ({"conditions": [{**READY, "lastTransitionTime": "today"}]}, "status.conditions[0].lastTransitionTime"),
    ],
)
def test_a_wrong_status_is_refused(server: Server, tenant: dict[str, Any], status: dict[str, Any], field: str) -> None:
    refused = server.patch_status(tenant, status)
    assert isinstance(refused, Refused), "accepted"
    assert field in [where for where, _ in refused.causes]


@pytest.mark.parametrize("path", ["tenant.spec.rateLimit", "kmod.spec.route.rules", "kmod.spec.dataApi.models.fields"])
def test_every_field_is_explained(crds: KubernetesServer, path: str) -> None:
    assert "<no description>" not in crds.kubectl("explain", path).stdout.split("FIELDS:")[0]


def test_the_examples_applied_twice_are_unchanged(crds: KubernetesServer) -> None:
    examples = [f"--filename={CRDS.parent / 'examples' / name}" for name in ("tenants.yaml", "crm.yaml")]
    try:
        crds.kubectl("apply", *examples)
        again = crds.kubectl("apply", *examples).stdout.splitlines()
        assert len(again) == 6
        assert [line for line in again if not line.endswith(" unchanged")] == []
    finally:
        crds.kubectl("delete", "--wait=false", *examples)
