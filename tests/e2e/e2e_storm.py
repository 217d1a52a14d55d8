"""Random changes to a family of tenants and three modules, as many as a test likes, from a seeded generator."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import kopf
import yaml
from e2e_manifests import module, namespace, tenant

AT_ONCE = 6
CLIENTS = 24
API = "/apis/platform-kernel.io/v1alpha1"


class Storm:
    """A family of tenants and three modules, and a generator of changes to them."""

    def __init__(self, session: aiohttp.ClientSession, mark: str, seed: int) -> None:
        self._session, self._mark, self._dice = session, mark, random.Random(seed)
        self.place = f"storm-{mark}"
        self.partners = [f"storm-{mark}-p{n}" for n in range(3)]
        self.clients = [f"storm-{mark}-c{n}" for n in range(CLIENTS)]
        self.slugs = [f"s{mark}{n}" for n in range(3)]
        self._fields = dict.fromkeys(self.slugs, 1)
        self.done: Counter[str] = Counter()

    async def call(self, method: str, path: str, body: Any = None) -> int:
        """The HTTP status; tried again while no answer comes."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        async with asyncio.timeout(60):
            while True:
                try:
                    async with self._session.request(method, path, json=body, headers={"Content-Type": kind}) as answer:
                        if answer.status < 500 and answer.status not in (401, 403, 429):
                            return answer.status
                except aiohttp.ClientError:
                    pass  # the API server is away
                await asyncio.sleep(0.1)

    async def begin(self) -> None:
        assert await self.call("POST", "/api/v1/namespaces", namespace(self.place)) == 201
        root = f"storm-{self._mark}"
        assert await self.call("POST", f"{API}/tenants", self._tenant(root, tier="owner")) == 201
        for name in self.partners:
            assert await self.call("POST", f"{API}/tenants", self._tenant(name, tier="partner", parent=root)) == 201

    async def applies(self, count: int) -> None:
        """Make ``count`` changes that the API server takes, several at once."""
        wanted = self.done.total() + count

        async def go_on() -> None:
            while self.done.total() < wanted:
                kind, *call = self._change()
                if await self.call(*call) < 300:
                    self.done[kind] += 1

        await asyncio.gather(*(go_on() for _ in range(AT_ONCE)))

    def _tenant(self, name: str, **spec: Any) -> dict[str, Any]:
        return tenant(name, labels={"storm": self._mark}, deletionPolicy="Delete", **spec)

    def _change(self) -> tuple[Any, ...]:
        """A kind of change, and the call that makes it: whether it is possible now is the API server's to say."""
        dice = self._dice
        if dice.random() < 0.2:
            return self._module_change()
        name = dice.choice(self.clients)
        kind = dice.choice(("create", "create", "create", "limits", "label", "suspend", "delete", "suspend partner"))
        path = f"{API}/tenants/{name}"
        match kind:
            case "create":
                return kind, "POST", f"{API}/tenants", self._tenant(name, parent=dice.choice(self.partners))
            case "limits":
                limits = {"requestsPerMinute": dice.randrange(1, 9999), "burst": dice.randrange(1, 999)}
                return kind, "PATCH", path, {"spec": {"rateLimit": limits, "displayName": f"No {dice.random()}"}}
            case "label":
                return kind, "PATCH", path, {"metadata": {"labels": {"plan": dice.choice("abc")}}}
            case "suspend":
                return kind, "PATCH", path, {"spec": {"suspended": dice.random() < 0.5}}
            case "suspend partner":
                path = f"{API}/tenants/{dice.choice(self.partners)}"
                return kind, "PATCH", path, {"spec": {"suspended": dice.random() < 0.3}}
            case _:
                return kind, "DELETE", path

    def _module_change(self) -> tuple[Any, ...]:
        dice = self._dice
        slug = dice.choice(self.slugs)
        names = dice.sample([*self.partners, *self.clients], 8)
        modules = f"{API}/namespaces/{self.place}/kernelmodules"
        kind = dice.choice(("install", "install", "tenants", "version", "switch", "retention", "uninstall"))
        match kind:
            case "install":
                body = module(
                    slug,
                    namespace=self.place,
                    tenants={"names": names},
                    deletionPolicy="Delete",
                    annotations={"platform-kernel.io/confirm-deletion": slug},
                )
                return "install", "POST", modules, body
            case "tenants":
                return kind, "PATCH", f"{modules}/{slug}", {"spec": {"tenants": {"names": names}}}
            case "version":
                version = f"1.{dice.randrange(1, 99)}.0"
                wanted = {"version": version, "permissions": [f"{slug}.notes.v{dice.randrange(9)}"], "route": None}
                return kind, "PATCH", f"{modules}/{slug}", {"spec": wanted}
            case "switch":
                return kind, "PATCH", f"{modules}/{slug}", {"spec": {"enabled": dice.random() < 0.7}}
            case "retention":
                return (
                    kind,
                    "PATCH",
                    f"{modules}/{slug}",
                    {"spec": {"events": {"retentionHours": dice.randrange(1, 99)}}},
                )
            case _:
                return kind, "DELETE", f"{modules}/{slug}"


@asynccontextmanager
async def storm_of(cluster: Any, platform: Any, seed: int) -> AsyncIterator[Storm]:
    """Everything of it is deleted afterwards, and waited for."""
    config = yaml.safe_load(Path(platform.kubernetes.kubeconfig).read_text())
    server, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    login = kopf.ConnectionInfo(
        server=server["server"],
        ca_data=server["certificate-authority-data"],
        certificate_data=user["client-certificate-data"],
        private_key_data=user["client-key-data"],
    )
    connector = aiohttp.TCPConnector(ssl=login.as_ssl_context())
    async with aiohttp.ClientSession(login.server, connector=connector) as session:
        storm = Storm(session, uuid4().hex[:5], seed)
        await storm.begin()
        yield storm
        await asyncio.to_thread(cluster.run, "delete", "kmod", "--all", "-n", storm.place, "--timeout=90s")
        await asyncio.to_thread(cluster.run, "delete", "tenants", "-l", f"storm={storm._mark}", "--timeout=90s")
        cluster.delete("namespace", storm.place, wait=False)
