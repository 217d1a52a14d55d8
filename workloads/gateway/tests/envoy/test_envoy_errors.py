"""Envoy's own errors: each is a problem document, and what it says in its log holds no secret."""

import asyncio
import contextlib
import datetime
import json
import socket
import ssl
from collections.abc import AsyncIterator

import pytest
from envoy_edge import (
    TRACE,
    Edge,
    Upstream,
    crm,
    eventually,
    read_chunk,
    read_head,
    running_edge,
    start_envoy,
    stop_envoy,
)

from kernel_local import edge_certificate

CONTACTS = "/api/v1/crm/contacts"
TRACEPARENT = ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01")


async def test_without_the_decision_server_nothing_passes(edge: Edge, upstream: Upstream) -> None:
    await edge.decisions_down()
    try:
        for token in ("ada", None):
            answer = await edge.ask(CONTACTS, token=token, headers=[TRACEPARENT])
            assert answer.status == 503 and answer.slug == "service-unavailable"
            assert answer.problem()["trace_id"] == TRACE and answer.header("retry-after") == "1"
        public = await edge.ask("/api/v1/crm/open", token=None)
        assert public.status == 503
        assert upstream.seen == []
        assert (await edge.ask("/live")).status == 200
    finally:
        await edge.decisions_up()
    assert (await edge.ask(CONTACTS)).status == 200


async def test_a_decision_that_doesn_t_come_is_no_yes(edge: Edge, upstream: Upstream) -> None:
    await edge.decisions_down()
    silent = socket.create_server(("127.0.0.1", edge.settings.gateway_decision_port))
    try:
        answer = await edge.ask(CONTACTS)
        assert answer.status == 503 and answer.slug == "service-unavailable" and upstream.seen == []
    finally:
        silent.close()
        await edge.decisions_up()


@pytest.mark.parametrize(
    ("request_", "status", "slug"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400, "validation-error"),
        (b"GET /\x00 HTTP/1.1\r\nhost: localhost\r\n\r\n", 400, "validation-error"),
        (b"GET / HTTP/1.1\r\nhost: localhost\r\nx: a\x00b\r\n\r\n", 400, "validation-error"),
        (b"NONSENSE\r\n\r\n", 400, "validation-error"),
        (
            b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            400,
            "validation-error",
        ),
        (
            b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "validation-error",
        ),
        (b"GET / HTTP/1.0\r\nhost: localhost\r\n\r\n", 426, "upgrade-required"),
        (
            b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"x" * 40_000 + b"\r\n\r\n",
            431,
            "request-headers-too-large",
        ),
        (
            b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"".join(b"x-%d: y\r\n" % i for i in range(150)) + b"\r\n",
            431,
            "request-headers-too-large",
        ),
        (
            b"GET /api/v1/crm/echo HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: foo\r\n\r\n",
            403,
            "forbidden",
        ),
        (b"GET /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n", 404, "not-found"),
    ],
)
async def test_errors_of_envoy_are_problem_documents(edge: Edge, request_: bytes, status: int, slug: str) -> None:
    answer = await edge.raw(request_)
    assert (answer.status, answer.slug) == (status, slug)
    # An id by which the line in the log is found, even where there was nothing to trace.
    trace = answer.problem()["trace_id"]
    await eventually(lambda: trace in (edge.folder / "access.log").read_text())


async def test_a_connection_that_breaks_in_the_middle_is_a_problem_too(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"SSH-2.0-hello\r\n\r\n")
        await writer.drain()
        writer.close()

    async with running_edge(tmp_path_factory.mktemp("broken")) as edge:
        for behaviour in (hang_up, nonsense):
            server = await asyncio.start_server(behaviour, "127.0.0.1", 0)
            async with server:
                await edge.publish(crm(server.sockets[0].getsockname()[1]))
                answer = await edge.ask(CONTACTS, headers=[TRACEPARENT])
                assert answer.status == 503 and answer.slug == "service-unavailable"
                assert answer.problem()["trace_id"] == TRACE
                assert "127.0.0.1" not in answer.body.decode()


async def test_the_service_s_own_errors_stay_its_own(edge: Edge, upstream: Upstream) -> None:
    for status in (404, 429, 500, 502):
        upstream.status = status
        answer = await edge.ask(CONTACTS)
        assert answer.status == status and answer.json()["path"] == CONTACTS
    upstream.status = 200
    assert (await edge.ask(CONTACTS)).status == 200


@pytest.fixture(scope="module")
async def narrow(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path_factory.mktemp("narrow"), local_rate_per_sec=20) as edge:
        yield edge


async def test_the_local_bucket_limits_everything_together(narrow: Edge) -> None:
    answers = await narrow.burst("/nothing", 200)
    passed = [answer for answer in answers if answer.status == 404]
    limited = [answer for answer in answers if answer.status == 429]
    assert len(passed) + len(limited) == 200 and len(passed) >= 20 and limited
    assert limited[0].slug == "rate-limit-exceeded" and limited[0].header("retry-after") == "1"
    limited_too = [answer for answer in await narrow.burst("/live", 200) if answer.status == 429]
    assert limited_too


