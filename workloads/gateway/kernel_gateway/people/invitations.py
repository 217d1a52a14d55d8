"""Invitations: a member who is none yet, and a link in a mail that makes them one.

The link is the proof that the mail was received, so accepting it verifies the address. Whoever has a password already
needs none; it is never changed by an invitation. Inviting again sends another link and sets the roles anew.
"""

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import Field

from kernel_common.database import ACQUIRE_TIMEOUT
from kernel_gateway.access import Identity
from kernel_gateway.api.dependencies import TheServices, public, requires
from kernel_gateway.api.models import Answer, Body, Email, Line
from kernel_gateway.api.openapi import errors
from kernel_gateway.api.problems import ProblemError, invalid
from kernel_gateway.login import links
from kernel_gateway.login.letters import link
from kernel_gateway.login.mail import Mail
from kernel_gateway.login.password import MAX_LENGTH, MIN_LENGTH
from kernel_gateway.people.change import Change, change_of_rights
from kernel_gateway.people.members import (
    Member,
    RoleIds,
    announce_roles,
    found,
    give_roles,
    require_assignable,
    take_roles,
)
from kernel_gateway.people.permissions import MEMBER
from kernel_gateway.settings import Settings

LIFETIME = timedelta(days=7)
MOST_AN_HOUR = 10
"""Invitations of one address, by all tenants together: each is a mail that nobody asked for."""

router = APIRouter()

_INVITE = "INSERT INTO auth.members (user_id, status, invited_by) VALUES ($1, 'invited', $2) ON CONFLICT DO NOTHING"
_SET_NAME = "SELECT kernel_cross.set_first_display_name($1, $2)"
_ACCEPT = "UPDATE auth.members SET status = 'active' WHERE user_id = $1 AND status = 'invited' RETURNING true"


class Invitation(Body):
    """Without ``roleIds`` it is the role Member."""

    email: Email
    role_ids: RoleIds | None = None


class Acceptance(Body):
    """``password`` and ``displayName`` are for those who have none yet."""

    token: Annotated[str, Field(min_length=43, max_length=43, pattern="^[A-Za-z0-9_-]+$")]
    password: Annotated[str, Field(min_length=MIN_LENGTH, max_length=MAX_LENGTH)] | None = None
    display_name: Annotated[Line, Field(min_length=1, max_length=100)] | None = None


class Accepted(Answer):
    """Log in with ``email`` and ``tenantId``."""

    user_id: UUID
    tenant_id: UUID
    email: str


@router.post(
    "/members/invite",
    status_code=201,
    summary="Invite somebody by mail",
    tags=["members"],
    responses=errors(400, 401, 403, 409),
    operation_id="invite",
)
async def invite(
    services: TheServices, caller: Annotated[Identity, Depends(requires("users.create"))], invitation: Invitation
) -> Member:
    async with change_of_rights(services, caller, "users.create") as change:
        role_ids = invitation.role_ids or [MEMBER]
        if invitation.role_ids is not None and change.beyond(["roles.assign"]):
            raise ProblemError(403, "forbidden", "roleIds: the permission roles.assign is needed")
        await require_assignable(change, role_ids)
        user_id = await _account(change, invitation.email)
        await change.transaction.execute(_INVITE, user_id, caller.user)
        member = await found(change.transaction, user_id)
        if member.status != "invited":
            raise ProblemError(409, "conflict", f"{member.email} is a member already ({member.status})")
        await take_roles(change, user_id, [role.id for role in member.roles])
        await give_roles(change, user_id, role_ids)
        token = await _token(change, user_id)
        invited = await found(change.transaction, user_id)
        change.announce(
            "auth.user.invited",
            {
                "userId": str(user_id),
                "email": invited.email,
                "tenantId": str(caller.tenant),
                "roles": [role.name for role in invited.roles],
            },
        )
    services.mail.put(_letter(services.settings, invited.email, token))
    return invited


