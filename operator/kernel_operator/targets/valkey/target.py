"""Valkey: the tables that the gateway and the services read on every request."""

from collections.abc import Collection, Sequence
from uuid import UUID

from kernel_operator.desired import ModuleState, Outcome, TenantState
from kernel_operator.targets.valkey import modules as module_tables
from kernel_operator.targets.valkey import tenants as tenant_keys
from kernel_operator.targets.valkey.connection import answering, connect
from kernel_operator.targets.valkey.entries import Entry, desired


class ValkeyTarget:
    """Every method raises Unavailable when the server can't be asked; the same call is then repeated."""

    def __init__(self, url: str) -> None:
        self._client = connect(url)

    async def apply_tenants(self, tenants: Sequence[TenantState]) -> dict[UUID, Outcome]:
        """The limits and the block of each of ``tenants``. One round trip when all is well, else two."""
        with answering():
            return await tenant_keys.apply(self._client, tenants)

    async def remove_tenant(self, tenant: UUID) -> Outcome:
        """Removes the limits and the memberships; the block stays, so that tokens in use stop at once."""
        with answering():
            gone = tenant_keys.TenantKeys(blocked=tenant_keys.BLOCKED)
            outcome = (await tenant_keys.reach(self._client, {tenant: gone}))[tenant]
            withdrawn = await module_tables.withdraw_tenant(self._client, tenant)
            return Outcome([*outcome.changes, *withdrawn])

    async def apply_modules(
        self, modules: Sequence[ModuleState], *, tenants: Collection[UUID] | None = None
    ) -> dict[str, Outcome]:
        """Rights, routes and memberships of ``modules``, by slug. ``tenants``: every tenant there is,
        given when ``modules`` are all there are; then leftovers of others are removed too, and their
        slugs are in the answer."""
        with answering():
            wanted = {module.slug: desired(module) for module in modules}
            return await module_tables.reach(self._client, wanted, tenants)

    async def remove_module(self, slug: str) -> Outcome:
        """Removes everything that the module has here."""
        with answering():
            return (await module_tables.reach(self._client, {slug: Entry()}))[slug]

    async def ping(self) -> None:
        with answering():
            await self._client.ping()

    async def close(self) -> None:
        await self._client.aclose()
