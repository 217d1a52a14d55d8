"""Whether somebody owns the platform: what belongs to no tenant, or to all of them, is theirs to see."""

from kernel_common.database import ACQUIRE_TIMEOUT
from kernel_gateway.access import Identity
from kernel_gateway.api.problems import ProblemError
from kernel_gateway.api.services import Services

_ASK = "SELECT platform_owner FROM kernel_cross.find_user(NULL, $1)"


async def owns_platform(services: Services, caller: Identity) -> bool:
    """False for whoever acts as an owner: an owner does such things in person."""
    if caller.actor is not None:
        return False
    async with services.pool.acquire(timeout=ACQUIRE_TIMEOUT) as connection:
        return bool(await connection.fetchval(_ASK, caller.user))


async def require_owner(services: Services, caller: Identity, what: str) -> None:
    """Raises ProblemError (403), which says ``what`` is an owner's to do."""
    if not await owns_platform(services, caller):
        raise ProblemError(403, "forbidden", f"{what}: only an owner of the platform may, in person")
