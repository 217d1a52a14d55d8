"""Good and bad objects before the real API server: what is accepted, and what a person is told."""

import subprocess
from typing import Any

import pytest
import yaml

from kernel_local.testing import KubernetesServer
from kernel_operator.resources import InvalidResource, KernelModule, Tenant

from .conftest import CRDS, Refused, Server, load_cases, renamed, with_case

KINDS: dict[str, type[Tenant] | type[KernelModule]] = {"tenants": Tenant, "kernelmodules": KernelModule}
TABLES = {name: load_cases(name) for name in KINDS}


def table(section: str) -> pytest.MarkDecorator:
    cases = [pytest.param(kind, case, id=f"{kind}: {case}") for kind, of in TABLES.items() for case in of[section]]
    return pytest.mark.parametrize(("kind", "case"), cases)


@table("good")
def test_good_object_is_accepted_and_means_the_same_to_the_operator(server: Server, kind: str, case: str) -> None:
    body = with_case(TABLES[kind]["base"], TABLES[kind]["good"][case] or {})
    stored = server.dry_create(body)
    assert not isinstance(stored, Refused), stored
    assert KINDS[kind].parse(stored).spec == KINDS[kind].parse(body).spec, "server and model fill in other defaults"


@table("bad")
def test_bad_object_is_refused_with_the_field_and_the_fix(server: Server, kind: str, case: str) -> None:
    bad = TABLES[kind]["bad"][case]
    refused = server.dry_create(with_case(TABLES[kind]["base"], bad))
    assert isinstance(refused, Refused), "accepted"
    assert refused.says(bad["field"], bad["says"]), refused.causes


@table("bad")
def test_bad_object_is_refused_by_the_operator_too(kind: str, case: str) -> None:
    bad = TABLES[kind]["bad"][case]
    with pytest.raises(InvalidResource) as refused:
        KINDS[kind].parse(with_case(TABLES[kind]["base"], bad))
    ours, theirs = refused.value.field, bad["field"]
    assert ours.startswith(theirs) or theirs.startswith(ours), (ours, theirs)
    assert refused.value.message
    assert "\n" not in str(refused.value)


@table("changes")
def test_change_of_a_stored_object(server: Server, kind: str, case: str) -> None:
    change = TABLES[kind]["changes"][case]
    before = renamed(with_case(TABLES[kind]["base"], change.get("before") or {}))
    stored = server.create(before)
    try:
        answer = server.dry_replace(stored, with_case(before, change))
    finally:
        server.delete(stored)
    if "says" in change:
        assert isinstance(answer, Refused), "accepted"
        assert answer.says(change["field"], change["says"]), answer.causes
    else:
        assert not isinstance(answer, Refused), answer.causes


FIELD = {"name": "f", "type": "text"}
TOO_MANY: dict[str, tuple[str, list[Any]]] = {
    "tenants.names": ("spec.tenants.names", [f"t{n}" for n in range(1001)]),
    "permissions": ("spec.permissions", [f"crm.contacts.p{n}" for n in range(201)]),
    "events.publishes": ("spec.events.publishes", [f"crm.contact.e{n}" for n in range(101)]),
    "events.subscribes": ("spec.events.subscribes", [f"money.wallet.e{n}" for n in range(101)]),
    "models": ("spec.dataApi.models", [{"name": f"m{n}", "fields": [FIELD]} for n in range(21)]),
    "fields": ("spec.dataApi.models/0/fields", [{**FIELD, "name": f"f{n}"} for n in range(65)]),
    "rules": ("spec.route.rules", [{"methods": ["GET"], "path": f"/p{n}", "permission": "crm.*"} for n in range(101)]),
    "channels": ("spec.notificationChannels", [f"c{n}" for n in range(21)]),
}


