"""Envoy's own account of its configuration, from its administration interface on this host."""

import asyncio
import contextlib
from dataclasses import dataclass

import aiohttp

_FILTER = (
    r"^(cluster_manager\.cds\.(version_text|update_rejected)|cluster_manager\.warming_clusters"
    r"|http\.https\.rds\.kernel\.(version_text|update_rejected)|server\.uptime)$"
)
_CDS, _RDS = "cluster_manager.cds", "http.https.rds.kernel"


@dataclass(frozen=True, slots=True)
class Account:
    """``clusters`` and ``routes`` are the versions in use, ``*_rejected`` count refusals since Envoy's start;
    ``warming`` clusters wait for their addresses; ``uptime`` in seconds."""

    clusters: str
    routes: str
    clusters_rejected: int
    routes_rejected: int
    warming: int
    uptime: int


class Admin:
    """``port`` on 127.0.0.1. Without Envoy there every answer is None."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/stats"
        self._session: aiohttp.ClientSession | None = None

    async def account(self) -> Account | None:
        """None when Envoy doesn't answer within a second."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1))
        try:
            async with self._session.get(self._url, params={"filter": _FILTER}) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
        stats = {name: value.strip('"') for name, _, value in (line.partition(": ") for line in text.splitlines())}
        with contextlib.suppress(KeyError, ValueError):
            return Account(
                clusters=stats.get(f"{_CDS}.version_text", ""),
                routes=stats.get(f"{_RDS}.version_text", ""),
                clusters_rejected=int(stats[f"{_CDS}.update_rejected"]),
                routes_rejected=int(stats[f"{_RDS}.update_rejected"]),
                warming=int(stats["cluster_manager.warming_clusters"]),
                uptime=int(stats["server.uptime"]),
            )
        return None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            # aiohttp closes its sockets in the next turns of the loop.
            await asyncio.sleep(0)
