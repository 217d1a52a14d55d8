"""The second factor."""

import asyncio
import time
from base64 import b32decode
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from gateway_api import Client, Person, SomeTenant
from login_world import events, logged_in

from kernel_common.ids import uuid7
from kernel_gateway.api.services import Services
from kernel_gateway.login import totp
from kernel_gateway.login.sessions import access_token

NewTenant = Callable[..., Awaitable[SomeTenant]]


@pytest.mark.parametrize(
    ("seconds", "code"),
    [(59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (1234567890, "005924"), (2000000000, "279037")],
)
def test_codes_are_those_of_rfc_6238(seconds: int, code: str) -> None:
    secret = b"12345678901234567890"
    assert totp.code(secret, seconds // totp.STEP) == code
    assert totp.step_of(secret, code, seconds) == seconds // totp.STEP
    assert totp.step_of(secret, code, seconds + totp.STEP) == seconds // totp.STEP
    assert totp.step_of(secret, code, seconds + 2 * totp.STEP) is None
    assert totp.step_of(secret, code, seconds - 2 * totp.STEP) is None


async def enrolled(client: Client, person: Person) -> dict[str, Any]:
    reply = await client("POST", "auth/mfa/enable", {"password": person.password}, **person.headers)
    assert reply.status == 200, reply.json
    return dict(reply.json)


def code_now(secret: str, steps: int = 0) -> str:
    padded = secret + "=" * (-len(secret) % 8)
    return totp.code(b32decode(padded), int(time.time()) // totp.STEP + steps)


async def with_factor(client: Client, person: Person) -> dict[str, Any]:
    """In force; the code of the step before the present one is used up."""
    enrolment = await enrolled(client, person)
    code = code_now(enrolment["secret"], -1)
    assert (await client("POST", "auth/mfa/verify", {"code": code}, **person.headers)).status == 204
    return enrolment


async def log_in(client: Client, person: Person, code: str | None) -> tuple[int, str]:
    more = {"mfaCode": code} if code else {}
    reply = await client("POST", "auth/login", {"email": person.email, "password": person.password, **more})
    return reply.status, reply.slug


async def test_it_is_not_in_force_until_a_code_was_shown(
    client: Client, a_tenant: NewTenant, admin: asyncpg.Connection
) -> None:
    owner = (await a_tenant()).owner
    enrolment = await enrolled(client, owner)
    query = parse_qs(urlsplit(enrolment["otpauthUrl"]).query)
    assert query["secret"] == [enrolment["secret"]]
    await logged_in(client, owner)
    wrong = await client("POST", "auth/mfa/verify", {"code": "000000"}, **owner.headers)
    assert wrong.status == 401
    assert not await events(admin, owner.tenant, "auth.mfa.enabled")

    code = code_now(enrolment["secret"])
    assert (await client("POST", "auth/mfa/verify", {"code": code}, **owner.headers)).status == 204
    assert await events(admin, owner.tenant, "auth.mfa.enabled") == [{"userId": str(owner.id)}]
    assert await log_in(client, owner, None) == (401, "mfa-required")
    assert await log_in(client, owner, code) == (401, "invalid-credentials"), "each code is used once"
    assert (await client("GET", "auth/me", **owner.headers)).json["mfaEnabled"] is True
    again = await client("POST", "auth/mfa/enable", {"password": owner.password}, **owner.headers)
    assert again.status == 409


async def test_one_code_opens_one_session_of_many_at_once(client: Client, a_tenant: NewTenant) -> None:
    owner = (await a_tenant()).owner
    enrolment = await with_factor(client, owner)
    code = code_now(enrolment["secret"])
    outcomes = Counter(await asyncio.gather(*(log_in(client, owner, code) for _ in range(8))))
    assert outcomes[200, ""] == 1
    assert outcomes[401, "invalid-credentials"] == 7


async def test_a_wrong_password_says_nothing_of_the_factor(client: Client, a_tenant: NewTenant) -> None:
    owner = (await a_tenant()).owner
    await with_factor(client, owner)
    reply = await client("POST", "auth/login", {"email": owner.email, "password": "a wrong password"})
    assert (reply.status, reply.slug) == (401, "invalid-credentials")


async def test_each_recovery_code_works_once(client: Client, a_tenant: NewTenant, admin: asyncpg.Connection) -> None:
    owner = (await a_tenant()).owner
    codes = (await with_factor(client, owner))["recoveryCodes"]
    assert len(set(codes)) == 10
    stored = await admin.fetchval("SELECT recovery_codes FROM auth.users WHERE id = $1", owner.id)
    assert all(hashed.startswith("$argon2id$") for hashed in stored)
    for code in (codes[3].lower(), codes[0].replace("-", " ")):
        assert await log_in(client, owner, code) == (200, "")
        assert await log_in(client, owner, code) == (401, "invalid-credentials")


async def test_codes_can_not_be_guessed_with_the_password(client: Client, a_tenant: NewTenant) -> None:
    """Asking without a code is right as far as it goes, and must not wipe out what was guessed wrong."""
    owner = (await a_tenant()).owner
    await with_factor(client, owner)
    outcomes = []
    for _ in range(6):
        outcomes += [await log_in(client, owner, "000000"), await log_in(client, owner, None)]
    assert [status for status, _ in outcomes] == [401] * 10 + [429] * 2


async def test_disabling_needs_the_password_and_a_code(
    client: Client, a_tenant: NewTenant, admin: asyncpg.Connection
) -> None:
    owner = (await a_tenant()).owner
    enrolment = await with_factor(client, owner)

    async def disable(password: str, code: str) -> int:
        body = {"password": password, "code": code}
        return (await client("POST", "auth/mfa/disable", body, **owner.headers)).status

    assert await disable("a wrong password", code_now(enrolment["secret"])) == 401
    assert await disable(owner.password, "000000") == 401
    assert await disable(owner.password, code_now(enrolment["secret"])) == 204
    assert await log_in(client, owner, None) == (200, "")
    row = await admin.fetchrow("SELECT * FROM auth.users WHERE id = $1", owner.id)
    assert (row["mfa_secret"], list(row["recovery_codes"])) == (None, [])


async def test_the_secret_is_sealed_for_its_user(
    client: Client, a_tenant: NewTenant, admin: asyncpg.Connection
) -> None:
    one, other = (await a_tenant()).owner, (await a_tenant()).owner
    secret = (await with_factor(client, one))["secret"]
    sealed = await admin.fetchval("SELECT mfa_secret FROM auth.users WHERE id = $1", one.id)
    assert b32decode(secret) not in sealed
    await with_factor(client, other)
    await admin.execute("UPDATE auth.users SET mfa_secret = $2 WHERE id = $1", other.id, sealed)
    assert (await log_in(client, other, code_now(secret)))[0] == 401


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("auth/mfa/enable", {"password": "correct horse battery"}),
        ("auth/mfa/verify", {"code": "123456"}),
        ("auth/change-password", {"password": "correct horse battery", "newPassword": "another long password"}),
        ("auth/request-verify-email", None),
    ],
)
async def test_who_impersonates_changes_nothing_of_the_login(
    client: Client, services: Services, a_tenant: NewTenant, path: str, body: object
) -> None:
    owner = (await a_tenant()).owner
    token, _ = access_token(services, owner.id, owner.tenant, ("Owner",), actor=uuid7())
    reply = await client("POST", path, body, Authorization=f"Bearer {token}")
    assert (reply.status, reply.slug) == (403, "forbidden")
