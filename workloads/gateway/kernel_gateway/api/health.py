"""Whether the process can serve: a key signs, PostgreSQL or Valkey answers, and it is not about to end."""

import asyncio
import time
from collections.abc import Awaitable, Callable

PATIENCE = 1.0
"""Seconds for a dependency to answer, and for its answer to be believed."""

Probe = Callable[[], Awaitable[object]]


class Health:
    """``probes`` are named questions to dependencies; each raises when the dependency is away."""

    def __init__(self, signing: Callable[[], object], probes: dict[str, Probe]) -> None:
        self._signing, self._probes = signing, probes
        self._asking: asyncio.Task[dict[str, bool]] | None = None
        self._asked_at = 0.0
        self.stopping = False

    async def components(self) -> dict[str, bool]:
        """Which parts answer; asked at most once in ``PATIENCE`` seconds, however many ask."""
        if self._asking is None or (self._asking.done() and time.monotonic() - self._asked_at > PATIENCE):
            self._asked_at = time.monotonic()
            self._asking = asyncio.create_task(self._ask())
        return {**await asyncio.shield(self._asking), "signingKey": self._signs()}

    async def trouble(self) -> str | None:
        """Why the process can't serve; None when it can."""
        if self.stopping:
            return "shutting down"
        components = await self.components()
        if not components.pop("signingKey"):
            return "no signing key is loaded"
        if not any(components.values()):
            return f"none of {', '.join(components)} answers"
        return None

    async def _ask(self) -> dict[str, bool]:
        answers = await asyncio.gather(*(_answers(probe) for probe in self._probes.values()))
        return dict(zip(self._probes, answers, strict=True))

    def _signs(self) -> bool:
        try:
            self._signing()
        except Exception:
            return False
        return True


async def _answers(probe: Probe) -> bool:
    try:
        async with asyncio.timeout(PATIENCE):
            await probe()
    except Exception:
        return False
    return True
