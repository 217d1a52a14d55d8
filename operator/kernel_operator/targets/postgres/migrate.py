"""The kernel's own schema, brought up to date.

Migrations are numbered files that are applied once, in order, each in a transaction with the row
that records it. A process that dies leaves the former version; of two that start at once one waits
for the other at the lock on the record and then finds the work done. A file that changed after it
was applied, a gap, or a database that is newer than this program is refused: nothing is guessed.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import asyncpg

from kernel_common.database import ACQUIRE_TIMEOUT

_NAME = re.compile(r"(?P<number>\d{4})_(?P<name>[a-z0-9_]+)\.sql")
_WAIT = "60s"
_TIMEOUT = 600.0


class MigrationError(Exception):
    """The database and the migrations of this program don't fit together."""


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def shipped() -> list[Migration]:
    """The migrations of this program, in order. Raises MigrationError on a gap or a double number."""
    found = []
    for file in resources.files(__package__).joinpath("migrations").iterdir():
        if match := _NAME.fullmatch(file.name):
            found.append(Migration(int(match["number"]), match["name"], file.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.number)
    require_unbroken(found)
    return found


def require_unbroken(migrations: Sequence[Migration]) -> None:
    """Raises MigrationError unless the numbers run 1, 2, 3, ..."""
    for expected, migration in enumerate(migrations, start=1):
        if migration.number != expected:
            raise MigrationError(
                f"migrations must be numbered without a gap: {expected:04} expected, found {migration.number:04}"
            )


async def migrate(pool: asyncpg.Pool, migrations: Sequence[Migration]) -> list[str]:
    """Apply what is missing; returns the names of what was applied.

    Raises MigrationError, and the database's error when a migration fails (its version then is the
    one before).
    """
    require_unbroken(migrations)
    done: list[str] = []
    async with pool.acquire(timeout=ACQUIRE_TIMEOUT) as connection:
        while name := await _apply_next(connection, migrations):
            done.append(name)
    return done


async def _apply_next(connection: asyncpg.Connection, migrations: Sequence[Migration]) -> str | None:
    async with connection.transaction():
        applied = await connection.fetch("SELECT number, name, checksum FROM kernel.schema_migrations ORDER BY number")
        if _next(applied, migrations) is None:
            return None
        await connection.execute(f"SET LOCAL lock_timeout = '{_WAIT}'; SET LOCAL statement_timeout = '{_TIMEOUT:.0f}s'")
        # Readers go on: two that have both read above would otherwise wait for each other for ever.
        lock = "LOCK TABLE kernel.schema_migrations IN SHARE ROW EXCLUSIVE MODE"
        await connection.execute(lock, timeout=_TIMEOUT)
        applied = await connection.fetch("SELECT number, name, checksum FROM kernel.schema_migrations ORDER BY number")
        migration = _next(applied, migrations)
        if migration is None:
            return None
        await connection.execute("SET LOCAL lock_timeout = '5s'")
        await connection.execute(migration.sql, timeout=_TIMEOUT)
        await connection.execute(
            "INSERT INTO kernel.schema_migrations (number, name, checksum) VALUES ($1, $2, $3)",
            migration.number,
            migration.name,
            migration.checksum,
        )
        return f"{migration.number:04}_{migration.name}"


def _next(applied: Sequence[asyncpg.Record], migrations: Sequence[Migration]) -> Migration | None:
    """The first migration that is missing; None when all are there."""
    if len(applied) > len(migrations):
        raise MigrationError(
            f"the database is at migration {applied[-1]['number']:04}, this program knows {len(migrations):04}: "
            "run the newer version"
        )
    for row, migration in zip(applied, migrations, strict=False):
        if row["number"] != migration.number:
            raise MigrationError(
                f"migration {migration.number:04} is missing in the database, but later ones were applied"
            )
        if row["checksum"] != migration.checksum:
            raise MigrationError(
                f"migration {migration.number:04}_{migration.name} was changed after it was applied: "
                "restore the file and put the change into a new one"
            )
    return migrations[len(applied)] if len(applied) < len(migrations) else None
