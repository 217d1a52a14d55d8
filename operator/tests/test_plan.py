"""Plans: what takes a look at other objects or at the operator's configuration."""

import base64
from typing import Any
from uuid import UUID

import pytest
from objects import changed, module, tenant

from kernel_common.ids import tenant_id
from kernel_operator.cluster import Cluster
from kernel_operator.desired import ModuleState, Refusal, TenantState
from kernel_operator.kube import MODULES, TENANTS
from kernel_operator.plan import missing_tenants, plan_module, plan_tenant
from kernel_operator.queue import Key
from kernel_operator.settings import Settings


@pytest.fixture
def settings() -> Settings:
    return Settings.model_validate(
        {
            "database_url": "postgres://o:p@h/platform",
            "clickhouse_url": "http://h",
            "valkey_url": "redis://h",
            "kafka_brokers": "h:9092",
            "kernel_master_key": base64.b64encode(b"k" * 32),
            "operator_selector_namespaces": "trusted",
        }
    )


@pytest.fixture
def cluster() -> Cluster:
    view = Cluster()
    for body in (tenant("root", "owner"), tenant("mid", "partner", "root"), tenant("leaf", "client", "mid")):
        view.observe(TENANTS, body)
    view.bound.update(["root", "mid", "leaf"])
    return view


def plan_of(cluster: Cluster, name: str) -> TenantState | Refusal:
    found = cluster.tenant(name)
    assert found is not None
    return plan_tenant(cluster, found)


def install(cluster: Cluster, settings: Settings, body: dict[str, Any]) -> ModuleState | Refusal:
    cluster.observe(MODULES, body)
    meta = body["metadata"]
    found = cluster.module(Key(MODULES, meta["namespace"], meta["name"]))
    assert found is not None
    return plan_module(cluster, found, settings)


def test_ancestors_run_from_the_parent_to_the_root(cluster: Cluster) -> None:
    planned = plan_of(cluster, "leaf")
    assert isinstance(planned, TenantState)
    assert planned.ancestors == (tenant_id("mid"), tenant_id("root"))
    assert planned.parent_id == tenant_id("mid")
    assert (planned.suspended, planned.blocked) == (False, False)


@pytest.mark.parametrize("who", ["root", "mid", "leaf"])
def test_a_suspension_blocks_everything_below_it(cluster: Cluster, who: str) -> None:
    body = dict(cluster.body(Key(TENANTS, "", who)) or {})
    cluster.observe(TENANTS, changed(body, suspended=True))
    order = ["root", "mid", "leaf"]
    for name in order:
        planned = plan_of(cluster, name)
        assert isinstance(planned, TenantState)
        assert planned.blocked == (order.index(name) >= order.index(who))
        assert planned.suspended == (name == who)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (tenant("x", "client", "nobody"), "ParentNotFound"),
        (tenant("x", "client", "leaf"), "ParentTierTooLow"),
        (tenant("x", "partner", "mid"), "ParentTierTooLow"),
    ],
)
def test_a_parent_that_can_not_be_is_refused(cluster: Cluster, body: dict[str, Any], reason: str) -> None:
    cluster.observe(TENANTS, body)
    refusal = plan_of(cluster, "x")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason
    assert "spec.parent" in refusal.message


def test_an_adoption_is_an_id_or_nothing(cluster: Cluster) -> None:
    mine = str(tenant_id("x"))
    for text, expected in ((mine, UUID(mine)), ("yes please", None)):
        cluster.observe(TENANTS, tenant("x", "owner", annotations={"platform-kernel.io/adopt": text}))
        planned = plan_of(cluster, "x")
        assert isinstance(planned, TenantState)
        assert planned.adopt == expected


def test_a_module_gets_the_tenants_that_are_there(cluster: Cluster, settings: Settings) -> None:
    cluster.observe(TENANTS, tenant("new", "owner"))
    cluster.observe(TENANTS, tenant("going", "owner", deletionTimestamp="2026-01-02T00:00:00Z"))
    cluster.bound.add("going")
    body = module("crm", tenants={"names": ["leaf", "new", "going", "nobody"]})
    planned = install(cluster, settings, body)
    assert isinstance(planned, ModuleState)
    assert planned.tenants == {tenant_id("leaf")}
    found = cluster.module(Key(MODULES, "mods", "crm"))
    assert found is not None
    assert missing_tenants(cluster, found) == ["going", "new", "nobody"]


