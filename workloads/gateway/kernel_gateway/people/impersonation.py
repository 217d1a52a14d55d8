"""Impersonation: the platform's owner acts as a member of a tenant, to help or to look into something.

The token says both: ``sub`` is the member, whose rights it has and no more, ``act`` the one who acts. It lives as long
as any access token, can't be refreshed, and can't impersonate further. The event that tells of it is committed before
the token is given out.
"""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import Field

from kernel_common.events import emit
from kernel_common.tenancy import tenant_transaction
from kernel_gateway.access import Identity
from kernel_gateway.api.dependencies import TheServices, requires
from kernel_gateway.api.events import event
from kernel_gateway.api.models import Answer, Body, Id, Line
from kernel_gateway.api.openapi import errors
from kernel_gateway.api.problems import ProblemError
from kernel_gateway.login.sessions import access_token, iso
from kernel_gateway.people.permissions import OWNER

router = APIRouter(tags=["auth"])

_OWNER = "SELECT user_id FROM auth.member_roles WHERE role_id = $1"


class Impersonation(Body):
    """``userId``: a member of that tenant; its Owner when left out. ``reason`` and ``note`` stand in the event."""

    tenant_id: Id
    user_id: Id | None = None
    reason: Annotated[Line, Field(min_length=1, max_length=200, examples=["Support case 4711"])]
    note: Annotated[Line, Field(max_length=1000)] = ""


class ActingToken(Answer):
    access_token: str
    token_type: str = "Bearer"  # noqa: S105
    expires_in: int
    user_id: UUID
    tenant_id: UUID


@router.post(
    "/auth/impersonate",
    summary="Act as a member of a tenant for the life of one token (platform owners only)",
    responses=errors(400, 401, 403, 404),
    operation_id="impersonate",
)
async def impersonate(
    services: TheServices, caller: Annotated[Identity, Depends(requires("users.impersonate"))], wanted: Impersonation
) -> ActingToken:
    if caller.actor is not None:
        raise ProblemError(403, "forbidden", "who impersonates somebody can't impersonate further")
    async with tenant_transaction(services.pool, wanted.tenant_id) as transaction:
        account = await transaction.fetchrow("SELECT platform_owner FROM kernel_cross.find_user(NULL, $1)", caller.user)
        if account is None or not account["platform_owner"]:
            raise ProblemError(403, "forbidden", "only an owner of the platform impersonates")
        user_id = wanted.user_id or await transaction.fetchval(_OWNER, OWNER)
        member = await transaction.fetchrow(
            "SELECT * FROM kernel_cross.user_tenants($1) WHERE tenant_id = $2 AND member_status = 'active'",
            user_id,
            wanted.tenant_id,
        )
        if member is None:
            raise ProblemError(404, "not-found", "there is no such tenant, or no such active member of it")
        if member["blocked"]:
            raise ProblemError(403, "tenant-blocked", "the tenant is blocked: nobody can act in it")
        token, claims = access_token(services, user_id, wanted.tenant_id, tuple(member["roles"]), caller.user)
        told = {"userId": str(user_id), "actorId": str(caller.user), "reason": wanted.reason, "note": wanted.note}
        until = {"tokenId": str(claims.id), "expiresAt": iso(claims.expires)}
        await emit(transaction, event("auth.user.impersonated", wanted.tenant_id, **told, **until))
    lifetime = claims.expires - claims.issued
    return ActingToken(access_token=token, expires_in=lifetime, user_id=user_id, tenant_id=wanted.tenant_id)
