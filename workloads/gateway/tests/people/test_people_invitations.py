"""Invitations: from the mail to the member."""

import asyncio
import email
import email.policy
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from people_world import Answer, Gateway, Person, World

from kernel_gateway.people.invitations import MOST_AN_HOUR
from kernel_gateway.people.permissions import ADMIN, MEMBER, OWNER

PASSWORD = "correct horse battery"


def an_address() -> str:
    return f"{uuid4().hex}@invited.example"


def tokens_of(mails: Path, address: str) -> list[str]:
    """Those in the mails to ``address``, oldest first."""
    letters = [
        email.message_from_bytes(f.read_bytes(), policy=email.policy.default) for f in sorted(mails.glob("*.eml"))
    ]
    return [
        re.findall(r"#token=([A-Za-z0-9_-]{43})\b", letter.get_content())[0]
        for letter in letters
        if letter["To"] == address
    ]


async def invite(gateway: Gateway, who: Person, address: str, **fields: Any) -> Answer:
    answer = await gateway.ask(who, "POST", "/members/invite", {"email": address, **fields})
    await gateway.services.mail.sent()
    return answer


async def accept(gateway: Gateway, token: str, **fields: str) -> Answer:
    return await gateway.ask(None, "POST", "/invitations/accept", {"token": token, **fields})


async def test_somebody_new_is_invited_accepts_and_is_a_member(gateway: Gateway, world: World) -> None:
    tenant, address = await world.tenant(), an_address()
    admin = await world.person(tenant, "Admin")
    invited = await invite(gateway, admin, address.upper().replace("EXAMPLE", "example"))
    assert invited.status == 201
    assert (invited.body["email"], invited.body["status"]) == (address, "invited")
    assert [role["name"] for role in invited.body["roles"]] == ["Member"]
    assert invited.body["invitedBy"] == str(admin.id)
    [token] = tokens_of(world.mails, address)
    assert token not in str(invited.body)
    missing = await accept(gateway, token)
    assert (missing.status, missing.fields) == (400, [("password", "REQUIRED")])
    accepted = await accept(gateway, token, password=PASSWORD, displayName="Eve")
    assert accepted.status == 200
    assert accepted.body == {"userId": invited.body["userId"], "tenantId": str(tenant), "email": address}
    member = (await gateway.ask(admin, "GET", f"/members/{invited.body['userId']}")).body
    assert (member["status"], member["emailVerified"], member["displayName"]) == ("active", True, "Eve")
    user = await world.admin.fetchrow("SELECT * FROM auth.users WHERE email = $1", address)
    assert await gateway.services.passwords.matches(user["password_hash"], PASSWORD)
    assert [kind for kind, _ in await world.events(tenant)] == [
        "auth.user.invited",
        "auth.role.changed",
        "auth.user.created",
    ]
    assert token not in str(await world.events(tenant))
    again = await accept(gateway, token)
    assert (again.status, again.slug) == (401, "token-expired")


async def test_who_has_a_password_keeps_it(gateway: Gateway, world: World) -> None:
    here, there = await world.tenant(), await world.tenant()
    person = await world.person(there, "Member")
    hashed = await gateway.services.passwords.hash(PASSWORD)
    address = await world.admin.fetchval(
        "UPDATE auth.users SET password_hash = $2, email_verified_at = now() WHERE id = $1 RETURNING email",
        person.id,
        hashed,
    )
    await invite(gateway, await world.person(here, "Owner"), address, roleIds=[str(ADMIN)])
    [token] = tokens_of(world.mails, address)
    refused = await accept(gateway, token, password="another password")
    assert (refused.status, refused.fields) == (400, [("password", "UNEXPECTED")])
    assert (await accept(gateway, token, displayName="Eve")).status == 200
    user = await world.admin.fetchrow("SELECT * FROM auth.users WHERE id = $1", person.id)
    assert (user["password_hash"], user["display_name"]) == (hashed, "Somebody")


