"""The module's migrator: a login that exists only while its migrations run.

It is made with a password that nobody but this run knows, and dropped at the end: a role that owns
anything can't be dropped, so that it is gone is itself the proof that nothing was left to it. A run
that died leaves the login (which expires); the next one, or ``close_abandoned``, ends the sessions
that it may still have and drops it.

Two operators can't run one module's migrations at once: whoever does holds a lock on the module's
row in ``kernel.module_migrators``. The lock of a run that died may be free while its session in the
database is still at work. Hence the sessions are ended, and then the record is read, in that order.
"""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg

from kernel_operator.desired import Unavailable
from kernel_operator.targets.postgres.login import APP
from kernel_operator.targets.postgres.modules import ONE_AT_A_TIME
from kernel_operator.targets.postgres.scram import verifier
from kernel_operator.targets.postgres.session import SYSTEM, Refused, Statement, query, run, transaction

PREFIX = "kernel_migrator_"
VALID = timedelta(minutes=10)
"""How long one may log in; a session that is logged in may last longer."""

_TRIES = 3
_NAME_BYTES = 63
_FUNCTIONS = (
    "FUNCTION kernel_migrations.start_file(text[], text[]), kernel_migrations.finish_file(text, text, text, text)"
)
_LOCK = "SELECT run FROM kernel.module_migrators WHERE slug = $1 FOR UPDATE NOWAIT"


@dataclass(frozen=True, slots=True)
class Migrator:
    """The login of one run."""

    slug: str
    run: UUID = field(default_factory=uuid4)
    password: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    def __post_init__(self) -> None:
        if len(self.login.encode()) > _NAME_BYTES:
            raise Refused("NameTooLong", f"spec.moduleName: {self.login} is longer than {_NAME_BYTES} bytes")

    @property
    def schema(self) -> str:
        return f"module_{self.slug}"

    @property
    def login(self) -> str:
        return f"{PREFIX}{self.slug}"


async def lock(connection: asyncpg.Connection, migrator: Migrator) -> None:
    """Hold the module until the end of the transaction. Raises Unavailable when it isn't this run's any more."""
    if await _take(connection, migrator) != migrator.run:
        raise Taken(migrator)


async def open_login(pool: asyncpg.Pool, migrator: Migrator) -> None:
    """Make the login, after whatever a former run has left is closed.

    Raises Unavailable when somebody else is running them, or the module is not in the database yet;
    Refused when a former login owns something.
    """
    async with transaction(pool) as connection:
        # Rights on the functions are rows that all modules share.
        await connection.execute(ONE_AT_A_TIME)
        await connection.execute(query("register_migrator"), migrator.slug, migrator.login, migrator.run)
        await _take(connection, migrator)
        await connection.execute(
            "UPDATE kernel.module_migrators SET run = $2 WHERE slug = $1", migrator.slug, migrator.run
        )
        await _end(connection, migrator)
        await run(connection, _opening(migrator))


async def close_login(pool: asyncpg.Pool, migrator: Migrator, *, own: bool = True) -> bool:
    """Drop the login. Harmless when repeated; with ``own``, a login of another run is left alone.

    Returns whether one was closed. Raises Taken when a run is at work with it; Unavailable; Refused
    when the login owns something, and then it can't log in any more but is still there.
    """
    async with transaction(pool) as connection:
        await connection.execute(ONE_AT_A_TIME)
        holder = await _take(connection, migrator)
        if own and holder != migrator.run:
            return False
        closed = await _end(connection, migrator, drop=False)
    if closed:
        # Apart: should this fail, the login stays closed.
        async with transaction(pool) as connection:
            await connection.execute(ONE_AT_A_TIME)
            await _drop(connection, migrator)
    return closed


async def close_abandoned(pool: asyncpg.Pool) -> list[str]:
    """Close every login that a run has left behind; a clause each. Raises Unavailable."""
    async with transaction(pool) as connection:
        slugs = [row["slug"] for row in await connection.fetch(query("abandoned_migrators"))]
    closed = []
    for slug in slugs:
        migrator = Migrator(slug)
        try:
            if await close_login(pool, migrator, own=False):
                closed.append(f"closed login {migrator.login}")
        except Taken:
            continue  # it is not abandoned
        except Refused as refused:
            raise Unavailable(SYSTEM, str(refused)) from None
    return closed


