"""Real servers for tests, as pytest fixtures: ``pytest_plugins = ["kernel_local.testing"]``.

Each server starts when a test first asks for it, once a run, in one data directory under the system's temporary folder,
and ends with the run, whatever happened. A run that was killed leaves its servers; the next run ends them, because the
directory's name says which run (pid and start time) they belonged to.

Every fixture is an object with ``kill()`` (-9, at once), ``stop()`` (orderly) and ``start()`` (again, same data, same
port), which block; tests that break a server put it right again before they end.
"""

import asyncio
import base64
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kernel_local.background import Background
from kernel_local.connections import Connections
from kernel_local.errors import PlatformError
from kernel_local.part import Part
from kernel_local.parts import clickhouse as clickhouse_part
from kernel_local.parts import envoy as envoy_part
from kernel_local.parts import gateway as gateway_part
from kernel_local.parts import kafka as kafka_part
from kernel_local.parts import postgres as postgres_part
from kernel_local.parts import valkey as valkey_part
from kernel_local.parts.etcd import Etcd
from kernel_local.parts.kubernetes import ApiServer, ControllerManager
from kernel_local.platform import Platform, bring_up
from kernel_local.processes import Process, end, start_ticks
from kernel_local.site import Site
from kernel_local.toolchain import kube


class Server:
    """One running part. Blocking calls: they are for fixtures and for tests that break things."""

    def __init__(self, background: Background, part: Part) -> None:
        self._background, self._part = background, part

    @property
    def log(self) -> Path:
        """What the server printed."""
        return self._part.site.log(self._part.name)

    @property
    def port(self) -> int:
        return self._part.site.port(self._part.port_names[0])

    @property
    def pid(self) -> int:
        """Its process; 0 when it does not run."""
        process = self._part.process()
        return process.pid if process else 0

    def memory(self) -> int:
        """Bytes that it and its children hold; 0 when it does not run."""
        process = self._part.process()
        return process.memory() if process else 0

    def start(self) -> None:
        """Starts it (if it does not run) and returns when it answers and is provisioned."""
        self._background.run(self._part.start())

    def stop(self) -> None:
        """Stops it in order and returns when it is gone."""
        self._background.run(self._part.stop())

    def kill(self) -> None:
        """Kills it with -9 and returns when it and its children are gone."""
        process = self._part.process()
        if process is not None:
            self._background.run(end(process, stop=signal.SIGKILL))


class PostgresServer(Server):
    _part: postgres_part.Postgres

    @property
    def admin_url(self) -> str:
        """The superuser, on the database ``postgres``."""
        return self._part.url()

    @property
    def operator_url(self) -> str:
        """kernel_operator on the database ``platform``, as bootstrap.sql makes them."""
        return self.url("kernel_operator", self._part.site.secret("postgres_kernel_operator"), "platform")

    @property
    def cdc_url(self) -> str:
        """kernel_cdc on the database ``platform``."""
        return self.url("kernel_cdc", self._part.site.secret("postgres_kernel_cdc"), "platform")

    @property
    def gateway_url(self) -> str:
        """kernel_gateway on the database ``platform``."""
        return self.url("kernel_gateway", self._part.site.secret("postgres_kernel_gateway"), "platform")

    def url(self, user: str, password: str, database: str = "platform") -> str:
        return self._part.url(user, password, database)


class KafkaServer(Server):
    _part: kafka_part.Kafka

    @property
    def brokers(self) -> str:
        """host:port"""
        return self._part.brokers

    @property
    def admin_conf(self) -> dict[str, Any]:
        """confluent-kafka's configuration as the super user (PLAIN)."""
        return self._part.client()

    @property
    def operator_conf(self) -> dict[str, Any]:
        """The same as kernel_operator (SCRAM-SHA-256), which administers topics and reads none."""
        return self._part.client(kafka_part.OPERATOR)

    @property
    def cdc_conf(self) -> dict[str, Any]:
        """The same as kernel_cdc, which writes to the platform's topics."""
        return self._part.client(kafka_part.CDC)

    @property
    def sink_conf(self) -> dict[str, Any]:
        """The same as kernel_sink, which reads the changes of records."""
        return self._part.client(kafka_part.SINK)


class ValkeyServer(Server):
    _part: valkey_part.Valkey

    @property
    def admin_url(self) -> str:
        return self._part.url()

    @property
    def operator_url(self) -> str:
        """kernel_operator, limited to its keys."""
        return self._part.url(valkey_part.OPERATOR)

    @property
    def gateway_url(self) -> str:
        """kernel_gateway, limited to its keys."""
        return self._part.url(valkey_part.GATEWAY)

    @property
    def cdc_url(self) -> str:
        """kernel_cdc, which tells when tables were last synced."""
        return self._part.url(valkey_part.CDC)

    @property
    def data_url(self) -> str:
        """kernel_data, which reads it."""
        return self._part.url(valkey_part.DATA)


