"""What must hold after any fault: nothing lost, nothing invented, nothing twice.

**Rows.** What PostgreSQL holds at rest is what each tenant's own user sees in ``{table}__current``: row by row, column
by column, by value and type, and no column more or less.

**Events.** Each committed row of the outbox is on its topic; first occurrences of one key are in the order of commits;
nothing is there that was not committed.

**Effects.** A consumer that books each event in its database has booked each once.

``Witness.check`` waits, with a bound, until all three hold, and otherwise says what differs. The load must have
stopped. Events carry ``seq``, which their writer counts up; a key has one writer, so the order of ``seq`` is that of
the commits.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol, Self
from uuid import UUID

import asyncpg
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

SHOWN = 8
"""Differences that a failure lists."""
_MANY = 50_000
"""So many rows of one tenant are compared in sixteen turns, by the last digit of their ids."""
_NOT_ANALYSED = ("id", "tenant_id", "deleted_at", "idempotency_key")
_TYPES = {
    "text": "String",
    "integer": "Int32",
    "bigint": "Int64",
    "numeric(20,6)": "Decimal(20, 6)",
    "double precision": "Float64",
    "boolean": "Bool",
    "date": "Date32",
    "timestamp with time zone": "DateTime64(6, 'UTC')",
    "uuid": "UUID",
    "jsonb": "String",
}
"""What a column of PostgreSQL is in ClickHouse, where a model's columns are Nullable besides."""
_COLUMNS = """
SELECT attname AS name, format_type(atttypid, atttypmod) AS type FROM pg_attribute
WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped
"""

Row = dict[str, Any]


class Provider(Protocol):
    """The part of the platform's face that the witness uses."""

    database_admin_url: str
    kafka_admin: dict[str, Any]

    async def clickhouse_as(self, tenant: UUID, sql: str) -> list[tuple[Any, ...]]: ...
    async def clickhouse_rows(self, sql: str, **parameters: Any) -> list[tuple[Any, ...]]: ...


class TopicLog:
    """All messages of a topic so far, from its beginning, as the administrator reads them."""

    def __init__(self, configuration: Mapping[str, Any], topic: str) -> None:
        self.topic = topic
        self._consumer = Consumer(
            {**configuration, "group.id": "e2e-witness", "enable.auto.commit": False, "log_level": 0}
        )
        self._places: list[TopicPartition] = []
        self.messages: list[Any] = []

    def read(self, seconds: float = 30) -> None:
        """Takes in what is there now. Raises KafkaException when the broker is away for so long."""
        deadline = time.monotonic() + seconds
        if not self._places:
            partitions = self._patiently(lambda: self._consumer.list_topics(self.topic, 5), deadline)
            self._places = [
                TopicPartition(self.topic, p, OFFSET_BEGINNING) for p in partitions.topics[self.topic].partitions
            ]
            self._consumer.assign(self._places)
            self._next = dict.fromkeys((place.partition for place in self._places), 0)
        ends = {
            place.partition: self._patiently(lambda: self._consumer.get_watermark_offsets(place, 5), deadline)[1]  # noqa: B023
            for place in self._places
        }
        while any(self._next[partition] < end for partition, end in ends.items()):
            for message in self._consumer.consume(5000, 0.2):
                if message.error() is None:
                    self.messages.append(message)
                    self._next[message.partition()] = message.offset() + 1
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.topic} could not be read to its end")

    @staticmethod
    def _patiently(ask: Callable[[], Any], deadline: float) -> Any:
        while True:
            try:
                return ask()
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def close(self) -> None:
        self._consumer.close()


