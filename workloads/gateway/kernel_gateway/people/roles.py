"""Roles: what a tenant calls a set of permissions.

Every tenant has Owner, Admin and Member, which nobody changes; what they may follows from the active modules. Two who
change one role at the same time: the later one wins, field by field.
"""

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

import asyncpg
from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, Field

from kernel_common.pages import DEFAULT_SIZE, Cursor, Limit, Page
from kernel_common.problems import FieldError
from kernel_common.tenancy import tenant_transaction
from kernel_gateway.access import Identity
from kernel_gateway.api.dependencies import TheServices, requires
from kernel_gateway.api.models import Answer, Body, Line
from kernel_gateway.api.openapi import errors
from kernel_gateway.api.problems import ProblemError
from kernel_gateway.people.change import Change, change_of_rights
from kernel_gateway.people.permissions import Catalogue
from kernel_gateway.people.query import query

MOST_ROLES = 200
"""A tenant's roles, the built-in ones among them."""

router = APIRouter(tags=["roles"])

# A service reads names of roles from one header, with commas between them.
Name = Annotated[Line, Field(min_length=1, max_length=64, pattern="^[^,]*$", examples=["Accountant"])]
Description = Annotated[Line, Field(max_length=500)]
Permissions = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=200)]],
    Field(max_length=500, examples=[["crm.contacts.read", "users.list"]]),
]


class NewRole(Body):
    name: Name
    description: Description = ""
    permission_ids: Permissions = Field(default_factory=list)


class RoleChange(Body):
    """What is left out stays as it is."""

    name: Name | None = None
    description: Description | None = None
    permission_ids: Permissions | None = None


class Role(Answer):
    """``permissionIds`` of a built-in role follow from the active modules. ``createdBy`` is a user."""

    id: UUID
    tenant_id: UUID
    scope: str = "tenant"
    name: str
    description: str
    permission_ids: list[str]
    built_in: bool
    created_by: UUID | None
    created_at: AwareDatetime
    updated_at: AwareDatetime


class Permission(Answer):
    """``module`` is the slug of the module that declares it; null for the kernel's own."""

    id: str
    module: str | None


def _role(row: asyncpg.Record, tenant: UUID, catalogue: Catalogue) -> Role:
    permissions = catalogue.of_role(row["id"], row["permissions"])
    return Role(**{**row, "tenant_id": tenant, "permission_ids": permissions})


async def _catalogue(transaction: asyncpg.Connection, user: UUID) -> Catalogue:
    modules = await transaction.fetchval("SELECT active_modules FROM auth.effective_rights($1)", user)
    return await Catalogue.read(transaction, modules or ())


@router.get(
    "/permissions", summary="What a role may hold", responses=errors(400, 401, 403), operation_id="listPermissions"
)
async def list_permissions(
    services: TheServices, caller: Annotated[Identity, Depends(requires("roles.list"))]
) -> Page[Permission]:
    async with tenant_transaction(services.pool, caller.tenant) as transaction:
        catalogue = await _catalogue(transaction, caller.user)
    all_of_them = [
        Permission(
            id=permission, module=module if (module := permission.partition(".")[0]) in catalogue.modules else None
        )
        for permission in catalogue.grantable()
    ]
    return Page[Permission].whole(all_of_them)


@router.get("/roles", summary="The roles of the tenant", responses=errors(400, 401, 403), operation_id="listRoles")
async def list_roles(
    services: TheServices,
    caller: Annotated[Identity, Depends(requires("roles.list"))],
    cursor: Annotated[Cursor | None, Query()] = None,
    limit: Limit = DEFAULT_SIZE,
) -> Page[Role]:
    async with tenant_transaction(services.pool, caller.tenant) as transaction:
        catalogue = await _catalogue(transaction, caller.user)
        rows = await transaction.fetch(query("read_roles"), None, cursor, limit + 1)
    return Page[Role].cut([_role(row, caller.tenant, catalogue) for row in rows], limit, lambda role: role.id)


@router.get("/roles/{role_id}", summary="One role", responses=errors(400, 401, 403, 404), operation_id="readRole")
async def read_role(
    services: TheServices, caller: Annotated[Identity, Depends(requires("roles.list"))], role_id: UUID
) -> Role:
    async with tenant_transaction(services.pool, caller.tenant) as transaction:
        row = await _found(transaction, role_id)
        return _role(row, caller.tenant, await _catalogue(transaction, caller.user))


