"""Nothing that a client can write shows it another tenant's record, or anything but an ordinary answer."""

import json
from typing import Any

from data_world import SECRET, B, Client, World
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kernel_data.fields import OPERATORS, Kind

FIELDS = ["id", "created_at", "stage", "note", "score", "amount", "won", "closed", "owner", "tenant_id", "_lsn"]
INJECTIONS = [
    "x' OR 1=1 --",
    "x') OR tenant_id != '0",
    "`stage`",
    "stage` FROM analytics.module_sales__deals -- ",
    "{tenant:UUID}",
    "{p0:String}",
    "p0",
    "\\' OR '1'='1",
    "\\\\",
    "\\",
    "\0",
    "%",
    "%secret%",
    "secret-of-b",
    "a\tb\nc",
    "\\N",
    "NULL",
    "1) UNION ALL SELECT stage FROM analytics.module_sales__deals",
    "1; DROP TABLE analytics.module_sales__deals",
    "tenant_id",
    "currentUser()",
    "\ud800",
    "１",
    "0x10",
    "nan",
    "-0",
    "1_000",
    "٣",
    str(B),
    str(B).upper(),
    f"{{{B}}}",
    "2026-01-01T00:00:00Z' OR 1",
    "null",
    "notnull",
    "SETTINGS final=0",
    "x FORMAT Null",
]
TEXTS = st.sampled_from(INJECTIONS) | st.text(max_size=30)
NAMES = st.sampled_from(FIELDS) | TEXTS
OPERATIONS = st.sampled_from(sorted({o for kind in Kind for o in OPERATORS[kind]})) | TEXTS


@st.composite
def parameters(draw: st.DrawFn) -> tuple[str, str]:
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return draw(TEXTS | st.sampled_from(["param_tenant", "query", "user", "database", "param_p0", "role"])), draw(
            TEXTS
        )
    if kind == 1:
        return "select", draw(st.sampled_from(["count", "min:", "max:", "sum:"])) + draw(st.just("") | NAMES)
    if kind == 2:
        return "groupBy", draw(NAMES) + draw(st.just("") | TEXTS.map(lambda unit: f":{unit}"))
    if kind == 3:
        return draw(st.sampled_from(["orderBy", "limit"])), draw(TEXTS)
    return f"filter[{draw(NAMES)}][{draw(OPERATIONS)}]", draw(TEXTS)


def sendable(text: str) -> str:
    """A URL is UTF-8; what is none of it can't be sent by an ordinary client."""
    return text.encode("utf-8", "replace").decode()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(query=st.lists(parameters(), min_size=1, max_size=4))
@example(query=[("filter[stage][like]", "%secret%"), ("select", "max:stage")])
@example(query=[("filter[note][ilike]", "%"), ("groupBy", "note")])
@example(query=[("filter[stage][neq]", "x' OR tenant_id != '"), ("groupBy", "stage")])
@example(query=[("filter[stage][in]", "\\',\\\\,\\N,{tenant:UUID}"), ("groupBy", "stage")])
async def test_nobody_sees_a_row_of_another(a: Client, world: World, query: list[tuple[str, str]]) -> None:
    query = [(sendable(name), sendable(value)) for name, value in query]
    status, document, text = await a.ask(*query)
    assert status in (200, 400), text
    if status == 200:
        assert SECRET not in text
        assert all(row["count"] <= len(world.deals) for row in document["data"] if "count" in row)
    else:
        told: list[dict[str, Any]] = document["errors"]
        assert told and all(set(error) == {"field", "message", "code"} for error in told)
        assert "DB::Exception" not in text


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(max_size=40) | st.sampled_from(INJECTIONS))
async def test_a_value_is_nothing_but_a_value(a: Client, world: World, text: str) -> None:
    """What is written into a filter is compared, character by character."""
    text = sendable(text)
    matching = sum(row["stage"] == text for row in world.deals)
    rest = len(world.deals) - matching
    assert await a.data(("filter[stage][eq]", text)) == [{"count": matching}]
    assert await a.data(("filter[stage][neq]", text)) == [{"count": rest}]
    both = f"open,{text.replace(',', chr(92) + ',')}"
    expected = sum(row["stage"] in ("open", text) for row in world.deals)
    assert await a.data(("filter[stage][in]", both)) == [{"count": expected}]


async def test_the_names_of_headers_are_all_that_makes_a_tenant(a: Client, b: Client, world: World) -> None:
    """Two clients, one question: each gets its own, whatever it adds."""
    own, theirs = await a.data(("groupBy", "stage")), await b.data(("groupBy", "stage"))
    assert SECRET not in json.dumps(own)
    assert all(SECRET in row["stage"] for row in theirs)
    for name in ("tenant", "tenantId", "tenant_id", "X-Tenant-ID", "param_tenant"):
        assert (await a.ask((name, str(B))))[0] == 400
    assert await a.data(("filter[id][in]", ",".join(str(row["id"]) for row in world.deals[:20]))) == [{"count": 20}]
