"""What is rendered from the route table, by meaning, and that Envoy takes it."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from envoy_edge import crm

from kernel_gateway.envoy import published
from kernel_gateway.envoy.bootstrap import bootstrap, lay_out
from kernel_gateway.envoy.clusters import module_clusters
from kernel_gateway.envoy.routes import AUTHORIZATION, pattern, route_configuration
from kernel_gateway.envoy.settings import EnvoySettings, load
from kernel_gateway.envoy.table import EntryError, ModuleRoutes, PathRule, parse, read
from kernel_gateway.settings import Settings, SettingsError
from kernel_local import edge_certificate
from kernel_local.parts.envoy import binary
from kernel_operator.desired import ModuleState, Route, RouteRule
from kernel_operator.targets.valkey.entries import route_text


def entry(**changes: Any) -> str:
    known = {
        "prefix": "/api/v1/crm",
        "namespace": "crm",
        "service": "crm",
        "port": 8080,
        "rules": [{"methods": ["GET"], "path": "/contacts/{id}", "permission": "crm.contacts.read"}],
        "maxBodyBytes": None,
        "healthPath": "/live",
        "version": "1.4.0",
    }
    return json.dumps(known | changes)


def rule(**changes: Any) -> list[dict[str, Any]]:
    return [{"methods": ["GET"], "path": "/", "permission": None} | changes]


def test_what_the_operator_writes_is_what_is_read() -> None:
    rules = (RouteRule(("GET", "POST"), "/contacts/{id}", "crm.contacts.read"), RouteRule(("GET",), "/", None))
    module = ModuleState(
        slug="crm",
        module_name="@acme/crm",
        namespace="sales",
        name="crm",
        uid="uid",
        version="1.0.0",
        route=Route("/api/v1/crm", "crm-web", 8080, rules, 5000),
    )
    assert parse("crm", route_text(module) or "") == ModuleRoutes(
        "crm",
        "/api/v1/crm",
        "crm-web.sales.svc",
        8080,
        (PathRule(("GET", "POST"), "/contacts/{id}", "crm.contacts.read"), PathRule(("GET",), "/", None)),
        5000,
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prefix": "/api/v1/crm/"}, "prefix"),
        ({"prefix": "/api/v1/crm\n"}, "prefix"),
        ({"prefix": "/"}, "prefix"),
        ({"prefix": "/api/v1/auth"}, "the kernel's own"),
        ({"prefix": "/api/v1/auth/login"}, "the kernel's own"),
        ({"prefix": "/api/v1/ws"}, "the kernel's own"),
        ({"prefix": "/api/v1/../live"}, "prefix"),
        ({"namespace": "crm.evil"}, "namespace"),
        ({"service": "localhost:1"}, "service"),
        ({"port": "8080"}, "port"),
        ({"port": 0}, "port"),
        ({"rules": []}, "rules"),
        ({"rules": rule(methods=["PUT"])}, "rules.0.methods"),
        ({"rules": rule(path="/a/../b")}, "rules.0.path"),
        ({"rules": rule(path="/{id")}, "rules.0.path"),
        ({"rules": rule(path="/.*")}, "rules.0.path"),
        ({"rules": rule(permission="public or so")}, "rules.0.permission"),
        ({"rules": rule(permission="")}, "rules.0.permission"),
        ({"rules": [{"methods": ["GET"], "path": "/"}]}, "rules.0.permission"),
        ({"maxBodyBytes": -1}, "maxBodyBytes"),
    ],
)
def test_an_entry_that_is_not_understood_is_refused_with_its_field(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(EntryError, match=re.escape(said)):
        parse("crm", entry(**changes))


@pytest.mark.parametrize("text", ["", "null", "[]", '"x"', "{", '{"prefix":"/api/v1/crm"}'])
def test_what_is_no_entry_is_refused(text: str) -> None:
    with pytest.raises(EntryError):
        parse("crm", text)


@pytest.mark.parametrize("slug", ["", "Crm", "crm/x", "crm x", "c" * 64])
def test_a_slug_names_a_cluster_and_must_look_like_one(slug: str) -> None:
    with pytest.raises(EntryError, match="slug"):
        parse(slug, entry())


def test_overrides_are_for_development() -> None:
    assert (parse("crm", entry(), "127.0.0.1:9000").host, parse("crm", entry(), "[::1]:9000").port) == (
        "127.0.0.1",
        9000,
    )
    for wrong in ("", "localhost", "localhost:", ":80", "localhost:0", "localhost:99999", "localhost:٣"):
        with pytest.raises(EntryError, match="GATEWAY_UPSTREAM_OVERRIDES"):
            parse("crm", entry(), wrong)


def test_of_two_modules_with_one_prefix_the_holder_keeps_it() -> None:
    both = {"a": entry(), "b": entry()}
    first = read(both, {}, {})
    assert set(first.modules) == {"a"} and "routed to a" in first.refused["b"]
    held = read(both, {"b": entry()}, {})
    assert set(held.modules) == {"b"} and set(held.refused) == {"a"}
    assert read({"b": entry()}, {"a": entry()}, {}).refused == {}


def test_a_module_without_a_good_entry_keeps_the_last_one() -> None:
    reading = read({"crm": "nonsense"}, {"crm": entry(port=1), "gone": entry()}, {})
    assert (
        reading.modules["crm"].port == 1 and reading.texts == {"crm": entry(port=1)} and set(reading.refused) == {"crm"}
    )


def routes_of(document: dict[str, Any], prefix: str) -> list[dict[str, Any]]:
    [host] = document["virtual_hosts"]
    tree = host["matcher"]["matcher_tree"]["prefix_match_map"]["map"]
    return list(tree[prefix]["action"]["typed_config"]["routes"])


def test_literal_segments_come_before_templates() -> None:
    paths = ["/{a}/b", "/a/{b}", "/a/b", "/{a}/{b}", "/"]
    module = crm(1, rules=tuple(PathRule(("GET",), path, "crm.x") for path in paths))
    routes = routes_of(route_configuration([module]), "/api/v1/crm")
    names = [route["name"].split()[-1] for route in routes if "name" in route]
    assert names.index("/a/b") < names.index("/a/{b}") < names.index("/{a}/b") < names.index("/{a}/{b}")


def test_only_routes_without_a_rule_go_undecided() -> None:
    document = route_configuration([crm(1), crm(2, slug="notify", prefix="/api/v1/ws")], ["https://app.example"])
    [host] = document["virtual_hosts"]
    tree = host["matcher"]["matcher_tree"]["prefix_match_map"]["map"]
    decided = 0
    for found in tree.values():
        for route in found["action"]["typed_config"]["routes"]:
            rule = route.get("metadata", {}).get("filter_metadata", {}).get("kernel", {}).get("rule")
            off = AUTHORIZATION in route.get("typed_per_filter_config", {})
            assert (rule is None) == off, route
            decided += rule is not None
    assert decided == 2 * len(crm(1).rules)


def test_a_pattern_matches_whole_segments_only() -> None:
    made = re.compile(pattern("/api/v1/crm", "/contacts/{id}/x.y"))
    assert made.fullmatch("/api/v1/crm/contacts/a b%20;c/x.y")
    for wrong in ("/api/v1/crm/contacts//x.y", "/api/v1/crm/contacts/a/b/x.y", "/api/v1/crm/contacts/a/xzy"):
        assert not made.fullmatch(wrong)


def test_clusters_find_services_by_name() -> None:
    [cluster] = module_clusters([parse("crm", entry())])
    assert cluster["name"] == "module_crm" and cluster["cluster_type"]["name"] == "envoy.cluster.dns"
    [address] = re.findall(r'"socket_address": ({.*?})', json.dumps(cluster))
    assert json.loads(address) == {"address": "crm.crm.svc", "port_value": 8080}


def test_the_version_of_a_document_is_its_content() -> None:
    one = published.documents({"crm": crm(1)}, ())
    assert one == published.documents({"crm": crm(1)}, ())
    other = published.documents({"crm": crm(2)}, ())
    assert one[published.CLUSTERS]["version_info"] != other[published.CLUSTERS]["version_info"]
    assert one[published.ROUTES]["version_info"] == other[published.ROUTES]["version_info"]


def settings(folder: Path, **changes: Any) -> EnvoySettings:
    edge_certificate.make(folder / "tls")
    values: dict[str, Any] = {
        "gateway_tls_certificate": folder / "tls" / "tls.crt",
        "gateway_tls_key": folder / "tls" / "tls.key",
        "gateway_envoy_directory": folder / "envoy",
    }
    return EnvoySettings(**(values | changes))


async def test_envoy_finds_all_of_it_valid(tmp_path: Path) -> None:
    """With many modules of many rules, names as long as they may be, and every setting used."""
    rules = tuple(
        PathRule(("GET", "POST", "DELETE"), f"/{kind * 60}/{{id}}/{'s' * 120}-{number}", "m.*" if number % 2 else None)
        for kind in "ab"
        for number in range(50)
    )
    modules = {f"m{n}": crm(80, slug=f"m{n}", prefix=f"/api/v1/m{n}-{'p' * 110}", rules=rules) for n in range(6)}
    modules["notify"] = parse("notify", entry(prefix="/api/v1/ws", rules=rule()))
    mine = settings(tmp_path, gateway_access_log="stdout", gateway_trusted_hops=2)
    path = lay_out(mine)
    # Validation reads no discovery documents, so they stand in the bootstrap here.
    document = bootstrap(mine)
    del document["dynamic_resources"]
    [listener] = document["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    manager["route_config"] = route_configuration(modules.values(), ["https://app.example"])
    document["static_resources"]["clusters"] += module_clusters(modules.values())
    path.write_text(json.dumps(document))
    process = await asyncio.create_subprocess_exec(
        *(binary(), "--mode", "validate", "-c", path, "--log-level", "warning"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, output.decode()
    assert "deprecated" not in output.decode().lower()


def test_laying_out_again_keeps_the_routes_and_renews_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "envoy"
    lay_out(settings(tmp_path))
    published.write(folder / published.ROUTES, {"mine": True})
    lay_out(settings(tmp_path, gateway_https_port=9443))
    assert json.loads((folder / published.ROUTES).read_text()) == {"mine": True}
    assert "9443" in (folder / "envoy.json").read_text()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_what_both_settings_name_is_the_same() -> None:
    shared = EnvoySettings.model_fields.keys() & Settings.model_fields.keys()
    assert {"gateway_port", "gateway_decision_port", "cb_failures", "gateway_envoy_directory"} <= shared
    for name in shared:
        assert EnvoySettings.model_fields[name].default == Settings.model_fields[name].default, name


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_HTTPS_PORT", "s3cret")
    with pytest.raises(SettingsError, match="GATEWAY_HTTPS_PORT") as refused:
        load()
    assert "s3cret" not in str(refused.value)
