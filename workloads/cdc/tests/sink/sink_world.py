"""What the sink's tests share: its login, changes as the source publishes them, and what a reader sees."""

import asyncio
import base64
import itertools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

import aiohttp
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition, admin

from kernel_cdc.sink.changes import TOPIC
from kernel_common.ids import tenant_id, uuid7
from kernel_local.testing import KafkaServer
from kernel_operator.desired import Column, ColumnType, Model, ModuleState

TENANT = tenant_id("sink-tests")
COLUMNS = (
    Column("email", ColumnType.TEXT, required=True),
    Column("score", ColumnType.INTEGER),
    Column("price", ColumnType.DECIMAL),
    Column("ratio", ColumnType.FLOAT),
    Column("active", ColumnType.BOOLEAN),
    Column("born", ColumnType.DATE),
    Column("seen", ColumnType.TIMESTAMP),
    Column("ref", ColumnType.UUID),
    Column("extra", ColumnType.JSON),
)
_numbers = itertools.count(1)


DEAD = f"{TOPIC}.dlq"
DEAD_PARTITIONS = 3


def a_module(*columns: Column) -> ModuleState:
    slug = f"sunk{next(_numbers)}"
    return ModuleState(
        slug=slug,
        module_name=f"@tests/{slug}",
        namespace="tests",
        name=slug,
        uid=slug,
        version="1.0.0",
        models=(Model("contacts", columns or COLUMNS[:2], analytics=True),),
    )


def stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


async def until(condition: Callable[[], Any], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        if await answer if asyncio.iscoroutine(answer) else answer:
            return
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.05)


class Broker:
    """The topic, its publisher, and what the sink is told of Kafka."""

    def __init__(self, server: KafkaServer) -> None:
        configuration, self._sink = server.admin_conf, server.sink_conf
        self.admin = admin.AdminClient({**configuration, "log_level": 0})
        self.producer = Producer({**configuration, "partitioner": "murmur2_random", "linger.ms": 5, "log_level": 0})
        self._reader = Consumer({**configuration, "group.id": "kernel.cdc-sink", "enable.auto.commit": False})

    @staticmethod
    def _wait(*answers: dict[Any, Any]) -> None:
        for answer in answers:
            for future in answer.values():
                future.result(20)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "KAFKA_BROKERS": self._sink["bootstrap.servers"],
            "KAFKA_SECURITY_PROTOCOL": self._sink["security.protocol"],
            "KAFKA_SASL_MECHANISM": self._sink["sasl.mechanisms"],
            "KAFKA_USERNAME": self._sink["sasl.username"],
            "KAFKA_PASSWORD": self._sink["sasl.password"],
        }

    def send(self, *values: bytes, key: str = "k", partition: int | None = None) -> None:
        for value in values:
            where = {} if partition is None else {"partition": partition}
            self.producer.produce(TOPIC, value, key, headers=[("type", b"data.record.changed")], **where)
            self.producer.poll(0)

    @property
    def partitions(self) -> int:
        return len(self.admin.list_topics(TOPIC, timeout=20).topics[TOPIC].partitions)

    def tell(self, kind: str, **content: Any) -> None:
        """A message to each partition."""
        count = self.partitions
        for partition in range(count):
            message = {"partition": partition, "partitions": count, "committedAt": stamp(datetime.now(UTC)), **content}
            headers = [("type", kind.encode())]
            self.producer.produce(TOPIC, json.dumps(message).encode(), "k", headers=headers, partition=partition)

    def sweep(self, slug: str, lsn: int) -> None:
        self.tell("data.table.swept", op="w", module=slug, model="contacts", lsn=lsn)

    def beat(self) -> None:
        self.tell("data.heartbeat", op="h", lsn=1)

    def places(self) -> list[TopicPartition]:
        """Where each partition ends."""
        parts = [TopicPartition(TOPIC, number) for number in range(self.partitions)]
        return [TopicPartition(TOPIC, p.partition, self._reader.get_watermark_offsets(p, timeout=20)[1]) for p in parts]

    def go_back(self, places: list[TopicPartition]) -> None:
        """As if nothing behind them had been committed. No sink may be at work."""
        self._reader.commit(offsets=places, asynchronous=False)

    def flush(self) -> None:
        assert self.producer.flush(30) == 0

    def close(self) -> None:
        self._reader.close()

    def lag(self) -> int:
        """Messages that the sink has not committed; endless while Kafka has no answer, as before the first commit."""
        reader = self._reader
        partitions = sorted(self.admin.list_topics(TOPIC, timeout=20).topics[TOPIC].partitions)
        try:
            committed = reader.committed([TopicPartition(TOPIC, number) for number in partitions], timeout=2)
            ends = [reader.get_watermark_offsets(TopicPartition(TOPIC, p.partition), timeout=2) for p in committed]
        except KafkaException:
            return sys.maxsize
        return sum(end[1] - max(place.offset, end[0]) for place, end in zip(committed, ends, strict=True) if end)


@dataclass
class Record:
    """One row of ``module_{slug}__contacts`` and its history as messages."""

    slug: str
    tenant: UUID
    id: UUID = field(default_factory=uuid7)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    lsn: int = 0

    version: int = 0

    def change(self, op: str = "u", **columns: Any) -> bytes:
        self.lsn += 1
        self.version += 1
        return self._message(op, columns)

    def read_again(self, lsn: int, **columns: Any) -> bytes:
        """By a snapshot: the same version."""
        self.lsn = lsn
        return self._message("s", columns)

    def _message(self, op: str, columns: dict[str, Any]) -> bytes:
        created, updated = stamp(self.at), stamp(self.at + timedelta(microseconds=self.version))
        row = {"created_at": created, "updated_at": updated, "deleted_at": None, "idempotency_key": None, **columns}
        change: dict[str, Any] = {
            "op": op,
            "module": self.slug,
            "model": "contacts",
            "tenantId": str(self.tenant),
            "recordId": str(self.id),
            "lsn": self.lsn,
            "committedAt": stamp(datetime.now(UTC)),
            "row": row,
        }
        if op == "d":
            change["deletedAt"] = row["deleted_at"] = updated
        return json.dumps(change).encode()


class Reader:
    """A user of ClickHouse, over plain HTTP."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = f"http://{parts.hostname}:{parts.port}/"
        login = base64.b64encode(f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}"}

    async def rows(self, sql: str) -> list[dict[str, Any]]:
        async with (
            aiohttp.ClientSession(headers=self._headers, timeout=aiohttp.ClientTimeout(total=30)) as session,
            session.post(self._address, params={"default_format": "JSONEachRow"}, data=sql.encode()) as answer,
        ):
            text = await answer.text()
            assert answer.status == 200, text[:300]
            return [json.loads(line) for line in text.splitlines() if line]


async def current(reader: Reader, module: ModuleState, columns: str = "email, score") -> list[dict[str, Any]]:
    """As a reader sees it; the administrator is under no policy."""
    return await reader.rows(
        f"SELECT {columns} FROM analytics.module_{module.slug}__contacts FINAL "
        "WHERE is_deleted = 0 AND deleted_at IS NULL ORDER BY email"
    )
