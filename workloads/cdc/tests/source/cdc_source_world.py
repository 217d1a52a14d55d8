"""What the tests of the source share: a module with rows to change, the source itself, and a reader of its topics."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
from confluent_kafka import Consumer, KafkaException, TopicPartition

from kernel_common.events import Envelope
from kernel_operator.desired import Column, ColumnType, Model, ModuleState

DATA = "platform.data.events"
EVERY_TYPE = Model("things", tuple(Column(f"a_{kind.value}", kind) for kind in ColumnType), analytics=True)
"""A column of each type that a model may declare."""


@dataclass(frozen=True)
class Installed:
    module: ModuleState
    tenant: UUID

    @property
    def table(self) -> str:
        return f"{self.module.schema}.{self.module.models[0].name}"


async def write_events(connection: asyncpg.Connection, *events: Envelope) -> None:
    """What ``emit`` writes, for events of any payload: the source does not look into it."""
    for event in events:
        await connection.execute(
            "INSERT INTO kernel.outbox (id, topic, key, type, tenant_id, envelope) VALUES ($1, $2, $3, $4, $5, $6)",
            event.id,
            event.topic,
            event.key,
            event.type,
            event.tenant_id,
            event.to_json(),
        )


Install = Callable[..., Awaitable[Installed]]


@dataclass(frozen=True)
class Got:
    """A message as a consumer has it."""

    topic: str
    partition: int
    key: str
    body: dict[str, Any]
    headers: dict[str, str]
    size: int


class Reader:
    """Reads topics from where they end when it is made, as the administrator.

    ``messages``: changes from the log, and events. ``tables``: rows that were read from tables, and sweeps. ``beats``:
    heartbeats. ``changes``: all but these, in the order of each partition."""

    def __init__(self, conf: dict[str, Any], *topics: str, bodies: bool = True) -> None:
        self._bodies = bodies
        self._consumer = Consumer(
            conf
            | {"group.id": "tests", "enable.auto.commit": False, "log_level": 0, "fetch.message.max.bytes": 4_000_000}
        )
        self._asking = Consumer(conf | {"group.id": "tests", "log_level": 0})
        """Its questions don't wait behind what is being fetched."""
        self._places = []
        for topic in topics:
            for partition in self._consumer.list_topics(topic, 10).topics[topic].partitions:
                self._places.append(TopicPartition(topic, partition, self._end(topic, partition)))
        self._consumer.assign(self._places)
        self.messages: list[Got] = []
        self.tables: list[Got] = []
        self.beats: list[Got] = []
        self.changes: list[Got] = []

    def _end(self, topic: str, partition: int) -> int:
        """A partition that was just made has no leader for a moment."""
        until = time.monotonic() + 10
        while True:
            try:
                return int(self._asking.get_watermark_offsets(TopicPartition(topic, partition), 10)[1])
            except KafkaException:
                if time.monotonic() > until:
                    raise

    def by_key(self) -> dict[str, list[Got]]:
        found: dict[str, list[Got]] = {}
        for got in self.messages:
            found.setdefault(got.key, []).append(got)
        return found

    async def until(self, enough: Callable[[], bool], seconds: float = 20) -> None:
        async with asyncio.timeout(seconds):
            while not enough():
                await self.more()

    async def to_the_end(self, seconds: float = 60) -> None:
        """Reads all that is there now."""
        ends = {(place.topic, place.partition): self._end(place.topic, place.partition) for place in self._places}

        def reached() -> bool:
            positions = self._consumer.position(self._places)
            return all(
                max(p.offset, start.offset) >= ends[p.topic, p.partition]
                for p, start in zip(positions, self._places, strict=True)
            )

        await self.until(reached, seconds)

    async def more(self) -> int:
        """Takes what is there; waits a moment for the first."""
        found: list[Any] = await asyncio.to_thread(self._consumer.consume, 5000, 0.1)
        for message in found:
            assert message.error() is None, message.error()
            got = Got(
                message.topic(),
                message.partition(),
                message.key().decode(),
                json.loads(message.value()) if self._bodies else {},
                {name: value.decode() for name, value in message.headers() or []},
                len(message.value()),
            )
            if got.headers.get("type") == "data.heartbeat":
                self.beats.append(got)
                continue
            self.changes.append(got)
            beside = got.headers.get("type") == "data.table.swept" or got.body.get("op") == "s"
            (self.tables if beside else self.messages).append(got)
        return len(found)

    def close(self) -> None:
        self._consumer.close()
        self._asking.close()


@contextmanager
def reading(conf: dict[str, Any], *topics: str, bodies: bool = True) -> Iterator[Reader]:
    """``bodies``: parse them; without, a message's body is empty."""
    reader = Reader(conf, *topics, bodies=bodies)
    try:
        yield reader
    finally:
        reader.close()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class SourceProcess:
    """``kernel-cdc source`` as a process of its own."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.port = free_port()
        self._environment = {"PATH": os.environ["PATH"], **environment, "CDC_HOST": "127.0.0.1"}
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "kernel_cdc",
            "source",
            env={**self._environment, "CDC_PORT": str(self.port)},
            stderr=asyncio.subprocess.DEVNULL,
        )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def kill(self, number: int = signal.SIGKILL) -> int:
        """Its exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(20):
            return await self.process.wait()

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body; 0 while nobody listens."""
        async with aiohttp.ClientSession() as session:
            try:
                async with session.get(f"http://127.0.0.1:{self.port}{path}") as answer:
                    return answer.status, await answer.text()
            except aiohttp.ClientError:
                return 0, ""

    async def until_ready(self, seconds: float = 30) -> None:
        await self.until(lambda status, _: status == 200, seconds)

    async def until(self, enough: Callable[[int, str], bool], seconds: float = 30) -> str:
        """Asks /ready until its answer is as wanted; returns the answer's body."""
        async with asyncio.timeout(seconds):
            while True:
                status, body = await self.get("/ready")
                if enough(status, body):
                    return body
                assert self.process is not None and self.process.returncode is None, "the source has ended"
                await asyncio.sleep(0.05)

    async def metric(self, name: str) -> float:
        _, text = await self.get("/metrics")
        lines = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(lines[0].split()[-1]) if lines else 0.0


@asynccontextmanager
async def source_process(environment: dict[str, str], *, ready: bool = True) -> AsyncIterator[SourceProcess]:
    """Started; ended whatever happens."""
    source = SourceProcess(environment)
    await source.start()
    try:
        if ready:
            await source.until_ready()
        yield source
    finally:
        await source.kill()
