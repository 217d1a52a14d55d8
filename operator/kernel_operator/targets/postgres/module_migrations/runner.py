"""Runs what is to be run of a module's migrations.

    open_login   a login that may make things in the module's schema, for this run alone
    lock         held by the operator's own connection until the end of the run
    each file    one transaction on the migrator's connection: start_file lends it the tables it
                 alters, the statements, finish_file takes all of it over, protects and checks it, and records it
    close_login  gone, whatever happened

A process that dies leaves at most the login. A file that fails leaves the files before it, which is
a state that the former version can live with: migrations only add.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg

from kernel_common.database import ACQUIRE_TIMEOUT, CONNECT_TIMEOUT
from kernel_operator.desired import Migration, Outcome, Unavailable
from kernel_operator.targets.postgres.module_migrations.file import FILE_TIMEOUT, STATEMENT_TIMEOUT, File, apply_file
from kernel_operator.targets.postgres.module_migrations.history import pending
from kernel_operator.targets.postgres.module_migrations.login import Migrator, close_login, lock, open_login
from kernel_operator.targets.postgres.module_migrations.reading import read
from kernel_operator.targets.postgres.session import SYSTEM, Refused, query, transaction, unavailable_explained

_CLOSING_TIMEOUT = 30


@dataclass(frozen=True, slots=True)
class _Wanted:
    version: str
    migrations: Sequence[Migration]

    def to_run(self, applied: Mapping[str, str], schema: str) -> list[File]:
        """All of them are read before the first is run: a text that is refused changes nothing."""
        new = pending(applied, self.migrations)
        return [File(one, self.version, read(one.name, one.sql, schema)) for one in new]


async def migrate_module(
    pool: asyncpg.Pool,
    url: str,
    slug: str,
    version: str,
    migrations: Sequence[Migration],
    *,
    at_once: asyncio.Semaphore,
) -> Outcome:
    """Run those of ``migrations`` that were not run, in the schema of the module ``slug``.

    ``url`` is the operator's; its address is used with another login. ``at_once`` bounds how many
    run, because each keeps a connection of ``pool`` for as long as its files take. The module must
    have been applied before. Tables that migrations made are put right too, and a login that a dead
    run left is closed, so the call is worth making when nothing is new. Raises Unavailable; the same
    call then goes on where it was.
    """
    changes: list[str] = []
    try:
        migrator = Migrator(slug)
        applied = await _observe(pool, migrator, changes)
        wanted = _Wanted(version, migrations)
        if wanted.to_run(applied, migrator.schema):
            async with _slot(at_once):
                await _run(pool, url, migrator, wanted, changes)
    except Refused as refused:
        return Outcome(tuple(changes), refused.refusal)
    return Outcome(tuple(changes))


async def _observe(pool: asyncpg.Pool, migrator: Migrator, changes: list[str]) -> dict[str, str]:
    """What was applied, name to checksum; puts right what is there and says so in ``changes``."""
    async with transaction(pool) as connection:
        row = await connection.fetchrow(query("observe_migrations"), migrator.slug, migrator.login)
        if not row["installed"]:
            raise Unavailable(SYSTEM, f"module {migrator.slug} is not in the database yet")
        if not row["login_left"]:
            changes += await _protect(connection, migrator)
            return _applied(row)
    # A session of a dead run may still hold locks on the tables: first it has to end, and then what it applied counts.
    if await close_login(pool, migrator, own=False):
        changes.append(f"closed login {migrator.login}")
    async with transaction(pool) as connection:
        changes += await _protect(connection, migrator)
        return _applied(await connection.fetchrow(query("observe_migrations"), migrator.slug, migrator.login))


def _applied(row: asyncpg.Record) -> dict[str, str]:
    applied: dict[str, str] = json.loads(row["applied"])
    return applied


async def _protect(connection: asyncpg.Connection, migrator: Migrator) -> list[str]:
    rows = await connection.fetch("SELECT kernel_migrations.protect($1) AS clause", migrator.slug)
    return [row["clause"] for row in rows]


@asynccontextmanager
async def _slot(at_once: asyncio.Semaphore) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(ACQUIRE_TIMEOUT):
            await at_once.acquire()
    except TimeoutError:
        raise Unavailable(SYSTEM, "the migrations of other modules are running") from None
    try:
        yield
    finally:
        at_once.release()


async def _run(pool: asyncpg.Pool, url: str, migrator: Migrator, wanted: _Wanted, changes: list[str]) -> None:
    await open_login(pool, migrator)
    try:
        async with transaction(pool) as operator:
            # Files may take long, and this transaction only waits for them.
            await operator.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            await lock(operator, migrator)
            # Again: another run may have been at it until the lock was ours.
            row = await operator.fetchrow(query("observe_migrations"), migrator.slug, migrator.login)
            async with _session(url, migrator) as session:
                for file in wanted.to_run(_applied(row), migrator.schema):
                    await apply_file(session, operator, migrator, file)
                    changes.append(f"applied migration {file.migration.name} of version {file.version}")
    except asyncpg.InternalClientError:
        # What the driver says when the server has ended a connection that was idle.
        raise Unavailable(SYSTEM, "the connection was closed") from None
    finally:
        # Whatever ended the run, being cancelled too; what can't be closed now the next run closes.
        await asyncio.shield(_close(pool, migrator))


async def _close(pool: asyncpg.Pool, migrator: Migrator) -> None:
    try:
        async with asyncio.timeout(_CLOSING_TIMEOUT):
            await close_login(pool, migrator)
    except (Unavailable, TimeoutError):
        return


@asynccontextmanager
async def _session(url: str, migrator: Migrator) -> AsyncIterator[asyncpg.Connection]:
    with unavailable_explained():
        session = await asyncpg.connect(
            url,
            user=migrator.login,
            password=migrator.password,
            timeout=CONNECT_TIMEOUT,
            command_timeout=STATEMENT_TIMEOUT + 10,
            statement_cache_size=0,
            server_settings={
                "application_name": f"kernel-operator migrations of {migrator.slug}",
                "search_path": migrator.schema,
                "lock_timeout": "5s",
                "statement_timeout": f"{STATEMENT_TIMEOUT}s",
                "transaction_timeout": f"{FILE_TIMEOUT}s",
                "idle_in_transaction_session_timeout": "60s",
                "standard_conforming_strings": "on",
                "timezone": "UTC",
            },
        )
    try:
        yield session
    except BaseException:
        session.terminate()  # what it may still be doing in the database is ended with the login
        raise
    with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        await session.close(timeout=CONNECT_TIMEOUT)
