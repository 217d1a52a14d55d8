"""Members: who belongs to a tenant, and which roles they have.

Roles are assigned and withdrawn rather than set as a whole, so that two who do it at the same time don't undo each
other's work. The Owner can be neither blocked nor removed, and the role only passes on (``ownership``).
"""

from collections.abc import Sequence
from typing import Annotated, Literal
from uuid import UUID

import asyncpg
from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, Field, JsonValue

from kernel_common.pages import DEFAULT_SIZE, Cursor, Limit, Page
from kernel_common.problems import FieldError
from kernel_common.tenancy import tenant_transaction
from kernel_gateway.access import Identity
from kernel_gateway.api.dependencies import TheServices, requires
from kernel_gateway.api.models import Answer, Body, Id
from kernel_gateway.api.openapi import errors
from kernel_gateway.api.problems import ProblemError
from kernel_gateway.login.query import query as login_query
from kernel_gateway.people.change import Change, change_of_rights
from kernel_gateway.people.permissions import OWNER
from kernel_gateway.people.query import query

router = APIRouter(tags=["members"])

_GIVE = """
INSERT INTO auth.member_roles (user_id, role_id) SELECT $1, unnest($2::uuid[]) ON CONFLICT DO NOTHING
"""
_TAKE = "DELETE FROM auth.member_roles WHERE user_id = $1 AND role_id = ANY ($2::uuid[])"
_SET_STATUS = "UPDATE auth.members SET status = $2 WHERE user_id = $1"

RoleIds = Annotated[list[Id], Field(min_length=1, max_length=200)]


class RoleChoice(Body):
    role_ids: RoleIds


class MemberRole(Answer):
    id: UUID
    name: str


class Member(Answer):
    """Of somebody who was invited and has not accepted nothing is told but the address."""

    user_id: UUID
    email: str
    display_name: str
    status: Literal["invited", "active", "blocked"]
    roles: list[MemberRole]
    email_verified: bool
    mfa_enabled: bool
    invited_by: UUID | None
    created_at: AwareDatetime
    updated_at: AwareDatetime

    @classmethod
    def of(cls, row: asyncpg.Record) -> "Member":
        pairs = zip(row["role_ids"], row["role_names"], strict=True)
        return cls(**{**row, "roles": [MemberRole(id=role, name=name) for role, name in pairs]})


@router.get(
    "/members", summary="The members of the tenant", responses=errors(400, 401, 403), operation_id="listMembers"
)
async def list_members(
    services: TheServices,
    caller: Annotated[Identity, Depends(requires("users.list"))],
    cursor: Annotated[Cursor | None, Query()] = None,
    limit: Limit = DEFAULT_SIZE,
) -> Page[Member]:
    async with tenant_transaction(services.pool, caller.tenant) as transaction:
        rows = await transaction.fetch(query("read_members"), None, cursor, limit + 1)
    return Page[Member].cut([Member.of(row) for row in rows], limit, lambda member: member.user_id)


@router.get("/members/{user_id}", summary="One member", responses=errors(400, 401, 403, 404), operation_id="readMember")
async def read_member(
    services: TheServices, caller: Annotated[Identity, Depends(requires("users.list"))], user_id: UUID
) -> Member:
    async with tenant_transaction(services.pool, caller.tenant) as transaction:
        return await found(transaction, user_id)


@router.post(
    "/members/{user_id}/assign-roles",
    summary="Give roles to a member",
    responses=errors(400, 401, 403, 404, 409),
    operation_id="assignRoles",
)
async def assign_roles(
    services: TheServices,
    caller: Annotated[Identity, Depends(requires("roles.assign"))],
    user_id: UUID,
    choice: RoleChoice,
) -> Member:
    async with change_of_rights(services, caller, "roles.assign") as change:
        old = await found(change.transaction, user_id)
        await require_assignable(change, choice.role_ids)
        await change.transaction.execute(_GIVE, user_id, choice.role_ids)
        return await announced(change, old)


@router.post(
    "/members/{user_id}/withdraw-roles",
    summary="Take roles from a member",
    responses=errors(400, 401, 403, 404, 409),
    operation_id="withdrawRoles",
)
async def withdraw_roles(
    services: TheServices,
    caller: Annotated[Identity, Depends(requires("roles.assign"))],
    user_id: UUID,
    choice: RoleChoice,
) -> Member:
    async with change_of_rights(services, caller, "roles.assign") as change:
        old = await found(change.transaction, user_id)
        if OWNER in choice.role_ids:
            require_no_owner(old, "loses the role")
        await change.transaction.execute(_TAKE, user_id, choice.role_ids)
        return await announced(change, old)


@router.post(
    "/members/{user_id}/block",
    summary="Block a member: the next request is refused, all sessions end",
    responses=errors(400, 401, 403, 404, 409),
    operation_id="blockMember",
)
async def block_member(
    services: TheServices, caller: Annotated[Identity, Depends(requires("users.update"))], user_id: UUID
) -> Member:
    async with change_of_rights(services, caller, "users.update") as change:
        old = await found(change.transaction, user_id)
        require_no_owner(old, "is blocked")
        return await _with_status(change, old, "blocked")


