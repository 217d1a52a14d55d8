"""Questions to PostgreSQL in ordinary SQL."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from kernel_common.database import DatabaseUnavailable, waiting_explained


@contextmanager
def asking() -> Iterator[None]:
    """Whatever goes wrong, the same question is asked again: DatabaseUnavailable."""
    try:
        with waiting_explained():
            yield
    except asyncpg.UndefinedTableError:
        raise DatabaseUnavailable("the operator has not made the tables of this version yet") from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise DatabaseUnavailable(f"a question failed ({type(error).__name__})") from None
