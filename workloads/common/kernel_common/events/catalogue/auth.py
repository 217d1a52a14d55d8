"""People, sessions, roles, tenants."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, Discriminator, Field, RootModel, Tag

from kernel_common.events.catalogue.payload import ByPerson, Payload, Roles, Text

Tier = Literal["owner", "partner", "client"]


class UserCreated(ByPerson):
    """Somebody became a member of a tenant, with a new account or one that they had."""

    user_id: UUID
    tenant_id: UUID
    roles: Roles
    email: Text | None = Field(None, description="Absent for a tenant's first owner")


class UserInvited(ByPerson):
    """Somebody was invited; they are no member before they accept."""

    user_id: UUID
    tenant_id: UUID
    email: Text
    roles: Roles


class UserUpdated(ByPerson):
    """An account changed (``changed``: what, not what it is now), or a member was blocked or let in (``status``)."""

    user_id: UUID
    tenant_id: UUID | None = None
    email: Text | None = None
    changed: list[Literal["emailVerified", "password"]] | None = None
    status: Literal["active", "blocked"] | None = None


class UserDeleted(ByPerson):
    """Somebody is no member of the tenant any more."""

    user_id: UUID
    tenant_id: UUID
    email: Text


class LoggedIn(Payload):
    """A session began."""

    user_id: UUID
    tenant_id: UUID
    ip: str
    user_agent: str


class LoggedOut(Payload):
    """A session ended because its user wished so."""

    user_id: UUID
    tenant_id: UUID


class Impersonated(Payload):
    """A platform owner got a token in a member's name."""

    user_id: UUID
    actor_id: UUID
    reason: Text
    note: str | None
    token_id: UUID
    expires_at: AwareDatetime


class SessionReused(Payload):
    """A refresh token was used again after its time: somebody may have stolen it."""

    user_id: UUID
    family_id: UUID
    family_revoked: bool = Field(description="All of the session's tokens were revoked, not only this one")


class SecondFactor(Payload):
    """A second factor is in force, or no longer."""

    user_id: UUID


class MemberRoles(ByPerson):
    """A member's roles are others now."""

    user_id: UUID
    old_roles: Roles
    new_roles: Roles


class RolePermissions(ByPerson):
    """A role was made, changed or deleted."""

    role_id: UUID
    name: Text
    change: Literal["created", "updated", "deleted"]
    old_permissions: list[str]
    new_permissions: list[str]


def _whose(data: Any) -> str:
    return "role" if isinstance(data, RolePermissions) or (isinstance(data, dict) and "roleId" in data) else "member"


class RoleChanged(
    RootModel[
        Annotated[
            Annotated[MemberRoles, Tag("member")] | Annotated[RolePermissions, Tag("role")], Discriminator(_whose)
        ]
    ]
):
    """Rights changed: a member's roles, or what a role (``roleId``) permits."""


class _Tenant(Payload):
    tenant_id: UUID
    name: Text
    display_name: Text
    tier: Tier
    parent_id: UUID | None


class TenantCreated(_Tenant):
    """A tenant exists."""

    user_id: UUID | None = Field(None, description="Who registered it")


class TenantUpdated(_Tenant):
    """``changed``: which fields, not what they hold now. Empty when the data of a retired tenant was taken over."""

    changed: list[Literal["display_name", "tier", "parent_id", "owner_email", "limits", "suspended"]]


class TenantBlocked(_Tenant):
    """A tenant or one above it was suspended, or no longer is."""


class TenantDeleted(Payload):
    """The tenant's data is gone."""

    tenant_id: UUID
    name: Text
    tier: Tier
