"""Addresses that are verified, passwords that are changed, and the mails that belong to them."""

import asyncio
import email
import email.policy
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from email.message import EmailMessage

import asyncpg
import pytest
from gateway_api import Client, Person, SomeTenant
from login_world import events, logged_in, refreshed

from kernel_gateway.api.services import Services
from kernel_gateway.login import links
from kernel_gateway.login.mail import Mail, MailQueue, smtp
from kernel_gateway.settings import Settings

NewTenant = Callable[..., Awaitable[SomeTenant]]
NEW = "an entirely new password"


Mails = Callable[[str], Awaitable[list[str]]]


@pytest.fixture
async def mails(services: Services, settings: Settings) -> AsyncIterator[Mails]:
    """Called with an address: the tokens of the mails to it, oldest first. Mails are sent while the test runs."""
    sending = asyncio.create_task(services.mail.run())

    async def mails(to: str) -> list[str]:
        await services.background.idle()
        await services.mail.sent()
        assert settings.mail_directory is not None
        found = []
        assert all(path.stat().st_mode & 0o077 == 0 for path in settings.mail_directory.iterdir())
        assert all(b"#token=" in path.read_bytes() for path in settings.mail_directory.glob("*.eml")), "links are whole"
        for path in sorted(settings.mail_directory.glob("*.eml")):
            mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            if mail["To"] == to:
                found += re.findall(r"#token=(\S+)", mail.get_content())
        return found

    yield mails
    sending.cancel()
    await asyncio.wait([sending])


async def verified(client: Client, person: Person) -> bool:
    return bool((await client("GET", "auth/me", **person.headers)).json["emailVerified"])


async def test_an_address_is_verified_by_the_link_in_its_mail(
    client: Client, a_tenant: NewTenant, mails: Mails, admin: asyncpg.Connection
) -> None:
    owner = (await a_tenant()).owner
    assert (await client("POST", "auth/request-verify-email", **owner.headers)).status == 202
    (token,) = await mails(owner.email)
    assert not await verified(client, owner)
    assert (await client("POST", "auth/verify-email", {"token": token})).status == 204
    assert await verified(client, owner)
    reply = await client("POST", "auth/verify-email", {"token": token})
    assert (reply.status, reply.slug) == (401, "token-revoked")
    told = await events(admin, owner.tenant, "auth.user.updated")
    assert told == [{"userId": str(owner.id), "changed": ["emailVerified"]}]
    assert (await client("POST", "auth/request-verify-email", **owner.headers)).status == 202
    assert len(await mails(owner.email)) == 1, "a verified address gets no more mails"


async def test_three_mails_an_hour_are_sent(
    client: Client, a_tenant: NewTenant, mails: Mails, admin: asyncpg.Connection
) -> None:
    owner = (await a_tenant()).owner
    for _ in range(3):
        assert (await client("POST", "auth/request-verify-email", **owner.headers)).status == 202
    reply = await client("POST", "auth/request-verify-email", **owner.headers)
    assert (reply.status, reply.slug) == (429, "rate-limit-exceeded")
    assert reply.headers["Retry-After"] == "3600"
    at_once = (await a_tenant()).owner
    replies = await asyncio.gather(*(client("POST", "auth/request-verify-email", **at_once.headers) for _ in range(12)))
    assert Counter(reply.status for reply in replies)[202] <= 3
    assert len(await mails(owner.email)) == 3
    await admin.execute("UPDATE auth.one_time_tokens SET created_at = created_at - interval '1 hour'")
    assert (await client("POST", "auth/request-verify-email", **owner.headers)).status == 202


async def test_an_expired_link_says_so(
    client: Client, a_tenant: NewTenant, mails: Mails, admin: asyncpg.Connection
) -> None:
    owner = (await a_tenant()).owner
    await client("POST", "auth/request-verify-email", **owner.headers)
    (token,) = await mails(owner.email)
    await admin.execute(
        "UPDATE auth.one_time_tokens SET expires_at = clock_timestamp() WHERE token_hash = $1", links.hashed(token)
    )
    reply = await client("POST", "auth/verify-email", {"token": token})
    assert (reply.status, reply.slug) == (401, "token-expired")
    reply = await client("POST", "auth/reset-password", {"token": token, "newPassword": NEW})
    assert reply.status == 401, "a token of one kind is none of another"


async def test_a_reset_sets_the_password_and_ends_every_session(
    client: Client,
    a_tenant: NewTenant,
    a_person: Callable[..., Awaitable[Person]],
    mails: Mails,
    admin: asyncpg.Connection,
) -> None:
    first, second = await a_tenant(), await a_tenant()
    owner = first.owner
    await a_person(second.id, email=owner.email)
    sessions = [
        (await logged_in(client, owner, tenantId=str(tenant.id))).json["refreshToken"] for tenant in (first, second)
    ]
    reply = await client("POST", "auth/request-reset", {"email": owner.email})
    assert reply.status == 202
    (token,) = await mails(owner.email)
    body = {"token": token, "newPassword": NEW}
    outcomes = await asyncio.gather(*(client("POST", "auth/reset-password", body) for _ in range(5)))
    assert sorted(outcome.status for outcome in outcomes) == [204] + [401] * 4
    for session in sessions:
        assert (await refreshed(client, session)).slug == "token-revoked"
    old = await client("POST", "auth/login", {"email": owner.email, "password": owner.password})
    assert old.status == 401
    new = await client("POST", "auth/login", {"email": owner.email, "password": NEW, "tenantId": str(second.id)})
    assert new.status == 200
    assert await verified(client, owner), "whoever has the mail has the address"
    for tenant in (first, second):
        assert {"userId": str(owner.id), "changed": ["password"]} in await events(admin, tenant.id, "auth.user.updated")