async def test_who_registered_with_a_strangers_address_gains_nothing(gateway: Gateway, world: World) -> None:
    """Until the address is proven the password is whoever's registered it; the holder of the mail chooses a new one."""
    here, there = await world.tenant(), await world.tenant()
    stranger = await world.person(there, "Member")
    address = await world.admin.fetchval(
        "UPDATE auth.users SET password_hash = $2, mfa_secret = 'x', mfa_enabled_at = now() WHERE id = $1 "
        "RETURNING email",
        stranger.id,
        await gateway.services.passwords.hash("the stranger's password"),
    )
    await invite(gateway, await world.person(here, "Owner"), address)
    [token] = tokens_of(world.mails, address)
    missing = await accept(gateway, token)
    assert (missing.status, missing.fields) == (400, [("password", "REQUIRED")])
    assert (await accept(gateway, token, password=PASSWORD)).status == 200
    user = await world.admin.fetchrow("SELECT * FROM auth.users WHERE id = $1", stranger.id)
    assert await gateway.services.passwords.matches(user["password_hash"], PASSWORD)
    assert (user["mfa_enabled_at"], bool(user["email_verified_at"])) == (None, True)


async def test_an_invited_person_may_nothing_yet(gateway: Gateway, world: World) -> None:
    tenant, address = await world.tenant(), an_address()
    owner = await world.person(tenant, "Owner")
    invited = await invite(gateway, owner, address, roleIds=[str(ADMIN)])
    from kernel_gateway.access import Identity

    early = gateway.token(Identity(invited.body["userId"], tenant, ("Admin",)))
    assert (await gateway.ask(early, "GET", "/members")).slug == "forbidden"
    for action in ("block", "unblock", "make-owner"):
        assert (await gateway.ask(owner, "POST", f"/members/{invited.body['userId']}/{action}")).slug == "conflict"


async def test_nobody_invites_into_roles_beyond_their_own(gateway: Gateway, world: World) -> None:
    tenant = await world.tenant()
    inviter = await world.person(tenant, await world.role(tenant, "users.create"))
    plain = await invite(gateway, inviter, an_address())
    assert (plain.status, plain.fields) == (403, [("roleIds.0", "NOT_HELD")]), "Member reads what they don't"
    chosen = await invite(gateway, inviter, an_address(), roleIds=[str(ADMIN)])
    assert (chosen.status, "roles.assign" in chosen.body["detail"]) == (403, True)
    reader = await world.person(tenant, await world.role(tenant, "users.create", "pcrm.*"))
    assert (await invite(gateway, reader, an_address())).status == 201
    owner = await world.person(tenant, "Owner")
    as_owner = await invite(gateway, owner, an_address(), roleIds=[str(OWNER)])
    assert (as_owner.status, as_owner.fields) == (409, [("roleIds.0", "OWNER")])
    stranger = await world.role(await world.tenant())
    foreign = await invite(gateway, owner, an_address(), roleIds=[str(MEMBER), str(stranger)])
    assert (foreign.status, foreign.fields) == (400, [("roleIds.1", "NOT_FOUND")])


@pytest.mark.parametrize("address", ["", "x", "a@b", "a b@c.example", "a@b.example\nBcc: c@d.example", "ä@b.example"])
async def test_a_wrong_address_is_refused(gateway: Gateway, world: World, address: str) -> None:
    owner = await world.person(await world.tenant(), "Owner")
    answer = await gateway.ask(owner, "POST", "/members/invite", {"email": address})
    assert (answer.status, answer.body["errors"][0]["field"]) == (400, "email")


async def test_inviting_again_sends_another_link_and_sets_the_roles_anew(gateway: Gateway, world: World) -> None:
    tenant, address = await world.tenant(), an_address()
    owner = await world.person(tenant, "Owner")
    await invite(gateway, owner, address, roleIds=[str(ADMIN)])
    again = await invite(gateway, owner, address)
    assert (again.status, [role["name"] for role in again.body["roles"]]) == (201, ["Member"])
    first, second = tokens_of(world.mails, address)
    assert (await accept(gateway, first, password=PASSWORD)).status == 200
    assert (await accept(gateway, second)).slug == "conflict", "they are a member now"
    member = await invite(gateway, owner, address)
    assert (member.status, member.slug) == (409, "conflict")