@pytest.mark.parametrize("what", TOO_MANY)
def test_lists_are_bounded_and_their_bound_is_usable(server: Server, what: str) -> None:
    path, items = TOO_MANY[what]
    pointer = "/" + path.replace(".", "/")
    module = TABLES["kernelmodules"]["base"]
    free = ["/spec/route", "/spec/healthCheck"] if what == "permissions" else []
    refused = server.dry_create(with_case(module, {"set": {pointer: items}, "remove": free}))
    assert isinstance(refused, Refused), "accepted"
    field = path.replace("/0/", "[0].")
    assert refused.says(field, f"must have at most {len(items) - 1} items"), refused.causes
    # The CEL rules run over the largest list within the server's time budget.
    accepted = server.dry_create(with_case(module, {"set": {pointer: items[:-1]}, "remove": free}))
    assert not isinstance(accepted, Refused), accepted.causes


def test_largest_module_can_be_made_and_changed(server: Server) -> None:
    """Every list is full at once and every rule compares all of it: the running cost stays in the server's budget."""
    fields = [{"name": f"field_with_quite_a_long_name_number_{n}", "type": "text"} for n in range(64)]
    actions = [f"crm.resource_with_a_long_name.action_{n}" for n in range(200)]
    rules = [
        {
            "methods": ["GET", "POST", "PATCH"],
            "path": f"/a-long-path/{{id}}/{n}",
            "permission": actions[n],
        }
        for n in range(100)
    ]
    full = {
        "/spec/tenants/names": [f"tenant-with-a-long-name-{n}" for n in range(1000)],
        "/spec/permissions": actions,
        "/spec/dataApi/models": [{"name": f"model_with_a_long_name_{n}", "fields": fields} for n in range(20)],
        "/spec/route/rules": rules,
    }
    body = renamed(with_case(TABLES["kernelmodules"]["base"], {"set": full}))
    stored = server.create(body)
    try:
        answer = server.dry_replace(stored, with_case(body, {"set": {"/spec/version": "1.5.0"}}))
        assert not isinstance(answer, Refused), answer.causes
        last = with_case(body, {"remove": ["/spec/dataApi/models/19/fields/63"]})
        removed = server.dry_replace(stored, last)
        assert isinstance(removed, Refused), "accepted"
        assert removed.says("spec.dataApi.models[19].fields", "can't be removed"), removed.causes
    finally:
        server.delete(stored)


def apply(crds: KubernetesServer, body: Any) -> "subprocess.CompletedProcess[str]":
    return crds.kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(body), check=False)


@pytest.mark.parametrize(
    ("kind", "pointer", "named"),
    [
        ("tenants", "/spec/dispalyName", "spec.dispalyName"),
        ("tenants", "/spec/rateLimit/rps", "spec.rateLimit.rps"),
        ("kernelmodules", "/spec/route/rules/0/permision", "spec.route.rules[0].permision"),
    ],
)
def test_kubectl_names_an_unknown_field(crds: KubernetesServer, kind: str, pointer: str, named: str) -> None:
    done = apply(crds, with_case(TABLES[kind]["base"], {"set": {pointer: "x"}}))
    assert done.returncode != 0
    assert f'unknown field "{named}"' in done.stderr


def test_kubectl_shows_the_message_of_a_rule(crds: KubernetesServer) -> None:
    done = apply(crds, with_case(TABLES["tenants"]["base"], TABLES["tenants"]["bad"]["its own parent"]))
    assert done.returncode == 1
    assert 'The Tenant "acme" is invalid' in done.stderr
    assert "a Tenant can't be its own parent" in done.stderr


def test_examples_are_accepted(crds: KubernetesServer) -> None:
    examples = CRDS.parent / "examples"
    for file in ("tenants.yaml", "crm.yaml"):
        for body in yaml.safe_load_all((examples / file).read_text()):
            if body["kind"] == "Namespace":
                continue
            KINDS[f"{body['kind'].lower()}s"].parse(body)
            body["metadata"].pop("namespace", None)
            assert apply(crds, body).returncode == 0, body["metadata"]["name"]
