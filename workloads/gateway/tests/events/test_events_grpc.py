"""The EventService with a real client: the same rights, outcomes and slugs as over REST; and moving groups."""

import importlib.util
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from confluent_kafka import Consumer
from events_world import World, until
from gateway_api import Client, Person, SomeTenant
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kernel_common.ids import uuid7
from kernel_gateway.events.grpc_server import MAX_MESSAGE, SERVICE, EventServer
from kernel_gateway.events.wire import events_pb2 as wire

NewTenant = Callable[..., Awaitable[SomeTenant]]
ROOT = Path(__file__).parents[2]


class Stub:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def __call__(self, name: str, request: Any, who: Person | None, timeout: float = 20) -> Any:
        method = self._channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=getattr(wire, f"{name}Response").FromString,
        )
        metadata = [("authorization", who.headers["Authorization"])] if who else []
        return await method(request, metadata=metadata, timeout=timeout)


@pytest.fixture(scope="session")
async def channel(event_server: EventServer) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{event_server.port}") as channel:
        yield channel


@pytest.fixture(scope="session")
def call(channel: grpc.aio.Channel) -> Stub:
    return Stub(channel)


async def refused(called: Awaitable[Any]) -> tuple[grpc.StatusCode, str, list[str]]:
    """Code, slug, and the fields that are wrong."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await called
    found = dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"]
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status_pb2.Status.FromString(found).details:
        detail.Unpack(info)
        detail.Unpack(bad)
    return caught.value.code(), info.reason, [violation.field for violation in bad.field_violations]


async def test_publishing(call: Stub, world: World, a_tenant: NewTenant) -> None:
    tenant = await a_tenant()
    slug = await world.module(tenant.id, topics=False)
    event = wire.NewEvent(id=str(uuid7()), type=f"{slug}.contact.created", data_json='{"n": 9007199254740993}')
    answer = await call("Publish", wire.PublishRequest(event=event), tenant.owner)
    assert (answer.id, answer.topic) == (event.id, f"platform.{slug}.events")
    wrong = wire.NewEvent(type=f"{slug}.contact.lost")
    answer = await call(
        "BatchPublish", wire.BatchPublishRequest(events=[wrong, wire.NewEvent(type=event.type)]), tenant.owner
    )
    assert [outcome.problem.slug for outcome in answer.outcomes] == ["event-not-declared", ""]
    rows = await world.published(tenant.id)
    assert [str(row["id"]) for row in rows] == [event.id, answer.outcomes[1].id]
    assert json.loads(rows[0]["envelope"])["data"] == {"n": 9007199254740993}


async def test_refusals_have_a_code_and_the_slug(call: Stub, world: World, a_tenant: NewTenant) -> None:
    tenant = await a_tenant()
    slug = await world.module(tenant.id, topics=False)
    kind, code = f"{slug}.contact.created", grpc.StatusCode
    event = wire.PublishRequest(event=wire.NewEvent(type=kind))
    lost = wire.PublishRequest(event=wire.NewEvent(type=f"{slug}.contact.lost"))
    assert await refused(call("Publish", event, None)) == (code.UNAUTHENTICATED, "unauthenticated", [])
    assert await refused(call("Publish", lost, tenant.owner)) == (code.PERMISSION_DENIED, "event-not-declared", [])
    for request, field in (
        (wire.PublishRequest(), "event"),
        (wire.PublishRequest(event=wire.NewEvent(type="crm")), "event.type"),
        (wire.PublishRequest(event=wire.NewEvent(type=kind, id="x")), "event.id"),
        (wire.PublishRequest(event=wire.NewEvent(type=kind, data_json="[]")), "event.data_json"),
        (wire.PublishRequest(event=wire.NewEvent(type=kind, schema_version="x")), "event.schema_version"),
    ):
        assert await refused(call("Publish", request, tenant.owner)) == (
            code.INVALID_ARGUMENT,
            "validation-error",
            [field],
        )
    letter = wire.DLQRetryRequest(id=str(uuid7()))
    assert await refused(call("DLQRetry", letter, tenant.owner)) == (code.NOT_FOUND, "not-found", [])
    moved = wire.ReplayFromRequest(group=f"{slug}.x", topic=f"platform.{slug}.events")
    assert (await refused(call("ReplayFrom", moved, tenant.owner)))[:2] == (code.PERMISSION_DENIED, "forbidden")
    huge = wire.PublishRequest(event=wire.NewEvent(type=kind, data_json='{"t": "' + "x" * MAX_MESSAGE + '"}'))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call("Publish", huge, tenant.owner)
    assert caught.value.code() == code.RESOURCE_EXHAUSTED
    assert await world.published(tenant.id) == []


@pytest.mark.usefixtures("collector")
async def test_a_letter_is_sent_again(call: Stub, world: World, a_tenant: NewTenant) -> None:
    from kernel_common.events import Envelope

    tenant = await a_tenant()
    slug = await world.module(tenant.id)
    event = Envelope(type=f"{slug}.contact.created", source=slug, tenant_id=tenant.id)
    world.bury(event, slug, group=f"{slug}.mailer", offset=1)
    [letter] = await until(lambda: world.letters("event_id = $1", event.id))
    answer = await call("DLQRetry", wire.DLQRetryRequest(id=str(letter["id"])), tenant.owner)
    assert answer.original_topic == f"platform.{slug}.events"
    assert [message.value() for message in world.on(answer.original_topic)] == [event.to_json().encode()]
    assert (await refused(call("DLQRetry", wire.DLQRetryRequest(id=str(letter["id"])), tenant.owner)))[1] == "conflict"


async def test_a_group_is_moved_while_nobody_is_in_it(
    call: Stub, events: Client, world: World, a_tenant: NewTenant
) -> None:
    root = await a_tenant()
    await world.make_owner(root.owner)
    slug = await world.module(root.id)
    group, topic = f"{slug}.mailer", f"platform.{slug}.events"
    for number in range(6):
        world.send(topic, f"{number}", "k", {})
    partition = next(message.partition() for message in world.on(topic))
    assert partition is not None
    consumer = Consumer({**world.kafka.admin_conf, "group.id": group, "auto.offset.reset": "earliest", "log_level": 0})
    consumer.subscribe([topic])
    await until(lambda: consumer.poll(0.2) is not None)
    consumer.commit(asynchronous=False)
    wanted = {"topic": topic, "partition": partition, "offset": 2}
    busy = await events("POST", f"events/subscriptions/{group}/seek", wanted, **root.owner.headers)
    assert (busy.status, busy.slug) == (409, "conflict")
    consumer.close()

    moved = await events("POST", f"events/subscriptions/{group}/seek", wanted, **root.owner.headers)
    assert moved.status == 200, moved.json
    assert world.committed(group, topic, [partition]) == [2]
    listed = (await events("GET", "events/subscriptions", **root.owner.headers)).json["data"]
    told = next(each for each in listed if each["module"] == slug)
    assert told["types"] == ["money.wallet.credited"]
    [position] = [p for g in told["groups"] for p in g["positions"] if p["partition"] == partition]
    assert (position["offset"], position["end"], position["lag"]) == (2, 6, 4)

    request = wire.ReplayFromRequest(group=group, topic=topic)
    request.time.FromSeconds(1_000_000_000)
    answer = await call("ReplayFrom", request, root.owner)
    assert {p.partition: p.offset for p in answer.positions} == {0: 0, 1: 0, 2: 0}
    assert world.committed(group, topic, [0, 1, 2]) == [0, 0, 0]

    seek = f"events/subscriptions/{group}/seek"
    for body, field in (
        ({**wanted, "offset": 7}, "offset"),
        ({**wanted, "partition": 3}, "partition"),
        ({**wanted, "topic": "platform.nobody.events"}, "topic"),
    ):
        reply = await events("POST", seek, body, **root.owner.headers)
        assert (reply.status, reply.json["errors"][0]["field"]) == (400, field)
    for absent in ("kernel.cdc-sink", "nobody.mailer"):
        reply = await events("POST", f"events/subscriptions/{absent}/seek", wanted, **root.owner.headers)
        assert (reply.status, reply.slug) == (404, "not-found")
    other = await a_tenant()
    assert (await events("POST", seek, wanted, **other.owner.headers)).status == 403
    assert [
        s["groups"] for s in (await events("GET", "events/subscriptions", **other.owner.headers)).json["data"]
    ] == []


async def test_health_needs_no_token(channel: grpc.aio.Channel) -> None:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_what_was_generated_is_what_the_definition_says() -> None:
    spec = importlib.util.spec_from_file_location("proto_generate", ROOT / "proto/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, text in module.generate().items():
        assert (ROOT / "kernel_gateway/events/wire" / name).read_text() == text, "run proto/generate.py"
