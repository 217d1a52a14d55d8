"""A change of rights: one transaction, seen by the very next request.

Whoever changes the rights of a tenant first locks the tenant's row in ``auth.rbac_versions``. So the changes of one
tenant come one by one: two that depend on each other (pass the ownership on twice, delete a role while it is assigned)
never overlap, no two can wait for each other, and what the caller holds is what they hold at that moment, not when the
request came in. Then, in the same transaction: the change, its events, and the new version of rights, which is told
to Valkey before the commit (``decision.rights`` says why that is enough). Valkey away: nothing is changed, 503.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import asyncpg
from pydantic import JsonValue

from kernel_common.events import Envelope, emit
from kernel_common.tenancy import tenant_transaction
from kernel_gateway.access import Identity
from kernel_gateway.api.events import event
from kernel_gateway.api.problems import ProblemError, unavailable
from kernel_gateway.api.services import Services
from kernel_gateway.decision.rights import Rights, RightsUnavailable
from kernel_gateway.login.faults import reached
from kernel_gateway.people.permissions import Catalogue, covers

_LOCK = "SELECT FROM auth.rbac_versions FOR UPDATE"
_HELD = "SELECT permissions, active_modules FROM auth.effective_rights($1)"


class Change:
    """What a change works with: the caller, what they hold (``held``), what can be granted (``catalogue``)."""

    def __init__(
        self, transaction: asyncpg.Connection, caller: Identity, held: frozenset[str], catalogue: Catalogue
    ) -> None:
        self.transaction, self.caller, self.held, self.catalogue = transaction, caller, held, catalogue
        self._events: list[Envelope] = []

    def beyond(self, permissions: Collection[str]) -> list[str]:
        """Which of ``permissions`` the caller doesn't hold, and so can't grant."""
        return [permission for permission in permissions if not covers(self.held, permission)]

    def announce(self, kind: str, data: dict[str, JsonValue]) -> None:
        """The event is written when the change is done; without one nothing has changed. ``data`` gets who did it."""
        by: dict[str, JsonValue] = {"by": str(self.caller.user)}
        if self.caller.actor is not None:
            by["actorId"] = str(self.caller.actor)
        self._events.append(event(kind, self.caller.tenant, **data, **by))

    async def finish(self, rights: Rights) -> None:
        """The last step before the commit. Raises ProblemError (503) when Valkey can't be told."""
        if not self._events:
            return
        await emit(self.transaction, *self._events)
        try:
            await rights.changed(self.caller.tenant, self.transaction)
        except RightsUnavailable as error:
            raise unavailable(str(error)) from None
        reached("rights-told")


@asynccontextmanager
async def change_of_rights(services: Services, caller: Identity, permission: str | None) -> AsyncIterator[Change]:
    """A change by ``caller``, who must still hold ``permission`` (None: whoever asks judges that themselves). Commits
    at the end. Raises ProblemError."""
    async with tenant_transaction(services.pool, caller.tenant) as transaction:
        await transaction.execute(_LOCK)
        row = await transaction.fetchrow(_HELD, caller.user)
        held, modules = (row["permissions"], row["active_modules"]) if row else ([], [])
        if permission is not None and not covers(held, permission):
            raise ProblemError(403, "forbidden", f"the permission {permission} is needed")
        change = Change(transaction, caller, frozenset(held), await Catalogue.read(transaction, modules))
        yield change
        await change.finish(services.rights)
