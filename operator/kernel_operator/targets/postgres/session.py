"""Transactions of the operator, and DDL whose names are quoted by PostgreSQL itself."""

import json
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from importlib import resources
from typing import NamedTuple, Self

import asyncpg

from kernel_common.database import ACQUIRE_TIMEOUT, DatabaseUnavailable, waiting_explained
from kernel_operator import faults
from kernel_operator.desired import Refusal, Unavailable

SYSTEM = "PostgreSQL"

_RENDER = """
SELECT string_agg(format(s->>'template', VARIADIC ARRAY(SELECT jsonb_array_elements_text(s->'names'))), ';' ORDER BY n)
FROM jsonb_array_elements($1::jsonb) WITH ORDINALITY AS given (s, n)
"""


class Refused(Exception):
    """Ends a transaction because the object can't be had; nothing was changed."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.refusal = Refusal(reason, message)


class Statement(NamedTuple):
    """DDL with ``%I`` for each name, ``%L`` for a literal and ``%s`` for SQL of our own, filled by format()."""

    template: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, template: str, *names: str) -> Self:
        return cls(template, names)


@contextmanager
def unavailable_explained() -> Iterator[None]:
    """Turns what may succeed later into Unavailable."""
    try:
        with waiting_explained():
            yield
    except DatabaseUnavailable as error:
        raise Unavailable(SYSTEM, str(error)) from None


@asynccontextmanager
async def transaction(pool: asyncpg.Pool) -> AsyncIterator[asyncpg.Connection]:
    """A transaction; raises Unavailable for what may succeed later."""
    with unavailable_explained():
        async with pool.acquire(timeout=ACQUIRE_TIMEOUT) as connection, faults.transaction(connection):
            yield connection


async def run(connection: asyncpg.Connection, statements: Iterable[Statement]) -> None:
    """Execute ``statements`` in order: two round trips, however many there are."""
    given = [statement._asdict() for statement in statements]
    if given:
        await connection.execute(await connection.fetchval(_RENDER, json.dumps(given)))


@cache
def query(name: str) -> str:
    """The text of ``sql/{name}.sql``."""
    return resources.files(__package__).joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