async def test_a_stranger_who_registered_an_address_loses_it_to_its_owner(
    client: Client, a_tenant: NewTenant, mails: Mails, admin: asyncpg.Connection
) -> None:
    """The stranger even set up a second factor; the owner has nothing but the mailbox."""
    stranger = (await a_tenant()).owner
    session = (await logged_in(client, stranger)).json["refreshToken"]
    await admin.execute(
        "UPDATE auth.users SET mfa_secret = 'sealed', mfa_enabled_at = clock_timestamp() WHERE id = $1", stranger.id
    )
    await client("POST", "auth/request-reset", {"email": stranger.email})
    (token,) = await mails(stranger.email)
    assert (await client("POST", "auth/reset-password", {"token": token, "newPassword": NEW})).status == 204
    assert (await refreshed(client, session)).status == 401
    assert (await client("POST", "auth/login", {"email": stranger.email, "password": NEW})).status == 200


async def test_a_verified_account_keeps_its_second_factor_through_a_reset(
    client: Client, a_tenant: NewTenant, mails: Mails, admin: asyncpg.Connection
) -> None:
    owner = (await a_tenant()).owner
    await admin.execute(
        "UPDATE auth.users SET mfa_secret = 'sealed', mfa_enabled_at = now(), email_verified_at = now() WHERE id = $1",
        owner.id,
    )
    await client("POST", "auth/request-reset", {"email": owner.email})
    (token,) = await mails(owner.email)
    assert (await client("POST", "auth/reset-password", {"token": token, "newPassword": NEW})).status == 204
    assert (await client("POST", "auth/login", {"email": owner.email, "password": NEW})).slug == "mfa-required"


async def test_a_request_for_a_reset_does_not_tell_who_has_an_account(
    client: Client, a_tenant: NewTenant, mails: Mails
) -> None:
    owner = (await a_tenant()).owner
    known = await client("POST", "auth/request-reset", {"email": owner.email})
    unknown = await client("POST", "auth/request-reset", {"email": "nobody@reset.example"})
    assert (known.status, known.json) == (unknown.status, unknown.json) == (202, {"status": "accepted"})
    for _ in range(4):
        assert (await client("POST", "auth/request-reset", {"email": owner.email})).json == known.json
        assert len(await mails(owner.email)) <= 3
    assert len(await mails(owner.email)) == 3
    assert await mails("nobody@reset.example") == []


async def test_a_password_is_changed_with_the_old_one(client: Client, a_tenant: NewTenant) -> None:
    owner = (await a_tenant()).owner
    session = (await logged_in(client, owner)).json["refreshToken"]
    wrong = await client(
        "POST", "auth/change-password", {"password": "a wrong one", "newPassword": NEW}, **owner.headers
    )
    assert wrong.status == 401
    short = {"password": owner.password, "newPassword": "elevenchars"}
    reply = await client("POST", "auth/change-password", short, **owner.headers)
    assert [(error["field"], error["code"]) for error in reply.json["errors"]] == [("newPassword", "TOO_SHORT")]
    assert "elevenchars" not in str(reply.json)
    good = {"password": owner.password, "newPassword": NEW}
    assert (await client("POST", "auth/change-password", good, **owner.headers)).status == 204
    assert (await refreshed(client, session)).status == 401
    assert (await client("POST", "auth/login", {"email": owner.email, "password": NEW})).status == 200


async def test_a_mail_is_tried_again_and_given_up_without_a_word_of_it(caplog: pytest.LogCaptureFixture) -> None:
    tried = []

    async def refuse(message: EmailMessage) -> None:
        tried.append(message["To"])
        raise OSError(f"no route for {message.get_content()}")

    queue = MailQueue("us@example", refuse, pauses=(0.01, 0.01))
    sending = asyncio.create_task(queue.run())
    queue.put(Mail("test", "ada@example", "Hello", "https://x/#token=s3cret"))
    queue.put(Mail("test", "eve@example", "Two\nlines", "text"))
    async with asyncio.timeout(10):
        await queue.sent()
    sending.cancel()
    await asyncio.wait([sending])
    assert tried == ["ada@example"] * 3
    assert "given up" in caplog.text
    assert "s3cret" not in caplog.text
    assert "ada@" not in caplog.text


async def test_mail_goes_out_by_smtp() -> None:
    """Against a server that speaks just enough of the protocol."""
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready\r\n")
        while line := await reader.readline():
            word = line[:4].upper()
            if word == b"DATA":
                writer.write(b"354 go on\r\n")
                received.append(await reader.readuntil(b"\r\n.\r\n"))
            writer.write(b"221 bye\r\n" if word == b"QUIT" else b"250 fine\r\n")
            if word == b"QUIT":
                break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "us@example", "ada@example", "Hello"
    message.set_content("the text")
    async with asyncio.timeout(10):
        await smtp(f"smtp://127.0.0.1:{port}")(message)
    assert b"the text" in received[0]
    with pytest.raises(Exception, match=r"TLS"):
        await smtp(f"smtp://user:password@127.0.0.1:{port}")(message)
    server.close()
    await server.wait_closed()
