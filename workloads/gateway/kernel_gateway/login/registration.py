"""Registration: a user, a tenant that is theirs, and the first session, in one transaction.

The tenant's row is written at once, with the id that follows from its name, so that its owner can work right away; the
Tenant resource, which is the truth about the tenant from then on, is created after the commit. A process that dies
between the two leaves a row that was never bound to a resource: a sweep, in every gateway, creates what is missing. A
tenant whose resource was deleted is retired, and is never brought back: the sweep does not see it.

What else a new tenant needs (a wallet, say) listens to its event ``auth.tenant.created``.
"""

import json
import logging
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from kernel_common.database import ACQUIRE_TIMEOUT
from kernel_common.events import emit
from kernel_common.ids import tenant_id
from kernel_common.tenancy import set_tenant
from kernel_gateway.api.events import event
from kernel_gateway.api.problems import ProblemError, unavailable
from kernel_gateway.api.services import Services
from kernel_gateway.login import letters, links, selection, sessions
from kernel_gateway.login.sessions import Client, Pair
from kernel_gateway.login.tenant_resources import ClusterAway, Registered, ResourceRefused

_REGISTER = "SELECT kernel_cross.register_tenant($1, $2, $3, $4, $5, $6::jsonb)"
_LIMITS = {
    "requests_per_minute": 1000,
    "admin_requests_per_minute": 5000,
    "burst": 200,
    "max_connections": 1000,
    "messages_per_second": 200,
    "max_open_holds_per_wallet": 100,
    "max_amount": 10_000_000,
}
"""The defaults of the Tenant resource, so that the operator finds nothing to change."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NewTenant:
    name: str
    display_name: str


@dataclass(frozen=True, slots=True)
class NewUser:
    email: str
    display_name: str
    password: str


async def register(services: Services, user: NewUser, tenant: NewTenant, client: Client) -> Pair:
    """Makes both and logs the user in. Raises ProblemError: 403 when registration is closed, 409 when the address or
    the name is taken."""
    parent = await _open(services, tenant.name)
    hashed = await services.passwords.hash(user.password)
    email = user.email.lower()
    async with services.pool.acquire(timeout=ACQUIRE_TIMEOUT) as connection, connection.transaction():
        created: UUID | None = await connection.fetchval(
            "SELECT kernel_cross.create_user($1, $2, $3)", email, user.display_name, hashed
        )
        if created is None:
            raise ProblemError(409, "conflict", "email: this address has an account: log in instead")
        await _add_tenant(connection, created, tenant, parent)
        new = tenant_id(tenant.name)
        told = event("auth.user.created", new, userId=str(created), email=email, tenantId=str(new), roles=["Owner"])
        await emit(connection, told)
        token = await links.put(connection, "verify_email", created, links.VERIFY_EMAIL)
        pair = await sessions.begin(connection, services, created, new, client=client, verified_hash=hashed)
    services.mail.put(letters.verify_email(services.settings, email, token))
    await _apply(services, Registered(tenant.name, tenant.display_name, email, parent))
    return pair


async def register_tenant(services: Services, session_token: str, tenant: NewTenant, client: Client) -> Pair:
    """A tenant for a user who has proven the password and has none: logs them in there. Raises ProblemError."""
    parent = await _open(services, tenant.name)
    async with services.pool.acquire(timeout=ACQUIRE_TIMEOUT) as connection, connection.transaction():
        account = await selection.taken(connection, session_token)
        await _add_tenant(connection, account["id"], tenant, parent)
        pair = await sessions.begin(
            connection,
            services,
            account["id"],
            tenant_id(tenant.name),
            client=client,
            verified_hash=account["password_hash"],
        )
    await _apply(services, Registered(tenant.name, tenant.display_name, account["email"], parent))
    return pair


async def apply_missing(services: Services) -> int:
    """Creates the resources of registered tenants that were never bound to one; returns how many it made. Several
    gateways may do it at once. Raises ClusterAway."""
    if services.tenants is None:
        return 0
    made = 0
    for row in await services.pool.fetch("SELECT * FROM kernel_cross.unbound_registrations()"):
        registered = Registered(row["name"], row["display_name"], row["owner_email"], row["parent"])
        try:
            made += await services.tenants.create(registered)
        except ResourceRefused as error:  # one that can't be must not hold up the others
            log.error("the registered tenant %s can't become a resource: %s", registered.name, error)
    return made


async def _open(services: Services, name: str) -> str:
    """The parent of new tenants, when anybody may register ``name``. Raises ProblemError."""
    parent = services.settings.gateway_registration_parent
    if parent is None:
        raise ProblemError(403, "registration-closed", "nobody can register here: ask for an invitation")
    if services.tenants is None:
        raise unavailable("registration is not set up: the gateway has no way to the Kubernetes API", 60)
    try:
        if await services.tenants.exists(name):
            # Perhaps its row is not written yet: it must not become somebody else's.
            raise _taken(name)
    except ClusterAway as error:
        log.warning("registration goes on without the cluster's word: %s", error)
    return parent


async def _add_tenant(connection: asyncpg.Connection, user: UUID, tenant: NewTenant, parent: str) -> None:
    """The transaction becomes the new tenant's. Raises ProblemError."""
    new = tenant_id(tenant.name)
    try:
        made = await connection.fetchval(
            _REGISTER, new, tenant.name, tenant.display_name, parent, user, json.dumps(_LIMITS)
        )
    except asyncpg.ForeignKeyViolationError:
        log.error("GATEWAY_REGISTRATION_PARENT names no tenant of tier owner or partner: %s", parent)
        raise unavailable("registration is not set up: its parent tenant is not there", 60) from None
    if made is None:
        raise _taken(tenant.name)
    await set_tenant(connection, new)
    told = {
        "tenantId": str(new),
        "userId": str(user),
        "name": tenant.name,
        "displayName": tenant.display_name,
        "tier": "client",
        "parentId": str(tenant_id(parent)),
    }
    await emit(connection, event("auth.tenant.created", new, **told))


def _taken(name: str) -> ProblemError:
    return ProblemError(409, "conflict", f"tenant.name: {name} is taken, now or before: choose another")


async def _apply(services: Services, registered: Registered) -> None:
    assert services.tenants is not None
    try:
        if not await services.tenants.create(registered):
            log.warning("a resource of the name of the registered tenant %s is there already", registered.name)
    except (ClusterAway, ResourceRefused) as error:
        log.warning("the resource of tenant %s is left to the sweep: %s", registered.name, error)
