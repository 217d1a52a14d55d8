"""What becomes of a request: which rule it meets, what the service sees, and what is answered."""

import asyncio
import json

import pytest
from envoy_edge import ADA, TRACE, Edge, Upstream, crm, read_chunk, read_head, running_edge

from kernel_gateway.access import Rule

TRACEPARENT = ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01")


@pytest.mark.parametrize(
    ("method", "path", "rule"),
    [
        ("GET", "/api/v1/crm/contacts", "crm.contacts.read"),
        ("POST", "/api/v1/crm/contacts", "crm.contacts.create"),
        ("GET", "/api/v1/crm/contacts/7", "crm.contacts.read"),
        ("DELETE", "/api/v1/crm/contacts/7?x=/../", "crm.contacts.read"),
        ("GET", "/api/v1/crm/contacts/search", "crm.contacts.search"),
        ("DELETE", "/api/v1/crm/contacts/search", "crm.contacts.read"),
        ("GET", "/api/v1/crm/contacts/a%20b/notes/9", "crm.notes.read"),
        ("GET", "/api/v1/crm", "crm.*"),
        ("GET", "/api/v1/crm?page=2", "crm.*"),
    ],
)
async def test_the_rule_that_matches_is_decided_on(
    edge: Edge, upstream: Upstream, method: str, path: str, rule: str
) -> None:
    answer = await edge.ask(path, method)
    assert answer.status == 200
    assert edge.tokens.asked == [(Rule("crm", rule), ("Bearer ada",), "127.0.0.1")]
    assert (answer.json()["method"], answer.json()["path"]) == (method, path)
    assert answer.header("x-ratelimit-remaining") == "999"


async def test_the_service_learns_who_calls_and_not_with_what(edge: Edge, upstream: Upstream) -> None:
    await edge.ask("/api/v1/crm/contacts", headers=[("cookie", "refresh=secret")])
    headers = dict(upstream.seen[0]["headers"])
    assert headers["x-user-id"] == str(ADA.user) and headers["x-tenant-id"] == str(ADA.tenant)
    assert headers["x-user-roles"] == "Owner,Admin"
    assert not {"authorization", "cookie", "x-kernel-rule", "x-kernel-client"} & headers.keys()
    assert headers["x-forwarded-proto"] == "https"


async def test_a_public_path_needs_no_token(edge: Edge, upstream: Upstream) -> None:
    answer = await edge.ask("/api/v1/crm/open", token=None)
    assert answer.status == 200 and edge.tokens.asked == [(Rule("crm", public=True), (), "127.0.0.1")]
    assert "x-user-id" not in dict(answer.json()["headers"])


async def test_a_refusal_goes_to_the_client_as_it_is(edge: Edge, upstream: Upstream) -> None:
    answer = await edge.ask("/api/v1/crm/contacts", token="eve", headers=[TRACEPARENT])
    assert answer.status == 403 and answer.slug == "forbidden"
    assert answer.problem()["detail"] == "the permission crm.contacts.read is missing"
    assert answer.problem()["trace_id"] == TRACE and answer.header("x-ratelimit-limit") == "1000"
    unknown = await edge.ask("/api/v1/crm/contacts", token=None)
    assert unknown.status == 401 and unknown.header("www-authenticate") == "Bearer"
    assert upstream.seen == []


async def test_two_tokens_reach_the_decision_as_two(edge: Edge) -> None:
    answer = await edge.ask("/api/v1/crm/contacts", headers=[("Authorization", "Bearer eve")])
    assert answer.status == 401
    [(_, authorization, _)] = edge.tokens.asked
    assert [part.strip() for value in authorization for part in value.split(",")] == ["Bearer ada", "Bearer eve"]


@pytest.mark.parametrize(
    "header",
    [
        "X-Tenant-ID",
        "x-tenant-id",
        "X-TENANT-ID",
        "x-user-id",
        "X-User-Roles",
        "x-actor-id",
        "x-trace-id",
        "Forwarded",
        "X-HTTP-Method-Override",
        "X-Original-URL",
        "x-envoy-upstream-rq-timeout-ms",
        "X-Envoy-Retry-On",
        "X-Kernel-Anything",
    ],
)
@pytest.mark.parametrize("path", ["/api/v1/crm/contacts", "/api/v1/crm/open", "/api/v1/auth/login"])
async def test_no_identity_can_be_smuggled(edge: Edge, upstream: Upstream, header: str, path: str) -> None:
    forged = [(header, "forged-1"), (header.lower(), "forged-2"), (header.title(), "forged-3"), (header, "")]
    await edge.ask(path, headers=[*forged, ("x-forwarded-for", "10.1.1.1, forged"), ("connection", header)])
    [seen] = upstream.seen or edge.api.seen[-1:]
    assert not [pair for pair in seen["headers"] if "forged" in pair[1]]
    identity = dict(seen["headers"]).get("x-tenant-id")
    assert identity == (str(ADA.tenant) if path.endswith("contacts") else None)