class Taken(Unavailable):
    """Somebody else is running the module's migrations."""

    def __init__(self, migrator: Migrator) -> None:
        super().__init__(SYSTEM, f"another operator runs the migrations of module {migrator.slug}")


async def _take(connection: asyncpg.Connection, migrator: Migrator) -> UUID | None:
    """Lock the module's row; returns whose run it is. Raises Taken when the lock is held."""
    try:
        async with connection.transaction():
            holder: UUID | None = await connection.fetchval(_LOCK, migrator.slug)
    except asyncpg.LockNotAvailableError:
        raise Taken(migrator) from None
    return holder


def _opening(migrator: Migrator) -> Iterator[Statement]:
    login, schema = migrator.login, migrator.schema
    until = (datetime.now(UTC) + VALID).isoformat()
    yield Statement.of(
        "CREATE ROLE %I LOGIN INHERIT CONNECTION LIMIT 1 PASSWORD %L VALID UNTIL %L",
        login,
        verifier(migrator.password),
        until,
    )
    # The right to connect, and nothing else.
    yield Statement.of(f"GRANT {APP} TO %I WITH INHERIT TRUE, SET FALSE", login)
    yield Statement.of("GRANT USAGE, CREATE ON SCHEMA %I TO %I", schema, login)
    yield Statement.of("GRANT USAGE ON SCHEMA kernel_migrations TO %I", login)
    yield Statement.of(f"GRANT EXECUTE ON {_FUNCTIONS} TO %I", login)


async def _end(connection: asyncpg.Connection, migrator: Migrator, *, drop: bool = True) -> bool:
    """Take the login its rights and end its sessions; returns whether there was one."""
    login = migrator.login
    if await connection.fetchval("SELECT to_regrole($1) IS NULL", login):
        return False
    await run(
        connection,
        [
            Statement.of("ALTER ROLE %I NOLOGIN PASSWORD NULL", login),
            # To end a role's sessions one must have its rights.
            Statement.of("GRANT %I TO kernel_operator WITH INHERIT TRUE, SET FALSE", login),
        ],
    )
    await _end_sessions(connection, login)
    # Nothing is left to it, unless a file ended its transaction by itself: then what it made is taken and protected.
    await connection.execute("SELECT kernel_migrations.take_over($1, $2)", migrator.slug, login)
    await connection.fetch("SELECT kernel_migrations.protect($1)", migrator.slug)
    await run(connection, _closing(migrator, await connection.fetchval("SELECT to_regnamespace($1)", migrator.schema)))
    if drop:
        await _drop(connection, migrator)
    return True


async def _end_sessions(connection: asyncpg.Connection, login: str) -> None:
    for _ in range(_TRIES):
        # False also means that it ended by itself meanwhile: so look again.
        if all(row["ended"] for row in await connection.fetch(query("end_sessions"), login)):
            return
        await connection.execute("SELECT pg_stat_clear_snapshot()")
    raise Unavailable(SYSTEM, f"a session of {login} does not end")


def _closing(migrator: Migrator, schema: str | None) -> Iterator[Statement]:
    yield Statement.of("REVOKE %I FROM kernel_operator GRANTED BY kernel_operator", migrator.login)
    yield Statement.of(f"REVOKE EXECUTE ON {_FUNCTIONS} FROM %I", migrator.login)
    yield Statement.of("REVOKE ALL ON SCHEMA kernel_migrations FROM %I", migrator.login)
    if schema:
        yield Statement.of("REVOKE ALL ON SCHEMA %I FROM %I", migrator.schema, migrator.login)


async def _drop(connection: asyncpg.Connection, migrator: Migrator) -> None:
    try:
        await run(connection, [Statement.of("DROP ROLE IF EXISTS %I", migrator.login)])
    except asyncpg.DependentObjectsStillExistError as error:
        # The detail names objects, never rows.
        left = ", ".join((error.detail or "").splitlines())
        raise Refused(
            "CatalogueFinding",
            f"module {migrator.slug}: {left}: an administrator must look at it, then "
            f"REASSIGN OWNED BY {migrator.login} TO kernel_operator or drop it",
        ) from None
