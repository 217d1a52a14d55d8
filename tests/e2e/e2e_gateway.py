"""The way in as a client has it: HTTPS to Envoy, a token, problem documents."""

import asyncio
import base64
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from e2e_cluster import Cluster


@dataclass(frozen=True, slots=True)
class Answer:
    """``body`` is what the JSON says; None where there was none."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def problem(self) -> str:
        """The slug of a problem document; fails when it is none."""
        assert self.headers["content-type"].startswith("application/problem+json"), (self.status, self.body)
        assert set(self.body) >= {"type", "title", "status", "detail", "instance", "trace_id"}, self.body
        assert self.body["status"] == self.status
        assert self.body["trace_id"]
        return str(self.body["type"]).rpartition("/")[2]


class Client:
    """Calls through Envoy; ``async with``."""

    def __init__(self, url: str, authority: Path) -> None:
        self.url = url
        self._tls = ssl.create_default_context(cafile=str(authority))

    async def __aenter__(self) -> "Client":
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        sent = dict(headers or {}) | ({"Authorization": f"Bearer {token}"} if token else {})
        async with self._session.request(
            method, self.url + path, json=json, headers=sent, timeout=aiohttp.ClientTimeout(total=30)
        ) as response:
            text = await response.read()
            is_json = "json" in response.headers.get("content-type", "")
            return Answer(response.status, response.headers, await response.json() if text and is_json else None)

    async def login(self, email: str, password: str, **more: Any) -> str:
        """An access token."""
        answer = await self.call("POST", "/api/v1/auth/login", json={"email": email, "password": password, **more})
        assert answer.status == 200, answer
        return str(answer.body["accessToken"])

    async def until(self, path: str, status: int, *, token: str | None = None, seconds: float = 10.0) -> Answer:
        """The first answer to GET ``path`` with that status; fails after ``seconds``."""
        deadline = time.monotonic() + seconds
        while (answer := await self.call("GET", path, token=token)).status != status:
            assert time.monotonic() < deadline, answer
            await asyncio.sleep(0.02)
        return answer


def owner(cluster: Cluster, tenant: str) -> tuple[str, str]:
    """E-mail and password of a tenant's first owner, as the operator has put them into a Secret."""
    secret = cluster.get("secret", f"tenant-{tenant}-owner", "-n", "platform-kernel")
    data = {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}
    return data["email"], data["password"]
