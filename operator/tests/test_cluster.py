"""The view of the cluster: what a change affects, and that no order of events can make it wrong."""

import random

import pytest
from objects import changed, module, tenant

from kernel_operator.cluster import Cluster
from kernel_operator.kube import MODULES, TENANTS
from kernel_operator.queue import Key


def key(name: str) -> Key:
    return Key(TENANTS, "", name)


@pytest.fixture
def cluster() -> Cluster:
    view = Cluster()
    for body in (tenant("root", "owner"), tenant("mid", "partner", "root"), tenant("leaf", "client", "mid")):
        view.observe(TENANTS, body)
    view.observe(MODULES, module("crm"))
    return view


def test_a_change_brings_the_descendants_and_the_modules(cluster: Cluster) -> None:
    edited = changed(dict(cluster.body(key("root")) or {}), suspended=True)
    assert set(cluster.observe(TENANTS, edited)) == {
        key("root"),
        key("mid"),
        key("leaf"),
        Key(MODULES, "mods", "crm"),
    }


def test_our_own_status_brings_nothing(cluster: Cluster) -> None:
    body = dict(cluster.body(key("leaf")) or {})
    told = {**body, "metadata": {**body["metadata"], "resourceVersion": "999999"}, "status": {"phase": "Ready"}}
    assert cluster.observe(TENANTS, told) == []
    assert (cluster.body(key("leaf")) or {})["status"] == {"phase": "Ready"}


def test_an_event_that_comes_late_or_twice_changes_nothing(cluster: Cluster) -> None:
    old = dict(cluster.body(key("leaf")) or {})
    new = changed(old, suspended=True)
    assert cluster.observe(TENANTS, new)
    assert cluster.observe(TENANTS, new) == []
    assert cluster.observe(TENANTS, old) == []
    found = cluster.tenant("leaf")
    assert found is not None
    assert found.spec.suspended


def test_any_order_of_the_same_events_ends_in_the_same_view() -> None:
    first = tenant("a", "owner")
    events = [first]
    for n in range(8):
        events.append(changed(events[-1], displayName=f"v{n}"))
    for seed in range(20):
        view = Cluster()
        order = random.Random(seed).sample(events + events, 2 * len(events))
        for body in order:
            view.observe(TENANTS, body)
        found = view.tenant("a")
        assert found is not None
        assert found.spec.display_name == "v7"


def test_a_deletion_of_a_former_object_does_not_take_its_successor(cluster: Cluster) -> None:
    old = dict(cluster.body(key("leaf")) or {})
    successor = tenant("leaf", "client", "mid")
    cluster.observe(TENANTS, successor)
    assert cluster.observe(TENANTS, old, deleted=True) == []
    assert cluster.tenant("leaf") is not None
    gone = cluster.observe(TENANTS, successor, deleted=True)
    assert gone == [Key(MODULES, "mods", "crm"), key("mid")], "its parent's deletion may wait for it"
    assert cluster.tenant("leaf") is None
    assert list(cluster.children("mid")) == []


def test_a_list_finds_what_the_watch_missed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("kernel_operator.cluster.time.monotonic", lambda: now)
    listed = [dict(cluster.body(key(name)) or {})["metadata"] for name in ("root", "mid")]
    assert cluster.reconcile_list(TENANTS, listed), "modules and descendants have to know"
    assert cluster.tenant("leaf") is None, "gone from the list, gone from the view"
    assert cluster.watch_lag() == 0
    newer = tenant("root", "owner")
    ahead = {**listed[0], "resourceVersion": newer["metadata"]["resourceVersion"]}
    cluster.reconcile_list(TENANTS, [ahead, listed[1]])
    now = 50.0
    assert cluster.watch_lag() == 50, "the watch owes the version that the list has shown"
    cluster.observe(TENANTS, {**newer, "metadata": {**newer["metadata"], "uid": listed[0]["uid"]}})
    assert cluster.watch_lag() == 0


def test_an_object_that_breaks_a_rule_is_named_and_harms_nobody(cluster: Cluster) -> None:
    cluster.observe(TENANTS, tenant("bad", "client"))
    error = cluster.invalid(key("bad"))
    assert error is not None
    assert error.field == "spec.parent"
    assert cluster.tenant("bad") is None
    assert len(list(cluster.tenants())) == 3
