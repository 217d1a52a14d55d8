"""Two tenants with deals of every type, what a plain reading of the questions answers, and the API that is asked."""

import asyncio
import json
import random
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

import aiohttp
import uvicorn

from kernel_common.ids import tenant_id, uuid7
from kernel_data.app import create_app
from kernel_data.serve import opened
from kernel_data.settings import Settings
from kernel_operator.desired import Column, ColumnType, Model, ModuleState, TenantState, Tier

A, B = tenant_id("data-tests-a"), tenant_id("data-tests-b")
SECRET = "secret-of-b"
"""In every text of B's rows."""

COLUMNS = (
    Column("stage", ColumnType.TEXT, required=True),
    Column("note", ColumnType.TEXT),
    Column("score", ColumnType.INTEGER),
    Column("big", ColumnType.BIGINT),
    Column("amount", ColumnType.DECIMAL),
    Column("ratio", ColumnType.FLOAT),
    Column("won", ColumnType.BOOLEAN),
    Column("closed", ColumnType.DATE),
    Column("seen", ColumnType.TIMESTAMP),
    Column("owner", ColumnType.UUID),
    Column("extra", ColumnType.JSON),
)
MODULE = ModuleState(
    slug="sales",
    module_name="@tests/sales",
    namespace="tests",
    name="sales",
    uid="sales",
    version="1.0.0",
    models=(Model("deals", COLUMNS, analytics=True), Model("drafts", COLUMNS[:1]), Model("few", COLUMNS, True)),
)
EPOCH = datetime(2026, 1, 30, 22, 30, tzinfo=UTC)
Row = dict[str, Any]


def a_tenant(identifier: UUID, *, blocked: bool = False) -> TenantState:
    name = f"t-{identifier}"
    return TenantState(identifier, name, name, name, Tier.CLIENT, f"{name}@x.example", blocked=blocked)


def deals(count: int, seed: int, mark: str = "") -> list[Row]:
    """Records as they should be seen; every nullable field is null now and then."""
    chance = random.Random(seed)

    def maybe(value: Any) -> Any:
        return None if chance.random() < 0.2 else value

    return [
        {
            "id": UUID(int=chance.getrandbits(128)),
            "created_at": (made := EPOCH + timedelta(seconds=chance.randrange(90 * 86_400), microseconds=number)),
            "updated_at": made + timedelta(days=1),
            "stage": chance.choice(["open", "won", "lost, alas", "Ünfair", "it's 100%_\\"]) + mark,
            "note": maybe(chance.choice(["", "a\tb", "line\nfeed", "x" * 50, "null"]) + mark),
            "score": maybe(chance.randrange(-(2**31), 2**31)),
            "big": maybe(chance.choice([2**63 - 1, 2**63 - 2, -(2**63), 7])),
            "amount": maybe(Decimal(chance.randrange(-(10**20) + 1, 10**20)).scaleb(-6)),
            "ratio": maybe(chance.choice([0.1, -2.5, 1e300, 3.0])),
            "won": maybe(chance.random() < 0.5),
            "closed": maybe(date(1931, 5, 7) + timedelta(days=chance.randrange(40_000))),
            "seen": maybe(
                datetime(1931, 5, 7, 13, 45, 59, 123456, tzinfo=UTC) + timedelta(hours=chance.randrange(9**6))
            ),
            "owner": maybe(UUID(int=chance.randrange(3))),
            "extra": maybe(json.dumps({"k": chance.randrange(3), "m": mark})),
        }
        for number in range(count)
    ]


class Writer:
    """Inserts as the sink does."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = f"http://{parts.hostname}:{parts.port}/"
        login = b64encode(f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}"}

    async def insert(self, table: str, tenant: UUID, rows: Sequence[Row], **fixed: Any) -> None:
        """``fixed`` columns replace the rows' own, such as ``is_deleted``."""
        lines = []
        for row in rows:
            values = {("record_id" if name == "id" else name): _stored(value) for name, value in row.items()}
            lines.append(json.dumps({"tenant_id": str(tenant), "_op": "u", "_lsn": 1, **values, **fixed}))
        query = {"query": f"INSERT INTO analytics.{table} FORMAT JSONEachRow", "date_time_input_format": "best_effort"}
        async with (
            aiohttp.ClientSession(headers=self._headers) as session,
            session.post(self._address, params=query, data="\n".join(lines).encode()) as answer,
        ):
            assert answer.status == 200, (await answer.text())[:300]


def _stored(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S.%f")
    return str(value) if isinstance(value, UUID | Decimal | date) else value


@dataclass(frozen=True)
class World:
    """``deals``: what A sees. B has as many others."""

    environment: Mapping[str, str]
    deals: Sequence[Row]
    writer: Writer

    def settings(self, **changes: Any) -> Settings:
        return Settings(**({name.lower(): value for name, value in self.environment.items()} | changes))


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[str]:
    """The API on a free port; the value is its address."""
    async with opened(settings) as services:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            app = create_app(services)
            config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=5)
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve([listener]))
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                await asyncio.wait_for(serving, 20)


class Client:
    """Asks as a member of ``tenant``, as the gateway would send it on."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def ask(
        self, *query: tuple[str, str], model: str = "deals", module: str = "sales"
    ) -> tuple[int, dict[str, Any], str]:
        """Status, document, and the text of the whole answer."""
        async with self.session.get(f"/api/v1/analytics/{module}/{model}", params=list(query)) as answer:
            text = await answer.text()
            return answer.status, json.loads(text), text

    async def data(self, *query: tuple[str, str], model: str = "deals") -> list[dict[str, Any]]:
        status, document, text = await self.ask(*query, model=model)
        assert status == 200, text
        rows: list[dict[str, Any]] = document["data"]
        return rows


@asynccontextmanager
async def as_member(address: str, tenant: UUID) -> AsyncIterator[Client]:
    headers = {"X-Tenant-ID": str(tenant), "X-User-ID": str(uuid7())}
    async with aiohttp.ClientSession(address, headers=headers, timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield Client(session)


def with_more_columns(module: ModuleState, *more: Column) -> ModuleState:
    models = tuple(replace(model, columns=(*model.columns, *more)) for model in module.models)
    return replace(module, models=models)