class ClickHouseServer(Server):
    _part: clickhouse_part.ClickHouse
    database = clickhouse_part.DATABASE

    @property
    def admin_url(self) -> str:
        return self._part.url()

    @property
    def operator_url(self) -> str:
        return self._part.url(clickhouse_part.OPERATOR)

    @property
    def writer_url(self) -> str:
        return self._part.url(clickhouse_part.WRITER)


class Kubectl:
    """kubectl as the administrator of one cluster."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    def __call__(
        self, *arguments: str, stdin: str | None = None, check: bool = True, timeout: float = 120
    ) -> "subprocess.CompletedProcess[str]":
        """Raises AssertionError with its complaint when it fails and ``check``."""
        done = subprocess.run(
            [kube.program("kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done


class KubernetesServer(Server):
    """etcd, the API server and its controllers. ``kill`` and ``stop`` are the API server's."""

    _part: ApiServer

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self._part.kubeconfig

    @property
    def url(self) -> str:
        return self._part.url

    @property
    def kubectl(self) -> Kubectl:
        return Kubectl(self.kubeconfig)


class GatewayServer(Server):
    _part: gateway_part.Gateway

    @property
    def env(self) -> dict[str, str]:
        """What the gateway itself gets."""
        return dict(self._part.command().environment)

    @property
    def mails(self) -> Path:
        """Where the mails are that it has sent."""
        return self._part.mails


class EnvoyServer(Server):
    _part: envoy_part.Envoy

    @property
    def url(self) -> str:
        """https://localhost:port"""
        return self._part.where

    @property
    def authority(self) -> Path:
        """The certificate to trust."""
        return self._part.authority


class PlatformServers:
    """Everything, with the operator running: servers of its own, so that what the operator does is no other test's."""

    def __init__(self, run: "Run") -> None:
        self.site, self._background = run.site, run.background
        self._platform = Platform(run.site)
        self.postgres = PostgresServer(run.background, self._platform.parts["postgres"])
        self.kafka = KafkaServer(run.background, self._platform.parts["kafka"])
        self.valkey = ValkeyServer(run.background, self._platform.parts["valkey"])
        self.clickhouse = ClickHouseServer(run.background, self._platform.parts["clickhouse"])
        self.kubernetes = KubernetesServer(run.background, self._platform.parts["kube-apiserver"])
        self.operator = Server(run.background, self._platform.parts["operator"])

    @property
    def gateway(self) -> GatewayServer:
        return GatewayServer(self._background, self._platform.parts["gateway"])

    @property
    def envoy(self) -> EnvoyServer:
        return EnvoyServer(self._background, self._platform.parts["envoy"])

    @property
    def source(self) -> Server:
        """Change data capture: PostgreSQL to Kafka. Started is not yet streaming: its /ready tells."""
        return Server(self._background, self._platform.parts["cdc-source"])

    @property
    def sink(self) -> Server:
        """Change data capture: Kafka to ClickHouse."""
        return Server(self._background, self._platform.parts["cdc-sink"])

    def beside(self, part: Part) -> Server:
        """A part that is none of the platform's, such as a module's service; the caller ends it."""
        return Server(self._background, part)

    @property
    def env(self) -> dict[str, str]:
        """The administrator's connection variables, KUBECONFIG among them."""
        return Connections(self.site).administrator() | {"KUBECONFIG": str(self.kubernetes.kubeconfig)}

    @property
    def operator_env(self) -> dict[str, str]:
        """What the operator itself gets."""
        return dict(self._platform.parts["operator"].command().environment)

    @property
    def master_key(self) -> bytes:
        return base64.b64decode(self.site.master_key())

    @property
    def kubectl(self) -> Kubectl:
        return self.kubernetes.kubectl

    def wait(
        self, *resources: str, condition: str = "Ready", timeout: float = 60, namespace: str | None = None
    ) -> None:
        """Waits until a condition of each resource (``tenant/acme``) is true. Raises AssertionError."""
        place = [f"--namespace={namespace}"] if namespace else []
        self.kubectl(
            "wait", f"--for=condition={condition}", f"--timeout={timeout}s", *place, *resources, timeout=timeout + 10
        )

    def up(self) -> None:
        """Brings up whatever is down."""
        self._background.run(self._platform.up())

    def down(self) -> None:
        """Stops everything in order; data is kept."""
        self._background.run(self._platform.down())

    def memory(self) -> int:
        """Bytes that all parts hold, shared pages once."""
        return sum(process.memory() for process in self._platform.running().values() if process is not None)


