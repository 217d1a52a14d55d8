"""Passwords: Argon2id in a few threads, so that the event loop never waits for one.

A hash costs about a tenth of a second of a core on purpose. So hashes take turns, and when too many wait, the next is
refused at once: a flood of logins must not become minutes of work that nobody waits for any more.
"""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from kernel_gateway.api.problems import unavailable
from kernel_gateway.settings import Settings

T = TypeVar("T")

MIN_LENGTH = 12
MAX_LENGTH = 256
MOST_WAITING = 200

_CODES = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)
"""For codes with 80 random bits: nobody guesses those, however cheap a guess is, and ten may have to be tried."""


class PasswordHashing:
    def __init__(self, memory_kib: int, passes: int, lanes: int, threads: int) -> None:
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=lanes)
        self._threads = ThreadPoolExecutor(threads, "argon2")
        self._waiting = 0
        self._nobody = self._hasher.hash(secrets.token_urlsafe(32))

    @classmethod
    def of(cls, settings: Settings) -> "PasswordHashing":
        return cls(
            settings.password_memory_kib, settings.password_passes, settings.password_lanes, settings.password_threads
        )

    async def hash(self, password: str) -> str:
        """The PHC string of ``password``. Raises ProblemError (503) when too many wait."""
        return await self._run(self._hasher.hash, password)

    async def matches(self, hashed: str | None, password: str) -> bool:
        """Whether ``password`` made ``hashed``. None (nobody, or no password) costs the same and is never true; so does
        a hash with other parameters, which is why a second one is compared then. Raises ProblemError (503) when too
        many wait."""
        found = hashed is not None and await self._run(_matches, self._hasher, hashed, password)
        if hashed is None or self.is_weak(hashed):
            await self._run(_matches, self._hasher, self._nobody, password)
        return found

    def is_weak(self, hashed: str) -> bool:
        """Made with other parameters than those of today."""
        return self._hasher.check_needs_rehash(hashed)

    async def hash_codes(self, codes: list[str]) -> list[str]:
        """Hashes of random codes (not of passwords: they are cheap)."""
        return await self._run(lambda: [_CODES.hash(code) for code in codes])

    async def matching_code(self, hashes: list[str], code: str) -> str | None:
        """Which of ``hashes`` is that of ``code``."""
        return await self._run(lambda: next((hashed for hashed in hashes if _matches(_CODES, hashed, code)), None))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        if self._waiting >= MOST_WAITING:
            raise unavailable("too many logins at once: try again in a few seconds")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        finally:
            self._waiting -= 1


def _matches(hasher: PasswordHasher, hashed: str, password: str) -> bool:
    try:
        return hasher.verify(hashed, password)
    except (VerificationError, InvalidHashError):
        return False
