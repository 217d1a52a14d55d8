"""The API as its clients see it, and the people who call it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Any
from uuid import UUID

import aiohttp

from kernel_gateway.api.services import Services
from kernel_gateway.serve import ApiServer

OWNER = UUID("00000000-0000-7000-8000-000000000001")
"""The role."""
PASSWORD = "correct horse battery"


@asynccontextmanager
async def serving(services: Services) -> AsyncIterator[str]:
    """The API of ``services`` on a free port of this machine; yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = ApiServer(services)
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


@dataclass(frozen=True)
class Reply:
    """An answer that was read. ``json`` is None where there is none."""

    status: int
    headers: Mapping[str, str]
    json: Any
    cookies: SimpleCookie

    @property
    def slug(self) -> str:
        """The last part of a problem's type; empty where the answer is none."""
        return str(self.json["type"]).rpartition("/")[2] if self.status >= 400 else ""


@dataclass(frozen=True)
class Client:
    """Calls the API; keeps no cookies. ``await client("POST", "auth/login", {...}, Header="value")``."""

    session: aiohttp.ClientSession
    base: str

    async def __call__(self, method: str, path: str, body: object = None, **headers: str) -> Reply:
        """``path`` is below /api/v1, or from the root if it begins with a slash. ``_`` in a header's name is ``-``."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = self.base + (path if path.startswith("/") else f"/api/v1/{path}")
        async with self.session.request(method, url, json=body, headers=named) as answer:
            data = await answer.json(content_type=None) if await answer.read() else None
            return Reply(answer.status, answer.headers, data, answer.cookies)


@asynccontextmanager
async def calling(base: str) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=30)
    ) as session:
        yield Client(session, base)


@dataclass(frozen=True)
class Person:
    """A user who is an active member of ``tenant``; ``headers`` carry an access token of theirs."""

    id: UUID
    email: str
    tenant: UUID
    headers: dict[str, str]
    password: str = PASSWORD


@dataclass(frozen=True)
class SomeTenant:
    """A tenant with its owner. ``name`` is the Tenant resource's."""

    id: UUID
    name: str
    owner: Person
