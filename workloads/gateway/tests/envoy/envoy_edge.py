"""A real Envoy in front of real little servers: an upstream that says what it received, the API, and the decision
server with a decider that knows a few tokens by heart."""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
from aiohttp import WSMsgType, web

from kernel_gateway.access import Allowed, Identity, Refused, Rule, Verdict
from kernel_gateway.decision.server import DecisionServer
from kernel_gateway.envoy import published, transitions
from kernel_gateway.envoy.admin import Account, Admin
from kernel_gateway.envoy.bootstrap import lay_out
from kernel_gateway.envoy.clusters import module_clusters
from kernel_gateway.envoy.settings import EnvoySettings
from kernel_gateway.envoy.table import ModuleRoutes, PathRule
from kernel_local import edge_certificate, ports
from kernel_local.parts.envoy import binary

ADA = Identity(UUID(int=0xADA), UUID(int=0x7E4A47), ("Owner", "Admin"))
TRACE = "0af7651916cd43dd8448eb211c80319c"


class KnownTokens:
    """``ada`` may do everything, ``eve`` nothing; there are no others."""

    def __init__(self) -> None:
        self.asked: list[tuple[Rule, tuple[str, ...], str]] = []

    def ask(self, rule: Rule, authorization: Sequence[str], client: str, answer: Callable[[Verdict], None]) -> None:
        self.asked.append((rule, tuple(authorization), client))
        budget = {"x-ratelimit-limit": "1000", "x-ratelimit-remaining": "999"}
        if rule.public:
            answer(Allowed(None, budget))
        elif list(authorization) == ["Bearer ada"]:
            answer(Allowed(ADA, budget))
        elif list(authorization) == ["Bearer eve"]:
            answer(Refused(403, "forbidden", f"the permission {rule.permission} is missing", budget))
        else:
            answer(Refused(401, "unauthenticated", "no such token", {"www-authenticate": "Bearer"}))


@dataclass
class Upstream:
    """A service. ``status`` is what it answers to ordinary requests; ``seen`` what it received."""

    port: int = 0
    status: int = 200
    seen: list[dict[str, Any]] = field(default_factory=list)
    hold: asyncio.Event = field(default_factory=asyncio.Event)
    _runner: web.AppRunner | None = None

    async def start(self, port: int | None = None) -> None:
        self.port = port or self.port or ports.choose(set())
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/api/v1/crm/echo", self._socket)
        app.router.add_get("/api/v1/ws", self._socket)
        app.router.add_route("*", "/api/v1/crm/slow", self._slow)
        app.router.add_route("*", "/api/v1/crm/ticks", self._ticks)
        app.router.add_route("*", "/{path:.*}", self._tell)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _tell(self, request: web.Request) -> web.Response:
        body = await request.read()
        told = {
            "method": request.method,
            "path": request.raw_path,
            "headers": [
                [name.decode("latin-1").lower(), value.decode("latin-1")] for name, value in request.raw_headers
            ],
            "length": len(body),
            "port": self.port,
        }
        self.seen.append(told)
        return web.json_response(
            told, status=self.status, headers={"server": "upstream", "set-cookie": "pk_refresh=mine"}
        )

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(f"{message.data} for {request.headers.get('x-user-id')}")
        return socket

    async def _slow(self, request: web.Request) -> web.Response:
        self.seen.append({"path": request.raw_path})
        await self.hold.wait()
        return web.json_response({"port": self.port}, status=self.status)

    async def _ticks(self, request: web.Request) -> web.StreamResponse:
        """Answers each chunk that arrives with its size, while the rest is still to come."""
        answer = web.StreamResponse()
        await answer.prepare(request)
        async for chunk, _ in request.content.iter_chunks():
            await answer.write(f"{len(chunk)}\n".encode())
        return answer


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        return json.loads(self.body)

    def problem(self) -> dict[str, Any]:
        """The problem document that this must be."""
        assert self.header("content-type") == "application/problem+json", (self.status, self.headers, self.body)
        document = self.json()
        assert document["status"] == self.status
        assert {"type", "title", "detail", "trace_id"} <= document.keys()
        assert all(isinstance(value, str) for name, value in document.items() if name not in ("status", "errors"))
        assert len(document["trace_id"]) in (32, 36), document
        return dict(document)

    @property
    def slug(self) -> str:
        return str(self.problem()["type"]).rpartition("/")[2]