async def test_the_rule_and_the_client_can_t_be_chosen_by_the_client(edge: Edge, upstream: Upstream) -> None:
    forged = [("X-Kernel-Rule", "crm public"), ("x-kernel-client", "10.0.0.9"), ("x-forwarded-for", "10.0.0.9")]
    await edge.ask("/api/v1/crm/contacts", headers=forged)
    assert edge.tokens.asked == [(Rule("crm", "crm.contacts.read"), ("Bearer ada",), "127.0.0.1")]
    assert "10.0.0.9" not in str(upstream.seen) and "," not in dict(upstream.seen[0]["headers"])["x-forwarded-for"]
    # The API limits logins by address.
    told = (await edge.ask("/api/v1/auth/login", headers=forged)).json()["headers"]
    assert [value for name, value in told if name == "x-kernel-client"] == ["127.0.0.1"]


async def test_proxies_in_front_are_believed_where_they_are_expected(tmp_path_factory: pytest.TempPathFactory) -> None:
    async with running_edge(tmp_path_factory.mktemp("behind"), gateway_trusted_hops=1) as edge:
        headers = [("x-forwarded-for", "10.0.0.66, 198.51.100.7")]
        told = dict((await edge.ask("/api/v1/auth/login", headers=headers)).json()["headers"])
        assert told["x-kernel-client"] == "198.51.100.7"


@pytest.mark.parametrize("header", ["x_tenant_id", "X_Tenant_ID", "x-tenant_id"])
async def test_underscores_are_refused(edge: Edge, upstream: Upstream, header: str) -> None:
    answer = await edge.ask("/api/v1/crm/open", headers=[(header, "forged")])
    assert answer.status == 400 and answer.slug == "validation-error" and upstream.seen == []


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/api/v1/crm/open/../contacts", "/api/v1/crm/contacts"),
        ("/api/v1/crm/open/%2e%2e/contacts", "/api/v1/crm/contacts"),
        ("/api/v1/crm/open/.%2E/contacts", "/api/v1/crm/contacts"),
        ("/api/v1/crm/%63ontacts", "/api/v1/crm/contacts"),
        ("/api/v1/crm//contacts", "/api/v1/crm/contacts"),
        ("//api/v1/crm/./contacts", "/api/v1/crm/contacts"),
        ("/x/..//api/v1/crm/contacts", "/api/v1/crm/contacts"),
        ("/api/v1/crm/open\\..\\contacts", "/api/v1/crm/contacts"),
    ],
)
async def test_a_path_is_decided_on_as_it_is_sent_on(edge: Edge, upstream: Upstream, path: str, meant: str) -> None:
    answer = await edge.ask(path)
    assert answer.status == 200 and answer.json()["path"] == meant
    assert [rule for rule, _, _ in edge.tokens.asked] == [Rule("crm", "crm.contacts.read")]


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/crm/open%2f..%2fcontacts",
        "/api/v1/crm%2Fcontacts",
        "/api/v1/crm/open%5c..%5ccontacts",
        "/api/v1/crm/contacts/a%2fb",
    ],
)
async def test_escaped_slashes_are_refused(edge: Edge, upstream: Upstream, path: str) -> None:
    answer = await edge.ask(path)
    assert answer.status == 400 and answer.slug == "validation-error"
    assert upstream.seen == [] and edge.tokens.asked == []


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nothing",
        "/api/v1/CRM/contacts",
        "/API/v1/crm/contacts",
        "/api/v1/crm/Contacts",
        "/api/v1/crm/contacts/",
        "/api/v1/crm/contacts;x=1",
        "/api/v1/crm;/contacts",
        "/api/v1/crmx/contacts",
        "/api/v1/crm/contacts/1/2",
        "/api/v1/crm/contacts%20",
        "/api/v1/crm/contacts/1/notes/",
        "/api/v1/authx/login",
        "/live/x",
        "/metrics",
        "/internal/breaker",
        "/api/v1/ws",
    ],
)
async def test_what_no_rule_names_is_not_found(edge: Edge, upstream: Upstream, path: str) -> None:
    edge.api.seen.clear()
    answer = await edge.ask(path)
    assert answer.status == 404 and answer.slug == "not-found"
    assert answer.problem()["instance"] == path
    assert upstream.seen == [] and edge.tokens.asked == [] and edge.api.seen == []


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PATCH", "/api/v1/crm/contacts", "GET, HEAD, POST"),
        ("PUT", "/api/v1/crm/contacts/7", "DELETE, GET, PATCH"),
        ("POST", "/api/v1/crm/contacts/search", "DELETE, GET, PATCH"),
        ("OPTIONS", "/api/v1/crm/open", "GET, POST"),
    ],
)
async def test_other_methods_are_told_which_there_are(edge: Edge, method: str, path: str, allowed: str) -> None:
    answer = await edge.ask(path, method)
    assert answer.status == 405 and answer.slug == "method-not-allowed" and answer.header("allow") == allowed
    assert edge.tokens.asked == []


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/auth/login",
        "/api/v1/permissions",
        "/v1/invitations/accept",
        "/v1/auth/login?x=1",
        "/api/v1/roles",
        "/api/v1/members/7/block",
        "/v1/roles/3",
        "/.well-known/jwks.json",
        "/live",
        "/ready",
        "/health",
        "/health/live",
        "/health/ready",
    ],
)
async def test_the_kernel_s_own_paths_go_to_the_api_undecided(edge: Edge, upstream: Upstream, path: str) -> None:
    answer = await edge.ask(path)
    assert answer.json()["path"] == path and answer.json()["port"] == edge.api.port
    assert dict(answer.json()["headers"])["authorization"] == "Bearer ada"
    assert edge.tokens.asked == []


