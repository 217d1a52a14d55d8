"""The service, served in the test's own loop, and who asks it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import aiohttp
import uvicorn

from crm_service.app import create_app
from kernel_common.ids import uuid7


@dataclass(frozen=True)
class Crm:
    """The module's login, and two tenants that it is active for."""

    database_url: str
    a: UUID
    b: UUID


@asynccontextmanager
async def served(database_url: str) -> AsyncIterator[str]:
    """The service on a free port; the value is its address."""
    # Named TCP, so that asyncio sends small answers without delay.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        app = create_app(database_url)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5))
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, 10)


def as_member(address: str, tenant: UUID) -> aiohttp.ClientSession:
    """What the gateway would send for a user of ``tenant``."""
    headers = {"X-Tenant-ID": str(tenant), "X-User-ID": str(uuid7())}
    return aiohttp.ClientSession(f"{address}/api/v1/crm/", headers=headers, timeout=aiohttp.ClientTimeout(total=20))
