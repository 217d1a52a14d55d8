"""A module whose rows and events are streamed, a load on it, and a consumer of its events."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import asyncpg
from e2e_cluster import Cluster
from e2e_invariants import Witness
from e2e_manifests import Manifest, module, namespace, tenant
from e2e_sample import secret_url

from kernel_common.database import open_pool, reason_to_wait
from kernel_common.events import Envelope, emit
from kernel_common.events.consumer import Consumer
from kernel_common.events.received import Received
from kernel_common.ids import tenant_id
from kernel_common.tenancy import tenant_transaction

TYPES = ("text", "integer", "bigint", "decimal", "float", "boolean", "date", "timestamp", "uuid", "json")
KEPT = "not the load's"
"""``a_text`` of rows that the load leaves alone."""
LARGE = 6_000
"""Characters that don't compress: PostgreSQL keeps them outside the row."""


def things(**more: Any) -> dict[str, Any]:
    """A model with a column of each type, and one for values that are kept outside the row."""
    fields = [{"name": f"a_{kind}", "type": kind} for kind in TYPES] + [{"name": "large", "type": "text"}]
    return {"name": "things", "fields": fields, "analytics": {"enabled": True}, **more}


def streamed(slug: str, place: str, tenants: list[str], model: dict[str, Any]) -> Manifest:
    return module(
        slug,
        namespace=place,
        tenants={"names": tenants},
        dataApi={"models": [model]},
        events={"publishes": [f"{slug}.thing.changed"], "partitions": 4},
        permissions=[f"{slug}.notes.read"],
    )


def a_row(rng: random.Random) -> dict[str, Any]:
    """Values that are hard to carry: signs, extremes, quotes, nothing."""

    def some(value: Any) -> Any:
        return value if rng.random() < 0.85 else None

    moment = datetime(1950, 1, 1, tzinfo=UTC) + timedelta(microseconds=rng.randrange(10**16))
    return {
        "a_text": some(rng.choice(["", "plain", 'quo"te\\', "line\nbreak\t", "Зоя 😀", "'; --"]) + str(rng.random())),
        "a_integer": some(rng.choice([0, 1, -(2**31), 2**31 - 1])),
        "a_bigint": some(rng.choice([0, -(2**63), 2**63 - 1, rng.randrange(2**62)])),
        "a_decimal": some(Decimal(rng.randrange(-(10**20) + 1, 10**20)).scaleb(-6)),
        "a_float": some(rng.choice([0.1, 1e300, 5e-324, 1.0, -0.0, rng.random()])),
        "a_boolean": some(rng.random() < 0.5),
        "a_date": some(date(1900, 1, 1) + timedelta(days=rng.randrange(140_000))),
        "a_timestamp": some(moment),
        "a_uuid": some(UUID(int=rng.getrandbits(128), version=4)),
        "a_json": some(json.dumps({"n": rng.randrange(10**6), "list": [1, "two", None, 0.5], "ключ": {"a": True}})),
        "large": rng.randbytes(LARGE // 2).hex() if rng.random() < 0.1 else None,
    }


@dataclass
class World:
    """The module ``slug`` for ``tenants`` (name to id), its login's pool, and the witness of what became of it."""

    slug: str
    place: str
    tenants: dict[str, UUID]
    pool: asyncpg.Pool
    witness: Witness
    provider: Any
    _seq: dict[UUID, int] = field(default_factory=dict)

    @property
    def table(self) -> str:
        return f"module_{self.slug}.things"

    async def insert(self, connection: asyncpg.Connection, row: dict[str, Any]) -> UUID:
        """Adds a row in the tenant's transaction; its id."""
        marks = ", ".join(f"${n}" for n in range(1, len(row) + 1))
        made: UUID = await connection.fetchval(
            f"INSERT INTO {self.table} ({', '.join(row)}) VALUES ({marks}) RETURNING id", *row.values()
        )
        return made

    async def announce(self, connection: asyncpg.Connection, tenant: UUID) -> None:
        """An event in the tenant's transaction. One writer a tenant at a time, or its order means nothing."""
        self._seq[tenant] = self._seq.get(tenant, 0) + 1
        data = {"seq": self._seq[tenant]}
        await emit(
            connection,
            Envelope(type=f"{self.slug}.thing.changed", source=f"@test/{self.slug}", tenant_id=tenant, data=data),
        )

    @asynccontextmanager
    async def load(self, seed: int = 0) -> AsyncIterator["Load"]:
        """A writer a tenant, until the context ends."""
        load = Load(self)
        async with asyncio.TaskGroup() as group:
            for n, tenant in enumerate(self.tenants.values()):
                group.create_task(load.write(tenant, random.Random(f"{seed}-{n}")))
            try:
                yield load
            finally:
                load.stopping = True

    async def check(self, seconds: float = 30) -> None:
        await self.witness.check(seconds)


@dataclass
class Load:
    """Random changes, each transaction with its event; outages are borne."""

    world: World
    committed: int = 0
    stopping: bool = False

    async def more(self, transactions: int, seconds: float = 30) -> None:
        """Return when so many more are committed."""
        goal = self.committed + transactions
        async with asyncio.timeout(seconds):
            while self.committed < goal:
                await asyncio.sleep(0.01)

    async def write(self, tenant: UUID, rng: random.Random) -> None:
        ids: list[UUID] | None = None
        while not self.stopping:
            try:
                async with tenant_transaction(self.world.pool, tenant) as connection:
                    if ids is None:  # what became of the last transaction is not known
                        ours = "deleted_at IS NULL AND a_text IS DISTINCT FROM $1"
                        rows = await connection.fetch(f"SELECT id FROM {self.world.table} WHERE {ours}", KEPT)
                        ids = [row["id"] for row in rows]
                    after = await self._change(connection, list(ids), rng)
                    await self.world.announce(connection, tenant)
                    if rng.random() < 0.1:
                        raise _ThinksBetterOfIt
                ids = after
                self.committed += 1
            except _ThinksBetterOfIt:
                continue
            except Exception as error:
                # The driver's own complaint comes when a rollback meets a connection that has just died.
                if reason_to_wait(error) is None and not isinstance(error, asyncpg.InternalClientError):
                    raise
                ids = None
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.005)

    async def _change(self, connection: asyncpg.Connection, ids: list[UUID], rng: random.Random) -> list[UUID]:
        """Does something to a few rows; the ids that are left."""
        table, do = self.world.table, rng.random()
        if len(ids) < 5 or do < 0.4:
            return [*ids, *[await self.world.insert(connection, a_row(rng)) for _ in range(rng.randrange(1, 4))]]
        one = rng.choice(ids)
        if do < 0.75:
            row = a_row(rng)
            name = rng.choice([name for name in row if name != "large"])  # a large value that stays is not in the log
            await connection.execute(f"UPDATE {table} SET {name} = $2 WHERE id = $1", one, row[name])
            return ids
        ids.remove(one)
        if do < 0.9:
            await connection.execute(f"UPDATE {table} SET deleted_at = now() WHERE id = $1", one)
        else:
            await connection.execute(f"DELETE FROM {table} WHERE id = $1", one)
        return ids