@pytest.fixture
async def impatient(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path_factory.mktemp("impatient")) as edge:
        yield edge


async def test_only_the_head_of_an_answer_must_come_in_time(impatient: Edge) -> None:
    """What streams longer than that is left alone: an answer that grows with its request, and a WebSocket."""
    service = Upstream()
    await service.start()
    await impatient.publish(crm(service.port), request_seconds=0.3)
    async with asyncio.timeout(10):
        late = await impatient.ask("/api/v1/crm/slow")
        assert late.status == 504 and late.slug == "gateway-timeout"
        reader, writer = await asyncio.open_connection("localhost", impatient.port, ssl=impatient.tls)
        writer.write(b"POST /api/v1/crm/ticks HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ada\r\n")
        writer.write(b"content-length: 30\r\n\r\n" + b"x" * 10)
        assert (await read_head(reader))[0] == 200 and await read_chunk(reader) == b"10\n"
        asks = {"authorization": "Bearer ada"}
        async with impatient.session() as session, session.ws_connect("/api/v1/crm/echo", headers=asks) as websocket:
            await asyncio.sleep(0.7)
            await websocket.send_str("still")
            assert (await websocket.receive_str()).startswith("still for")
        writer.write(b"x" * 20)
        assert await read_chunk(reader) == b"20\n" and await read_chunk(reader) == b""
        writer.close()
        await writer.wait_closed()
    service.hold.set()
    await service.stop()


async def test_old_tls_is_refused(edge: Edge) -> None:
    context = ssl.create_default_context(cafile=edge.folder / "tls" / "ca.crt")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("localhost", edge.port, ssl=context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    _, writer = await asyncio.open_connection("localhost", edge.port, ssl=context)
    assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
    writer.close()
    await writer.wait_closed()
    writer.close()


async def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path_factory: pytest.TempPathFactory) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    async def shown(edge: Edge) -> bytes:
        _, writer = await asyncio.open_connection("localhost", edge.port, ssl=context)
        certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return certificate

    def on_disk(edge: Edge) -> bytes:
        return ssl.PEM_cert_to_DER_cert((edge.folder / "tls" / "tls.crt").read_text())

    async with running_edge(tmp_path_factory.mktemp("renewed")) as edge:
        before = await shown(edge)
        assert before == on_disk(edge)
        edge_certificate.make(
            edge.folder / "tls", now=datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=370)
        )

        async def renewed() -> bool:
            return await shown(edge) == on_disk(edge)

        assert on_disk(edge) != before
        await eventually(renewed)


async def test_plain_http_gets_nothing(edge: Edge) -> None:
    reader, writer = await asyncio.open_connection("localhost", edge.port)
    writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def test_the_access_log_tells_who_and_what_and_no_secret(edge: Edge, upstream: Upstream) -> None:
    log = edge.folder / "access.log"
    secrets = [("cookie", "refresh=c00kie"), TRACEPARENT, ("user-agent", 'x"}\n')]
    await edge.ask(CONTACTS + "?token=qu3ry", headers=secrets[:2], body=b"b0dy")
    await edge.ask(CONTACTS, token="wr0ng", headers=secrets[:2])

    def lines() -> list[dict[str, object]]:
        parsed = [json.loads(line) for line in log.read_text().splitlines()]
        return [line for line in parsed if line["trace_id"] == TRACE and line["path"] == CONTACTS and line["bytes_out"]]

    await eventually(lambda: len([line for line in lines() if line["bytes_in"] == 4]) == 1)
    [line] = [line for line in lines() if line["bytes_in"] == 4]
    assert line["user"] == "00000000-0000-0000-0000-000000000ada" and line["tenant"]
    assert (line["method"], line["status"], line["upstream"]) == ("GET", 200, "module_crm")
    assert line["rule"] == "crm crm.contacts.read" and line["client"] == "127.0.0.1"
    await eventually(lambda: any(line["status"] == 401 for line in lines()))
    for secret in ("c00kie", "qu3ry", "b0dy", "wr0ng", "Bearer"):
        assert secret not in log.read_text()


async def test_a_client_that_never_finishes_its_headers_is_let_go(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with running_edge(tmp_path_factory.mktemp("slow")) as edge:
        await stop_envoy(edge)
        bootstrap = edge.settings.gateway_envoy_directory / "envoy.json"
        bootstrap.write_text(
            bootstrap.read_text().replace('"request_headers_timeout": "10s"', '"request_headers_timeout": "0.3s"')
        )
        await start_envoy(edge)
        reader, writer = await asyncio.open_connection("localhost", edge.port, ssl=edge.tls)
        writer.write(b"GET / HTTP/1.1\r\nhost: loc")
        status, _ = await asyncio.wait_for(read_head(reader), 15)
        assert status == 408
        writer.close()