@router.post(
    "/invitations/accept",
    summary="Become a member, with the token of the mail",
    tags=["invitations"],
    dependencies=[Depends(public)],
    responses=errors(400, 401, 409),
    operation_id="acceptInvitation",
)
async def accept(services: TheServices, acceptance: Acceptance) -> Accepted:
    async with services.pool.acquire(timeout=ACQUIRE_TIMEOUT) as connection:
        taken = await links.see(connection, "invite", acceptance.token)
        account = await connection.fetchrow("SELECT * FROM kernel_cross.find_user(NULL, $1)", taken.user)
    assert account is not None and taken.tenant is not None, "an invitation is somebody's, into a tenant"
    password_hash = None
    if account["password_hash"] is None or account["email_verified_at"] is None:
        # A password that was set before anybody proved the address may be a stranger's who registered with it.
        if acceptance.password is None:
            raise invalid("password", "choose one: this account has none yet that was proven", "REQUIRED")
        password_hash = await services.passwords.hash(acceptance.password)
    elif acceptance.password is not None:
        raise invalid("password", "leave it out: this account has one, and keeps it", "UNEXPECTED")
    new = Identity(taken.user, taken.tenant)
    async with change_of_rights(services, new, None) as change:
        await links.take(change.transaction, "invite", acceptance.token)
        if not await change.transaction.fetchval(_ACCEPT, new.user):
            raise ProblemError(409, "conflict", "the invitation was withdrawn or accepted before: ask for a new one")
        if password_hash is not None:
            await _set_first_password(change, new.user, password_hash)
        await change.transaction.execute("SELECT kernel_cross.verify_email($1)", new.user)
        if acceptance.display_name is not None:
            await change.transaction.execute(_SET_NAME, new.user, acceptance.display_name)
        member = await found(change.transaction, new.user)
        announce_roles(change, new.user, [], member.roles)
        change.announce(
            "auth.user.created",
            {
                "userId": str(new.user),
                "email": member.email,
                "tenantId": str(new.tenant),
                "roles": [role.name for role in member.roles],
            },
        )
    return Accepted(user_id=new.user, tenant_id=new.tenant, email=member.email)


async def _account(change: Change, email: str) -> UUID:
    """The user of that address, made if there is none; without a password nobody logs in as them."""
    for _ in range(2):  # another transaction may make it between the look and the making
        row = await change.transaction.fetchrow("SELECT id FROM kernel_cross.find_user($1, NULL)", email)
        if row is None:
            made = await change.transaction.fetchval("SELECT kernel_cross.create_user($1, '', NULL)", email)
        else:
            made = row["id"]
        if made is not None:
            return UUID(str(made))
    raise AssertionError("users are never deleted")


async def _token(change: Change, user_id: UUID) -> str:
    token = links.new_token()
    stored = await change.transaction.fetchval(
        "SELECT kernel_cross.put_limited_one_time_token($1, 'invite', $2, $3, $4, $5, interval '1 hour')",
        links.hashed(token),
        user_id,
        change.caller.tenant,
        LIFETIME,
        MOST_AN_HOUR,
    )
    if not stored:
        raise ProblemError(
            429,
            "rate-limit-exceeded",
            "too many invitations of this address: try again in an hour",
            headers={"Retry-After": "3600"},
        )
    return token


async def _set_first_password(change: Change, user_id: UUID, password_hash: str) -> None:
    """Raises ProblemError (409) when one was chosen meanwhile: it must not be replaced."""
    row = await change.transaction.fetchrow("SELECT * FROM kernel_cross.find_user(NULL, $1)", user_id)
    if row["password_hash"] is not None and row["email_verified_at"] is not None:
        raise ProblemError(409, "conflict", "a password was chosen meanwhile: accept again without one")
    await change.transaction.execute("SELECT kernel_cross.set_password($1, $2)", user_id, password_hash)
    await change.transaction.execute("SELECT kernel_cross.disable_mfa($1)", user_id)


def _letter(settings: Settings, to: str, token: str) -> Mail:
    return Mail(
        "invitation",
        to,
        "You are invited",
        f"You were invited to work together. To accept (within seven days):\n\n{link(settings, 'accept', token)}\n\n"
        "If you don't know why you got this mail, ignore it: nothing happens.\n",
    )