class _ThinksBetterOfIt(Exception):
    """The transaction is rolled back: nobody may ever hear of it."""


@asynccontextmanager
async def streaming(cluster: Cluster, provider: Any) -> AsyncIterator[World]:
    """Two tenants with a module that streams, and a consumer that books each of its events once."""
    mark = uuid4().hex[:6]
    root, names = f"root-{mark}", [f"one-{mark}", f"two-{mark}"]
    place, slug = f"cdc-{mark}", f"s{mark}"
    cluster.apply(
        namespace(place),
        tenant(root, tier="owner"),
        *(tenant(name, parent=root) for name in names),
        streamed(slug, place, names, things()),
    )
    cluster.wait_ready("kmod", slug, "-n", place)
    for part in ("source", "sink"):
        await provider.cdc_ready(part)
    tenants = {name: tenant_id(name) for name in names}
    url = secret_url(cluster, f"{slug}-database", place)
    async with (
        await open_pool(url, application="e2e", max_size=8) as pool,
        _booking(slug, provider) as booked,
        Witness(provider, slug, ["things"], tenants, booked) as witness,
    ):
        yield World(slug, place, tenants, pool, witness, provider)
    cluster.delete("kmod", slug, "-n", place)
    cluster.delete("namespace", place, wait=False)
    cluster.delete("tenant", *names)
    cluster.delete("tenant", root)


@asynccontextmanager
async def _booking(slug: str, provider: Any) -> AsyncIterator[str]:
    """A consumer with a login of its own, as a workload of the kernel; the value is the table in which it books."""
    role, password = f"e2e_booking_{slug}", uuid4().hex
    table, where = f"{role}.effects", urlsplit(provider.database_admin_url)
    admin = await asyncpg.connect(provider.database_admin_url)
    try:
        await admin.execute(
            f"CREATE ROLE {role} LOGIN PASSWORD '{password}'; GRANT CONNECT ON DATABASE {where.path[1:]} TO {role}; "
            f"GRANT kernel_publisher TO {role} WITH INHERIT TRUE, SET FALSE; "
            f"CREATE SCHEMA {role}; CREATE TABLE {table} (event_id uuid); "
            f"GRANT USAGE ON SCHEMA {role} TO {role}; GRANT INSERT ON {table} TO {role}"
        )
    finally:
        await admin.close()

    async def book(event: Received, connection: asyncpg.Connection) -> None:
        await connection.execute(f"INSERT INTO {table} (event_id) VALUES ($1)", event.envelope.id)

    url = urlunsplit(where._replace(netloc=f"{role}:{password}@{where.hostname}:{where.port}"))
    stop = asyncio.Event()
    async with await open_pool(url, application="e2e", max_size=6) as pool:
        consumer = Consumer(
            kafka={**provider.kafka_admin, "log_level": 0},
            group=f"{slug}.booking",
            in_database={f"{slug}.thing.changed": book},
            pool=pool,
            session_timeout=6,
        )
        running = asyncio.create_task(consumer.run(stop))
        try:
            yield table
        finally:
            stop.set()
            async with asyncio.timeout(30):
                await running
    admin = await asyncpg.connect(provider.database_admin_url)
    try:
        await admin.execute(f"DROP SCHEMA {role} CASCADE; DROP OWNED BY {role}; DROP ROLE {role}")
    finally:
        await admin.close()


async def until(ask: Callable[[], Awaitable[bool]], seconds: float = 20, what: str = "") -> None:
    """Asks again and again, for at most ``seconds``."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not await ask():
        assert asyncio.get_running_loop().time() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.05)
