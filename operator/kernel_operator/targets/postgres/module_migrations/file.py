"""One migration, in one transaction of the module's migrator.

``start_file`` and ``finish_file`` do what needs the operator's rights inside that transaction; see
``migrations/0005_module_migrations.sql``. So the file, the protection of its tables and the record of
it appear together, and a finding undoes all three.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from kernel_common.database import reason_to_wait
from kernel_operator import faults
from kernel_operator.desired import Migration, Unavailable
from kernel_operator.targets.postgres.module_migrations.login import Migrator
from kernel_operator.targets.postgres.module_migrations.reading import Checked
from kernel_operator.targets.postgres.session import SYSTEM, Refused, unavailable_explained

STATEMENT_TIMEOUT = 120
"""Seconds for one statement."""
FILE_TIMEOUT = 300
"""Seconds for one file."""


@dataclass(frozen=True, slots=True)
class File:
    """A migration that was read, and the version that brings it."""

    migration: Migration
    version: str
    statements: Sequence[Checked]


async def apply_file(session: asyncpg.Connection, operator: asyncpg.Connection, migrator: Migrator, file: File) -> None:
    """Run ``file`` on the migrator's ``session``, whole or not at all. Raises Refused or Unavailable."""
    owned = sorted({table for statement in file.statements for table in statement.touched.owned})
    referenced = sorted({table for statement in file.statements for table in statement.touched.referenced})
    migration = file.migration
    with unavailable_explained():
        async with faults.transaction(session):
            xid = await session.fetchval("SELECT pg_catalog.pg_current_xact_id()::text")
            await _require_nothing(
                session, migration, "SELECT * FROM kernel_migrations.start_file($1, $2)", owned, referenced
            )
            for statement in file.statements:
                try:
                    # fetch, because it sends one statement and never several.
                    await session.fetch(statement.sql)
                except asyncpg.PostgresError as error:
                    raise await _explained(error, operator, migrator, migration, statement.line) from None
            await _require_nothing(
                session,
                migration,
                "SELECT * FROM kernel_migrations.finish_file($1, $2, $3, $4)",
                xid,
                migration.name,
                migration.checksum,
                file.version,
            )


async def _require_nothing(
    session: asyncpg.Connection, migration: Migration, question: str, *arguments: object
) -> None:
    """Raises Refused for the first thing that ``question`` finds."""
    try:
        findings = await session.fetch(question, *arguments)
    except asyncpg.PostgresError as error:
        if reason_to_wait(error):
            raise
        told = f"spec.migrations: {migration.name}: it can't be finished: {_told(error)} (SQLSTATE {error.sqlstate})"
        raise Refused("MigrationFailed", told) from None
    if findings:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        reason, message = findings[0]
        raise Refused(reason, f"spec.migrations: {migration.name}: {message}{more}")


async def _explained(
    error: asyncpg.PostgresError, operator: asyncpg.Connection, migrator: Migrator, migration: Migration, line: int
) -> Exception:
    where = f"spec.migrations: {migration.name}, line {line}"
    code = error.sqlstate or ""
    if code in ("57014", "25P04"):
        return Refused(
            "MigrationTooSlow",
            f"{where}: it took longer than {STATEMENT_TIMEOUT} s (a file: {FILE_TIMEOUT} s); split it",
        )
    if (reason := reason_to_wait(error)) is not None:
        return Unavailable(SYSTEM, reason)
    if code == "42501" and not await operator.fetchval(
        "SELECT has_schema_privilege($1::text, $2, 'CREATE')", migrator.login, migrator.schema
    ):
        return Unavailable(SYSTEM, f"the rights of {migrator.login} were taken while it ran")
    return Refused("MigrationFailed", f"{where}: {_told(error)} (SQLSTATE {code})")


def _told(error: asyncpg.PostgresError) -> str:
    """Without what rows hold: messages of the classes 22 and 23, and every detail, may quote a tenant's values."""
    if (error.sqlstate or "").startswith(("22", "23", "P0", "XX")):
        names = [name for name in (error.table_name, error.column_name, error.constraint_name) if name]
        return f"rows or values don't fit{': ' + ', '.join(names) if names else ''}"
    return str(error).splitlines()[0][:300]
