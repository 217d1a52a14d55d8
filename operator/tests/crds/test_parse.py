"""Reading stored objects: no server, no surprises."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_common.ids import tenant_id
from kernel_operator.resources import InvalidResource, KernelModule, Tenant
from kernel_operator.resources.module import slug_of
from kernel_operator.resources.selection import TenantSelection

from .conftest import load_cases, with_case

TENANT = load_cases("tenants")["base"]
MODULE = load_cases("kernelmodules")["base"]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def test_metadata_of_a_stored_object() -> None:
    metadata = {
        "name": "acme",
        "uid": "0d4e9a0c-6b43-4d53-8f7e-3d1b6a1f2b11",
        "generation": 3,
        "creationTimestamp": "2026-11-24T09:00:00Z",
        "deletionTimestamp": "2026-11-24T10:00:00Z",
        "labels": {"plan": "growth"},
        "annotations": {"platform-kernel.io/adopt": "x"},
        "finalizers": ["platform-kernel.io/cleanup"],
    }
    tenant = Tenant.parse({**TENANT, "metadata": metadata, "status": {"phase": "Deleting"}})
    assert (tenant.name, tenant.namespace, tenant.generation) == ("acme", "", 3)
    assert tenant.uid == metadata["uid"]
    assert tenant.creation_timestamp == metadata["creationTimestamp"]
    assert tenant.labels == metadata["labels"]
    assert tenant.annotations == metadata["annotations"]
    assert tenant.finalizers == ("platform-kernel.io/cleanup",)
    assert tenant.deletion_timestamp == metadata["deletionTimestamp"]
    assert tenant.deleting
    assert tenant.status == {"phase": "Deleting"}
    assert tenant.id == tenant_id("acme")


def test_a_new_object_has_no_status_and_is_not_deleting() -> None:
    module = KernelModule.parse(MODULE)
    assert (module.namespace, module.slug, module.status, module.deleting) == ("default", "crm", {}, False)


def test_specs_can_not_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Tenant.parse(TENANT).spec.suspended = True  # type: ignore[misc]


@pytest.mark.parametrize("kind", [Tenant, KernelModule])
@given(spec=JSON)
def test_anything_else_than_a_spec_is_an_invalid_resource(kind: type[Tenant] | type[KernelModule], spec: Any) -> None:
    with pytest.raises(InvalidResource) as refused:
        kind.parse({"metadata": {"name": "acme"}, "spec": spec})
    assert refused.value.field.startswith("spec")


@pytest.mark.parametrize("pointer", ["/spec/route", "/spec/tenants", "/spec/dataApi/models/0", "/spec/permissions"])
@given(value=JSON)
def test_no_part_of_a_spec_can_crash_the_reader(pointer: str, value: Any) -> None:
    body = with_case(MODULE, {"set": {pointer: value}})
    try:
        module = KernelModule.parse(body)
    except InvalidResource as refused:
        assert refused.field.startswith("spec")
        assert "\n" not in refused.message
    else:
        assert module.slug == "crm"


def test_an_object_without_a_name_is_refused() -> None:
    with pytest.raises(InvalidResource, match=r"metadata\.name"):
        Tenant.parse({"metadata": {}, "spec": TENANT["spec"]})


def test_the_error_does_not_repeat_the_value() -> None:
    """A value may be a secret put in the wrong place."""
    body = with_case(TENANT, {"set": {"/spec/owner/email": "hunter2"}})
    with pytest.raises(InvalidResource) as refused:
        Tenant.parse(body)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "slug"), [("@acme/crm", "crm"), ("@acme/road-map.v2", "road_map_v2"), ("@kernel/money", "money")]
)
def test_slug(name: str, slug: str) -> None:
    assert slug_of(name) == slug


LABELS: dict[str, dict[str, str]] = {"a": {"plan": "growth", "eu": ""}, "b": {"plan": "starter"}, "c": {}}


def by_label(**labels: str) -> dict[str, Any]:
    return {"selector": {"matchLabels": labels}}


def by_expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"selector": {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}}


@pytest.mark.parametrize(
    ("selection", "selected"),
    [
        ({"all": True}, "abc"),
        ({"names": []}, ""),
        ({"names": ["b"]}, "b"),
        (by_label(plan="growth"), "a"),
        (by_label(plan="growth", us=""), ""),
        (by_expression("plan", "In", "starter", "free"), "b"),
        (by_expression("plan", "NotIn", "starter"), "ac"),
        (by_expression("plan", "Exists"), "ab"),
        (by_expression("eu", "DoesNotExist"), "bc"),
        ({"selector": by_label(plan="growth")["selector"] | by_expression("eu", "DoesNotExist")["selector"]}, ""),
    ],
)
def test_selection_of_tenants(selection: dict[str, Any], selected: str) -> None:
    """As the API server selects by labels: NotIn and DoesNotExist hold for an object without the label."""
    wanted = TenantSelection.model_validate(selection)
    assert [name for name, labels in LABELS.items() if wanted.selects(name, labels)] == list(selected)
    assert wanted.names_nobody == ("names" not in selection)
