"""The way in: log in as a tenant's owner, call the sample service through Envoy, meet the limits and the breaker."""

import asyncio
import base64
import json
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from kernel_local.demo.proof import Proof, prove

CONTACTS = "/api/v1/crm/contacts"
_PATIENCE = 60.0
_SMALL = {"requestsPerMinute": 30, "adminRequestsPerMinute": 30, "burst": 5}


class Service(Protocol):
    """The sample module's service."""

    async def start(self) -> bool: ...
    async def stop(self, grace: float | None = None) -> bool: ...


@dataclass(frozen=True, slots=True)
class Door:
    """Where Envoy listens (``https://localhost:port``) and whose certificate it shows."""

    url: str
    authority: Path


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    retry_after: str
    body: Any

    def __str__(self) -> str:
        if self.status < 400:
            return str(self.status)
        slug = str((self.body or {}).get("type", "")).rpartition("/")[2]
        return f"{self.status} {slug}"


class Visitor:
    """A client of the platform; ``async with``."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def __aenter__(self) -> "Visitor":
        tls = ssl.create_default_context(cafile=str(self._door.authority))
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def call(self, method: str, path: str, token: str = "", body: Any = None) -> _Answer:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = aiohttp.ClientTimeout(total=20)
        async with self._session.request(
            method, self._door.url + path, json=body, headers=headers, timeout=timeout
        ) as answer:
            is_json = "json" in answer.headers.get("content-type", "")
            return _Answer(
                answer.status, answer.headers.get("retry-after", ""), await answer.json() if is_json else None
            )

    async def token(self, email: str, password: str) -> str:
        answer = await self.call("POST", "/api/v1/auth/login", body={"email": email, "password": password})
        return str(answer.body["accessToken"]) if answer.status == 200 else f"refused: {answer}"


async def visits(door: Door, kubectl: Callable[..., str], service: Service) -> list[Proof]:
    """Everything that a person would try first, against the sample service, which is running."""
    async with Visitor(door) as visitor:
        tokens = {name: await visitor.token(*owner(kubectl, name)) for name in ("acme", "globex")}
        contact: dict[str, Any] = {}

        async def create() -> str:
            answer = await visitor.call("POST", CONTACTS, tokens["acme"], {"email": "first@customer.example"})
            contact.update(answer.body or {})
            return str(answer)

        async def as_whom(name: str) -> str:
            return str(await visitor.call("GET", f"{CONTACTS}/{contact.get('id')}", tokens[name]))

        async def nobody() -> str:
            return str(await visitor.call("GET", CONTACTS))

        return [
            await _in("nobody asks for acme's contacts", nobody, "401 unauthenticated"),
            await _in("acme's owner logs in and writes a contact", create, "201"),
            await _in("... and reads it", lambda: as_whom("acme"), "200"),
            await _in("globex's owner asks for the same contact", lambda: as_whom("globex"), "404 not-found"),
            await _limited(visitor, kubectl, tokens["globex"]),
            *await _broken(visitor, service, tokens["acme"]),
        ]


async def _in(question: str, ask: Callable[[], Awaitable[object]], expected: str) -> Proof:
    return await prove("Gateway", question, ask, expected)


def owner(kubectl: Callable[..., str], tenant: str) -> tuple[str, str]:
    secret = json.loads(kubectl("get", "secret", f"tenant-{tenant}-owner", "-n", "platform-kernel", "-o", "json"))
    email, password = (base64.b64decode(secret["data"][name]).decode() for name in ("email", "password"))
    return email, password


async def _limited(visitor: Visitor, kubectl: Callable[..., str], token: str) -> Proof:
    """Lower globex's limit, run into it, give it back."""
    before = json.loads(kubectl("get", "tenant", "globex", "-o", "json"))["spec"]["rateLimit"]
    _patch(kubectl, _SMALL)
    started, asked = time.perf_counter(), 0
    try:
        while (answer := await visitor.call("GET", CONTACTS, token)).status != 429:
            asked += 1
            if time.perf_counter() - started > _PATIENCE:
                break
    finally:
        _patch(kubectl, before)
    said = f"{answer} after {asked} requests, retry after {answer.retry_after} s"
    right = answer.status == 429 and answer.retry_after.isdigit()
    return Proof("Gateway", "globex at 30 requests a minute", said, right, (time.perf_counter() - started) * 1000)


def _patch(kubectl: Callable[..., str], limits: dict[str, int]) -> None:
    kubectl("patch", "tenant", "globex", "--type=merge", "-p", json.dumps({"spec": {"rateLimit": limits}}))


async def _broken(visitor: Visitor, service: Service, token: str) -> list[Proof]:
    """Stop the service, see its breaker open; start it, see one probe close it."""
    await service.stop(grace=0)

    async def opened() -> bool:
        wait = (await visitor.call("GET", CONTACTS, token)).retry_after
        return wait.isdigit() and int(wait) > 1  # a single failure says 1

    async def closed() -> bool:
        return (await visitor.call("GET", CONTACTS, token)).status == 200

    first = await _when("the service of crm stops; its breaker opens", "open", opened)
    await service.start()
    return [first, await _when("it starts again; one probe closes the breaker", "closed", closed)]


async def _when(question: str, word: str, ask: Callable[[], Awaitable[bool]]) -> Proof:
    started = time.perf_counter()
    right, seconds = False, 0.0
    while not right and seconds < _PATIENCE:
        right = await ask()
        seconds = time.perf_counter() - started
        await asyncio.sleep(0 if right else 0.05)
    said = f"{word} after {seconds:.1f} s" if right else f"not {word} after {seconds:.0f} s"
    return Proof("Gateway", question, said, right, seconds * 1000)
