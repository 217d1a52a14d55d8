"""The decision alone, without Envoy: how many a second one process answers, and what of it each part costs.

Everything runs on this machine: a Valkey of the benchmark's own, the decision in this process, the load in a child. The
rights are in Valkey, the tokens are remembered, and a hundred tenants take turns, which is how a busy gateway works.
"""

import asyncio
import json
import multiprocessing
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import redis.asyncio
import uvicorn
import uvloop

from bench.measure import Measure
from kernel_gateway.access import Allowed, Rule, Verdict
from kernel_gateway.decision.decider import Decider
from kernel_gateway.decision.rights import Held, Rights
from kernel_gateway.decision.script import DECIDE
from kernel_gateway.decision.server import DecisionServer
from kernel_gateway.decision.valkey import Valkey
from kernel_gateway.tokens import keyring
from kernel_gateway.tokens.holder import KeyHolder
from kernel_gateway.tokens.tokens import Claims, issue
from kernel_local.parts.valkey import Valkey as ValkeyPart
from kernel_local.site import Site

TENANTS = 100
AT_ONCE = 32
DECISIONS = 40_000
REQUESTS = 30_000
ROUNDS = 3
ISSUER = "https://bench.example"
RULE = Rule("crm", "crm.contacts.read")


async def run() -> list[Measure]:
    # A loop of its own, the one that the gateway has.
    return await asyncio.to_thread(uvloop.run, _run())


async def _run() -> list[Measure]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        site = Site(folder / "site")
        await stack.enter_async_context(site.locked())
        part = ValkeyPart(site)
        await part.start()
        stack.push_async_callback(part.stop)
        tokens, decider = await _prepared(stack, folder, part)
        decisions = pipelined = 0.0
        ours = plain = _Load(0, float("inf"))
        for _ in range(ROUNDS):  # the best of each: what else the machine does only takes away
            decisions = max(decisions, await _decisions(decider, tokens))
            pipelined = max(pipelined, await _pipelined(part))
            ours = ours.best(await _against_ours(decider, tokens))
            plain = plain.best(await _against_uvicorn(tokens))
    return [
        Measure(
            name="decision",
            measure=f"verdicts in process, {AT_ONCE} at once, {TENANTS} tenants in turn",
            value=decisions,
            unit="decisions/s",
            reference=f"redis-py with hiredis: the same script, {AT_ONCE} a pipeline, and nothing else",
            reference_value=pipelined,
            target=1.0,
            better="higher",
        ),
        Measure(
            name="decision",
            measure=f"answers of the server over loopback, {AT_ONCE} connections",
            value=ours.rate,
            unit="requests/s",
            reference=_PLAIN,
            reference_value=plain.rate,
            target=0.5,
            better="higher",
        ),
        Measure(
            name="decision",
            measure="processor time of this process for an answer of the server",
            value=ours.processor,
            unit="µs",
            reference=_PLAIN,
            reference_value=plain.processor,
            target=1.5,
            better="lower",
        ),
    ]


_PLAIN = "uvicorn (uvloop, httptools) with an ASGI function that answers 200 and decides nothing"


@dataclass(frozen=True)
class _Load:
    """``rate`` in requests/s, ``processor`` in µs a request."""

    rate: float
    processor: float

    def best(self, other: "_Load") -> "_Load":
        return _Load(max(self.rate, other.rate), min(self.processor, other.processor))


class _Granted:
    """Rights that nobody has to read."""

    async def read(self, *_: object) -> Held:
        return Held(1, False, frozenset({"crm"}), frozenset({"crm.contacts.read", "@member"}))


async def _prepared(stack: AsyncExitStack, folder: Path, part: ValkeyPart) -> tuple[list[str], Decider]:
    keyring.rotate(folder, time.time() - 2 * keyring.SETTLE)
    keys = KeyHolder(folder)
    admin: Any = redis.asyncio.Redis.from_url(part.url())
    stack.push_async_callback(admin.aclose)
    tokens = []
    now = int(time.time())
    limits = json.dumps({"rps": 10**8, "burst": 10**6, "adminRps": 10**8})
    for _ in range(TENANTS):
        tenant = uuid4()
        await admin.set(f"rate_limit:config:{tenant}", limits)
        await admin.sadd(f"modules:active:{tenant}", "crm")
        claims = Claims(uuid4(), tenant, ("Member",), now, now + 900, uuid4())
        tokens.append("Bearer " + issue(claims, keys.signer(now), ISSUER))
    valkey = Valkey(part.url("kernel_gateway"))
    await valkey.start()
    stack.push_async_callback(valkey.close)
    decider = Decider(keys, ISSUER, valkey, Rights(_Granted(), valkey, 300), anonymous_limit=100)
    for token in tokens:
        assert isinstance(await decider.decide(RULE, [token], "127.0.0.1"), Allowed)
    return tokens, decider


