"""The routes of analytics: one for each model that has them, decided on as that model's."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from envoy_edge import Edge, Upstream, crm, running_edge

from kernel_gateway.access import Rule
from kernel_gateway.envoy.table import DATA, DATA_ADDRESS, EntryError, parse, read
from kernel_operator.desired import Column, ColumnType, Model, ModuleState, Route, RouteRule
from kernel_operator.targets.valkey.entries import route_text

COLUMNS = (Column("title", ColumnType.TEXT),)
MODELS = (Model("deals", COLUMNS, analytics=True), Model("drafts", COLUMNS), Model("visits", COLUMNS, analytics=True))
RULES = (RouteRule(("GET",), "/", None),)


def written(slug: str, *, models: tuple[Model, ...] = MODELS, route: Route | None = None) -> str:
    """What the operator writes of a module."""
    about = {"module_name": f"@acme/{slug}", "namespace": "acme", "name": slug, "uid": slug, "version": "1.0.0"}
    return route_text(ModuleState(slug=slug, models=models, route=route, **about)) or ""


def test_a_module_needs_no_service_for_its_analytics() -> None:
    bare = parse("crm", written("crm"))
    assert (bare.prefix, bare.rules, bare.analytics) == ("", (), ("deals", "visits"))
    served = parse("crm", written("crm", route=Route("/api/v1/crm", "crm", 8080, RULES)))
    assert (served.prefix, served.port, served.analytics) == ("/api/v1/crm", 8080, ("deals", "visits"))
    assert written("crm", models=MODELS[1:2]) == ""


def test_where_the_service_is() -> None:
    tables = {"crm": written("crm"), "shop": written("shop", models=(), route=Route("/api/v1/shop", "s", 1, RULES))}
    data = read(tables, {}, {}).modules[DATA]
    assert (data.host, data.port, data.prefix) == (*DATA_ADDRESS, "/api/v1/analytics")
    assert read(tables, {}, {DATA: "127.0.0.1:9"}).modules[DATA].port == 9
    wrong = read(tables, {}, {DATA: "nowhere"})
    assert DATA not in wrong.modules and DATA in wrong.refused and "crm" in wrong.modules
    assert DATA not in read({"shop": tables["shop"]}, {}, {}).modules


@pytest.mark.parametrize(
    ("slug", "changes"),
    [
        ("crm", {"analytics": ["Deals"]}),
        ("crm", {"analytics": ["a/b"]}),
        ("crm", {"analytics": ["a b"]}),
        ("crm", {"analytics": "deals"}),
        ("data", {}),
        ("crm", {"prefix": "/api/v1/analytics"}),
        ("crm", {"prefix": "/api/v1/analytics/shop"}),
    ],
)
def test_an_entry_that_says_something_else_is_refused(slug: str, changes: dict[str, Any]) -> None:
    entry = json.loads(written("crm", route=Route("/api/v1/crm", "crm", 8080, RULES))) | changes
    with pytest.raises(EntryError):
        parse(slug, json.dumps(entry))


@pytest.fixture
async def analytics(tmp_path: Path) -> AsyncIterator[tuple[Edge, Upstream]]:
    """The CRM with a service, and the shop with analytics alone."""
    service = Upstream()
    await service.start()
    reading = read({"shop": written("shop")}, {}, {DATA: f"127.0.0.1:{service.port}"})
    async with running_edge(tmp_path) as edge:
        await edge.publish(crm(service.port, analytics=("contacts",)), *reading.modules.values())
        yield edge, service
    await service.stop()


async def test_each_model_is_decided_on_as_its_own(analytics: tuple[Edge, Upstream]) -> None:
    edge, service = analytics
    for slug, model in (("crm", "contacts"), ("shop", "deals"), ("shop", "visits")):
        edge.tokens.asked.clear()
        path = f"/api/v1/analytics/{slug}/{model}?select=count&filter[title][eq]=a%2Fb"
        answer = await edge.ask(path, token="ada")
        assert (answer.status, answer.json()["path"]) == (200, path)
        assert [rule for rule, _, _ in edge.tokens.asked] == [Rule(slug, f"{slug}.{model}.read")]
        headers = dict(answer.json()["headers"])
        assert "x-tenant-id" in headers and "authorization" not in headers
        assert (await edge.ask(path, token="eve")).status == 403
    seen = len(service.seen)
    for path in (
        "crm/deals",
        "shop/drafts",
        "shop/deals/x",
        "nobody/deals",
        "shop",
        "openapi.json",
        "shopping/deals",
        "",
    ):
        assert (await edge.ask(f"/api/v1/analytics/{path}", token="ada")).status == 404, path
    post = await edge.ask("/api/v1/analytics/shop/deals", method="POST", token="ada")
    assert (post.status, post.header("allow")) == (405, "GET")
    assert len(service.seen) == seen
