"""The CRDs and the operator's models are one contract.

First their schemas are walked side by side: fields, defaults, enums, bounds. What schemas can't show
(rules in CEL against validators in Python) is compared by objects that hypothesis makes: what the API
server accepts the models accept, what it refuses they refuse.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from kernel_operator.resources import InvalidResource, KernelModule, ModuleSpec, Tenant, TenantSpec
from kernel_operator.resources.reserved import KERNEL_PREFIXES, KERNEL_SLUGS, RESERVED_COLUMNS, RESERVED_SLUGS

from .conftest import CRDS, Refused, Server, load_cases, with_case

BOUNDS = {
    "minLength": "minLength",
    "maxLength": "maxLength",
    "minItems": "minItems",
    "maxItems": "maxItems",
    "maxProperties": "maxProperties",
    "minimum": "minimum",
    "maximum": "maximum",
}


def crd_spec(name: str) -> dict[str, Any]:
    crd = yaml.safe_load((CRDS / f"{name}.yaml").read_text())
    schema: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema


def contract_of_crd(schema: Mapping[str, Any], path: str = "spec") -> Iterator[tuple[str, Any]]:
    """Every fact of a CRD's schema that a model can state too, as (path, fact)."""
    yield f"{path} type", schema["type"]
    for bound in BOUNDS:
        if bound in schema:
            yield f"{path} {bound}", schema[bound]
    if "enum" in schema:
        yield f"{path} enum", sorted(schema["enum"])
    for name, part in schema.get("properties", {}).items():
        yield f"{path}.{name} required", name in schema.get("required", ())
        if "default" in part and part["type"] != "object":
            yield f"{path}.{name} default", part["default"]
        yield from contract_of_crd(part, f"{path}.{name}")
    if "items" in schema:
        yield from contract_of_crd(schema["items"], f"{path}[]")