async def _decisions(decider: Decider, tokens: list[str]) -> float:
    finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asked = answered = 0

    def ask() -> None:
        nonlocal asked
        asked += 1
        decider.ask(RULE, [tokens[asked % TENANTS]], "127.0.0.1", answer)

    def answer(verdict: Verdict) -> None:
        nonlocal answered
        assert isinstance(verdict, Allowed)
        answered += 1
        if asked < DECISIONS:
            ask()
        elif answered == DECISIONS:
            finished.set_result(None)

    started = time.perf_counter()
    for _ in range(AT_ONCE):
        ask()
    await finished
    return DECISIONS / (time.perf_counter() - started)


async def _pipelined(part: ValkeyPart) -> float:
    client: Any = redis.asyncio.Redis.from_url(part.url("kernel_gateway"))
    tenant, user = uuid4(), uuid4()
    budget = f"rate_limit:{tenant}"
    keys = [f"rate_limit:config:{tenant}", f"tenant:blocked:{tenant}"]
    keys += [f"rbac:version:{tenant}", f"modules:epoch:{tenant}", "rbac:era", f"modules:active:{tenant}"]
    keys.append(f"rbac:{tenant}:{user}")
    rounds = DECISIONS // AT_ONCE // 4
    started = time.perf_counter()
    for _ in range(rounds):
        async with client.pipeline(transaction=False) as pipeline:
            for _ in range(AT_ONCE):
                pipeline.evalsha(DECIDE.sha.decode(), 1, budget, *keys, "rps", "crm", "crm.contacts.read", "crm.*", "*")
            await pipeline.execute()
    elapsed = time.perf_counter() - started
    await client.aclose()
    return rounds * AT_ONCE / elapsed


async def _against_ours(decider: Decider, tokens: list[str]) -> _Load:
    server = DecisionServer(decider)
    await server.start(0)
    load = await _loaded(server.port, tokens)
    await server.stop(5)
    return load


async def _against_uvicorn(tokens: list[str]) -> _Load:
    async def plain(_: Any, __: Any, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        plain, http="httptools", loop="none", lifespan="off", access_log=False, log_config=None, proxy_headers=False
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listening]))
    while not server.started:  # noqa: ASYNC110 - uvicorn tells it by an attribute
        await asyncio.sleep(0.01)
    load = await _loaded(listening.getsockname()[1], tokens)
    server.should_exit = True
    await serving
    return load


async def _loaded(port: int, tokens: list[str]) -> _Load:
    """What a child process gets answered, on ``AT_ONCE`` connections."""
    theirs, ours = multiprocessing.get_context("spawn").Pipe()
    child = multiprocessing.get_context("spawn").Process(target=load, args=(theirs, port, tokens))
    child.start()
    await asyncio.to_thread(ours.recv)  # it is ready
    busy = time.process_time()
    ours.send(None)
    rate, status = await asyncio.to_thread(ours.recv)
    busy = time.process_time() - busy
    child.join()
    assert status == b"HTTP/1.1 200 OK", status
    return _Load(rate, busy / REQUESTS * 1e6)


def load(report: Any, port: int, tokens: list[str]) -> None:
    """The child: sends requests as Envoy does, and reports the rate and a status line."""
    report.send(None)
    report.recv()
    report.send(uvloop.run(_send_all(port, tokens)))


async def _send_all(port: int, tokens: list[str]) -> tuple[float, bytes]:
    requests = [
        b"GET /api/v1/crm/contacts HTTP/1.1\r\nhost: decision\r\ncontent-length: 0\r\n"
        b"x-kernel-rule: crm crm.contacts.read\r\nx-kernel-client: 10.0.0.1\r\nx-forwarded-for: 10.0.0.1\r\n"
        b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n"
        b"x-envoy-internal: true\r\nx-envoy-expected-rq-timeout-ms: 1000\r\nauthorization: "
        + token.encode()
        + b"\r\n\r\n"
        for token in tokens
    ]
    loop = asyncio.get_running_loop()
    finished = loop.create_future()
    clients: list[_Client] = []
    counts = [0, 0]
    for _ in range(AT_ONCE):
        _, client = await loop.create_connection(lambda: _Client(requests, counts, finished), "127.0.0.1", port)
        clients.append(client)
    started = time.perf_counter()
    for client in clients:
        client.send()
    status = await finished
    return REQUESTS / (time.perf_counter() - started), status


class _Client(asyncio.Protocol):
    """Sends one request after the other and counts; answers have no body."""

    def __init__(self, requests: list[bytes], counts: list[int], finished: "asyncio.Future[bytes]") -> None:
        self._requests, self._counts, self._finished = requests, counts, finished
        self._left = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def send(self) -> None:
        self._counts[0] += 1
        self._transport.write(self._requests[self._counts[0] % len(self._requests)])

    def data_received(self, data: bytes) -> None:
        self._left += data
        if not self._left.endswith(b"\r\n\r\n"):
            return
        status, self._left = self._left.partition(b"\r\n")[0], b""
        self._counts[1] += 1
        if self._counts[1] == REQUESTS or not status.endswith(b"200 OK"):
            if not self._finished.done():
                self._finished.set_result(status)
        elif self._counts[0] < REQUESTS:
            self.send()
