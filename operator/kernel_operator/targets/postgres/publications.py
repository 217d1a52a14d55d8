"""The two publications: rows of captured tables, and events."""

from dataclasses import dataclass

import asyncpg

from kernel_operator.targets.postgres.session import Statement, run

CAPTURED = "platform_cdc"
OUTBOX = "platform_outbox"

_OBSERVE = """
SELECT pubname, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot, puballtables,
  pubowner = current_user::regrole AS mine,
  EXISTS (SELECT FROM pg_publication_namespace WHERE pnpubid = p.oid) AS schemas,
  ARRAY(SELECT prrelid::regclass::text FROM pg_publication_rel WHERE prpubid = p.oid
        AND prqual IS NULL AND prattrs IS NULL) AS tables
FROM pg_publication AS p WHERE pubname = ANY($1)
"""


@dataclass(frozen=True, slots=True)
class _Wanted:
    name: str
    publish: str
    tables: tuple[str, ...] = ()


_WANTED = (
    # TRUNCATE is refused on captured tables, so there is none to publish.
    _Wanted(CAPTURED, "insert, update, delete"),
    # Rows of the outbox are only ever added; those that are moved or dropped are no events.
    _Wanted(OUTBOX, "insert", ("kernel.outbox",)),
)


class PublicationTaken(Exception):
    """A publication of ours belongs to somebody else."""


async def ensure_publications(connection: asyncpg.Connection) -> list[str]:
    """Make or put right both publications; membership of captured tables is the modules' own matter.

    Returns a clause a change. Raises PublicationTaken.
    """
    rows = {row["pubname"]: row for row in await connection.fetch(_OBSERVE, [wanted.name for wanted in _WANTED])}
    changes: list[str] = []
    for wanted in _WANTED:
        row = rows.get(wanted.name)
        options = f"publish = '{wanted.publish}', publish_via_partition_root = true"
        statements = []
        if row is not None and not row["mine"]:
            raise PublicationTaken(
                f"PostgreSQL: {wanted.name} must belong to kernel_operator: DROP PUBLICATION {wanted.name}"
            )
        if row is not None and (row["puballtables"] or row["schemas"]):
            statements.append(Statement.of("DROP PUBLICATION %I", wanted.name))
            row = None
        if row is None:
            statements.append(Statement.of(f"CREATE PUBLICATION %I WITH ({options})", wanted.name))
            changes.append(f"created publication {wanted.name}")
        elif _published(row) != wanted.publish or not row["pubviaroot"]:
            statements.append(Statement.of(f"ALTER PUBLICATION %I SET ({options})", wanted.name))
            changes.append(f"put right what publication {wanted.name} publishes")
        for table in wanted.tables:
            if row is None or table not in row["tables"]:
                statements.append(Statement.of(f"ALTER PUBLICATION %I SET TABLE {table}", wanted.name))
        await run(connection, statements)
    return changes


def _published(row: asyncpg.Record) -> str:
    return ", ".join(kind for kind in ("insert", "update", "delete", "truncate") if row[f"pub{kind}"])
