"""A module in the database, as the tests of migrations need it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from kernel_common.tenancy import set_tenant
from kernel_local.testing import PostgresServer
from kernel_operator.desired import Migration, ModuleState, Outcome
from kernel_operator.targets.postgres import PostgresTarget

PASSWORD = "a-random-password-Zq8"


@dataclass(frozen=True)
class Installed:
    """A module with a model ``contacts`` and two tenants."""

    target: PostgresTarget
    server: PostgresServer
    module: ModuleState
    a: UUID
    b: UUID

    @property
    def slug(self) -> str:
        return self.module.slug

    @property
    def schema(self) -> str:
        return self.module.schema

    @property
    def migrator(self) -> str:
        return f"kernel_migrator_{self.module.slug}"

    async def migrate(self, *texts: str, version: str = "1.0.0") -> Outcome:
        """The texts are named 1.sql, 2.sql, ..."""
        return await self.target.migrate_module(
            self.slug, version, [Migration(f"{number}.sql", text) for number, text in enumerate(texts, start=1)]
        )

    async def login(self) -> asyncpg.Connection:
        return await asyncpg.connect(self.server.url(self.schema, PASSWORD))


Install = Callable[..., Awaitable[Installed]]


async def as_tenant(connection: asyncpg.Connection, tenant: UUID, statement: str, *arguments: object) -> object:
    """One statement in a transaction of that tenant; its first value."""
    async with connection.transaction():
        await set_tenant(connection, tenant)
        return await connection.fetchval(statement, *arguments)


DEALS = """
CREATE TABLE deals (
  id uuid NOT NULL DEFAULT uuidv7(),
  tenant_id uuid NOT NULL,
  title text NOT NULL,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, id)
);
CREATE INDEX ON deals (tenant_id, title);
CREATE SEQUENCE numbers;
COMMENT ON TABLE deals IS 'what we sell';
"""
MORE = """
ALTER TABLE deals ADD COLUMN stage text NOT NULL DEFAULT 'new' CHECK (stage IN ('new', 'won'));
CREATE TABLE lines (
  tenant_id uuid NOT NULL, deal uuid NOT NULL, contact uuid, n integer NOT NULL,
  PRIMARY KEY (tenant_id, deal, n),
  FOREIGN KEY (tenant_id, deal) REFERENCES deals (tenant_id, id) ON DELETE CASCADE,
  FOREIGN KEY (tenant_id, contact) REFERENCES contacts (tenant_id, id) ON DELETE SET NULL (contact)
);
"""


def refused(outcome: Outcome, reason: str, *words: str) -> None:
    assert outcome.refusal is not None, outcome.changes
    assert outcome.refusal.reason == reason, outcome.refusal
    for word in words:
        assert word in outcome.refusal.message, outcome.refusal.message


async def relations(admin: asyncpg.Connection, installed: Installed) -> set[str]:
    rows = await admin.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind IN ('r', 'S')", installed.schema
    )
    return {row["relname"] for row in rows}


async def recorded(admin: asyncpg.Connection, installed: Installed) -> list[tuple[str, str]]:
    rows = await admin.fetch(
        "SELECT name, version FROM kernel.module_migrations WHERE slug = $1 ORDER BY name", installed.slug
    )
    return [(row["name"], row["version"]) for row in rows]


async def require_clean(admin: asyncpg.Connection, installed: Installed) -> None:
    """No login is left, and everything is the operator's and as its class demands."""
    assert await admin.fetchval("SELECT to_regrole($1) IS NULL", installed.migrator)
    wrong = await admin.fetch(
        "SELECT * FROM kernel_migrations.findings($1, 'nobody') WHERE message NOT LIKE '%belongs to nobody%'",
        installed.slug,
    )
    assert wrong == []
    owners = await admin.fetch(
        "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = $1::regnamespace",
        installed.schema,
    )
    assert [row[0] for row in owners] == ["kernel_operator"]
    assert (
        await admin.fetch(
            "SELECT pg_get_userbyid(member) FROM pg_auth_members WHERE roleid = to_regrole($1)", installed.migrator
        )
        == []
    )