@router.post(
    "/roles", status_code=201, summary="Make a role", responses=errors(400, 401, 403, 409), operation_id="makeRole"
)
async def make_role(
    services: TheServices, caller: Annotated[Identity, Depends(requires("roles.create"))], new: NewRole
) -> Role:
    async with change_of_rights(services, caller, "roles.create") as change:
        permissions = _grantable(change, new.permission_ids, [])
        if await change.transaction.fetchval("SELECT count(*) FROM auth.roles") >= MOST_ROLES:
            raise ProblemError(409, "conflict", f"a tenant has at most {MOST_ROLES} roles: delete one first")
        await _require_free(change, new.name, None)
        row = await change.transaction.fetchrow(
            query("insert_role"), new.name, new.description, permissions, caller.user
        )
        _announce(change, row, "created", [])
        return _role(row, caller.tenant, change.catalogue)


@router.patch(
    "/roles/{role_id}", summary="Change a role", responses=errors(400, 401, 403, 404, 409), operation_id="changeRole"
)
async def change_role(
    services: TheServices,
    caller: Annotated[Identity, Depends(requires("roles.update"))],
    role_id: UUID,
    wanted: RoleChange,
) -> Role:
    async with change_of_rights(services, caller, "roles.update") as change:
        old = await _changeable(change, role_id)
        name = old["name"] if wanted.name is None else wanted.name
        description = old["description"] if wanted.description is None else wanted.description
        permissions = old["permissions"]
        if wanted.permission_ids is not None:
            permissions = _grantable(change, wanted.permission_ids, permissions)
        if (name, description, permissions) == (old["name"], old["description"], old["permissions"]):
            return _role(old, caller.tenant, change.catalogue)
        await _require_free(change, name, role_id)
        row = await change.transaction.fetchrow(query("update_role"), role_id, name, description, permissions)
        _announce(change, row, "updated", old["permissions"])
        return _role(row, caller.tenant, change.catalogue)


@router.delete(
    "/roles/{role_id}",
    status_code=204,
    summary="Delete a role",
    responses=errors(400, 401, 403, 404, 409),
    operation_id="deleteRole",
)
async def delete_role(
    services: TheServices, caller: Annotated[Identity, Depends(requires("roles.delete"))], role_id: UUID
) -> None:
    async with change_of_rights(services, caller, "roles.delete") as change:
        old = await _changeable(change, role_id)
        users = await change.transaction.fetchval("SELECT count(*) FROM auth.member_roles WHERE role_id = $1", role_id)
        if users:
            raise ProblemError(409, "conflict", f"{users} members have the role: withdraw it from them first")
        await change.transaction.execute("DELETE FROM auth.roles WHERE id = $1", role_id)
        _announce(change, old, "deleted", old["permissions"])


async def _found(transaction: asyncpg.Connection, role_id: UUID) -> asyncpg.Record:
    row = await transaction.fetchrow(query("read_roles"), role_id, None, 1)
    if row is None:
        raise ProblemError(404, "not-found", f"there is no role {role_id}")
    return row


async def _changeable(change: Change, role_id: UUID) -> asyncpg.Record:
    row = await _found(change.transaction, role_id)
    if row["built_in"]:
        raise ProblemError(409, "conflict", f"the role {row['name']} is built in: nobody changes or deletes it")
    return row


async def _require_free(change: Change, name: str, own: UUID | None) -> None:
    """No two roles differ only in case: people could not tell "owner" from "Owner"."""
    taken = await change.transaction.fetchval(
        "SELECT name FROM auth.roles WHERE lower(name) = lower($1) AND id IS DISTINCT FROM $2", name, own
    )
    if taken is not None:
        wrong = [FieldError("name", "the name is taken", "TAKEN")]
        raise ProblemError(409, "conflict", f"there is a role {taken}: choose another name", wrong)


def _grantable(change: Change, wanted: Sequence[str], old: Sequence[str]) -> list[str]:
    """``wanted`` without repetitions, sorted. What is not in ``old`` must be something that can be granted and that the
    caller holds. Raises ProblemError that names each wrong entry."""
    known, kept = set(change.catalogue.grantable()), set(old)
    unknown = [
        FieldError(f"permissionIds.{place}", "no such permission: see GET /permissions", "UNKNOWN_PERMISSION")
        for place, permission in enumerate(wanted)
        if permission not in known and permission not in kept
    ]
    if unknown:
        raise ProblemError(400, "validation-error", "some permissions can't be granted: see errors", unknown)
    beyond = set(change.beyond([permission for permission in wanted if permission not in kept]))
    if beyond:
        raise ProblemError(
            403,
            "forbidden",
            "nobody grants what they don't hold: see errors",
            [
                FieldError(f"permissionIds.{place}", f"you don't hold {permission}", "NOT_HELD")
                for place, permission in enumerate(wanted)
                if permission in beyond
            ],
        )
    return sorted(set(wanted))


def _announce(change: Change, row: asyncpg.Record, what: str, old: Sequence[str]) -> None:
    new = [] if what == "deleted" else row["permissions"]
    change.announce(
        "auth.role.changed",
        {
            "roleId": str(row["id"]),
            "name": row["name"],
            "change": what,
            "oldPermissions": list(old),
            "newPermissions": list(new),
        },
    )
