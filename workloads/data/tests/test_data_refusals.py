"""What is wrong is named, with what there is; what can't be had now is 503."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from data_world import MODULE, A, Client, World, a_tenant, as_member, deals, served, with_more_columns

from kernel_common.ids import tenant_id
from kernel_data import clickhouse as client_module
from kernel_data import models
from kernel_local.testing import ClickHouseServer
from kernel_operator.desired import Column, ColumnType, Model
from kernel_operator.targets.clickhouse import ClickHouseTarget

MANY = ",".join(f"a{n}" for n in range(101))


@pytest.mark.parametrize(
    ("query", "field", "said"),
    [
        (
            ("select", "sum:nothing"),
            "select",
            "there is no field 'nothing'; there are id, created_at, updated_at, stage",
        ),
        (("select", "median:score"), "select", "there is no aggregate 'median'; there are count, sum, avg, min, max"),
        (("select", "sum:stage"), "select", "sum of a text (stage) can't be had; there are count, min, max"),
        (("select", "avg:won"), "select", "avg of a boolean (won) can't be had; there are count"),
        (("select", "sum"), "select", "sum needs a field, such as sum:ratio"),
        (("select", ""), "select", "there is no aggregate ''"),
        (("select", "count:tenant_id"), "select", "there is no field 'tenant_id'"),
        (("select", "count:record_id"), "select", "there is no field 'record_id'"),
        (("select", "count:_lsn"), "select", "there is no field '_lsn'"),
        (("select", MANY), "select", "at most 20"),
        (("groupBy", "stage:day"), "groupBy", "a text (stage) has no unit 'day'; only dates and timestamps have units"),
        (("groupBy", "closed:hour"), "groupBy", "there are week, month, quarter, year"),
        (("groupBy", "Stage"), "groupBy", "there is no field 'Stage'"),
        (("orderBy", "amount"), "orderBy", "'amount' is neither in select nor in groupBy; there are count"),
        (("orderBy", "--count"), "orderBy", "'-count' is neither"),
        (("limit", "0"), "limit", "from 1 to 10000"),
        (("limit", "10001"), "limit", "from 1 to 10000"),
        (("limit", "1e3"), "limit", "from 1 to 10000"),
        (("limit", "٣"), "limit", "from 1 to 10000"),
        (("filter[nothing][eq]", "1"), "filter[nothing][eq]", "there is no field 'nothing'"),
        (("filter[stage][is]", "empty"), "filter[stage][is]", "must be null or notnull"),
        (
            ("filter[stage][regex]", "x"),
            "filter[stage][regex]",
            "there are eq, neq, in, gt, gte, lt, lte, like, ilike, is",
        ),
        (("filter[won][gt]", "true"), "filter[won][gt]", "a boolean has no operator 'gt'; there are eq, neq, in, is"),
        (("filter[score][eq]", "1.5"), "filter[score][eq]", "must be a whole number"),
        (("filter[score][eq]", str(2**63)), "filter[score][eq]", "must be a whole number of at most 64 bits"),
        (("filter[amount][eq]", "1.0000001"), "filter[amount][eq]", "6 behind it"),
        (("filter[ratio][lt]", "1e999"), "filter[ratio][lt]", "must be a number"),
        (("filter[won][eq]", "1"), "filter[won][eq]", "true or false"),
        (("filter[closed][eq]", "2026-02-30"), "filter[closed][eq]", "must be a date that exists"),
        (("filter[closed][eq]", "1899-12-31"), "filter[closed][eq]", "from 1900 to 2299"),
        (("filter[seen][gte]", "2026-01-01T00:00:00"), "filter[seen][gte]", "with its offset"),
        (("filter[seen][gte]", "0001-01-01T00:00:00+14:00"), "filter[seen][gte]", "must be a date"),
        (("filter[owner][in]", "1,2"), "filter[owner][in]", "must be a UUID"),
        (("filter[stage][in]", MANY), "filter[stage][in]", "at most 100 values"),
        (("filter[stage][eq]", "x" * 1001), "filter[stage][eq]", "at most 1000 characters"),
        (("filter[stage][like]", "x\\"), "filter[stage][like]", "single backslash"),
        (("filter[stage]", "x"), "filter[stage]", "there is no such parameter"),
        (("where", "1=1"), "where", "there is no such parameter; there are select, groupBy, orderBy, limit and filter"),
    ],
)
async def test_what_is_wrong_is_named(a: Client, query: tuple[str, str], field: str, said: str) -> None:
    status, problem, _ = await a.ask(query)
    assert status == problem["status"] == 400
    assert problem["type"].endswith("/validation-error")
    assert [e["field"] for e in problem["errors"]] == [field]
    assert said in problem["errors"][0]["message"]


async def test_all_that_is_wrong_is_told_at_once(a: Client) -> None:
    _, problem, _ = await a.ask(("select", "sum:x"), ("limit", "0"), ("limit", "1"), ("filter[y][eq]", "z" * 5000))
    assert [e["field"] for e in problem["errors"]] == ["select", "filter[y][eq]", "limit"]


async def test_a_name_that_means_two_things_is_refused(target: ClickHouseTarget, a: Client, world: World) -> None:
    odd = replace(MODULE, slug="odd", models=(Model("things", (Column("count", ColumnType.INTEGER),), analytics=True),))
    assert (await target.apply_module(odd)).refusal is None
    status, problem, _ = await a.ask(("groupBy", "count"), module="odd", model="things")
    assert (status, problem["errors"][0]["field"]) == (400, "select")
    status, document, _ = await a.ask(("groupBy", "count"), ("select", "count:id"), module="odd", model="things")
    assert (status, document["data"]) == (200, [])


@pytest.mark.parametrize(
    ("module", "model"),
    [("sales", "nothing"), ("nothing", "deals"), ("sales", "drafts"), ("sales", "deals__current"), ("SALES", "deals")],
)
async def test_what_is_not_there_is_404(a: Client, module: str, model: str) -> None:
    status, problem, _ = await a.ask(module=module, model=model)
    assert (status, problem["type"].rpartition("/")[2]) == (404, "not-found")


async def test_a_new_field_can_be_asked_for_at_once(
    a: Client, target: ClickHouseTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "AGAIN_SECONDS", 0.0)
    new = ("filter[added][is]", "null")
    assert (await a.ask(new, model="few"))[0] == 400
    assert (await target.apply_module(with_more_columns(MODULE, Column("added", ColumnType.BIGINT)))).refusal is None
    status, document, text = await a.ask(new, ("select", "count:added"), model="few")
    assert (status, document["data"]) == (200, [{"count:added": 0}]), text


async def test_a_tenant_without_a_user_waits(address: str, target: ClickHouseTarget) -> None:
    newcomer = tenant_id("data-tests-newcomer")
    async with as_member(address, newcomer) as client:
        for blocked, expected in ((None, 503), (False, 200), (True, 503)):
            if blocked is not None:
                await target.apply_tenants([a_tenant(newcomer, blocked=blocked)])
            status, document, _ = await client.ask()
            assert status == expected, document


async def test_who_comes_past_the_gateway_is_nobody(address: str) -> None:
    async with aiohttp.ClientSession(address) as session:
        for headers in ({}, {"X-Tenant-ID": "x", "X-User-ID": "y"}):
            async with session.get("/api/v1/analytics/sales/deals", headers=headers) as answer:
                assert (answer.status, (await answer.json())["type"].rpartition("/")[2]) == (401, "unauthenticated")
        async with session.get("/api/v1/analytics/sales") as answer:
            assert answer.status == 404
        async with session.post("/api/v1/analytics/sales/deals") as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "GET")


async def test_a_question_above_a_limit_is_ended(world: World) -> None:
    rows = [{**row, "stage": f"s{number}"} for number, row in enumerate(deals(1500, seed=5))]
    await world.writer.insert("module_sales__few", A, rows)
    async with served(world.settings(data_query_groups=1000)) as address, as_member(address, A) as client:
        status, problem, _ = await client.ask(("groupBy", "stage"), model="few")
        assert (status, problem["type"].rpartition("/")[2]) == (422, "query-too-large")
        assert "too many groups" in problem["detail"]
        narrow = ("filter[stage][in]", "s1,s2")
        assert len(await client.data(("groupBy", "stage"), narrow, model="few")) == 2


async def test_while_clickhouse_is_away_it_says_so(world: World, clickhouse: ClickHouseServer) -> None:
    async with served(world.settings()) as address, as_member(address, A) as client:
        assert (await client.ask())[0] == 200
        clickhouse.stop()
        try:
            async with client.session.get("/api/v1/analytics/sales/deals") as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
                text = await answer.text()
                assert json.loads(text)["type"].endswith("/service-unavailable")
                assert str(clickhouse.port) not in text
            async with client.session.get("/ready") as answer:
                ready: dict[str, Any] = await answer.json()
                assert (answer.status, ready["reason"]) == (503, "ClickHouse: it can't be reached")
            async with client.session.get("/live") as answer:
                assert answer.status == 200
        finally:
            clickhouse.start()
        assert await client.data() == [{"count": len(world.deals)}]


async def test_one_tenant_cant_take_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "WAIT_SECONDS", 0.05)
    lanes = client_module._Lanes(total=3, each=2)
    ours, theirs = tenant_id("data-lanes-a"), tenant_id("data-lanes-b")
    async with lanes.place(ours), lanes.place(ours):
        with pytest.raises(client_module.TooMany):
            async with lanes.place(ours):
                raise AssertionError("a third place of one tenant")
        async with lanes.place(theirs):
            with pytest.raises(client_module.Away):
                async with lanes.place(theirs):
                    raise AssertionError("a fourth place of all")
        async with lanes.place(theirs):
            pass
    assert not lanes._tenants


async def test_a_tenant_that_asks_too_much_at_once_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "WAIT_SECONDS", 0.001)
    async with served(world.settings(data_tenant_connections=1)) as address, as_member(address, A) as client:
        assert (await client.ask())[0] == 200
        answers = await asyncio.gather(*(client.ask(("groupBy", "id")) for _ in range(12)))
        assert {status for status, _, _ in answers} == {200, 429}
        assert {d["type"].rpartition("/")[2] for s, d, _ in answers if s == 429} == {"rate-limit-exceeded"}
