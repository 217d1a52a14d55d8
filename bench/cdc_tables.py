"""What the benchmarks of change data capture share: a tenant with one captured table on the embedded platform."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import aiohttp
import asyncpg

from bench.embedded import administrator, ready_at, tenant
from kernel_common.ids import tenant_id
from kernel_local.testing import PlatformServers
from kernel_operator.kube import MODULES, TENANTS, path_of

TENANT = "bench"
TABLE = "module_bench__contacts"
_FIELDS = (("email", "text"), ("name", "text"), ("batch", "integer"), ("extra", "json"))

INSERT = """
INSERT INTO module_bench.contacts (tenant_id, email, name, batch, extra)
SELECT $1, n || '@customers.example', 'Customer number ' || n, $2, jsonb_build_object('plan', 'growth', 'seats', n)
FROM generate_series(1, $3::integer) AS n
"""
"""Tenant, batch, rows."""


def bench_tenant() -> UUID:
    return tenant_id(TENANT)


async def prepare(servers: PlatformServers) -> None:
    """The table, on all sides."""
    model = {
        "name": "contacts",
        "analytics": {"enabled": True},
        "fields": [{"name": name, "type": kind} for name, kind in _FIELDS],
    }
    spec = {
        "moduleName": "@test/bench",
        "version": "1.0.0",
        "tenants": {"names": [TENANT]},
        "dataApi": {"models": [model]},
    }
    meta = {"apiVersion": "platform-kernel.io/v1alpha1", "kind": "KernelModule", "metadata": {"name": "bench"}}
    async with administrator(servers) as kube:
        await kube.call("POST", path_of(TENANTS), tenant("root", "owner", None))
        await kube.call("POST", path_of(TENANTS), tenant(TENANT))
        await ready_at(kube, TENANTS, 2, 60)
        await kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": "bench"}})
        await kube.call("POST", path_of(MODULES, "bench"), meta | {"spec": spec})
        await ready_at(kube, MODULES, 1, 60)


async def connect(servers: PlatformServers) -> asyncpg.Connection:
    return await asyncpg.connect(servers.postgres.admin_url, database="platform")


class Analytics:
    """ClickHouse as its administrator, one connection."""

    def __init__(self, servers: PlatformServers, session: aiohttp.ClientSession) -> None:
        parts = urlsplit(servers.clickhouse.admin_url)
        self._url = f"http://{parts.hostname}:{parts.port}/"
        self._auth = aiohttp.BasicAuth(parts.username or "", parts.password or "")
        self._database, self._session = servers.clickhouse.database, session

    async def ask(self, question: str, body: bytes = b"") -> str:
        """The answer to ``question`` as text; ``body`` is what an INSERT brings."""
        query = {"query": question, "database": self._database}
        async with self._session.post(self._url, params=query, auth=self._auth, data=body) as answer:
            text = await answer.text()
            if answer.status != 200:
                raise RuntimeError(text[:500])
            return text

    async def count(self) -> int:
        return int(await self.ask(f"SELECT count() FROM {TABLE}"))


async def streaming(admin: asyncpg.Connection) -> None:
    """Returns when the source reads the log."""
    async with asyncio.timeout(60):
        while not await admin.fetchval(  # noqa: ASYNC110 - it is another process
            "SELECT active FROM pg_replication_slots WHERE slot_name = 'platform_cdc_slot'"
        ):
            await asyncio.sleep(0.05)


def peak(pid: int) -> float:
    """The most memory in bytes that the process ever held."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
