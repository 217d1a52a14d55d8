"""The platform that the end-to-end tests run against, behind one small face.

``PLATFORM_PROVIDER`` chooses it: ``embedded`` (the default) starts the embedded platform. Another provider
has to give the same: an administrator's way to the cluster and to each system, and the means to kill
a part and bring it back.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import aiohttp
import clickhouse_connect
import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType
from e2e_cluster import Cluster
from e2e_sample import LocalSample, Sample, database_url

from kernel_common.analytics import tenant_password, tenant_user
from kernel_local.parts.cdc_sink import CdcSink
from kernel_local.parts.sample import SampleService
from kernel_local.testing import PlatformServers
from kernel_local.toolchain import kube

PROVIDER = os.environ.get("PLATFORM_PROVIDER", "embedded")
HOUR = 3_600_000


class SecondSink(CdcSink):
    name = "cdc-sink-2"
    port_names = ("cdc-sink-2",)


class Embedded:
    """The embedded platform as the tests see it."""

    def __init__(self, platform: PlatformServers) -> None:
        self._platform = platform
        env = platform.env
        self.database_admin_url = env["DATABASE_URL"]
        self.valkey_admin_url = env["VALKEY_URL"]
        self.clickhouse_admin_url = env["CLICKHOUSE_URL"]
        self.clickhouse_database = env["CLICKHOUSE_DATABASE"]
        self.kafka_admin = platform.kafka.admin_conf
        self._parts = {
            "operator": platform.operator,
            "postgres": platform.postgres,
            "kafka": platform.kafka,
            "valkey": platform.valkey,
            "clickhouse": platform.clickhouse,
            "kubernetes": platform.kubernetes,
            "gateway": platform.gateway,
            "envoy": platform.envoy,
            "source": platform.source,
            "sink": platform.sink,
        }
        self.gateway_url = platform.envoy.url
        self.gateway_authority = platform.envoy.authority

    async def kill(self, part: str) -> None:
        """Kill with -9 and return when it is gone."""
        await asyncio.to_thread(self._parts[part].kill)

    async def start(self, part: str) -> None:
        """Start again and return when it answers."""
        await asyncio.to_thread(self._parts[part].start)

    async def cdc_ready(self, part: str, seconds: float = 30) -> None:
        """Return when the ``source`` streams, or the ``sink`` writes. AssertionError with its reason."""
        url = f"http://127.0.0.1:{self._parts[part].port}/ready"
        said, deadline = "", time.monotonic() + seconds
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < deadline:
                try:
                    async with session.get(url) as answer:
                        if answer.status == 200:
                            return
                        said = await answer.text()
                except aiohttp.ClientError as error:
                    said = str(error)
                await asyncio.sleep(0.05)
        raise AssertionError(f"the {part} is not ready after {seconds} s: {said}")

    async def cdc_metric(self, part: str, name: str) -> float:
        """The sum over its labels; 0 when there is none."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self._parts[part].port}/metrics") as answer,
        ):
            lines = (line.split() for line in (await answer.text()).splitlines())
        return sum(float(words[-1]) for words in lines if words and words[0].partition("{")[0] == name)

    async def memory(self, part: str) -> int:
        """Bytes that it holds."""
        return await asyncio.to_thread(self._parts[part].memory)

    @asynccontextmanager
    async def another_sink(self) -> AsyncIterator[None]:
        """A second member of the sink's group. It is killed when the context ends."""
        server = self._platform.beside(SecondSink(self._platform.site))
        await asyncio.to_thread(server.start)
        try:
            yield
        finally:
            await asyncio.to_thread(server.kill)

    @asynccontextmanager
    async def sample(self, cluster: Cluster, place: str) -> AsyncIterator[Sample]:
        """The service of the sample module in the namespace ``place``, for as long as the context lasts."""
        part = SampleService(self._platform.site, database_url(cluster, place))
        service = LocalSample(self._platform.beside(part), self._platform.gateway.mails)
        await service.start()
        try:
            yield service
        finally:
            await service.kill()

    def operator_log(self) -> str:
        return self._platform.operator.log.read_text()

    async def operator_metrics(self) -> str:
        """What Prometheus would scrape."""
        url = f"http://127.0.0.1:{self._platform.operator.port}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return await response.text()

    def secrets(self) -> dict[str, str]:
        """Every generated secret of the platform by name."""
        found: dict[str, str] = json.loads((self._platform.site.data / "secrets.json").read_text())
        return found

    async def topic_hours(self, topic: str) -> int:
        """For how many hours the topic keeps its events; KeyError when there is no such topic."""
        admin = AdminClient(self.kafka_admin)

        def ask() -> int:
            if admin.list_topics(topic, timeout=10).topics[topic].error is not None:
                raise KeyError(topic)
            resource = ConfigResource(ResourceType.TOPIC, topic)
            return int(admin.describe_configs([resource])[resource].result(10)["retention.ms"].value) // HOUR

        return await asyncio.to_thread(ask)

    async def clickhouse_rows(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """As the administrator."""
        url = urlsplit(self.clickhouse_admin_url)
        return await self._rows(url.username or "", url.password or "", sql, parameters)

    async def clickhouse_command(self, sql: str) -> None:
        """As the administrator."""
        url = urlsplit(self.clickhouse_admin_url)
        client = await self._client(url.username or "", url.password or "")
        try:
            await client.command(sql)
        finally:
            await client.close()

    async def clickhouse_as(self, tenant: UUID, sql: str) -> list[tuple[Any, ...]]:
        """As the tenant's own user."""
        return await self._rows(tenant_user(tenant), tenant_password(self._platform.master_key, tenant), sql, {})

    async def clickhouse_insert(self, table: str, tenant: UUID, record: UUID, fields: dict[str, Any]) -> None:
        """One row, as the user that change data capture writes with."""
        url = urlsplit(self._platform.clickhouse.writer_url)
        client = await self._client(url.username or "", url.password or "")
        now = datetime.now(UTC)
        row = {"tenant_id": tenant, "record_id": record, "created_at": now, "updated_at": now, **fields}
        try:
            await client.insert(table, [list(row.values())], column_names=list(row))
        finally:
            await client.close()

    async def _rows(self, user: str, password: str, sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        client = await self._client(user, password)
        try:
            return [tuple(row) for row in (await client.query(sql, parameters=parameters)).result_rows]
        finally:
            await client.close()

    async def _client(self, user: str, password: str) -> Any:
        url = urlsplit(self.clickhouse_admin_url)
        return await clickhouse_connect.get_async_client(
            host=url.hostname, port=url.port, username=user, password=password, database=self.clickhouse_database
        )


@pytest.fixture(scope="session")
async def provider(request: pytest.FixtureRequest) -> AsyncIterator[Embedded]:
    if PROVIDER != "embedded":
        pytest.fail(f"PLATFORM_PROVIDER={PROVIDER}: there is only 'embedded' so far")
    yield Embedded(request.getfixturevalue("platform"))


@pytest.fixture(scope="session")
def cluster(platform: PlatformServers) -> Cluster:
    return Cluster(kube.program("kubectl"), platform.kubernetes.kubeconfig)