@router.post(
    "/members/{user_id}/unblock",
    summary="Let a member in again",
    responses=errors(400, 401, 403, 404, 409),
    operation_id="unblockMember",
)
async def unblock_member(
    services: TheServices, caller: Annotated[Identity, Depends(requires("users.update"))], user_id: UUID
) -> Member:
    async with change_of_rights(services, caller, "users.update") as change:
        return await _with_status(change, await found(change.transaction, user_id), "active")


@router.delete(
    "/members/{user_id}",
    status_code=204,
    summary="Remove a member, or withdraw an invitation",
    responses=errors(400, 401, 403, 404, 409),
    operation_id="removeMember",
)
async def remove_member(
    services: TheServices, caller: Annotated[Identity, Depends(requires("users.delete"))], user_id: UUID
) -> None:
    async with change_of_rights(services, caller, "users.delete") as change:
        old = await found(change.transaction, user_id)
        require_no_owner(old, "is removed")
        await _end_sessions(change, user_id)
        await change.transaction.execute("DELETE FROM auth.members WHERE user_id = $1", user_id)
        if old.roles:
            announce_roles(change, user_id, old.roles, [])
        change.announce("auth.user.deleted", _about(change, old))


async def found(transaction: asyncpg.Connection, user_id: UUID) -> Member:
    """The member of the transaction's tenant. Raises ProblemError (404)."""
    row = await transaction.fetchrow(query("read_members"), user_id, None, 1)
    if row is None:
        raise ProblemError(404, "not-found", f"there is no member {user_id}")
    return Member.of(row)


async def give_roles(change: Change, user_id: UUID, role_ids: Sequence[UUID]) -> None:
    """Without asking who may, and without an event."""
    await change.transaction.execute(_GIVE, user_id, role_ids)


async def take_roles(change: Change, user_id: UUID, role_ids: Sequence[UUID]) -> None:
    """Without asking who may, and without an event."""
    await change.transaction.execute(_TAKE, user_id, role_ids)


async def announced(change: Change, old: Member) -> Member:
    """The member as they are now; announces their roles if those are others than in ``old``."""
    new = await found(change.transaction, old.user_id)
    if new.roles != old.roles:
        announce_roles(change, old.user_id, old.roles, new.roles)
    return new


def announce_roles(change: Change, user_id: UUID, old: Sequence[MemberRole], new: Sequence[MemberRole]) -> None:
    change.announce(
        "auth.role.changed",
        {
            "userId": str(user_id),
            "oldRoles": [role.name for role in old],
            "newRoles": [role.name for role in new],
        },
    )


async def require_assignable(change: Change, role_ids: Sequence[UUID]) -> None:
    """Raises ProblemError unless each of ``role_ids`` is a role of the tenant whose permissions the caller holds."""
    rows = await change.transaction.fetch(
        "SELECT id, name, permissions FROM auth.roles WHERE id = ANY ($1::uuid[])", role_ids
    )
    roles = {row["id"]: row for row in rows}
    unknown = [
        FieldError(f"roleIds.{place}", "there is no such role", "NOT_FOUND")
        for place, role_id in enumerate(role_ids)
        if role_id not in roles
    ]
    if unknown:
        raise ProblemError(400, "validation-error", "some roles don't exist: see errors", unknown)
    if OWNER in role_ids:
        wrong = FieldError(f"roleIds.{role_ids.index(OWNER)}", "the role Owner is passed on with make-owner", "OWNER")
        raise ProblemError(409, "conflict", f"{wrong.field}: {wrong.message}", [wrong])
    beyond = [
        FieldError(
            f"roleIds.{place}", f"the role {roles[role_id]['name']} holds {lacking[0]}, which you don't", "NOT_HELD"
        )
        for place, role_id in enumerate(role_ids)
        if (lacking := change.beyond(change.catalogue.of_role(role_id, roles[role_id]["permissions"])))
    ]
    if beyond:
        raise ProblemError(403, "forbidden", "nobody grants what they don't hold: see errors", beyond)


def require_no_owner(member: Member, fate: str) -> None:
    """Raises ProblemError (409) when ``member`` is the Owner."""
    if any(role.id == OWNER for role in member.roles):
        raise ProblemError(409, "conflict", f"the Owner never {fate}: pass the ownership on first, with make-owner")


async def _with_status(change: Change, old: Member, status: Literal["active", "blocked"]) -> Member:
    if old.status == "invited":
        raise ProblemError(409, "conflict", "the invitation is not accepted yet: delete the member to withdraw it")
    if old.status == status:
        return old
    # Also when they are let in again: a session that slipped in meanwhile must not come to life.
    await _end_sessions(change, old.user_id)
    await change.transaction.execute(_SET_STATUS, old.user_id, status)
    change.announce("auth.user.updated", {**_about(change, old), "status": status})
    return await found(change.transaction, old.user_id)


async def _end_sessions(change: Change, user_id: UUID) -> None:
    """Of all the member's sessions: none is made meanwhile, as login.sessions says."""
    await change.transaction.execute(login_query("lock_member_alone"), user_id)
    await change.transaction.execute(query("end_sessions"), user_id)


def _about(change: Change, member: Member) -> dict[str, JsonValue]:
    return {"userId": str(member.user_id), "email": member.email, "tenantId": str(change.caller.tenant)}
