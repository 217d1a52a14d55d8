"""The decision server as Envoy meets it: plain HTTP/1.1 over a socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from decision_world import CLIENT, MODULE, World

from kernel_gateway.access import Identity
from kernel_gateway.decision.rights import Held
from kernel_gateway.decision.server import MAX_REQUEST, DecisionServer, identity_headers

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"traceparent: 00-{TRACE}-b7ad6b7169203331-01\r\n"


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def ask(self, text: str, *, has_body: bool = True) -> tuple[int, dict[str, str], bytes]:
        self.writer.write(text.encode("latin-1"))
        return await self.answer(has_body=has_body)

    async def answer(self, *, has_body: bool = True) -> tuple[int, dict[str, str], bytes]:
        async with asyncio.timeout(5):
            status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            pairs = [line.split(": ", 1) for line in lines if line]
            headers = dict(pairs)
            assert len(headers) == len(pairs), "no header twice"
            body = await self._reader.readexactly(int(headers["content-length"])) if has_body else b""
            return int(status.split(" ")[1]), headers, body

    async def ended(self) -> bool:
        async with asyncio.timeout(5):
            return await self._reader.read() == b""


class Edge:
    def __init__(self, world: World, server: DecisionServer) -> None:
        self.world, self.server = world, server
        self._clients: list[Client] = []

    async def connect(self) -> Client:
        self._clients.append(Client(*await asyncio.open_connection("127.0.0.1", self.server.port)))
        return self._clients[-1]

    async def close(self) -> None:
        for client in self._clients:
            client.writer.close()
        await self.server.stop(1)


@pytest.fixture
async def edge(world: World) -> AsyncIterator[Edge]:
    server = DecisionServer((await world.seat()).decider)
    await server.start(0)
    edge = Edge(world, server)
    yield edge
    await edge.close()


def request(token: str, rule: str = f"{MODULE} dcrm.contacts.read", method: str = "GET", extra: str = "") -> str:
    return (
        f"{method} /api/v1/dcrm/contacts?page=2 HTTP/1.1\r\nhost: decision\r\ncontent-length: 0\r\n"
        f"x-kernel-rule: {rule}\r\nx-kernel-client: {CLIENT}\r\n{TRACEPARENT}authorization: {token}\r\n{extra}\r\n"
    )


async def test_reports_of_breakers_are_no_decisions(world: World) -> None:
    """A report carries no rule; a request that is decided on does, whatever path it names."""
    taken: list[bytes] = []

    def take(body: bytes) -> None:
        if body == b"wrong":
            raise ValueError("no report")
        taken.append(body)

    server = DecisionServer((await world.seat()).decider, take)
    await server.start(0)
    edge = Edge(world, server)
    try:
        client = await edge.connect()
        for body, answer in (("{}", 200), ("wrong", 400), ("x" * 5000, 200)):
            report = f"POST /internal/breaker HTTP/1.1\r\nhost: d\r\ncontent-length: {len(body)}\r\n"
            assert (await client.ask(f"{report}\r\n{body}"))[0] == answer
        assert (await client.ask(f"{report}x-kernel-rule: - any\r\n\r\n{body}"))[0] == 401
        assert taken[0] == b"{}" and len(taken) == 2 and len(taken[1]) <= 5000
    finally:
        await edge.close()


async def test_allowed_says_who_asks_and_what_is_left(edge: Edge) -> None:
    person = await edge.world.person(await edge.world.tenant(limit=6, burst=50), "Member")
    client = await edge.connect()
    for left in ("49", "48"):
        status, headers, body = await client.ask(request(edge.world.bearer(person)))
        assert (status, body) == (200, b"")
        assert headers["x-user-id"] == str(person.user)
        assert headers["x-tenant-id"] == str(person.tenant)
        assert headers["x-user-roles"] == "Member"
        assert "x-actor-id" not in headers
        assert (headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"]) == ("6", left)
        assert headers["ratelimit-policy"] == '"default";q=6;w=60'


async def test_the_impersonator_is_named(edge: Edge) -> None:
    person = replace(await edge.world.person(await edge.world.tenant(), "Member"), actor=uuid4())
    _, headers, _ = await (await edge.connect()).ask(request(edge.world.bearer(person)))
    assert headers["x-actor-id"] == str(person.actor)


def test_names_of_roles_stay_one_header() -> None:
    identity = Identity(uuid4(), uuid4(), ("Head of, sales", "Bücher", "a\r\nx-user-id: 1"))
    line = identity_headers(identity).split("\r\n")[2]
    assert line == "x-user-roles: Head of%2C sales,B%C3%BCcher,a%0D%0Ax-user-id%3A 1"


async def test_a_refusal_is_a_problem_document_with_the_trace(edge: Edge) -> None:
    person = await edge.world.person(await edge.world.tenant(), "Member")
    status, headers, body = await (await edge.connect()).ask(
        request(edge.world.bearer(person), rule=f"{MODULE} dcrm.contacts.create", method="POST")
    )
    assert status == 403
    assert headers["content-type"] == "application/problem+json"
    problem = json.loads(body)
    assert problem["type"].endswith("/forbidden")
    assert (problem["status"], problem["trace_id"], problem["instance"]) == (403, TRACE, "/api/v1/dcrm/contacts")
    assert "dcrm.contacts.create" in problem["detail"]
    assert "x-user-id" not in headers


async def test_a_refused_head_has_no_body_and_the_connection_goes_on(edge: Edge) -> None:
    client = await edge.connect()
    status, headers, _ = await client.ask(request("Bearer x", method="HEAD"), has_body=False)
    assert status == 401
    assert int(headers["content-length"]) > 0
    person = await edge.world.person(await edge.world.tenant(), "Member")
    assert (await client.ask(request(edge.world.bearer(person))))[0] == 200


async def test_public_routes_ask_for_no_token(edge: Edge) -> None:
    client = await edge.connect()
    status, headers, _ = await client.ask(
        f"GET /open HTTP/1.1\r\nhost: d\r\nX-Kernel-Rule: {MODULE} public\r\nX-Kernel-Client: 192.0.2.77\r\n\r\n"
    )
    assert status == 200
    assert "x-user-id" not in headers
    assert headers["x-ratelimit-limit"] == "120"


@pytest.mark.parametrize("rule", ["", "nonsense", "a b c", f"{MODULE} any\r\nx-kernel-rule: - public"])
async def test_no_rule_no_way(edge: Edge, rule: str) -> None:
    """Two rules are none either: nobody could say which one holds."""
    person = await edge.world.person(await edge.world.tenant(), "Owner")
    status, _, body = await (await edge.connect()).ask(request(edge.world.bearer(person), rule=rule))
    assert status == 500
    assert json.loads(body)["type"].endswith("/internal-error")


async def test_two_tokens_in_two_headers_are_refused(edge: Edge) -> None:
    person = await edge.world.person(await edge.world.tenant(), "Owner")
    one, two = edge.world.bearer(person), edge.world.bearer(person)
    client = await edge.connect()
    assert (await client.ask(request(one, extra=f"Authorization: {two}\r\n")))[0] == 400
    assert (await client.ask(request(f"{one}, {two}")))[0] == 400
    assert (await client.ask(request(one, extra=f"Authorization: {one}\r\n")))[0] == 200


async def test_requests_in_a_row_are_answered_in_order(edge: Edge) -> None:
    """One needs PostgreSQL, the next needs nothing: the answers keep the order of the questions all the same."""
    person = await edge.world.person(await edge.world.tenant(), "Member")
    client = await edge.connect()
    count = 100
    pair = request(edge.world.bearer(person)) + request("Bearer x")
    client.writer.write((pair * count).encode())
    for _ in range(count):
        assert (await client.answer())[0] == 200
        assert (await client.answer())[0] == 401


@pytest.mark.parametrize(
    "text",
    [
        "nonsense\r\n\r\n",
        "GET / HTTP/1.1\r\nbad header\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: d\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: d\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    ],
)
async def test_what_is_no_request_is_refused_and_ends_the_connection(edge: Edge, text: str) -> None:
    client = await edge.connect()
    status, headers, body = await client.ask(text)
    assert status in {400, 500}
    assert json.loads(body)["status"] == status
    if status == 400:
        assert headers["connection"] == "close"
        assert await client.ended()
    assert (await (await edge.connect()).ask(request("Bearer x")))[0] == 401


async def test_what_came_before_nonsense_is_answered(edge: Edge) -> None:
    person = await edge.world.person(await edge.world.tenant(), "Member")
    client = await edge.connect()
    client.writer.write((request(edge.world.bearer(person)) + request("Bearer x") + "nonsense\r\n\r\n").encode())
    assert [(await client.answer())[0] for _ in range(3)] == [200, 401, 400]
    assert await client.ended()


async def test_what_is_too_large_is_refused(edge: Edge) -> None:
    client = await edge.connect()
    client.writer.write(b"GET / HTTP/1.1\r\nhost: d\r\n")
    for _ in range(MAX_REQUEST // 1000 + 2):
        client.writer.write(b"x-filling: " + b"a" * 1000 + b"\r\n")
    status, headers, _ = await client.answer()
    assert (status, headers["connection"]) == (431, "close")


async def test_close_is_honoured(edge: Edge) -> None:
    client = await edge.connect()
    assert (await client.ask(request("Bearer x", extra="connection: close\r\n")))[0] == 401
    assert await client.ended()


async def test_stop_answers_what_is_under_way(world: World) -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    class Slow:
        async def read(self, *_: Any) -> Held:
            asked.set()
            await go.wait()
            return Held(1, False, frozenset({MODULE}), frozenset({"dcrm.contacts.read"}))

    server = DecisionServer((await world.seat(Slow())).decider)
    await server.start(0)
    edge = Edge(world, server)
    try:
        busy, idle = await edge.connect(), await edge.connect()
        assert (await idle.ask(request("Bearer x")))[0] == 401
        person = await world.person(await world.tenant(), "Member")
        answer = asyncio.create_task(busy.ask(request(world.bearer(person))))
        await asked.wait()
        stopping = asyncio.create_task(server.stop(10))
        assert await idle.ended()
        with pytest.raises(ConnectionError):
            await edge.connect()
        assert not answer.done()
        go.set()
        assert (await answer)[0] == 200
        async with asyncio.timeout(5):
            await stopping
        assert await busy.ended()
    finally:
        await edge.close()


async def test_a_client_that_goes_away_costs_nothing(edge: Edge) -> None:
    person = await edge.world.person(await edge.world.tenant(), "Member")
    for _ in range(20):
        client = await edge.connect()
        client.writer.write(request(edge.world.bearer(person)).encode())
        client.writer.transport.abort()
    assert (await (await edge.connect()).ask(request(edge.world.bearer(person))))[0] == 200
