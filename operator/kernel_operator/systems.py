"""The systems behind the targets: made from the settings, prepared and kept up beside the work, closed together.

PostgreSQL must be prepared (roles checked, schema migrated) before anything is written to it. Until
then its calls answer Unavailable with what is missing, so that each resource's condition says it and
the other systems go on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from kernel_operator.desired import Migration, ModuleState, NewOwner, Outcome, TenantState, Unavailable
from kernel_operator.settings import Settings
from kernel_operator.targets.clickhouse import ClickHouseTarget
from kernel_operator.targets.kafka import KafkaTarget
from kernel_operator.targets.postgres import MigrationError, NotBootstrapped, PostgresTarget
from kernel_operator.targets.postgres.publications import PublicationTaken
from kernel_operator.targets.valkey import ValkeyTarget

_PREPARE_PAUSE = 2.0
_UPKEEP_PAUSE = 300.0
_CLOSE_SECONDS = 3.0

log = logging.getLogger(__name__)


class Database:
    """PostgresTarget behind its preparation."""

    def __init__(self, target: PostgresTarget) -> None:
        self._target = target
        self._trouble: Unavailable | None = Unavailable("PostgreSQL", "not prepared yet")
        self.judged = asyncio.Event()
        """Set when it is known whether PostgreSQL can be prepared; until then there is nothing to tell of it."""

    async def prepare(self) -> None:
        """Prepare PostgreSQL, trying until it is done, whatever goes wrong: the other systems go on meanwhile."""
        said = ""
        while True:
            try:
                outcome = await self._target.prepare()
                break
            except (NotBootstrapped, MigrationError, PublicationTaken) as error:
                trouble = str(error).removeprefix("PostgreSQL: ")
            except Unavailable as error:
                trouble = error.message
            except Exception as error:
                trouble = f"can't be prepared ({type(error).__name__}; the operator's log says more)"
                if trouble != said:
                    log.exception("PostgreSQL can't be prepared")
            self._trouble = Unavailable("PostgreSQL", trouble)
            self.judged.set()
            if trouble != said:
                log.warning("PostgreSQL: %s", trouble)
                said = trouble
            await asyncio.sleep(_PREPARE_PAUSE)
        self._trouble = None
        self.judged.set()
        _tell("PostgreSQL", outcome)

    def _checked(self) -> PostgresTarget:
        if self._trouble is not None:
            raise self._trouble
        return self._target

    async def apply_tenants(self, tenants: Sequence[TenantState]) -> Mapping[UUID, Outcome]:
        return await self._checked().apply_tenants(tenants)

    async def ownerless_tenants(self, tenants: Collection[UUID]) -> Mapping[UUID, bool]:
        return await self._checked().ownerless_tenants(tenants)

    async def make_owners(self, new: Sequence[NewOwner]) -> Collection[UUID]:
        return await self._checked().make_owners(new)

    async def retire_tenant(self, tenant_id: UUID) -> Outcome:
        return await self._checked().retire_tenant(tenant_id)

    async def delete_tenant(self, tenant_id: UUID) -> Outcome:
        return await self._checked().delete_tenant(tenant_id)

    async def apply_module(self, module: ModuleState, password: str) -> Outcome:
        return await self._checked().apply_module(module, password)

    async def migrate_module(self, slug: str, version: str, migrations: Sequence[Migration]) -> Outcome:
        return await self._checked().migrate_module(slug, version, migrations)

    async def module_holder(self, slug: str) -> tuple[str, str, str] | None:
        return await self._checked().module_holder(slug)

    async def remove_module(self, slug: str, *, drop_data: bool) -> Outcome:
        return await self._checked().remove_module(slug, drop_data=drop_data)

    async def upkeep(self) -> Outcome:
        return await self._checked().upkeep()

    async def lately_deleted(self) -> list[UUID]:
        return await self._checked().lately_deleted()

    async def close(self) -> None:
        await self._target.close()


def _tell(system: str, outcome: Outcome) -> None:
    if outcome.changes:
        log.info("%s: %s", system, "; ".join(outcome.changes))


class Systems:
    """All four, each ready to be called at any time."""

    def __init__(self, settings: Settings) -> None:
        keep = timedelta(hours=settings.outbox_retain_hours)
        self.postgres = Database(PostgresTarget(settings.database_url.get_secret_value(), outbox_keep=keep))
        self.kafka = KafkaTarget(
            settings.kafka_brokers,
            username=settings.kafka_username,
            password=settings.kafka_password.get_secret_value(),
            security_protocol=settings.kafka_security_protocol,
            sasl_mechanism=settings.kafka_sasl_mechanism,
            retention_hours=settings.kafka_retention_hours,
            audit_retention_hours=settings.kafka_audit_retention_hours,
        )
        self.clickhouse = ClickHouseTarget(
            settings.clickhouse_url.get_secret_value(), settings.clickhouse_database, settings.kernel_master_key
        )
        self.valkey = ValkeyTarget(settings.valkey_url.get_secret_value())

    async def erase_late(self) -> Outcome:
        """The deletion of a tenant's rows reaches ClickHouse by the stream after the tenant was erased there, and
        brings the rows back as they were last; so they are erased once more."""
        gone = await self.postgres.lately_deleted()
        return await self.clickhouse.erase_again(gone) if gone else Outcome(())

    async def keep_up(self, system: str, care: Callable[[], Awaitable[Outcome]]) -> None:
        """Give ``system`` the ``care`` that no resource asks for, now and then, for ever."""
        pause = _PREPARE_PAUSE
        while True:
            try:
                outcome = await care()
                _tell(system, outcome)
                pause = _UPKEEP_PAUSE
            except Unavailable as error:
                log.warning("%s: %s", error.system, error.message)
                pause = _PREPARE_PAUSE
            except Exception:
                log.exception("%s: upkeep failed", system)
                pause = _UPKEEP_PAUSE
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Close every connection; one that can't be closed in order is left to the end of the process."""
        for system in (self.postgres, self.kafka, self.clickhouse, self.valkey):
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await system.close()
            except Exception as error:
                log.warning("a connection was not closed in order: %s", type(error).__name__)
