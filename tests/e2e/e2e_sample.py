"""The sample module and its service, as the tests run them."""

import asyncio
import base64
import re
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any, Protocol

import yaml
from e2e_cluster import Cluster, eventually

from kernel_local.testing import Server

EXAMPLE = Path(__file__).parents[2] / "examples" / "crm.yaml"
_TOKEN = re.compile(r"token=([A-Za-z0-9_-]{43})")


def sample_module(place: str, tenants: list[str]) -> dict[str, Any]:
    """The module of ``examples/crm.yaml`` in the namespace ``place``, for ``tenants``."""
    body: dict[str, Any] = next(d for d in yaml.safe_load_all(EXAMPLE.read_text()) if d["kind"] == "KernelModule")
    body["metadata"]["namespace"] = place
    body["spec"]["tenants"] = {"names": tenants}
    return body


def database_url(cluster: Cluster, place: str) -> str:
    """What the service finds in its Secret."""
    return secret_url(cluster, "crm-database", place)


def secret_url(cluster: Cluster, name: str, place: str) -> str:
    """The module's login from its Secret."""
    secret = cluster.get("secret", name, "-n", place)
    return base64.b64decode(secret["data"]["DATABASE_URL"]).decode()


class Sample(Protocol):
    """The service under test."""

    async def kill(self) -> None: ...
    async def start(self) -> None: ...
    async def invitation(self, email: str) -> str:
        """The token in the invitation that was mailed to ``email``."""


class LocalSample:
    """The service as a process of this machine; mails are files."""

    def __init__(self, server: Server, mails: Path) -> None:
        self._server, self._mails = server, mails

    async def start(self) -> None:
        await asyncio.to_thread(self._server.start)

    async def kill(self) -> None:
        await asyncio.to_thread(self._server.kill)

    async def invitation(self, email: str) -> str:
        def look() -> str:
            for mail in self._mails.iterdir():
                message = message_from_bytes(mail.read_bytes(), policy=policy.default)
                if message["to"] == email and (found := _TOKEN.search(message.get_content())):
                    return found[1]
            return ""

        return await asyncio.to_thread(eventually, look, bool, 10, f"a mail to {email}")
