"""Guessing passwords: ten failures in 15 minutes for an account from an address, then nothing until they are old.

An attempt is counted *before* the password is looked at, and taken back when it was right. So with many guesses at once
each sees all that were counted before it, and never more than ten are tried, whatever runs in parallel. What is counted
is the address that was typed, known or not. Neither half alone would do: offices share an address, and counting by
account alone would let anybody lock anybody out.
"""

import hashlib
import ipaddress
import math
from datetime import timedelta

import asyncpg

from kernel_gateway.api.problems import ProblemError

MOST_FAILURES = 10
WINDOW = timedelta(minutes=15)

_COUNT = "SELECT failures, seconds_left FROM kernel_cross.login_failures($1, $2::inet, $3)"


class Attempt:
    """One attempt of ``account`` (a text that is the same for all attempts that count together) from ``client``."""

    def __init__(self, account: str, client: str) -> None:
        self._account = hashlib.sha256(account.encode()).digest()
        self._address = _source(client)

    async def begin(self, pool: asyncpg.Pool) -> None:
        """Counts the attempt as failed. Raises ProblemError (429) when there were too many."""
        async with pool.acquire(timeout=10) as connection:
            await self._check(connection, MOST_FAILURES - 1)  # who is locked out does not lengthen it
            await connection.execute("SELECT kernel_cross.login_failed($1, $2::inet)", self._account, self._address)
            await self._check(connection, MOST_FAILURES)

    async def succeeded(self, pool: asyncpg.Pool) -> None:
        """Forgets the failures. Call it only when everything was right: the second factor too."""
        async with pool.acquire(timeout=10) as connection:
            await connection.execute("SELECT kernel_cross.login_succeeded($1, $2::inet)", self._account, self._address)

    async def _check(self, connection: asyncpg.Connection, allowed: int) -> None:
        failures, seconds = await connection.fetchrow(_COUNT, self._account, self._address, WINDOW)
        if failures > allowed:
            raise ProblemError(
                429,
                "rate-limit-exceeded",
                "too many failed attempts: wait, or reset the password",
                headers={"Retry-After": str(max(1, math.ceil(seconds)))},
            )


def _source(client: str) -> str:
    """An IPv6 customer has 2^64 addresses: they count as one."""
    address = ipaddress.ip_address(client)
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False).network_address)