def test_who_may_select(cluster: Cluster, settings: Settings) -> None:
    everyone = {"all": True}
    refused = install(cluster, settings, module("one", tenants=everyone))
    assert isinstance(refused, Refusal)
    assert refused.reason == "SelectionNotAllowed"
    for n, namespace in enumerate(("trusted", "platform-kernel")):
        planned = install(cluster, settings, module(f"two{n}", namespace=namespace, tenants=everyone))
        assert isinstance(planned, ModuleState)
        assert len(planned.tenants) == 3


def test_the_scope_of_the_kernel(cluster: Cluster, settings: Settings) -> None:
    refused = install(cluster, settings, module("x", moduleName="@kernel/x"))
    assert isinstance(refused, Refusal)
    assert refused.reason == "ScopeNotAllowed"
    allowed = install(cluster, settings, module("money", namespace="platform-kernel", moduleName="@kernel/money"))
    assert isinstance(allowed, ModuleState)


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [(">=0.1 <1", True), (">=0.1.0", True), ("=0.1", True), ("=0.1.0", True), (">=0.2", False), ("<0.1", False)],
)
def test_the_range_of_kernel_versions(cluster: Cluster, settings: Settings, wanted: str, fits: bool) -> None:
    planned = install(cluster, settings, module("crm", kernelVersion=wanted))
    assert isinstance(planned, ModuleState) == fits
    if isinstance(planned, Refusal):
        assert wanted in planned.message


def route(prefix: str) -> dict[str, Any]:
    rule = {"methods": ["GET"], "path": "/", "public": True}
    return {"prefix": prefix, "service": {"name": "s", "port": 80}, "rules": [rule]}


@pytest.mark.parametrize(
    ("one", "other", "taken"),
    [
        ("/api/v1/crm", "/api/v1/crm", True),
        ("/api/v1/crm", "/api/v1/crm/deep", True),
        ("/api/v1/crm/deep", "/api/v1/crm", True),
        ("/api/v1/crm", "/api/v1/crm2", False),
    ],
)
def test_the_first_holds_a_prefix(cluster: Cluster, settings: Settings, one: str, other: str, taken: bool) -> None:
    first = module("one", route=route(one), creationTimestamp="2026-01-01T00:00:00Z")
    second = module("two", route=route(other), creationTimestamp="2026-01-01T00:00:01Z")
    for bodies in ((first, second), (second, first)):
        assert isinstance(install(cluster, settings, bodies[0]), ModuleState | Refusal)
        cluster.observe(MODULES, bodies[1])
    assert isinstance(install(cluster, settings, first), ModuleState)
    planned = install(cluster, settings, second)
    assert isinstance(planned, Refusal) == taken
    if isinstance(planned, Refusal):
        assert planned.reason == "RouteTaken"


def test_of_two_made_in_the_same_second_exactly_one_holds_the_slug(cluster: Cluster, settings: Settings) -> None:
    bodies = [module("crm", name="a"), module("crm", name="b", moduleName="@rival/crm")]
    for body in bodies:
        cluster.observe(MODULES, body)
    planned = [install(cluster, settings, body) for body in bodies]
    assert sorted(isinstance(p, Refusal) for p in planned) == [False, True]


def test_who_is_refused_keeps_nobody_out(cluster: Cluster, settings: Settings) -> None:
    first = module("crm", name="a", creationTimestamp="2026-01-01T00:00:00Z")
    rival = module(
        "crm", name="b", moduleName="@rival/crm", route=route("/api/v1/x"), creationTimestamp="2026-01-01T00:00:01Z"
    )
    third = module("other", route=route("/api/v1/x"), creationTimestamp="2026-01-01T00:00:02Z")
    for body in (first, rival, third):
        cluster.observe(MODULES, body)
    refused = install(cluster, settings, rival)
    assert isinstance(refused, Refusal)
    assert refused.reason == "SlugTaken"
    assert isinstance(install(cluster, settings, third), ModuleState)
