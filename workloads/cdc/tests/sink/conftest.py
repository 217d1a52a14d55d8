"""The sink's tests work on a real Kafka, a real ClickHouse engine and a real Valkey."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sink_world import Broker, Reader, a_module

from kernel_cdc.settings import SinkSettings
from kernel_cdc.sink.sink import Sink
from kernel_local.testing import ClickHouseServer, KafkaServer, ValkeyServer
from kernel_operator.desired import Column, ModuleState
from kernel_operator.targets.clickhouse import ClickHouseTarget


@pytest.fixture(scope="session")
def broker(kafka: KafkaServer, topics: None) -> Iterator[Broker]:
    broker = Broker(kafka)
    yield broker
    broker.close()


@pytest.fixture(scope="session")
async def target(clickhouse: ClickHouseServer) -> AsyncIterator[ClickHouseTarget]:
    target = ClickHouseTarget(clickhouse.operator_url, clickhouse.database, bytes(32))
    yield target
    await target.close()


@pytest.fixture
def install(target: ClickHouseTarget) -> Callable[..., Awaitable[ModuleState]]:
    async def install(*columns: Column) -> ModuleState:
        module = a_module(*columns)
        assert (await target.apply_module(module)).refusal is None
        return module

    return install


@pytest.fixture
def reader(clickhouse: ClickHouseServer) -> Reader:
    return Reader(clickhouse.admin_url)


@pytest.fixture
def environment(broker: Broker, clickhouse: ClickHouseServer, valkey: ValkeyServer) -> dict[str, str]:
    return {
        **broker.environment,
        "CLICKHOUSE_URL": clickhouse.writer_url,
        "VALKEY_URL": valkey.cdc_url,
        "CDC_HOST": "127.0.0.1",
        "CDC_PORT": "0",
        "CDC_SINK_FLUSH_SEC": "0.2",
        "CDC_SINK_SESSION_SEC": "6",
    }


@pytest.fixture
def sinking(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """``async with sinking():`` a sink at work; with other settings by their names."""

    @asynccontextmanager
    async def sinking(**changes: str) -> AsyncIterator[Sink]:
        for name, value in (environment | changes).items():
            monkeypatch.setenv(name, value)
        sink, stop = Sink(SinkSettings()), asyncio.Event()
        task = asyncio.create_task(sink.run(stop))
        try:
            yield sink
        finally:
            stop.set()
            async with asyncio.timeout(30):
                await task

    return sinking
