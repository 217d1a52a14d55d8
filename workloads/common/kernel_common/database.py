"""PostgreSQL connections and what their failures mean.

A pool is opened without a connection, so a process starts, and says what is wrong, while the
database is down. Errors are told apart by one question: would the same work succeed later? If so
they become ``DatabaseUnavailable``, whose message never holds an address, a user or a password.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

CONNECT_TIMEOUT = 5.0
"""Seconds for a connection to be made."""
ACQUIRE_TIMEOUT = 10.0
"""Seconds that callers should wait for a free connection of the pool."""

_URL = re.compile(r"postgres(?:ql)?://(?:[^@/\s]*@)?[^@/\s:]+(?::\d{1,5})?(?:,[^@/\s:]+(?::\d{1,5})?)*/[^/\s]+")
"""Checked here, because the driver reads it only when the first connection is made. IPv6 addresses go by name."""

_LATER = {
    "08": "the connection failed",
    "25006": "the server is read-only",
    "25P": "the transaction was left idle or took too long",
    "28": "the login was refused",
    "3D000": "the database is not there",
    "40001": "a concurrent change came first",
    "40P01": "a concurrent change came first (deadlock)",
    "53": "the server is out of connections, memory or disk space",
    "55P03": "a lock was not free in time",
    "55006": "an object is in use",
    "57014": "the statement took too long",
    "57P": "the server is starting or stopping",
    "58": "the server has an input/output error",
}
"""SQLSTATE, or what it begins with, to the reason that is shown."""


class DatabaseUnavailable(Exception):
    """The database can't answer now; the same work may be tried again. The message is fit to show."""


async def open_pool(
    url: str,
    *,
    application: str,
    max_size: int = 10,
    statement_timeout: float = 30.0,
    lock_timeout: float = 5.0,
) -> asyncpg.Pool:
    """A pool of at most ``max_size`` connections; none is made until it is needed.

    ``application`` is what ``pg_stat_activity`` shows. The timeouts (seconds) hold for each
    statement; a transaction may set others. Raises ValueError when ``url`` is no PostgreSQL URL.
    """
    if not _URL.fullmatch(url):
        raise ValueError("the database URL must be postgres://user:password@host:port/name")
    return await asyncpg.create_pool(
        url,
        min_size=0,
        max_size=max_size,
        timeout=CONNECT_TIMEOUT,
        # The server's own limit ends the statement properly; this one is for a server that is gone.
        command_timeout=statement_timeout + 5,
        max_inactive_connection_lifetime=300,
        server_settings={
            "application_name": application,
            "statement_timeout": f"{round(statement_timeout * 1000)}ms",
            "lock_timeout": f"{round(lock_timeout * 1000)}ms",
            "idle_in_transaction_session_timeout": "60s",
            "timezone": "UTC",
        },
    )


def reason_to_wait(error: BaseException) -> str | None:
    """Why the same work may succeed later, in a few words; None when it would fail again."""
    if isinstance(error, asyncpg.PostgresError):
        code = error.sqlstate or ""
        if code == "XX000" and "concurrently" in str(error):
            return _LATER["40001"]
        return next((reason for prefix, reason in _LATER.items() if code.startswith(prefix)), None)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        # Not strerror: asyncio puts the address into it.
        return f"can't be reached ({os.strerror(error.errno)})" if error.errno else "can't be reached"
    if isinstance(error, asyncpg.InterfaceError) and "clos" in str(error):
        return "the connection was closed"
    return None


@contextmanager
def waiting_explained() -> Iterator[None]:
    """Turns every error with a reason to wait into DatabaseUnavailable; the rest passes unchanged."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        if reason := reason_to_wait(error):
            # The cause is left out: drivers put host and user into their messages.
            raise DatabaseUnavailable(reason) from None
        raise
