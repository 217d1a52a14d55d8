"""Publishing over REST: what a module's users may, what becomes of it, and what is refused."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from events_world import World
from gateway_api import Client, Person, SomeTenant

from kernel_common.ids import uuid7
from kernel_gateway.api.services import Services
from kernel_gateway.events.letters import Letter, store

NewTenant = Callable[..., Awaitable[SomeTenant]]
NewPerson = Callable[..., Awaitable[Person]]
TRACE = "0af7651916cd43dd8448eb211c80319c"


async def test_an_event_goes_to_the_outbox_as_the_token_says(events: Client, world: World, a_tenant: NewTenant) -> None:
    tenant, other = await a_tenant(), await a_tenant()
    slug = await world.module(tenant.id, other.id, topics=False)
    event = {"type": f"{slug}.contact.created", "data": {"tenantId": str(other.id), "name": "Ada", "n": 2**60}}
    reply = await events(
        "POST", "events/publish", event, traceparent=f"00-{TRACE}-b7ad6b7169203331-01", **tenant.owner.headers
    )
    assert reply.status == 202, reply.json
    assert reply.json["topic"] == f"platform.{slug}.events"
    [row] = await world.published(tenant.id)
    envelope = json.loads(row["envelope"])
    assert (row["id"], row["topic"], row["type"]) == (UUID(reply.json["id"]), f"platform.{slug}.events", event["type"])
    assert envelope["source"] == f"@tests/{slug}"
    assert envelope["tenantId"] == str(tenant.id)
    assert envelope["traceId"] == TRACE
    assert envelope["schemaVersion"] == "1.0.0"
    assert envelope["data"] == event["data"], "the payload is the module's own, whatever it says"
    assert await world.published(other.id) == []


async def test_the_same_id_is_the_same_event(events: Client, world: World, a_tenant: NewTenant) -> None:
    tenant = await a_tenant()
    slug = await world.module(tenant.id, topics=False)
    event = {"id": str(uuid7()), "type": f"{slug}.contact.created"}
    for _ in range(2):  # as after an answer that was lost
        reply = await events("POST", "events/publish", event, **tenant.owner.headers)
        assert (reply.status, reply.json["id"]) == (202, event["id"])
    assert {str(row["id"]) for row in await world.published(tenant.id)} == {event["id"]}


async def test_what_is_not_declared_is_refused(events: Client, world: World, a_tenant: NewTenant) -> None:
    tenant, other = await a_tenant(), await a_tenant()
    slug, others = await world.module(tenant.id, topics=False), await world.module(other.id, topics=False)
    off = await world.module(tenant.id, topics=False, active=False)
    for kind in (
        f"{slug}.contact.updated",
        f"{others}.contact.created",
        f"{off}.contact.created",
        "money.wallet.credited",
        "auth.user.created",
        "data.record.changed",
        "nobody.thing.made",
    ):
        reply = await events("POST", "events/publish", {"type": kind}, **tenant.owner.headers)
        assert (reply.status, reply.slug) == (403, "event-not-declared"), kind
        assert kind in reply.json["detail"]
    assert await world.published(tenant.id) == []


async def test_the_permission_is_the_modules(
    events: Client, world: World, a_tenant: NewTenant, a_person: NewPerson
) -> None:
    tenant = await a_tenant()
    slug = await world.module(tenant.id, topics=False)
    event = {"type": f"{slug}.contact.created"}
    wanted = {"name": "Publisher", "permissionIds": [f"{slug}.events.publish"]}
    role = await events("POST", "roles", wanted, **tenant.owner.headers)
    nobody, publisher = await a_person(tenant.id), await a_person(tenant.id, UUID(role.json["id"]))
    reply = await events("POST", "events/publish", event, **nobody.headers)
    assert (reply.status, reply.slug) == (403, "forbidden")
    assert f"{slug}.events.publish" in reply.json["detail"]
    assert (await events("POST", "events/publish", event, **publisher.headers)).status == 202
    assert (await events("POST", "events/publish", event)).status == 401
    # The right to publish shows nothing of the event API's administration.
    for path in ("events/topics", "events/subscriptions", "events/dlq"):
        assert (await events("GET", path, **publisher.headers)).status == 403


async def test_each_event_of_a_batch_has_its_own_outcome(events: Client, world: World, a_tenant: NewTenant) -> None:
    tenant = await a_tenant()
    slug = await world.module(tenant.id, topics=False)
    twice = str(uuid7())
    batch = [
        {"type": f"{slug}.contact.created", "data": {"n": 1}},
        {"type": f"{slug}.contact.vanished"},
        {"type": f"{slug}.contact.created", "data": {"text": "a\u0000b"}},
        {"type": f"{slug}.contact.deleted", "id": twice},
        {"type": f"{slug}.contact.created", "id": twice},
    ]
    reply = await events("POST", "events/publish-batch", {"events": batch}, **tenant.owner.headers)
    assert reply.status == 202, reply.json
    outcomes = reply.json["data"]
    assert reply.json["published"] == 2
    slugs = [outcome.get("problem", {}).get("type", "").rpartition("/")[2] for outcome in outcomes]
    assert slugs == ["", "event-not-declared", "validation-error", "", "validation-error"]
    assert [e["field"] for e in outcomes[2]["problem"]["errors"]] == ["data"]
    rows = await world.published(tenant.id)
    assert [str(row["id"]) for row in rows] == [outcomes[0]["id"], outcomes[3]["id"]]


async def test_a_batch_has_500_events_and_no_more(events: Client, world: World, a_tenant: NewTenant) -> None:
    tenant = await a_tenant()
    slug = await world.module(tenant.id, topics=False)
    batch = [{"type": f"{slug}.contact.created", "data": {"n": n}} for n in range(501)]
    reply = await events("POST", "events/publish-batch", {"events": batch}, **tenant.owner.headers)
    assert (reply.status, reply.json["errors"][0]["field"]) == (400, "events")
    reply = await events("POST", "events/publish-batch", {"events": batch[:500]}, **tenant.owner.headers)
    assert (reply.status, reply.json["published"]) == (202, 500)
    stored = [json.loads(row["envelope"])["data"]["n"] for row in await world.published(tenant.id)]
    assert stored == list(range(500)), "in the order of the request"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"type": "Crm.contact.created"}, "type"),
        ({"type": "crm.contact"}, "type"),
        ({"id": "018f3c1e-0000-4000-8000-000000000000"}, "id"),
        ({"schemaVersion": "one"}, "schemaVersion"),
        ({"data": [1]}, "data"),
        ({"source": "kernel-gateway"}, "source"),
        ({"tenantId": "018f3c1e-0000-7000-8000-000000000000"}, "tenantId"),
    ],
)
async def test_a_wrong_form_is_told_by_its_field(
    events: Client, a_tenant: NewTenant, change: dict[str, Any], field: str
) -> None:
    tenant = await a_tenant()
    reply = await events("POST", "events/publish", {"type": "a.b.c"} | change, **tenant.owner.headers)
    assert (reply.status, [error["field"] for error in reply.json["errors"]]) == (400, [field])


async def test_an_event_that_is_too_large_names_its_data(events: Client, world: World, a_tenant: NewTenant) -> None:
    tenant = await a_tenant()
    slug = await world.module(tenant.id, topics=False)
    event = {"type": f"{slug}.contact.created", "data": {"text": "x" * 999_880}}
    reply = await events("POST", "events/publish", event, **tenant.owner.headers)
    assert (reply.status, reply.slug) == (413, "payload-too-large")
    assert [error["field"] for error in reply.json["errors"]] == ["data"]
    event = {"type": f"{slug}.contact.created", "data": {"text": "x" * 999_000}}
    assert (await events("POST", "events/publish", event, **tenant.owner.headers)).status == 202


@pytest.mark.parametrize(
    "data", ['{"n": NaN}', '{"n": 1e999}', '{"n": "\\ud800"}', '{"n": ' + "[" * 2000 + "]" * 2000 + "}"]
)
async def test_a_payload_that_is_no_json_is_refused(
    events: Client, world: World, a_tenant: NewTenant, data: str
) -> None:
    tenant = await a_tenant()
    slug = await world.module(tenant.id, topics=False)
    body = f'{{"type": "{slug}.contact.created", "data": {data}}}'
    headers = {**tenant.owner.headers, "Content-Type": "application/json"}
    async with events.session.post(f"{events.base}/api/v1/events/publish", data=body, headers=headers) as answer:
        assert answer.status == 400, await answer.text()
    assert await world.published(tenant.id) == []


async def test_topics_are_the_kernels_and_those_of_the_tenants_modules(
    events: Client, world: World, a_tenant: NewTenant
) -> None:
    tenant, other = await a_tenant(), await a_tenant()
    slug, others = await world.module(tenant.id, topics=False), await world.module(other.id, topics=False)
    reply = await events("GET", "events/topics", **tenant.owner.headers)
    by_name = {topic["name"]: topic for topic in reply.json["data"]}
    assert by_name[f"platform.{slug}.events"]["types"] == [f"{slug}.contact.created", f"{slug}.contact.deleted"]
    assert by_name["platform.auth.events"]["module"] is None
    assert f"platform.{others}.events" not in by_name
    schema = (await events("GET", f"events/topics/platform.{slug}.events", **tenant.owner.headers)).json
    assert "tenantId" in schema["envelope"]["properties"]
    schema = (await events("GET", "events/topics/platform.auth.events", **tenant.owner.headers)).json
    created = next(kind for kind in schema["types"] if kind["type"] == "auth.user.created")
    assert "userId" in created["payload"]["properties"]
    for absent in (f"platform.{others}.events", "platform.nobody.events"):
        reply = await events("GET", f"events/topics/{absent}", **tenant.owner.headers)
        assert (reply.status, reply.slug) == (404, "not-found")


async def test_without_kafka_events_are_published_and_the_rest_waits(
    client: Client, services: Services, world: World, a_tenant: NewTenant
) -> None:
    tenant = await a_tenant()
    slug = await world.module(tenant.id, topics=False)
    event = {"type": f"{slug}.contact.created"}
    assert (await client("POST", "events/publish", event, **tenant.owner.headers)).status == 202
    place = (f"platform.{slug}.events", 0, 1)
    letter = Letter(tenant.id, None, None, place, "g.h", None, b"x", False, {}, "", 0, datetime.now(UTC))
    await store(services, [letter])
    assert len((await client("GET", "events/dlq", **tenant.owner.headers)).json["data"]) == 1
    for wrong in ("0", "0.5", "2026-01-02"):
        assert (await client("GET", f"events/dlq?since={wrong}", **tenant.owner.headers)).status == 400
    reply = await client("POST", "events/dlq/replay-all", {}, **tenant.owner.headers)
    assert (reply.status, reply.slug) == (503, "service-unavailable")
    assert "KAFKA_BROKERS" in reply.json["detail"]
