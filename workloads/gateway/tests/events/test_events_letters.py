"""Dead letters from the topic to the row, and from the row back to the topic."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from events_world import World, collecting_letters, until
from gateway_api import Client, SomeTenant

from kernel_common.events import Envelope
from kernel_common.events.received import headers_of
from kernel_gateway.api.services import Services
from kernel_gateway.events import collecting, letters
from kernel_gateway.events.kafka import Kafka
from kernel_gateway.login import sweep

NewTenant = Callable[..., Awaitable[SomeTenant]]


def an_event(slug: str, tenant: UUID, number: int = 0) -> Envelope:
    return Envelope(type=f"{slug}.contact.created", source=f"@tests/{slug}", tenant_id=tenant, data={"n": number})


@pytest.mark.usefixtures("collector")
async def test_a_letter_is_kept_shown_and_sent_again(events: Client, world: World, a_tenant: NewTenant) -> None:
    tenant = await a_tenant()
    slug = await world.module(tenant.id)
    event = an_event(slug, tenant.id)
    for _ in range(2):  # a consumer that died in between wrote it twice
        world.bury(event, slug, group=f"{slug}.mailer", offset=7, key="some key", traceparent="00-x")
    await until(lambda: world.letters("event_id = $1", event.id))
    listed = (await events("GET", f"events/dlq?topic=platform.{slug}.events", **tenant.owner.headers)).json["data"]
    assert [letter["eventId"] for letter in listed] == [str(event.id)]
    path = f"events/dlq/{listed[0]['id']}"
    letter = (await events("GET", path, **tenant.owner.headers)).json
    assert (letter["partition"], letter["offset"], letter["consumerGroup"]) == (0, 7, f"{slug}.mailer")
    assert (letter["status"], letter["attempts"], letter["error"]) == ("pending", 4, "ValueError: no such contact")
    assert letter["firstFailedAt"] == "2026-01-02T03:04:05Z"
    assert letter["envelope"]["data"] == {"n": 0}

    # Two who retry it at once send it once.
    replies = await asyncio.gather(*(events("POST", path + "/retry", **tenant.owner.headers) for _ in range(3)))
    assert sorted(reply.status for reply in replies) == [200, 409, 409]
    [message] = world.on(f"platform.{slug}.events")
    assert (message.key(), message.value()) == (b"some key", event.to_json().encode())
    headers = headers_of(message)
    assert (headers["id"], headers["traceparent"], headers["x-dlq-attempt"]) == (str(event.id), "00-x", "1")
    assert not [name for name in headers if name.startswith("x-dlq-") and name != "x-dlq-attempt"]
    assert (await events("GET", path, **tenant.owner.headers)).json["status"] == "retried"
    for _ in range(2):
        assert (await events("DELETE", path, **tenant.owner.headers)).status == 204
    assert (await events("GET", path, **tenant.owner.headers)).json["status"] == "resolved"

    # What fails again is another letter, and counts on.
    world.bury(event, slug, group=f"{slug}.mailer", offset=8, x_dlq_attempt="1")
    again = (await until(lambda: world.letters("event_id = $1 AND status = 'pending'", event.id)))[0]
    assert (await events("POST", f"events/dlq/{again['id']}/retry", **tenant.owner.headers)).status == 200
    attempts = {headers_of(message)["x-dlq-attempt"] for message in world.on(f"platform.{slug}.events")}
    assert attempts == {"1", "2"}


@pytest.mark.usefixtures("collector")
async def test_tenants_see_nothing_of_each_others_letters(events: Client, world: World, a_tenant: NewTenant) -> None:
    tenant, other = await a_tenant(), await a_tenant()
    slug = await world.module(tenant.id, other.id)
    event = an_event(slug, tenant.id)
    world.bury(event, slug, group=f"{slug}.mailer", offset=1)
    world.bury(b"no event", slug, group=f"{slug}.mailer", offset=2)
    world.bury(an_event(slug, tenant.id), slug, group=f"{slug}.mailer", offset=3, tenantId=str(other.id))
    await until(lambda: _all_three(world, slug))
    letter, nobodys, contradictory = await world.letters("original_topic = $1", f"platform.{slug}.events")
    assert (letter["tenant_id"], nobodys["tenant_id"], contradictory["tenant_id"]) == (tenant.id, None, None)
    assert (await events("GET", "events/dlq", **other.owner.headers)).json["data"] == []
    for hidden in (letter, nobodys, contradictory):
        path = f"events/dlq/{hidden['id']}"
        for method, where in (("GET", path), ("POST", path + "/retry"), ("DELETE", path)):
            reply = await events(method, where, **other.owner.headers)
            assert (reply.status, reply.slug) == (404, "not-found")
    assert (await events("POST", "events/dlq/replay-all", {}, **other.owner.headers)).json["retried"] == 0
    assert {row["status"] for row in await world.letters("original_topic = $1", f"platform.{slug}.events")} == {
        "pending"
    }
    assert world.on(f"platform.{slug}.events") == []

    # Those that name no tenant are for owners of the platform, and for nobody else.
    query = f"events/dlq?withoutTenant=true&topic=platform.{slug}.events"
    assert (await events("GET", query, **other.owner.headers)).status == 403
    root = await a_tenant()
    await world.make_owner(root.owner)
    listed = (await events("GET", query, **root.owner.headers)).json["data"]
    assert {found["id"] for found in listed} == {str(nobodys["id"]), str(contradictory["id"])}
    whole = (await events("GET", f"events/dlq/{nobodys['id']}", **root.owner.headers)).json
    assert (whole["envelope"], whole["valueBase64"]) == (None, "bm8gZXZlbnQ=")
    assert (await events("GET", f"events/dlq/{letter['id']}", **root.owner.headers)).status == 404


async def _all_three(world: World, slug: str) -> bool:
    return len(await world.letters("original_topic = $1", f"platform.{slug}.events")) == 3


@pytest.mark.usefixtures("collector")
async def test_a_replay_sends_what_is_wanted_in_order_and_says_how_many(
    events: Client, world: World, a_tenant: NewTenant
) -> None:
    tenant = await a_tenant()
    slug = await world.module(tenant.id)
    sent = [an_event(slug, tenant.id, number) for number in range(8)]
    for number in reversed(range(8)):
        world.bury(sent[number], slug, group=f"{slug}.{'mailer' if number < 6 else 'other'}", offset=number)
    world.bury(an_event(slug, tenant.id), slug, group=f"{slug}.mailer", offset=99, x_dlq_cut="2000000")
    topic = f"platform.{slug}.events"

    async def all_there() -> bool:
        return len(await world.letters("original_topic = $1", topic)) == 9

    await until(all_there)
    wanted = {"group": f"{slug}.mailer", "limit": 4}
    first = (await events("POST", "events/dlq/replay-all", wanted, **tenant.owner.headers)).json
    assert first == {"retried": 4, "more": True}
    second = (await events("POST", "events/dlq/replay-all", wanted, **tenant.owner.headers)).json
    assert second == {"retried": 2, "more": False}
    assert [message.value() for message in world.on(topic)] == [event.to_json().encode() for event in sent[:6]]
    left = await world.letters("original_topic = $1 AND status = 'pending'", topic)
    assert sorted(row["offset"] for row in left) == [6, 7, 99]
    cut = next(row for row in left if row["cut"])
    reply = await events("POST", f"events/dlq/{cut['id']}/retry", **tenant.owner.headers)
    assert (reply.status, reply.slug) == (409, "conflict")

    listing, seen = f"events/dlq?topic={topic}&limit=4", []
    page = (await events("GET", listing, **tenant.owner.headers)).json
    while True:
        seen += [letter["offset"] for letter in page["data"]]
        if not page["meta"]["hasMore"]:
            break
        page = (await events("GET", f"{listing}&cursor={page['meta']['cursor']}", **tenant.owner.headers)).json
    assert sorted(seen) == [*range(8), 99]


async def test_a_reader_that_dies_between_row_and_commit_keeps_each_letter_once(
    with_kafka: Services, world: World, a_tenant: NewTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await a_tenant()
    slug = await world.module(tenant.id)
    event = an_event(slug, tenant.id)
    stored = asyncio.Event()

    async def store_and_die(services: Services, found: list[letters.Letter]) -> None:
        await letters.store(services, found)
        if any(letter.event_id == event.id for letter in found):
            stored.set()
            await asyncio.Event().wait()  # the offsets of these are never told

    # A group of its own: the real one is somebody else's meanwhile.
    monkeypatch.setattr(collecting, "GROUP", f"t.dlq.{uuid4()}")
    monkeypatch.setattr(collecting, "TOPICS", f"platform.{slug}.events.dlq")
    monkeypatch.setattr(collecting, "store", store_and_die)
    world.bury(event, slug, group=f"{slug}.mailer", offset=1)
    async with collecting_letters(with_kafka):
        await asyncio.wait_for(stored.wait(), 30)
    assert world.committed(collecting.GROUP, f"platform.{slug}.events.dlq") == [-1001]
    monkeypatch.setattr(collecting, "store", letters.store)
    async with collecting_letters(with_kafka):
        await until(lambda: world.committed(collecting.GROUP, f"platform.{slug}.events.dlq") == [1])
    assert len(await world.letters("event_id = $1", event.id)) == 1


async def test_a_letter_that_kafka_does_not_take_stays_pending(
    with_kafka: Services, world: World, a_tenant: NewTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await a_tenant()
    gone = "gone" + uuid4().hex[:8]
    place = (f"platform.{gone}.events", 0, 1)
    now = datetime.now(UTC)
    await letters.store(
        with_kafka, [letters.Letter(tenant.id, None, None, place, "g.h", None, b"x", False, {}, "", 0, now)]
    )
    [row] = await world.letters("original_topic = $1", place[0])
    monkeypatch.setattr("kernel_gateway.events.kafka.SEND_SECONDS", 1.5)
    assert with_kafka.kafka is not None
    client = Kafka(with_kafka.kafka.configuration)
    [reason] = await client.send([letters.Outgoing(place[0], None, b"x", {})])
    assert reason
    assert await letters.replay(with_kafka, tenant.id, letters.Wanted(topic="platform.other.events"), 10) == (0, False)
    assert [each["status"] for each in await world.letters("id = $1", row["id"])] == ["pending"]


async def test_what_was_dealt_with_a_month_ago_is_forgotten(
    with_kafka: Services, world: World, a_tenant: NewTenant
) -> None:
    tenant = await a_tenant()
    now = datetime.now(UTC)
    old = [
        letters.Letter(
            owner, None, None, (f"platform.old{uuid4().hex[:8]}.events", 0, n), "g.h", None, b"x", False, {}, "", 0, now
        )
        for n, owner in enumerate((tenant.id, None, tenant.id, tenant.id))
    ]
    await letters.store(with_kafka, old)
    for letter, status, days in zip(old, ("retried", "resolved", "retried", "pending"), (31, 31, 29, 0), strict=True):
        if status != "pending":
            await world.admin.execute(
                f"UPDATE kernel.dlq_records SET status = $1, {status}_at = $2 WHERE original_topic = $3",
                status,
                now - timedelta(days=days),
                letter.place[0],
            )
    assert await sweep.sweep_letters(with_kafka) == 2
    left = await world.letters("original_topic = ANY ($1)", [letter.place[0] for letter in old])
    assert {row["original_topic"] for row in left} == {old[2].place[0], old[3].place[0]}
    await world.database.delete_tenant(tenant.id)
    assert await world.letters("tenant_id = $1", tenant.id) == []
