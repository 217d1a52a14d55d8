"""PostgreSQL as the operator sees it."""

import asyncio
import logging
from collections.abc import Collection, Sequence
from datetime import timedelta
from uuid import UUID

import asyncpg

from kernel_common.database import open_pool
from kernel_operator.desired import Migration, ModuleState, NewOwner, Outcome, TenantState
from kernel_operator.targets.postgres import erasure, modules, outbox, owners, tenants
from kernel_operator.targets.postgres.migrate import migrate, shipped
from kernel_operator.targets.postgres.module_migrations import close_abandoned, migrate_module
from kernel_operator.targets.postgres.preparation import require_bootstrap
from kernel_operator.targets.postgres.publications import ensure_publications
from kernel_operator.targets.postgres.session import transaction, unavailable_explained

log = logging.getLogger(__name__)


class PostgresTarget:
    """Every method raises Unavailable when the database can't answer; the same call is then repeated."""

    def __init__(
        self, database_url: str, *, connections: int = 5, outbox_keep: timedelta = timedelta(hours=48)
    ) -> None:
        """``database_url`` is that of ``kernel_operator``; days of the outbox that are older than ``outbox_keep`` go
        as soon as nobody needs them. Nothing is connected yet."""
        self._outbox_keep, self._held = outbox_keep, ""
        self._url, self._connections = database_url, connections
        self._opened: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()
        self._migrating = asyncio.Semaphore(max(1, connections // 2))

    async def close(self) -> None:
        if self._opened is not None:
            pool, self._opened = self._opened, None
            await pool.close()

    async def ping(self) -> None:
        """Raises Unavailable unless the database answers."""
        async with transaction(await self._pool()) as connection:
            await connection.fetchval("SELECT 1")

    async def prepare(self) -> Outcome:
        """Check what the bootstrap made, bring the kernel's schema up to date, make publications and partitions.

        Raises NotBootstrapped, MigrationError or PublicationTaken for what no waiting will mend.
        """
        pool = await self._pool()
        with unavailable_explained():
            await require_bootstrap(pool)
            changes = [f"applied migration {name}" for name in await migrate(pool, shipped())]
        async with transaction(pool) as connection:
            await connection.execute(modules.ONE_AT_A_TIME)
            changes += await ensure_publications(connection)
        return Outcome(
            (
                *changes,
                *(await self.upkeep()).changes,
            )
        )

    async def upkeep(self) -> Outcome:
        """What has to be done every day, at least; a question when there is nothing to do."""
        pool = await self._pool()
        made = await outbox.make_partitions(pool)
        gone, held = await outbox.retire_days(pool, self._outbox_keep)
        self._tell_held(held)
        return Outcome((*made.changes, *gone.changes, *await close_abandoned(pool)))

    async def apply_tenants(self, states: Sequence[TenantState]) -> dict[UUID, Outcome]:
        """See ``tenants.apply_tenants``."""
        return await tenants.apply_tenants(await self._pool(), states)

    async def ownerless_tenants(self, tenants: Collection[UUID]) -> dict[UUID, bool]:
        """See ``owners.ownerless_tenants``."""
        return await owners.ownerless_tenants(await self._pool(), tenants)

    async def make_owners(self, new: Sequence[NewOwner]) -> frozenset[UUID]:
        """See ``owners.make_owners``."""
        return await owners.make_owners(await self._pool(), new)

    async def retire_tenant(self, tenant_id: UUID) -> Outcome:
        """See ``tenants.retire_tenant``."""
        return await tenants.retire_tenant(await self._pool(), tenant_id)

    async def delete_tenant(self, tenant_id: UUID) -> Outcome:
        """See ``erasure.delete_tenant``."""
        return await erasure.delete_tenant(await self._pool(), tenant_id)

    async def lately_deleted(self) -> list[UUID]:
        """See ``erasure.lately_deleted``."""
        return await erasure.lately_deleted(await self._pool())

    async def apply_module(self, module: ModuleState, password: str) -> Outcome:
        """See ``modules.apply_module``."""
        return await modules.apply_module(await self._pool(), module, password)

    async def migrate_module(self, slug: str, version: str, migrations: Sequence[Migration]) -> Outcome:
        """See ``module_migrations.migrate_module``."""
        return await migrate_module(await self._pool(), self._url, slug, version, migrations, at_once=self._migrating)

    async def module_holder(self, slug: str) -> tuple[str, str, str] | None:
        """See ``modules.module_holder``."""
        return await modules.module_holder(await self._pool(), slug)

    async def remove_module(self, slug: str, *, drop_data: bool) -> Outcome:
        """See ``modules.remove_module``."""
        return await modules.remove_module(await self._pool(), slug, drop_data=drop_data)

    def _tell_held(self, held: Sequence[outbox.Held]) -> None:
        """Once, and again when something else stands in the way."""
        said = "; ".join(sorted({day.reason for day in held}))
        if said and said != self._held:
            log.warning("PostgreSQL: %d old days of the outbox are kept, oldest %s: %s", len(held), held[0].name, said)
        self._held = said

    async def _pool(self) -> asyncpg.Pool:
        async with self._opening:
            if self._opened is None:
                self._opened = await open_pool(
                    self._url, application="kernel-operator", max_size=self._connections, statement_timeout=60
                )
            return self._opened
