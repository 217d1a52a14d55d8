"""Passing a tenant's ownership on. There is exactly one Owner at every moment: both sides change in one transaction."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends

from kernel_gateway.access import Identity
from kernel_gateway.api.dependencies import TheServices, themself
from kernel_gateway.api.openapi import errors
from kernel_gateway.api.problems import ProblemError
from kernel_gateway.people.change import change_of_rights
from kernel_gateway.people.members import Member, announced, found, give_roles, take_roles
from kernel_gateway.people.permissions import ADMIN, OWNER

router = APIRouter(tags=["members"])


@router.post(
    "/members/{user_id}/make-owner",
    summary="Pass the ownership on to a member; the former Owner becomes an Admin",
    responses=errors(400, 401, 403, 404, 409),
    operation_id="makeOwner",
)
async def make_owner(services: TheServices, caller: Annotated[Identity, Depends(themself)], user_id: UUID) -> Member:
    async with change_of_rights(services, caller, None) as change:
        owner = await change.transaction.fetchval("SELECT user_id FROM auth.member_roles WHERE role_id = $1", OWNER)
        # Whoever was the Owner when the request came in may not be any more.
        if owner != caller.user:
            raise ProblemError(403, "forbidden", "only the Owner passes the ownership on")
        new = await found(change.transaction, user_id)
        if new.status != "active":
            raise ProblemError(409, "conflict", f"the member is {new.status}: only an active one can be the Owner")
        if user_id == owner:
            return new
        former = await found(change.transaction, owner)
        await take_roles(change, owner, [OWNER])
        await give_roles(change, user_id, [OWNER])
        await give_roles(change, owner, [ADMIN])
        await announced(change, former)
        return await announced(change, new)