@dataclass
class Edge:
    """``port`` is the HTTPS port of an Envoy that runs. ``tokens`` is None while the decision server is down."""

    settings: EnvoySettings
    folder: Path
    tokens: KnownTokens
    decisions: DecisionServer | None = None
    reports: list[dict[str, Any]] = field(default_factory=list)
    api: Upstream = field(default_factory=Upstream)
    process: asyncio.subprocess.Process | None = None
    origins: tuple[str, ...] = ()

    @property
    def port(self) -> int:
        return self.settings.gateway_https_port

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.folder / "tls" / "ca.crt")
        context.set_alpn_protocols(["http/1.1"])
        return context

    def session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            self.url, connector=aiohttp.TCPConnector(ssl=self.tls, limit=0), auto_decompress=False
        )

    async def account(self) -> Account | None:
        admin = Admin(self.settings.gateway_envoy_admin_port)
        try:
            return await admin.account()
        finally:
            await admin.close()

    async def stat(self, name: str) -> int:
        """One number of Envoy's statistics; 0 while there is none."""
        url = f"http://127.0.0.1:{self.settings.gateway_envoy_admin_port}/stats"
        async with aiohttp.ClientSession() as session, session.get(url, params={"filter": f"^{name}$"}) as answer:
            return int((await answer.text()).strip().rpartition(": ")[2] or 0)

    async def publish(
        self, *modules: ModuleRoutes, request_seconds: float = 60, also: Sequence[int] = (), most: int | None = None
    ) -> None:
        """Gives Envoy these routes and returns when it uses them. ``also`` are more ports of every module; ``most`` is
        how many connections to a module there may be, and how many requests may wait for one."""
        by_slug = {module.slug: module for module in modules}
        clusters = module_clusters(modules)
        for cluster in clusters:
            if most is not None:
                limits = {"max_connections": most, "max_pending_requests": most}
                cluster["circuit_breakers"] = {"thresholds": [limits]}
            for port in also:
                address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
                cluster["load_assignment"]["endpoints"][0]["lb_endpoints"].append({"endpoint": {"address": address}})
        documents = {
            published.CLUSTERS: published.clusters(clusters),
            published.ROUTES: published.routes(by_slug, self.origins, https_only=True, request_seconds=request_seconds),
        }
        for name, document in documents.items():
            published.write(self.settings.gateway_envoy_directory / name, document)
            await eventually(lambda n=name, v=document["version_info"]: self._uses(n, v))

    async def _uses(self, name: str, version: str) -> bool:
        account = await self.account()
        if account is None:
            return False
        if name == published.CLUSTERS:
            return account.clusters == version and account.warming == 0
        return account.routes == version

    async def raw(self, request: bytes, *, more: Sequence[bytes] = ()) -> Answer:
        """Sends exactly these bytes on a connection of its own."""
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection("localhost", self.port, ssl=self.tls)
            try:
                writer.write(request)
                for piece in more:
                    writer.write(piece)
                await writer.drain()
                return await read_answer(reader, head=request.startswith(b"HEAD "))
            finally:
                writer.close()

    async def burst(self, path: str, times: int) -> list[Answer]:
        """The same GET again and again on one connection."""
        request = f"GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ada\r\n\r\n".encode()
        answers = []
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection("localhost", self.port, ssl=self.tls)
            for _ in range(times):
                writer.write(request)
                answers.append(await read_answer(reader))
            writer.close()
        return answers

    async def ask(
        self,
        path: str,
        method: str = "GET",
        *,
        token: str | None = "ada",
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> Answer:
        """One HTTP/1.1 request, its path and headers sent as they are given."""
        lines = [f"{method} {path} HTTP/1.1", "host: localhost"]
        if token is not None:
            lines.append(f"authorization: Bearer {token}")
        lines += [f"{name}: {value}" for name, value in headers]
        if body is not None:
            lines.append(f"content-length: {len(body)}")
        return await self.raw("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))

    def _report(self, body: bytes) -> None:
        transitions.handle(body)
        self.reports.append(json.loads(body))

    async def decisions_down(self) -> None:
        if self.decisions is not None:
            await self.decisions.stop(1)
            self.decisions = None

    async def decisions_up(self) -> None:
        if self.decisions is None:
            server = DecisionServer(self.tokens, self._report)  # type: ignore[arg-type]
            await server.start(self.settings.gateway_decision_port)
            self.decisions = server


async def read_answer(reader: asyncio.StreamReader, *, head: bool = False) -> Answer:
    """A whole HTTP/1.1 answer."""
    status, headers = await read_head(reader)
    length = next((int(value) for name, value in headers if name == "content-length"), None)
    if head or status in (101, 204, 304):
        return Answer(status, headers, b"")
    if length is not None:
        return Answer(status, headers, await reader.readexactly(length))
    body = b""
    if ("transfer-encoding", "chunked") in headers:
        while piece := await read_chunk(reader):
            body += piece
    return Answer(status, headers, body)


async def read_head(reader: asyncio.StreamReader) -> tuple[int, list[tuple[str, str]]]:
    line = await reader.readline()
    assert line.startswith(b"HTTP/1.1 "), line
    headers = []
    while (text := (await reader.readline()).decode("latin-1").strip()) != "":
        name, _, value = text.partition(":")
        headers.append((name.lower(), value.strip()))
    return int(line.split()[1]), headers


async def read_chunk(reader: asyncio.StreamReader) -> bytes:
    size = int((await reader.readline()).strip(), 16)
    data = await reader.readexactly(size)
    await reader.readline()
    return data


async def eventually(condition: Callable[[], Any], seconds: float = 10) -> None:
    """Returns when ``condition`` (which may be asynchronous) holds. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while True:
            result = condition()
            if asyncio.iscoroutine(result):
                result = await result
            if result:
                return
            await asyncio.sleep(0.01)


def crm(port: int, **changes: Any) -> ModuleRoutes:
    """A module with all kinds of rules."""
    rules = (
        PathRule(("GET", "HEAD"), "/contacts", "crm.contacts.read"),
        PathRule(("POST",), "/contacts", "crm.contacts.create"),
        PathRule(("GET", "PATCH", "DELETE"), "/contacts/{id}", "crm.contacts.read"),
        PathRule(("GET",), "/contacts/search", "crm.contacts.search"),
        PathRule(("GET",), "/contacts/{id}/notes/{note}", "crm.notes.read"),
        PathRule(("GET",), "/", "crm.*"),
        PathRule(("GET", "POST"), "/open", None),
        PathRule(("GET",), "/echo", "crm.socket"),
        PathRule(("GET", "POST"), "/slow", "crm.slow"),
        PathRule(("POST",), "/ticks", "crm.ticks"),
    )
    values: dict[str, Any] = {"slug": "crm", "prefix": "/api/v1/crm", "host": "127.0.0.1", "port": port, "rules": rules}
    return ModuleRoutes(**(values | changes))


@asynccontextmanager
async def running_edge(
    folder: Path, *, concurrency: int = 1, origins: tuple[str, ...] = (), **settings: Any
) -> AsyncIterator[Edge]:
    """An Envoy with its API and decision server, which ends with the block."""
    taken: set[int] = set()
    for _ in range(4):
        taken.add(ports.choose(taken))
    https, admin, api, decision = taken
    edge_certificate.make(folder / "tls")
    values: Mapping[str, Any] = {
        "gateway_https_host": "127.0.0.1",
        "gateway_https_port": https,
        "gateway_envoy_admin_port": admin,
        "gateway_port": api,
        "gateway_decision_port": decision,
        "gateway_tls_certificate": folder / "tls" / "tls.crt",
        "gateway_tls_key": folder / "tls" / "tls.key",
        "gateway_access_log": folder / "access.log",
        "gateway_envoy_directory": folder / "envoy",
    }
    edge = Edge(EnvoySettings(**(values | settings)), folder, KnownTokens(), origins=origins)
    lay_out(edge.settings)
    await edge.api.start(api)
    await edge.decisions_up()
    try:
        await start_envoy(edge, concurrency)
        yield edge
    finally:
        await stop_envoy(edge)
        await edge.decisions_down()
        await edge.api.stop()


async def start_envoy(edge: Edge, concurrency: int = 1) -> None:
    """Returns when it is ready."""
    log = os.open(edge.folder / "envoy.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    options = ("--use-dynamic-base-id", "--concurrency", str(concurrency), "--log-level", "warning")
    options += ("--file-flush-interval-msec", "20")
    bootstrap = edge.settings.gateway_envoy_directory / "envoy.json"
    edge.process = await asyncio.create_subprocess_exec(binary(), "-c", bootstrap, *options, stdout=log, stderr=log)
    os.close(log)

    async def ready() -> bool:
        assert edge.process is not None and edge.process.returncode is None, (edge.folder / "envoy.log").read_text()
        account = await edge.account()
        return account is not None and account.routes != ""

    await eventually(ready, 20)


async def stop_envoy(edge: Edge) -> None:
    if edge.process is not None and edge.process.returncode is None:
        edge.process.terminate()
        try:
            await asyncio.wait_for(edge.process.wait(), 10)
        except TimeoutError:
            edge.process.kill()
            await edge.process.wait()
    edge.process = None
