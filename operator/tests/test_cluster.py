"""The view of the cluster: what a change affects, and that no order of events can make it wrong."""

import random

import pytest
from objects import changed, edited, module, tenant

from kernel_operator.cluster import Cluster
from kernel_operator.kube import FINALIZER, MODULES, TENANTS
from kernel_operator.queue import Key

NOW = 10**9
"""A resource version later than all."""


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
    assert gone == [key("leaf"), Key(MODULES, "mods", "crm")], "itself too, for what is kept about it"
    assert cluster.tenant("leaf") is None
    assert list(cluster.children("mid")) == []


@pytest.mark.parametrize("how", ["deleted", "let go"])
def test_a_child_that_goes_brings_its_parent_whose_deletion_waits_for_it(cluster: Cluster, how: str) -> None:
    parent, child = (dict(cluster.body(key(name)) or {}) for name in ("mid", "leaf"))
    cluster.observe(TENANTS, edited(parent, deletionTimestamp="2026-01-02T00:00:00Z"))
    held = edited(child, deletionTimestamp="2026-01-02T00:00:00Z", finalizers=[FINALIZER, "others/finalizer"])
    cluster.observe(TENANTS, held)
    if how == "deleted":
        assert key("mid") in cluster.observe(TENANTS, held, deleted=True)
    else:
        assert key("mid") in cluster.observe(TENANTS, edited(held, finalizers=["others/finalizer"]))


def test_an_edit_that_our_own_write_has_shown_first_is_not_lost(cluster: Cluster) -> None:
    """The API server takes an edit, then our status: its answer holds both and is here before the watch."""
    old = dict(cluster.body(key("leaf")) or {})
    new = changed(old, suspended=True)
    answer = {**edited(new), "status": {"phase": "Ready"}}
    cluster.wrote(TENANTS, answer)
    found = cluster.tenant("leaf")
    assert found is not None
    assert found.spec.suspended, "a plan and the generation that its status names belong together"
    assert cluster.observe(TENANTS, new) == [], "older than what is known"
    assert cluster.observe(TENANTS, answer) == [key("leaf"), Key(MODULES, "mods", "crm")]


def test_our_own_finalizer_brings_nothing_and_the_loss_of_it_does(cluster: Cluster) -> None:
    old = dict(cluster.body(key("leaf")) or {})
    held = edited(old, finalizers=[FINALIZER])
    cluster.wrote(TENANTS, held)
    assert cluster.observe(TENANTS, held) == []
    assert cluster.observe(TENANTS, edited(held, finalizers=[])) == [key("leaf")]


def test_an_answer_about_a_former_object_is_not_taken(cluster: Cluster) -> None:
    old = dict(cluster.body(key("leaf")) or {})
    successor = tenant("leaf", "client", "mid", uid="another")
    cluster.observe(TENANTS, successor)
    cluster.wrote(TENANTS, edited(old))
    assert (cluster.body(key("leaf")) or {})["metadata"]["uid"] == "another"


def test_a_successor_is_not_bound_because_the_former_was(cluster: Cluster) -> None:
    old = dict(cluster.body(key("leaf")) or {})
    cluster.observe(TENANTS, {**edited(old, finalizers=[FINALIZER]), "status": {"tenantId": "x"}})
    assert "leaf" in cluster.bound
    cluster.observe(TENANTS, tenant("leaf", "client", "mid"))
    assert "leaf" not in cluster.bound


def test_tenants_that_name_each_other_as_parents_harm_nobody() -> None:
    view = Cluster()
    view.observe(TENANTS, tenant("a", "partner", "b"))
    assert set(view.observe(TENANTS, tenant("b", "partner", "a"))) == {key("a"), key("b")}
    assert view.family("a") == [key("b")]
    assert view.reconcile_list(TENANTS, [], 10**9), "both are gone"