def contract_of_model(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """The same facts of a model."""
    schema = model.model_json_schema(by_alias=True)

    def resolved(part: Mapping[str, Any]) -> dict[str, Any]:
        if "anyOf" in part:
            (part,) = [option for option in part["anyOf"] if option.get("type") != "null"]
        if "$ref" in part:
            part = {**schema["$defs"][part["$ref"].removeprefix("#/$defs/")]}
        return dict(part)

    def walk(part: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
        part = resolved(part)
        yield f"{path} type", part["type"]
        for bound in BOUNDS:
            if bound in part:
                yield f"{path} {bound}", part[bound]
        if "enum" in part:
            yield f"{path} enum", sorted(part["enum"])
        for name, child in part.get("properties", {}).items():
            yield f"{path}.{name} required", name in part.get("required", ())
            # An optional list is empty in the model and absent on the server; that is one meaning. So is false inside
            # a list, where the server must have no default.
            absent = (None, [], False) if "[]" in path else (None, [])
            if child.get("default") not in absent and resolved(child)["type"] != "object":
                yield f"{path}.{name} default", child["default"]
            yield from walk(child, f"{path}.{name}")
        if "items" in part:
            yield from walk(part["items"], f"{path}[]")

    yield from walk(schema, "spec")


@pytest.mark.parametrize(("crd", "model"), [("tenants", TenantSpec), ("kernelmodules", ModuleSpec)])
def test_schemas_agree(crd: str, model: type[BaseModel]) -> None:
    server, ours = dict(contract_of_crd(crd_spec(crd))), dict(contract_of_model(model))
    assert len(server) > 40, "the walk has found too little to mean anything"
    assert server == ours


def test_nothing_inside_a_list_has_a_default() -> None:
    """kubectl apply and Argo CD compare lists as a whole: a default in one is a difference that never goes away."""
    for crd in ("tenants", "kernelmodules"):
        facts = dict(contract_of_crd(crd_spec(crd)))
        assert [path for path in facts if "[]" in path and path.endswith(" default")] == []


def test_an_object_that_is_left_out_has_its_parts_defaults() -> None:
    for crd in ("tenants", "kernelmodules"):
        for name, part in crd_spec(crd)["properties"].items():
            if part["type"] == "object" and "default" in part:
                inner = {key: value["default"] for key, value in part["properties"].items() if "default" in value}
                assert part["default"] == inner, name


def test_reserved_names_agree() -> None:
    text = (CRDS / "kernelmodules.yaml").read_text()
    lists = [set(re.findall(r"'([a-z_]+)'", found)) for found in re.findall(r" in \[([^\]]*)\]", text)]
    assert set(RESERVED_SLUGS) in lists
    assert set(KERNEL_SLUGS) in lists
    assert set(RESERVED_COLUMNS) in lists
    (prefixes,) = re.findall(r"/api/v1/\(([a-z|]+)\)", text)
    assert set(prefixes.split("|")) == set(KERNEL_PREFIXES)
    guide = (CRDS.parent / "docs" / "resources.md").read_text()
    for names in (RESERVED_SLUGS, KERNEL_SLUGS, KERNEL_PREFIXES):
        assert f"`{' '.join(sorted(names))}`" in guide


# Values near the edges of the rules. An example is a good object with one place changed, so that one rule decides.
NAMES = st.sampled_from(["acme", "a-b", "3m", "-a", "a-", "Acme", "a.b", "x" * 40, "x" * 41, "x" * 64, "é", "", "a\n"])
SNAKE = st.sampled_from(["email", "closed_at", "a1", "a__b", "_a", "a_", "1a", "xmin", "id", "É", "a" * 41, "a\n"])
DOTTED = st.sampled_from(["crm.a.b", "crm.a_b.c1", "crm2.a.b", "crm.a", "crm.a.b.c", "crm.A.b", "crm.a-b.c", "a.b.c\n"])
LABELS = st.sampled_from(["plan", "x.com/plan", "a_b.c", "-a", "a/", "A/b", "", "x" * 63, "x" * 64, "a b", "é", "a\n"])
PATHS = st.sampled_from(
    ["/", "/a", "/a/{id}", "/a.b/~c", "/.a", "a", "/a/", "//a", "/{A}", "/{a}b", "/a\n", "/a?b", ""]
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=102)
BOOLEANS = st.sampled_from([True, False])


def numbers(low: int, high: int) -> st.SearchStrategy[Any]:
    return st.one_of(st.sampled_from([low - 1, low, high, high + 1, "1", True, 0.5]), st.integers(low, high))


def two(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, max_size=2)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object with any of ``fields``."""
    return st.fixed_dictionaries({}, optional=fields)


REQUIREMENTS = st.fixed_dictionaries(
    {"key": LABELS, "operator": st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"])},
    optional={"values": two(LABELS)},
)
RULES = st.fixed_dictionaries(
    {"methods": two(st.sampled_from(["GET", "PATCH"])), "path": st.sampled_from(["/", "/a"])},
    optional={"permission": st.sampled_from(["crm.contacts.read", "crm.*", "crm.c.d", "*"]), "public": BOOLEANS},
)
MODULE_NAMES = [
    "@acme/crm",
    "@kernel/crm",
    "@acme/crm-x",
    "@acme/crm.",
    "@acme/tenants",
    "@x/money",
    "@/crm",
    "crm",
    "@a-/crm",
]
PREFIXES = ["/api/v1/crm", "/api/v1/crm/a_b", "/api/v1/data", "/api/v1/database", "/api/v1/", "/crm", "/api/v1/crm\n"]
RANGES = [">=0.1 <1", "=1", "1", ">=0.1  <1", "=>1", ">=01", "<1.2.3.4", ">1\n", " >1", ">1 "]
FIELDS = "/spec/dataApi/models/0/fields"

CHANGES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "tenants": {
        "/metadata/name": NAMES.filter(bool),
        "/spec/displayName": TEXTS,
        "/spec/tier": st.sampled_from(["owner", "partner", "client", "boss"]),
        "/spec/parent": NAMES,
        "/spec/owner/email": st.one_of(
            st.sampled_from(["a@b.c-d.e", "a@-b.c", "a@b", "a b@c.de", "a@b.c\n", "é@b.cd", "a@b..c", "a@b.c" * 60]),
            st.emails(),
        ),
        "/spec/rateLimit/requestsPerMinute": numbers(1, 10_000_000),
        "/spec/rateLimit/adminRequestsPerMinute": numbers(1, 10_000_000),
        "/spec/rateLimit/burst": numbers(0, 1_000_000),
        "/spec/notifications/maxConnections": numbers(1, 1_000_000),
        "/spec/notifications/messagesPerSecond": numbers(1, 1_000_000),
        "/spec/money/maxOpenHoldsPerWallet": numbers(1, 10_000),
        "/spec/money/maxAmount": numbers(1, 10**15),
        "/spec/suspended": st.sampled_from([True, False, "true", 1]),
        "/spec/deletionPolicy": st.sampled_from(["Retain", "Delete", "retain"]),
    },
    "kernelmodules": {
        "/metadata/name": NAMES.filter(bool),
        "/spec/moduleName": st.sampled_from(MODULE_NAMES),
        "/spec/version": st.sampled_from(["1.4.0", "0.0.0", "1.4", "01.0.0", "1.0.0\n", "1.0.0-a", "1234567890.0.0"]),
        "/spec/kernelVersion": st.sampled_from(RANGES),
        "/spec/enabled": st.sampled_from([True, False, "true"]),
        "/spec/tenants": some(names=two(NAMES), all=BOOLEANS),
        "/spec/tenants/names": two(NAMES),
        "/spec/tenants=selector": some(matchLabels=st.dictionaries(LABELS, LABELS, max_size=2)),
        "/spec/tenants=expressions": some(matchExpressions=two(REQUIREMENTS)),
        "/spec/permissions/1": DOTTED,
        "/spec/events/publishes": two(DOTTED),
        "/spec/events/subscribes": two(DOTTED),
        "/spec/events/partitions": numbers(1, 64),
        "/spec/events/retentionHours": numbers(1, 8760),
        "/spec/dataApi/models/0/name": SNAKE,
        f"{FIELDS}/0/name": SNAKE,
        f"{FIELDS}/1/name": SNAKE,
        f"{FIELDS}/0/type": st.sampled_from(["text", "bigint", "json", "uuid", "varchar"]),
        f"{FIELDS}/0/required": st.sampled_from([True, False, "true"]),
        "/spec/dataApi/models/0/analytics": some(enabled=BOOLEANS, retentionDays=numbers(1, 3650)),
        "/spec/migrations": some(
            inline=st.sampled_from(["", "SELECT 1"]), configMapRef=st.fixed_dictionaries({"name": NAMES})
        ),
        "/spec/route/prefix": st.sampled_from(PREFIXES),
        "/spec/route/service/name": NAMES,
        "/spec/route/service/port": numbers(1, 65535),
        "/spec/route/rules": two(RULES),
        "/spec/route/rules/0/methods": two(st.sampled_from(["GET", "POST", "PUT", "get"])),
        "/spec/route/rules/0/path": PATHS,
        "/spec/route/rules/0/permission": DOTTED,
        "/spec/route/maxBodyBytes": numbers(1, 10_485_760),
        "/spec/healthCheck/path": PATHS,
        "/spec/notificationChannels": two(NAMES),
    },
}
BASES = {kind: load_cases(kind)["base"] for kind in CHANGES}
KINDS: dict[str, type[Tenant] | type[KernelModule]] = {"tenants": Tenant, "kernelmodules": KernelModule}
EACH = [pytest.param(kind, pointer, id=f"{kind} {pointer}") for kind, of in CHANGES.items() for pointer in of]


@pytest.mark.parametrize(("kind", "pointer"), EACH)
@given(data=st.data())
@settings(max_examples=25, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_change_is_judged_alike(server: Server, kind: str, pointer: str, data: st.DataObject) -> None:
    value = data.draw(CHANGES[kind][pointer])
    path, _, inside = pointer.partition("=")
    body = with_case(BASES[kind], {"set": {path: {"selector": value} if inside else value}})
    answer = server.dry_create(body)
    try:
        ours = KINDS[kind].parse(body)
    except InvalidResource as refused:
        assert isinstance(answer, Refused), f"the server accepts what the model refuses: {refused}"
        return
    assert not isinstance(answer, Refused), f"the model accepts what the server refuses: {answer.causes}"
    assert KINDS[kind].parse(answer).spec == ours.spec, "the server fills in other defaults"