async def test_a_withdrawn_invitation_is_worth_nothing(gateway: Gateway, world: World) -> None:
    tenant, address = await world.tenant(), an_address()
    owner = await world.person(tenant, "Owner")
    invited = await invite(gateway, owner, address)
    assert (await gateway.ask(owner, "DELETE", f"/members/{invited.body['userId']}")).status == 204
    [token] = tokens_of(world.mails, address)
    assert (await accept(gateway, token, password=PASSWORD)).slug == "conflict"
    user = await world.admin.fetchrow("SELECT * FROM auth.users WHERE email = $1", address)
    assert (user["password_hash"], user["email_verified_at"]) == (None, None), "nothing of it happened"


async def test_an_expired_or_made_up_token_is_refused(gateway: Gateway, world: World) -> None:
    tenant, address = await world.tenant(), an_address()
    await invite(gateway, await world.person(tenant, "Owner"), address)
    [token] = tokens_of(world.mails, address)
    await world.admin.execute("UPDATE auth.one_time_tokens SET expires_at = now() WHERE tenant_id = $1", tenant)
    assert (await accept(gateway, token, password=PASSWORD)).slug == "token-expired"
    assert (await accept(gateway, "x" * 43, password=PASSWORD)).status == 401
    assert (await accept(gateway, "x")).slug == "validation-error"
    short = await accept(gateway, token, password="short")
    assert (short.status, short.fields) == (400, [("password", "TOO_SHORT")])


async def test_a_token_makes_one_member_once_however_often_it_is_sent(gateway: Gateway, world: World) -> None:
    tenant, address = await world.tenant(), an_address()
    await invite(gateway, await world.person(tenant, "Owner"), address)
    [token] = tokens_of(world.mails, address)
    answers = await asyncio.gather(*(accept(gateway, token, password=PASSWORD) for _ in range(6)))
    assert [answer.status for answer in answers].count(200) == 1
    assert all(answer.status in (200, 400, 401) for answer in answers), answers
    assert [kind for kind, _ in await world.events(tenant)].count("auth.user.created") == 1


async def test_one_person_is_invited_by_two_tenants_at_once(gateway: Gateway, world: World) -> None:
    address = an_address()
    owners = [await world.person(await world.tenant(), "Owner") for _ in range(4)]
    answers = await asyncio.gather(*(invite(gateway, owner, address) for owner in owners))
    assert {answer.status for answer in answers} == {201}
    assert len({answer.body["userId"] for answer in answers}) == 1
    assert len(tokens_of(world.mails, address)) == 4


async def test_accepting_and_withdrawing_at_once_end_in_one_of_the_two(gateway: Gateway, world: World) -> None:
    for _ in range(4):
        tenant, address = await world.tenant(), an_address()
        owner = await world.person(tenant, "Owner")
        user = (await invite(gateway, owner, address)).body["userId"]
        [token] = tokens_of(world.mails, address)
        accepted, blocked, removed = await asyncio.gather(
            accept(gateway, token, password=PASSWORD),
            gateway.ask(owner, "POST", f"/members/{user}/block"),
            gateway.ask(owner, "DELETE", f"/members/{user}"),
        )
        assert removed.status == 204
        assert accepted.status in (200, 409)
        assert blocked.status in (200, 404, 409)
        assert blocked.status != 200 or accepted.status == 200, "only a member is blocked"
        assert (await gateway.ask(owner, "GET", f"/members/{user}")).status == 404


async def test_nobody_is_flooded_with_invitations(gateway: Gateway, world: World) -> None:
    address = an_address()
    owners = [await world.person(await world.tenant(), "Owner") for _ in range(2)]
    answers = await asyncio.gather(
        *(gateway.ask(owners[n % 2], "POST", "/members/invite", {"email": address}) for n in range(MOST_AN_HOUR + 3))
    )
    assert [answer.status for answer in answers].count(201) == MOST_AN_HOUR
    refused = next(answer for answer in answers if answer.status != 201)
    assert (refused.slug, refused.headers["Retry-After"]) == ("rate-limit-exceeded", "3600")
