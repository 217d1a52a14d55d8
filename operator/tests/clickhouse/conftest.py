"""A real ClickHouse engine, the target as the operator's user, and plain HTTP as anybody else."""

import base64
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import count
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

import aiohttp
import pytest

from kernel_common.analytics import tenant_password, tenant_user
from kernel_common.ids import tenant_id, uuid7
from kernel_operator.desired import Column, ColumnType, Model, ModuleState, TenantState, Tier
from kernel_operator.targets.clickhouse import ClickHouseTarget

MASTER_KEY = b"test master key, 32 bytes or more"
_NUMBERS = count(1)


class Refused(Exception):
    """An answer with an error; ``code`` is ClickHouse's."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text[:300]}")
        self.code = code


class User:
    """One login on the server, over plain HTTP: nothing of the target's client."""

    def __init__(self, session: aiohttp.ClientSession, address: str, name: str, password: str) -> None:
        self._session, self._address = session, address
        login = base64.b64encode(f"{name}:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}"}

    async def rows(self, sql: str) -> list[dict[str, Any]]:
        arguments = {"default_format": "JSONEachRow", "wait_end_of_query": "1"}
        request = self._session.post(self._address, params=arguments, data=sql.encode(), headers=self._headers)
        async with request as answer:
            text = await answer.text()
            if answer.status != 200:
                raise Refused(int(answer.headers.get("X-ClickHouse-Exception-Code", "0")), text)
            return [json.loads(line) for line in text.splitlines() if line]

    async def values(self, sql: str) -> list[Any]:
        """The first column."""
        return [next(iter(row.values())) for row in await self.rows(sql)]


@pytest.fixture(scope="session")
async def login(clickhouse: Any) -> AsyncIterator[Callable[..., User]]:
    parts = urlsplit(clickhouse.admin_url)
    address = f"http://{parts.hostname}:{parts.port}/"
    connector = aiohttp.TCPConnector(force_close=True)  # tests kill the server
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30)) as session:

        def make(who: UUID | str, password: str = "") -> User:
            if isinstance(who, UUID):
                return User(session, address, tenant_user(who), password or tenant_password(MASTER_KEY, who))
            if "//" in who:
                url = urlsplit(who)
                return User(session, address, unquote(url.username or ""), unquote(url.password or ""))
            return User(session, address, who, password)

        yield make


@pytest.fixture(scope="session")
def admin(clickhouse: Any, login: Callable[..., User]) -> User:
    return login(clickhouse.admin_url)


@pytest.fixture(scope="session")
def writer(clickhouse: Any, login: Callable[..., User]) -> User:
    return login(clickhouse.writer_url)


@pytest.fixture(scope="session")
async def target(clickhouse: Any) -> AsyncIterator[ClickHouseTarget]:
    target = ClickHouseTarget(clickhouse.operator_url, clickhouse.database, MASTER_KEY)
    yield target
    await target.close()


@pytest.fixture(scope="session")
def tenant() -> Callable[..., TenantState]:
    """Tenants with names of their own for each test."""

    def make(**changes: Any) -> TenantState:
        name = f"t{next(_NUMBERS)}-{secrets.token_hex(3)}"
        state = TenantState(
            id=tenant_id(name),
            name=name,
            uid=f"uid-{name}",
            display_name=name,
            tier=Tier.CLIENT,
            owner_email="owner@example.com",
        )
        return replace(state, **changes)

    return make


CONTACTS = (Column("email", ColumnType.TEXT, required=True), Column("score", ColumnType.INTEGER))


@pytest.fixture(scope="session")
def module() -> Callable[..., ModuleState]:
    """Modules with slugs of their own for each test, with one model ``contacts``."""

    def make(*models: Model, slug: str = "") -> ModuleState:
        slug = slug or f"m{next(_NUMBERS)}"
        return ModuleState(
            slug=slug,
            module_name=f"@acme/{slug}",
            namespace=slug,
            name=slug,
            uid=f"uid-{slug}",
            version="1.0.0",
            models=models or (Model("contacts", CONTACTS, analytics=True),),
        )

    return make


@pytest.fixture(scope="session")
def write(writer: User) -> Callable[..., Any]:
    """Writes a contact as the CDC does; returns its record id."""

    async def insert(table: str, tenant: UUID, email: str, record: UUID | None = None, **columns: Any) -> UUID:
        record = record or uuid7()
        moment = time.time_ns() // 1000
        stamp = f"{moment // 1_000_000}.{moment % 1_000_000:06d}"
        row = {
            "tenant_id": str(tenant),
            "record_id": str(record),
            "created_at": stamp,
            "updated_at": stamp,
            "email": email,
            "_op": "c",
            "_lsn": 1,
            "_synced_at": stamp,
            **columns,
        }
        await writer.rows(f"INSERT INTO analytics.{table} FORMAT JSONEachRow\n{json.dumps(row)}")
        return record

    return insert