def test_a_list_finds_what_the_watch_missed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("kernel_operator.cluster.time.monotonic", lambda: now)
    listed = [dict(cluster.body(key(name)) or {})["metadata"] for name in ("root", "mid")]
    assert cluster.reconcile_list(TENANTS, listed, NOW), "modules and descendants have to know"
    assert cluster.tenant("leaf") is None, "gone from the list, gone from the view"
    assert cluster.watch_lag() == 0
    newer = tenant("root", "owner")
    ahead = {**listed[0], "resourceVersion": newer["metadata"]["resourceVersion"]}
    cluster.reconcile_list(TENANTS, [ahead, listed[1]], NOW)
    now = 50.0
    assert cluster.watch_lag() == 50, "the watch owes the version that the list has shown"
    cluster.observe(TENANTS, {**newer, "metadata": {**newer["metadata"], "uid": listed[0]["uid"]}})
    assert cluster.watch_lag() == 0


def test_what_was_made_after_the_list_is_not_taken_for_gone(cluster: Cluster) -> None:
    listed = [dict(cluster.body(key(name)) or {})["metadata"] for name in ("root", "mid", "leaf")]
    version = max(int(metadata["resourceVersion"]) for metadata in listed)
    cluster.observe(TENANTS, tenant("new", "owner"))
    assert cluster.reconcile_list(TENANTS, listed, version) == []
    assert cluster.tenant("new") is not None


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "never seen alive"])
def test_the_watch_owes_nothing_of_what_it_has_told_to_be_gone(cluster: Cluster, seen: bool) -> None:
    body = tenant("short", "owner")
    listed = [dict(cluster.body(key(name)) or {})["metadata"] for name in ("root", "mid", "leaf")]
    if seen:
        cluster.observe(TENANTS, body)
    gone = edited(body)
    cluster.observe(TENANTS, gone, deleted=True)
    cluster.reconcile_list(TENANTS, [*listed, body["metadata"]], int(body["metadata"]["resourceVersion"]))
    assert not cluster.behind, "the list is older than the deletion"


def test_the_watch_owes_nothing_of_what_a_newer_list_lacks(cluster: Cluster) -> None:
    cluster.reconcile_list(TENANTS, [tenant("short", "owner")["metadata"]], 1)
    assert cluster.behind
    cluster.reconcile_list(TENANTS, [], 1)
    assert not cluster.behind


def test_a_lag_is_measured_from_the_first_version_that_is_owed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("kernel_operator.cluster.time.monotonic", lambda: now)
    body = dict(cluster.body(key("root")) or {})
    second, third = edited(body), edited(body)
    for at, listed in ((10.0, second), (20.0, third), (30.0, third)):
        now = at
        cluster.reconcile_list(TENANTS, [listed["metadata"]], 1)
    assert cluster.watch_lag() == 20
    cluster.observe(TENANTS, second)
    now = 40.0
    cluster.reconcile_list(TENANTS, [third["metadata"]], 1)
    now = 45.0
    assert cluster.watch_lag() == 5, "the former debt is paid, the new one is known since the last list"


def test_an_object_that_breaks_a_rule_is_named_and_harms_nobody(cluster: Cluster) -> None:
    cluster.observe(TENANTS, tenant("bad", "client"))
    error = cluster.invalid(key("bad"))
    assert error is not None
    assert error.field == "spec.parent"
    assert cluster.tenant("bad") is None
    assert len(list(cluster.tenants())) == 3


def test_what_a_list_has_shown_to_be_gone_does_not_come_back_by_an_event_that_is_late(cluster: Cluster) -> None:
    alive = edited(dict(cluster.body(key("leaf")) or {}), finalizers=[FINALIZER])
    deleting = edited(alive, deletionTimestamp="2026-01-01T00:00:00Z")
    cluster.wrote(TENANTS, deleting)
    after = int(edited(deleting)["metadata"]["resourceVersion"])
    others = [dict(cluster.body(key(name)) or {})["metadata"] for name in ("root", "mid")]
    assert key("leaf") in cluster.reconcile_list(TENANTS, others, after)
    assert cluster.observe(TENANTS, alive) == []
    assert cluster.body(key("leaf")) is None
    cluster.observe(TENANTS, edited(deleting), deleted=True)
    anew = tenant("leaf", "client", "mid")
    assert key("leaf") in cluster.observe(TENANTS, anew)
    assert cluster.body(key("leaf")) == anew