async def test_a_trace_is_kept_or_made(edge: Edge, upstream: Upstream) -> None:
    kept = dict((await edge.ask("/api/v1/crm/contacts", headers=[TRACEPARENT])).json()["headers"])
    assert kept["traceparent"].split("-")[1] == TRACE and kept["traceparent"].endswith("-01")
    assert kept["x-trace-id"] == TRACE
    for wrong in (
        "",
        "00-xyz-1-01",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"ff-{TRACE}-b7ad6b7169203331-01",
        f"00-{TRACE}",
    ):
        headers = [("traceparent", wrong)] if wrong else []
        made = dict((await edge.ask("/api/v1/crm/contacts", headers=headers)).json()["headers"])
        version, trace, span, flags = made["traceparent"].split("-")
        assert version == "00" and len(trace) == 32 and trace != TRACE and int(trace, 16) and int(span, 16)
        assert len(flags) == 2 and made["x-trace-id"] == trace
    request_id = "6f1e2d3c-4b5a-4978-8a6b-5c4d3e2f1a0b"
    named = await edge.ask("/api/v1/crm/contacts", headers=[("x-request-id", request_id), ("tracestate", "a=b")])
    assert dict(named.json()["headers"])["x-trace-id"] == request_id.replace("-", "")
    assert named.header("x-request-id") == request_id and "tracestate" not in dict(named.json()["headers"])


async def test_bodies_are_limited_by_the_module(edge: Edge, upstream: Upstream) -> None:
    fits = await edge.ask("/api/v1/crm/contacts", "POST", body=b"x" * 2048)
    assert fits.status == 200 and fits.json()["length"] == 2048
    large = await edge.ask("/api/v1/crm/contacts", "POST", body=b"x" * 2049)
    assert large.status == 413 and large.slug == "payload-too-large" and "2048 bytes" in large.problem()["detail"]
    assert len(upstream.seen) == 1


def chunked(sizes: list[int], path: str = "/api/v1/crm/contacts", extra: str = "") -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ada\r\n"
        f"transfer-encoding: chunked\r\n{extra}\r\n"
    )
    body = b"".join(b"%x\r\n" % size + b"x" * size + b"\r\n" for size in sizes)
    return head.encode() + body + b"0\r\n\r\n"


async def test_bodies_of_unknown_length_are_limited_too(edge: Edge, upstream: Upstream) -> None:
    fits = await edge.raw(chunked([1000, 1000, 48]))
    assert fits.status == 200 and fits.json()["length"] == 2048
    large = await edge.raw(chunked([1000, 1000, 49]))
    assert large.status == 413 and large.slug == "payload-too-large"
    # Neither a header that looks like an upgrade nor a public path is a way around it.
    disguised = await edge.raw(chunked([3000], extra="upgrade: websocket\r\n"))
    assert disguised.status == 413
    public = await edge.raw(chunked([3000], path="/api/v1/crm/open"))
    assert public.status == 413
    assert len(upstream.seen) == 1


async def test_answers_stream_and_so_do_bodies_that_say_their_length(edge: Edge) -> None:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("localhost", edge.port, ssl=edge.tls)
        writer.write(
            b"POST /api/v1/crm/ticks HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ada\r\n"
            b"content-length: 30\r\n\r\n"
        )
        writer.write(b"x" * 10)
        status, _ = await read_head(reader)
        first = await read_chunk(reader)
        assert (status, first) == (200, b"10\n")
        writer.write(b"x" * 20)
        assert await read_chunk(reader) == b"20\n"
        writer.close()