@dataclass
class Witness:
    """Holds one module's rows, events and effects against each other; ``async with``.

    ``models`` are those that are analysed; ``tenants`` names to ids. ``effects`` is the table in which the consumer
    books ``event_id``; without one only rows can be asked for.
    """

    provider: Provider
    slug: str
    models: Sequence[str]
    tenants: Mapping[str, UUID]
    effects: str = ""
    _log: TopicLog = field(init=False)
    _admin: asyncpg.Pool = field(init=False)

    async def __aenter__(self) -> Self:
        self._log = TopicLog(self.provider.kafka_admin, f"platform.{self.slug}.events")
        self._admin = await asyncpg.create_pool(self.provider.database_admin_url, min_size=0, max_size=2)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._log.close)
        self._admin.terminate()

    async def check(self, seconds: float = 30) -> None:
        """Returns when everything holds; AssertionError with what differs after ``seconds``."""
        began = time.monotonic()
        while True:
            found = await self._differences()
            if not found:
                return
            if time.monotonic() - began > seconds:
                more = f"\n... and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
                raise AssertionError(f"still so after {seconds:.0f} s:\n" + "\n".join(found[:SHOWN]) + more)
            await asyncio.sleep(0.1)

    async def _differences(self) -> list[str]:
        """The cheap questions first; what comes later is only asked when they are answered well."""
        return await self._events() or await self._booked() or await self.rows()

    async def _committed(self) -> dict[UUID, tuple[str, int]]:
        """Key and seq of each event in the outbox."""
        rows = await self._admin.fetch(
            "SELECT id, key, (envelope->'data'->>'seq')::bigint AS seq FROM kernel.outbox WHERE topic = $1",
            f"platform.{self.slug}.events",
        )
        return {UUID(int=row["id"].int): (row["key"], row["seq"]) for row in rows}

    async def _events(self) -> list[str]:
        committed = await self._committed()
        await asyncio.to_thread(self._log.read)
        return event_differences(committed, [(m.key().decode(), json.loads(m.value())) for m in self._log.messages])

    async def _booked(self) -> list[str]:
        rows = await self._admin.fetch(f"SELECT event_id FROM {self.effects}")
        return effect_differences(set(await self._committed()), [UUID(int=row["event_id"].int) for row in rows])

    async def rows(self) -> list[str]:
        """How ``__current`` differs from PostgreSQL, for each model and tenant."""
        found: list[str] = []
        for model in self.models:
            columns = {
                row["name"]: row["type"] for row in await self._admin.fetch(_COLUMNS, f"module_{self.slug}.{model}")
            }
            for name in _NOT_ANALYSED:
                columns.pop(name)
            found += await self._schema(model, columns)
            for name, tenant in self.tenants.items():
                found += [f"{model} of {name}: {text}" for text in await self._tenant(model, columns, tenant)]
        return found

    async def _schema(self, model: str, columns: Mapping[str, str]) -> list[str]:
        table = f"module_{self.slug}__{model}__current"
        there = dict(
            await self.provider.clickhouse_rows(
                "SELECT name, type FROM system.columns WHERE table = {t:String} AND database = currentDatabase()",
                t=table,
            )
        )
        wanted = {"tenant_id": "UUID", "record_id": "UUID"}
        for name, kind in columns.items():
            own = name in ("created_at", "updated_at")
            wanted[name] = _TYPES[kind] if own else f"Nullable({_TYPES[kind]})"
        return [f"{table} has {there}, not {wanted}"] if there != wanted else []

    async def _tenant(self, model: str, columns: Mapping[str, str], tenant: UUID) -> list[str]:
        view, names = f"module_{self.slug}__{model}__current", ", ".join(columns)
        where = f"FROM module_{self.slug}.{model} WHERE deleted_at IS NULL AND tenant_id = $1"
        wanted = await self._admin.fetchval(f"SELECT count(*) {where}", tenant)
        [(there,)] = await self.provider.clickhouse_as(tenant, f"SELECT count() FROM {view}")
        if wanted != there:
            return [f"{wanted} rows in PostgreSQL, {there} in ClickHouse"]
        found: list[str] = []
        for digit in "0123456789abcdef" if wanted > _MANY else [""]:
            rows = await self._admin.fetch(f"SELECT id, {names} {where} AND id::text LIKE '%{digit}'", tenant)
            held = {
                UUID(int=row["id"].int): {name: plain(row[name], kind) for name, kind in columns.items()}
                for row in rows
            }
            shown: dict[UUID, Row] = {}
            for identity, owner, *values in await self.provider.clickhouse_as(
                tenant,
                f"SELECT record_id, tenant_id, {names} FROM {view} WHERE endsWith(toString(record_id), '{digit}')",
            ):
                if owner != tenant:
                    found.append(f"it sees record {identity} of {owner}")
                if identity in shown:
                    found.append(f"record {identity} is there twice")
                shown[identity] = {
                    name: plain(value, kind) for (name, kind), value in zip(columns.items(), values, strict=True)
                }
            found += row_differences(held, shown)
        return found


def plain(value: Any, kind: str) -> Any:
    """A value with its type, so that True is not 1 and 1 is not 1.0; both drivers' forms of one value are equal."""
    if value is None:
        return None
    if kind == "jsonb":
        return "json", json.loads(value)
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return "instant", moment.astimezone(UTC).isoformat(timespec="microseconds")
    if isinstance(value, Decimal):
        return "decimal", str(value.quantize(Decimal("0.000001")))
    if isinstance(value, UUID):
        return "uuid", str(value)
    if isinstance(value, float):
        return "float", repr(value)  # NaN is not equal to itself
    return type(value).__name__, value


def row_differences(held: Mapping[UUID, Row], shown: Mapping[UUID, Row]) -> list[str]:
    """``held`` in PostgreSQL, ``shown`` by ClickHouse; a clause for each difference."""
    found = [f"record {one} is not in ClickHouse" for one in held.keys() - shown.keys()]
    found += [f"record {one} is in ClickHouse and not in PostgreSQL" for one in shown.keys() - held.keys()]
    for one in held.keys() & shown.keys():
        for name, value in held[one].items():
            if shown[one][name] != value:
                found.append(f"record {one}, {name}: {value} in PostgreSQL, {shown[one][name]} in ClickHouse")
    return found


def event_differences(committed: Mapping[UUID, tuple[str, int]], read: Sequence[tuple[str, Any]]) -> list[str]:
    """``committed``: id to key and seq. ``read``: key and envelope of each message, in the order of its partition."""
    found, first, last = [], set[UUID](), dict[str, int]()
    for key, envelope in read:
        one, seq = UUID(envelope["id"]), int(envelope["data"]["seq"])
        if one in first:
            continue
        first.add(one)
        if committed.get(one) != (key, seq):
            found.append(f"event {one} ({key}, seq {seq}) is on the topic and was never committed so")
        if seq <= last.get(key, -1):
            found.append(f"event {one} of {key} with seq {seq} came after seq {last[key]}")
        last[key] = seq
    missing = committed.keys() - first
    if missing:
        example = sorted(missing)[:3]
        found.append(f"{len(missing)} of {len(committed)} committed events are not on the topic, such as {example}")
    return found


def effect_differences(committed: set[UUID], booked: Sequence[UUID]) -> list[str]:
    times = Counter(booked)
    found = [f"the effect of event {one} happened {n} times" for one, n in times.items() if n > 1]
    found += [f"event {one} had an effect and was never committed" for one in times.keys() - committed]
    if missing := committed - times.keys():
        found.append(f"{len(missing)} of {len(committed)} events had no effect, such as {sorted(missing)[:3]}")
    return found
