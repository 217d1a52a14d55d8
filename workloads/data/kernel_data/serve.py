"""The process: serves until it is told to stop.

Nothing that is away stops it from starting: /ready says what is missing. On SIGTERM it first says that it is not ready,
so that nobody new comes, then answers what is under way, and ends.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn

from kernel_data.analytics import Analytics
from kernel_data.app import Services, create_app
from kernel_data.clickhouse import SPARE_SECONDS, WAIT_SECONDS, ClickHouse
from kernel_data.freshness import Freshness
from kernel_data.settings import Settings, SettingsError

log = logging.getLogger(__name__)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Services]:
    """What the routes work with."""
    async with (
        ClickHouse(
            settings.clickhouse_url.get_secret_value(),
            settings.kernel_master_key,
            connections=settings.data_connections,
            tenant_connections=settings.data_tenant_connections,
            seconds=settings.data_query_sec,
            memory_mb=settings.data_query_memory_mb,
            groups=settings.data_query_groups,
        ) as clickhouse,
        Freshness(settings.valkey_url.get_secret_value()) as freshness,
    ):
        yield Services(Analytics(clickhouse, freshness, settings.clickhouse_database), clickhouse)


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serves until ``stop`` is set. Raises SettingsError when the port is taken."""
    async with opened(settings) as services:
        with _listener(settings) as listener:
            server = _Server(services, round(settings.data_query_sec + WAIT_SECONDS + SPARE_SECONDS))
            serving = asyncio.create_task(server.serve([listener]))
            serving.add_done_callback(lambda _: stop.set())
            log.info("serving on port %d", listener.getsockname()[1])
            await stop.wait()
            services.stopping = True
            if not serving.done():
                await asyncio.sleep(settings.data_shutdown_delay)
            server.should_exit = True
            await serving
    log.info("ended")


class _Server(uvicorn.Server):
    """Leaves signals to us: on SIGTERM uvicorn itself would stop listening at once."""

    def __init__(self, services: Services, patience: int) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(services),
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=patience,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def _listener(settings: Settings) -> Iterator[socket.socket]:
    """Bound here, because uvicorn ends the process when it can't."""
    family = socket.AF_INET6 if ":" in settings.data_host else socket.AF_INET
    # Named TCP, so that asyncio sends small answers without delay.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.data_host, settings.data_port))
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise SettingsError(f"DATA_PORT: port {settings.data_port}: {why}") from None
        yield listener
