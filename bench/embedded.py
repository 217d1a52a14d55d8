"""A fresh embedded platform for a benchmark, and an administrator's client for its API server."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import kopf
import yaml

from kernel_local.platform import bring_up
from kernel_local.testing import PlatformServers, Run
from kernel_operator.kube import TENANTS, Kube, path_of

_LOOK_AGAIN = 0.1
"""Seconds between two lists of everything, which would else take a good part of the machine from what is measured."""


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
async def administrator(servers: PlatformServers) -> AsyncIterator[Kube]:
    """The operator's own client under the administrator's kubeconfig, so that both sides of a ratio cost the same."""
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
        kube = Kube()
        kube.use(kopf.AiohttpSession(server=info.server, aiohttp_session=session))
        yield kube


def tenant(name: str, tier: str = "client", parent: str | None = "root") -> dict[str, Any]:
    spec: dict[str, Any] = {"displayName": name, "tier": tier, "owner": {"email": f"o@{name}.example"}}
    return {
        "apiVersion": "platform-kernel.io/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": name},
        "spec": spec | ({"parent": parent} if parent else {}),
    }


async def ready_at(kube: Kube, kind: str, count: int, bound: float) -> list[float]:
    """When the resources of ``kind`` became Ready ; raises TimeoutError after ``bound`` seconds."""
    seen: dict[str, float] = {}
    deadline = time.perf_counter() + bound
    while len(seen) < count:
        if time.perf_counter() > deadline:
            raise TimeoutError(f"{len(seen)} of {count} {kind} Ready after {bound:.0f} s")
        page = await kube.call("GET", path_of(kind), query={"resourceVersion": "0"})
        now = time.perf_counter()
        for item in page["items"] or ():
            conditions = (item.get("status") or {}).get("conditions", [])
            if any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
                seen.setdefault(item["metadata"]["name"], now)
        await asyncio.sleep(_LOOK_AGAIN)
    return list(seen.values())


__all__ = ["TENANTS", "administrator", "embedded_platform", "ready_at", "tenant"]