class Run:
    """The servers of one test run, in one locked data directory."""

    def __init__(self, suffix: str = "") -> None:
        self.background = Background()
        base = _base()
        self.background.run(sweep(base))
        self.site = Site(base / f"{os.getpid()}-{start_ticks(os.getpid())}{suffix}")
        self._lock = contextlib.AsyncExitStack()
        self.background.run(self._lock.enter_async_context(self.site.locked()))

    def start(self, *parts: Part) -> None:
        """Starts parts that don't wait for each other."""

        async def together() -> None:
            async with asyncio.TaskGroup() as group:
                for part in parts:
                    group.create_task(part.start())

        try:
            self.background.run(together())
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    def close(self) -> None:
        try:
            self.background.run(_end_all(self.site))
            self.background.run(self._lock.aclose())
            _discard(self.site)
        finally:
            self.background.close()


def _base() -> Path:
    base = Path(tempfile.gettempdir()) / f"platform-kernel-tests-{os.geteuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    if base.stat().st_uid != os.geteuid():
        raise PlatformError(f"{base} belongs to someone else: set TMPDIR to a folder of yours")
    return base


async def sweep(base: Path) -> None:
    """Ends and removes what runs that were killed have left."""
    for folder in list(base.iterdir()):  # noqa: ASYNC240 - nothing else runs on this loop yet
        pid, _, rest = folder.name.partition("-")
        ticks = rest.partition("-")[0]
        if not (pid.isdigit() and ticks.isdigit()) or Process(int(pid), int(ticks)).alive():
            continue
        site = Site(folder)
        with contextlib.suppress(PlatformError):
            async with site.locked(wait=0):
                await _end_all(site)
                _discard(site)


async def _end_all(site: Site) -> None:
    """Everything recorded, at once: nobody needs the data any more."""
    await asyncio.gather(*(end(p, stop=signal.SIGKILL) for p in site.processes.recorded().values()))


def _discard(site: Site) -> None:
    postgres_part.discard(site)
    shutil.rmtree(site.data, ignore_errors=True)


@pytest.fixture(scope="session")
def platform_run() -> Iterator[Run]:
    """The data directory and the loop behind all servers of this run."""
    run = Run()
    try:
        yield run
    finally:
        run.close()


@pytest.fixture(scope="session")
def postgres(platform_run: Run) -> PostgresServer:
    """PostgreSQL with the roles and the database that bootstrap.sql makes."""
    part = postgres_part.Postgres(platform_run.site)
    platform_run.start(part)
    return PostgresServer(platform_run.background, part)


@pytest.fixture(scope="session")
def kafka(platform_run: Run) -> KafkaServer:
    """Kafka with SASL and ACLs, and the operator's user."""
    part = kafka_part.Kafka(platform_run.site)
    platform_run.start(part)
    return KafkaServer(platform_run.background, part)


@pytest.fixture(scope="session")
def valkey(platform_run: Run) -> ValkeyServer:
    """Valkey with the administrator and the operator as users."""
    part = valkey_part.Valkey(platform_run.site)
    platform_run.start(part)
    return ValkeyServer(platform_run.background, part)


@pytest.fixture(scope="session")
def clickhouse(platform_run: Run) -> ClickHouseServer:
    """The development ClickHouse with the database ``analytics``, the operator and the writer."""
    part = clickhouse_part.ClickHouse(platform_run.site)
    platform_run.start(part)
    return ClickHouseServer(platform_run.background, part)


@pytest.fixture(scope="session")
def kubernetes(platform_run: Run) -> KubernetesServer:
    """An API server with RBAC and garbage collection, without CRDs of ours."""
    etcd, server, controllers = (part(platform_run.site) for part in (Etcd, ApiServer, ControllerManager))
    for part in (etcd, server, controllers):
        platform_run.start(part)
    assert isinstance(server, ApiServer)
    return KubernetesServer(platform_run.background, server)


@pytest.fixture(scope="session")
def platform() -> Iterator[PlatformServers]:
    """The whole platform with the operator, CRDs and RBAC applied, in a data directory of its own."""
    run = Run("-platform")
    try:
        run.background.run(bring_up(run.site, cluster="embedded", fresh=False, environment={}))
        yield PlatformServers(run)
    finally:
        run.close()
