"""A fresh embedded platform for a benchmark, and an administrator's client for its API server."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from typing import Any

import aiohttp
import kopf
import yaml

from kernel_local.platform import bring_up
from kernel_local.testing import PlatformServers, Run
from kernel_operator.desired import Unavailable
from kernel_operator.kube import TENANTS, Kube, path_of


class Administrator(Kube):
    """The operator's own client under the administrator's login, which may also watch."""

    def __init__(self, login: kopf.AiohttpSession) -> None:
        super().__init__()
        self._admin = login
        self.use(login)

    async def watch(self, kind: str) -> AsyncGenerator[dict[str, Any], None]:
        """The objects of ``kind`` as they are, then as they change, until the server ends it."""
        url, query = self._admin.server.rstrip("/") + path_of(kind), {"watch": "true", "resourceVersion": "0"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with self._admin.aiohttp_session.get(url, params=query, timeout=timeout) as answer:
            answer.raise_for_status()
            rest = b""
            async for piece in answer.content.iter_any():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    yield json.loads(line)["object"]


@contextmanager
def embedded_platform() -> Iterator[tuple[PlatformServers, float]]:
    """The servers, and how many seconds they took to come up on data that was kept."""
    run = Run("-bench")
    try:
        run.background.run(bring_up(run.site, cluster="embedded", fresh=False, environment={}))
        servers = PlatformServers(run)
        servers.down()
        started = time.perf_counter()
        servers.up()
        yield servers, time.perf_counter() - started
    finally:
        run.close()


@asynccontextmanager
async def administrator(servers: PlatformServers) -> AsyncIterator[Administrator]:
    """A client under the administrator's kubeconfig, so that both sides of a ratio cost the same."""
    config = yaml.safe_load(servers.kubernetes.kubeconfig.read_text())
    user, cluster = config["users"][0]["user"], config["clusters"][0]["cluster"]
    info = kopf.ConnectionInfo(
        server=cluster["server"],
        ca_data=cluster.get("certificate-authority-data"),
        ca_path=cluster.get("certificate-authority"),
        certificate_data=user.get("client-certificate-data"),
        certificate_path=user.get("client-certificate"),
        private_key_data=user.get("client-key-data"),
        private_key_path=user.get("client-key"),
        token=user.get("token"),
    )
    connector = aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context())
    async with aiohttp.ClientSession(connector=connector, headers=info.as_http_headers()) as session:
        yield Administrator(kopf.AiohttpSession(server=info.server, aiohttp_session=session))


def tenant(name: str, tier: str = "client", parent: str | None = "root") -> dict[str, Any]:
    spec: dict[str, Any] = {"displayName": name, "tier": tier, "owner": {"email": f"o@{name}.example"}}
    return {
        "apiVersion": "platform-kernel.io/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": name},
        "spec": spec | ({"parent": parent} if parent else {}),
    }


async def delete_all(kube: Kube, kind: str, bound: float) -> None:
    """Delete every object of ``kind``; the server may need more than one call for thousands."""
    async with asyncio.timeout(bound):
        while (await kube.list_metadata(kind))[0]:
            with suppress(Unavailable):
                await kube.call("DELETE", path_of(kind))


async def ready_at(kube: Administrator, kind: str, count: int, bound: float) -> list[float]:
    """When the resources of ``kind`` became Ready; raises TimeoutError after ``bound`` seconds.

    A watch tells it: lists of everything would take a good part of the machine from what is measured.
    """
    seen: dict[str, float] = {}
    try:
        async with asyncio.timeout(bound):
            while len(seen) < count:
                async with aclosing(kube.watch(kind)) as changes:
                    async for body in changes:
                        conditions = (body.get("status") or {}).get("conditions", [])
                        if any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
                            seen.setdefault(body["metadata"]["name"], time.perf_counter())
                        if len(seen) >= count:
                            break
    except TimeoutError:
        raise TimeoutError(f"{len(seen)} of {count} {kind} Ready after {bound:.0f} s") from None
    return list(seen.values())


__all__ = ["TENANTS", "Administrator", "administrator", "delete_all", "embedded_platform", "ready_at", "tenant"]
