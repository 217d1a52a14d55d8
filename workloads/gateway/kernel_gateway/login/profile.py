"""Who is logged in."""

from kernel_common.tenancy import tenant_transaction
from kernel_gateway.access import Identity
from kernel_gateway.api.problems import ProblemError
from kernel_gateway.api.services import Services
from kernel_gateway.login import bodies, sessions


async def of(services: Services, identity: Identity) -> bodies.Me:
    """Roles and permissions as they are now, not as the token says. Raises ProblemError."""
    async with tenant_transaction(services.pool, identity.tenant) as connection:
        account = await connection.fetchrow("SELECT * FROM kernel_cross.find_user(NULL, $1)", identity.user)
        if account is None:
            raise ProblemError(401, "unauthenticated", "the account is gone")
        member = await sessions.membership(connection, identity.user, identity.tenant)
        permissions = await connection.fetchval("SELECT permissions FROM auth.effective_rights($1)", identity.user)
    return bodies.Me(
        id=identity.user,
        email=account["email"],
        display_name=account["display_name"],
        email_verified=account["email_verified_at"] is not None,
        mfa_enabled=account["mfa_enabled_at"] is not None,
        platform_owner=account["platform_owner"],
        tenant=bodies.TenantAnswer.of(member),
        roles=list(member.roles),
        permissions=permissions,
        actor_id=identity.actor,
    )
