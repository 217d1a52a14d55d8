"""The gateway's process: one event loop for the decisions, the API, Envoy's routes and what runs beside them.

Nothing that is away stops it from starting: /ready says what is missing. On SIGTERM it first says that it is not ready,
so that nobody new comes, then answers what is under way, and ends.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import uvicorn
from redis.asyncio import Redis

from kernel_common.database import open_pool
from kernel_gateway.api.app import create_app
from kernel_gateway.api.health import Health
from kernel_gateway.api.services import Services
from kernel_gateway.decision.decider import Decider
from kernel_gateway.decision.rights import Database, Rights
from kernel_gateway.decision.script import command
from kernel_gateway.decision.server import DecisionServer
from kernel_gateway.decision.valkey import Valkey
from kernel_gateway.envoy import settings as envoy_settings
from kernel_gateway.envoy import transitions
from kernel_gateway.envoy.admin import Admin
from kernel_gateway.envoy.watcher import Watcher
from kernel_gateway.events import collecting
from kernel_gateway.events.grpc_server import EventServer
from kernel_gateway.events.kafka import Kafka
from kernel_gateway.login import sweep
from kernel_gateway.login.mail import MailQueue
from kernel_gateway.login.password import PasswordHashing
from kernel_gateway.login.tenant_resources import TenantResources
from kernel_gateway.settings import Settings, SettingsError
from kernel_gateway.tokens.holder import KeyHolder
from kernel_gateway.tokens.keyring import KeysError

MOST_CONNECTIONS = 16
"""To PostgreSQL, from one process."""

log = logging.getLogger(__name__)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Services]:
    """The services of a process, with what each needs running in the background. Raises SettingsError."""
    async with AsyncExitStack() as stack:
        try:
            pool = await open_pool(
                settings.database_url.get_secret_value(), application="kernel-gateway", max_size=MOST_CONNECTIONS
            )
            valkey = Valkey(settings.valkey_url.get_secret_value())
            mail = MailQueue.of(settings)
        except ValueError as error:
            raise SettingsError(str(error)) from None
        stack.push_async_callback(_close_pool, pool)
        keys = _keys(settings.gateway_keys_directory)
        await valkey.start()
        stack.push_async_callback(valkey.close)
        rights = Rights(Database(pool), valkey, settings.rbac_cache_ttl_sec)
        decider = Decider(
            keys,
            settings.gateway_public_url,
            valkey,
            rights,
            anonymous_limit=settings.anonymous_requests_per_minute,
        )
        stack.push_async_callback(decider.close)
        passwords = PasswordHashing.of(settings)
        stack.callback(passwords.close)
        tenants = TenantResources.of(settings)
        if tenants is not None:
            stack.push_async_callback(tenants.close)
        client = settings.kafka_client()
        kafka = Kafka(client) if client else None
        if kafka is not None:
            stack.push_async_callback(kafka.close)
        probes = {"postgres": lambda: pool.fetchval("SELECT 1"), "valkey": lambda: valkey.call(command("PING"))}
        yield Services(
            settings=settings,
            pool=pool,
            valkey=valkey,
            keys=keys,
            decider=decider,
            rights=rights,
            passwords=passwords,
            mail=mail,
            health=Health(lambda: keys.signer(time.time()), probes),
            tenants=tenants,
            kafka=kafka,
        )


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Serves until ``stop`` is set. Raises SettingsError, also when a port is taken."""
    async with opened(settings) as services, _watching_routes(settings) as routes:
        decisions = DecisionServer(services.decider, transitions.handle)
        with _named("GATEWAY_DECISION_PORT", settings.gateway_decision_port):
            await decisions.start(settings.gateway_decision_port)
        with _named("GATEWAY_PORT", settings.gateway_port):
            listener = _listener(settings)
        events = EventServer(services)
        with _named("GATEWAY_GRPC_PORT", settings.gateway_grpc_port):
            await events.start(settings.gateway_host, settings.gateway_grpc_port)
        server = ApiServer(services)
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(server.serve([listener]))
            serving.add_done_callback(lambda _: stop.set())
            beside = [
                group.create_task(work)
                for work in (services.keys.keep_fresh(), services.mail.run(), sweep.run(services), routes.run())
            ]
            if services.kafka is not None:
                beside.append(group.create_task(collecting.run(services, services.kafka)))
            ports = (listener.getsockname()[1], decisions.port, events.port)
            log.info("serving on port %d, deciding on port %d, gRPC on port %d", *ports)
            await stop.wait()
            services.health.stopping = True
            await asyncio.sleep(settings.gateway_shutdown_delay)
            server.should_exit = True
            await asyncio.gather(serving, events.stop(settings.gateway_shutdown_timeout))
            await decisions.stop(settings.gateway_shutdown_timeout)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.gateway_shutdown_timeout):
                    await services.background.idle()
                    await services.mail.sent()
            for task in beside:
                task.cancel()
    log.info("ended")


class ApiServer(uvicorn.Server):
    """Serves the API. ``should_exit`` ends it when requests under way are answered. Leaves signals to us: on SIGTERM
    uvicorn itself would stop listening at once."""

    def __init__(self, services: Services) -> None:
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
                timeout_graceful_shutdown=int(services.settings.gateway_shutdown_timeout) or 1,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listener(settings: Settings) -> socket.socket:
    """Bound here, because uvicorn ends the process when it can't."""
    family = socket.AF_INET6 if ":" in settings.gateway_host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.gateway_host, settings.gateway_port))
    except OSError:
        listener.close()
        raise
    return listener


@contextmanager
def _named(variable: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(f"{variable}: port {port}: {os.strerror(error.errno or 0)}") from None


@asynccontextmanager
async def _watching_routes(settings: Settings) -> AsyncIterator[Watcher]:
    """What keeps Envoy's files as the route table says."""
    valkey = Redis.from_url(settings.valkey_url.get_secret_value(), socket_connect_timeout=3, socket_timeout=10)
    admin = Admin(envoy_settings.load().gateway_envoy_admin_port)
    try:
        yield Watcher(
            valkey,
            settings.gateway_envoy_directory,
            admin,
            overrides=settings.gateway_upstream_overrides,
            origins=settings.gateway_cors_origins,
            https_only=urlsplit(settings.gateway_public_url).hostname not in ("localhost", "127.0.0.1", "::1"),
        )
    finally:
        await admin.close()
        await valkey.aclose()


async def _close_pool(pool: asyncpg.Pool) -> None:
    """In order where that is quick: a server that hangs must not keep us."""
    try:
        async with asyncio.timeout(3):
            await pool.close()
    except TimeoutError:
        pool.terminate()


def _keys(directory: Path) -> KeyHolder:
    try:
        return KeyHolder(directory)
    except KeysError as error:
        log.error("not ready: %s", error)
        return KeyHolder.waiting(directory)
