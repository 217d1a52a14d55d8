"""Every error is a problem document, whoever makes it, and tells nothing that it should not."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gateway_api import PASSWORD, Client, Reply, SomeTenant, calling, serving
from gateway_process import free_port

from kernel_common.database import open_pool
from kernel_gateway.api.services import Services
from kernel_gateway.tokens.holder import KeyHolder

NewTenant = Callable[..., Awaitable[SomeTenant]]
LOGIN = {"email": "ada@acme.example", "password": PASSWORD}
TRACE = "0af7651916cd43dd8448eb211c80319c"


@asynccontextmanager
async def gateway(services: Services, **parts: Any) -> AsyncIterator[Client]:
    """A client of a gateway in which these parts are others."""
    async with serving(replace(services, **parts)) as base, calling(base) as client:
        yield client


def is_problem(reply: Reply, status: int, slug: str) -> None:
    assert (reply.status, reply.slug) == (status, slug)
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert reply.json["status"] == status
    assert reply.json["title"]
    assert reply.json["detail"]
    assert len(reply.json["trace_id"]) == 32


async def test_paths_and_methods_that_are_not_there(client: Client) -> None:
    is_problem(await client("GET", "nothing/here"), 404, "not-found")
    is_problem(await client("POST", "auth/login/"), 404, "not-found")
    reply = await client("DELETE", "auth/login")
    is_problem(reply, 405, "method-not-allowed")
    assert reply.headers["Allow"] == "POST"
    assert reply.json["instance"] == "/api/v1/auth/login"
    for path in ("roles", "/v1/roles"):
        assert (await client("DELETE", path)).headers["Allow"] == "GET, POST"


@pytest.mark.parametrize(
    ("traceparent", "kept"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", True),
        (f"cc-{TRACE}-b7ad6b7169203331-01-more", True),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", False),
        (f"ff-{TRACE}-b7ad6b7169203331-01", False),
        (TRACE, False),
    ],
)
async def test_the_trace_is_kept_or_made(client: Client, traceparent: str, kept: bool) -> None:
    reply = await client("GET", "nothing", traceparent=traceparent)
    assert (reply.json["trace_id"] == TRACE) == kept


async def test_a_wrong_body_is_told_by_its_fields(client: Client) -> None:
    reply = await client("POST", "auth/login", {"email": "ada", "tenantId": "no uuid", "surprise": 1, "password": 5})
    is_problem(reply, 400, "validation-error")
    told = {error["field"]: error["code"] for error in reply.json["errors"]}
    assert told == {
        "email": "INVALID_FORMAT",
        "tenantId": "INVALID_FORMAT",
        "surprise": "UNKNOWN_FIELD",
        "password": "INVALID_FORMAT",
    }
    missing = await client("POST", "auth/login", {})
    assert {error["code"] for error in missing.json["errors"]} == {"REQUIRED"}
    is_problem(await client("POST", "auth/login", [LOGIN]), 400, "validation-error")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"{not json", "application/json"),
        (b'{"email": "\xff"}', "application/json"),
        (b'{"email": "\\ud800@a.example", "password": "x"}', "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"", "application/json"),
        (b'{"email": "ada@acme.example", "password": "correct horse battery"}', "text/plain"),
        (b"email=ada@acme.example", "application/x-www-form-urlencoded"),
    ],
)
async def test_a_body_that_is_no_json_of_ours_is_refused(client: Client, data: bytes, kind: str) -> None:
    url = f"{client.base}/api/v1/auth/login"
    async with client.session.post(url, data=data, headers={"Content-Type": kind}) as answer:
        assert answer.status == 400
        assert (await answer.json(content_type=None))["type"].endswith("/validation-error")


async def test_a_body_is_bounded_whether_or_not_it_tells_its_length(client: Client) -> None:
    url = f"{client.base}/api/v1/auth/login"

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 50_000

    for data in (b" " * 1_000_001, endless()):
        async with client.session.post(url, data=data, headers={"Content-Type": "application/json"}) as answer:
            assert answer.status == 413
            assert (await answer.json(content_type=None))["type"].endswith("/payload-too-large")


async def test_two_different_tokens_are_one_too_many(client: Client, a_tenant: NewTenant) -> None:
    one, two = (await a_tenant()).owner, (await a_tenant()).owner
    headers = [("Authorization", one.headers["Authorization"]), ("Authorization", two.headers["Authorization"])]
    async with client.session.get(f"{client.base}/api/v1/auth/me", headers=headers) as answer:
        assert answer.status == 400


async def test_what_nobody_expected_is_a_500_that_tells_nothing(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway(services, keys=None) as client:
        reply = await client("GET", "/.well-known/jwks.json")
    is_problem(reply, 500, "internal-error")
    assert "NoneType" not in str(reply.json)
    assert "NoneType" in caplog.text


async def test_a_database_that_is_away_is_a_503(services: Services) -> None:
    secret = "s3cret-of-the-test"
    pool = await open_pool(f"postgres://g:{secret}@127.0.0.1:{free_port()}/platform", application="tests")
    async with gateway(services, pool=pool) as client:
        for reply in (
            await client("POST", "auth/login", LOGIN),
            await client("POST", "auth/refresh", {"refreshToken": "A" * 43}),
            await client("POST", "auth/verify-email", {"token": "A" * 43}),
        ):
            is_problem(reply, 503, "service-unavailable")
            assert reply.headers["Retry-After"] == "5"
            assert secret not in str(reply.json)
        assert (await client("POST", "auth/request-reset", {"email": LOGIN["email"]})).status == 202
        await services.background.idle()
    await pool.close()


async def test_without_a_key_nobody_logs_in(services: Services, a_tenant: NewTenant, tmp_path: Path) -> None:
    owner = (await a_tenant()).owner
    async with gateway(services, keys=KeyHolder.waiting(tmp_path)) as client:
        reply = await client("POST", "auth/login", {"email": owner.email, "password": owner.password})
    is_problem(reply, 503, "service-unavailable")


async def test_the_limit_is_told_and_held_by_address(services: Services) -> None:
    from kernel_gateway.decision.decider import Decider

    decider = Decider(services.keys, "https://gateway.example", services.valkey, services.rights, anonymous_limit=3)
    async with gateway(services, decider=decider) as client:
        body = {"email": "nobody@limits.example"}
        replies = [await client("POST", "auth/request-reset", body, X_Kernel_Client="203.0.113.77") for _ in range(20)]
        assert replies[0].status == 202
        assert replies[0].headers["X-RateLimit-Limit"] == "3"
        is_problem(replies[-1], 429, "rate-limit-exceeded")
        wrong = await client("POST", "auth/verify-email", {"token": "A" * 43}, X_Kernel_Client="203.0.113.79")
        assert (wrong.status, wrong.headers["X-RateLimit-Remaining"]) == (
            401,
            replies[0].headers["X-RateLimit-Remaining"],
        )
        assert len(replies[-1].headers.getall("X-RateLimit-Limit")) == 1  # type: ignore[attr-defined]
        assert int(replies[-1].headers["Retry-After"]) > 0
        elsewhere = await client("POST", "auth/request-reset", body, X_Kernel_Client="203.0.113.78")
        assert elsewhere.status == 202
    await decider.close()


async def test_the_log_tells_of_a_request_without_its_secrets(
    client: Client, a_tenant: NewTenant, caplog: pytest.LogCaptureFixture
) -> None:
    owner = (await a_tenant()).owner
    caplog.set_level(logging.INFO, "kernel_gateway.access")
    await client("GET", "auth/me?token=s3cret", **owner.headers)
    await client("POST", "auth/login", {"email": owner.email, "password": owner.password})
    lines = [record for record in caplog.records if record.name == "kernel_gateway.access"]
    assert [line.getMessage() for line in lines] == ["GET /api/v1/auth/me", "POST /api/v1/auth/login"]
    fields: list[dict[str, Any]] = [line.__dict__["fields"] for line in lines]
    assert (fields[0]["status"], fields[0]["tenant"]) == (200, str(owner.tenant))
    said = caplog.text + str(fields)
    assert not [secret for secret in ("s3cret", owner.password, "Bearer", owner.email) if secret in said]


async def test_health(client: Client, services: Services, a_tenant: NewTenant, tmp_path: Path) -> None:
    for path in ("/live", "/health/live"):
        assert (await client("GET", path)).json == {"status": "ok"}
    for path in ("/ready", "/health/ready"):
        assert (await client("GET", path)).json == {"status": "ready"}
    assert (await client("GET", "/health")).status == 401
    tenant = await a_tenant()
    report = await client("GET", "/health", **tenant.owner.headers)
    assert report.json["components"] == {"postgres": True, "valkey": True, "signingKey": True}

    async with client.session.get(f"{client.base}/metrics") as answer:
        text = await answer.text()
    assert 'http_server_requests_total{method="GET",route="/live"' in text


async def test_it_is_not_ready_for_a_reason() -> None:
    from kernel_gateway.api.health import Health

    async def answers() -> None: ...

    async def away() -> None:
        raise OSError

    async def hangs() -> None:
        await asyncio.Event().wait()

    def no_key() -> None:
        raise LookupError

    assert await Health(lambda: None, {"a": answers, "b": away}).trouble() is None
    assert await Health(lambda: None, {"a": hangs, "b": away}).trouble() == "none of a, b answers"
    assert await Health(no_key, {"a": answers}).trouble() == "no signing key is loaded"
    ending = Health(lambda: None, {"a": answers})
    ending.stopping = True
    assert await ending.trouble() == "shutting down"