async def test_a_websocket_goes_through(edge: Edge) -> None:
    asks = {"authorization": "Bearer ada"}
    async with edge.session() as session, session.ws_connect("/api/v1/crm/echo", headers=asks) as socket:
        await socket.send_str("hello")
        assert await socket.receive_str(timeout=5) == f"hello for {ADA.user}"
        await socket.send_str("x" * 100_000)
        assert (await socket.receive_str(timeout=5)).startswith("x" * 100_000)
    refused = await edge.ask(
        "/api/v1/crm/echo", token="eve", headers=[("connection", "upgrade"), ("upgrade", "websocket")]
    )
    assert refused.status == 403 and refused.slug == "forbidden"


async def test_the_browsers_websocket_goes_to_notify_undecided(edge: Edge, upstream: Upstream) -> None:
    crm_only = crm(upstream.port, max_body=2048)
    await edge.publish(crm_only, crm(upstream.port, slug="notify", prefix="/api/v1/notify"))
    try:
        async with edge.session() as session, session.ws_connect("/api/v1/ws") as socket:
            await socket.send_str("hello")
            assert await socket.receive_str(timeout=5) == "hello for None"
        assert edge.tokens.asked == []
        assert (await edge.ask("/api/v1/notify/contacts", token="eve")).status == 403
    finally:
        await edge.publish(crm_only)


async def test_http_2_is_spoken_the_same_way(edge: Edge, upstream: Upstream) -> None:
    async def curl(*arguments: str) -> tuple[str, str]:
        process = await asyncio.create_subprocess_exec(
            *("curl", "--silent", "--http2", "--max-time", "10", "--cacert", edge.folder / "tls" / "ca.crt"),
            *("--write-out", "\n%{http_version} %{http_code}", "--header", "authorization: Bearer ada", *arguments),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        body, _, end = output.decode().rpartition("\n")
        return body, end

    body, end = await curl(f"{edge.url}/api/v1/crm/contacts", "-H", "X-Tenant-ID: forged", "-H", "x-tenant-id: forged")
    assert (
        end == "2 200" and "forged" not in body and dict(json.loads(body)["headers"])["x-tenant-id"] == str(ADA.tenant)
    )
    body, end = await curl(f"{edge.url}/api/v1/crm/%2e%2e/x%2fy", "--path-as-is")
    assert end == "2 400" and json.loads(body)["status"] == 400
    # A body without a length, as only HTTP/2 can send it without a transfer coding.
    unknown = ("-H", "transfer-encoding: chunked", "--data-binary")
    body, end = await curl(f"{edge.url}/api/v1/crm/contacts", *unknown, "x" * 2048)
    assert end == "2 200" and json.loads(body)["length"] == 2048
    body, end = await curl(f"{edge.url}/api/v1/crm/contacts", *unknown, "x" * 2100)
    assert end == "2 413"


async def test_every_answer_carries_what_protects_browsers_and_no_server_name(edge: Edge) -> None:
    answer = await edge.ask("/api/v1/crm/contacts")
    assert answer.header("strict-transport-security") and answer.header("x-content-type-options") == "nosniff"
    names = {name for name, _ in answer.headers}
    assert "server" not in names and not any(name.startswith("x-envoy") for name in names)
    assert answer.header("x-request-id")


async def test_a_module_sets_no_cookie(edge: Edge, upstream: Upstream) -> None:
    answer = await edge.ask("/api/v1/crm/contacts")
    assert answer.status == 200 and answer.header("set-cookie") is None
    assert (await edge.ask("/api/v1/auth/refresh")).header("set-cookie") == "pk_refresh=mine"


async def test_pages_of_an_origin_we_know_may_call(edge: Edge) -> None:
    asks = [("origin", "https://app.example"), ("access-control-request-method", "PATCH")]
    preflight = await edge.ask("/api/v1/crm/contacts/7", "OPTIONS", token=None, headers=asks)
    assert preflight.status == 200 and preflight.header("access-control-allow-origin") == "https://app.example"
    assert "PATCH" in (preflight.header("access-control-allow-methods") or "")
    for token, status in (("ada", 200), ("eve", 403)):
        answer = await edge.ask("/api/v1/crm/contacts", token=token, headers=asks[:1])
        assert answer.status == status and answer.header("access-control-allow-origin") == "https://app.example"
        assert answer.header("access-control-allow-credentials") == "true"
    stranger = [("origin", "https://app.example.evil"), asks[1]]
    refused = await edge.ask("/api/v1/crm/contacts/7", "OPTIONS", token=None, headers=stranger)
    assert refused.header("access-control-allow-origin") is None
    answer = await edge.ask("/api/v1/crm/contacts", headers=stranger[:1])
    assert answer.header("access-control-allow-origin") is None
