"""Tenants that registered themselves become Tenant resources.

The gateway's service account may create and read Tenants, nothing else. Creating is what can't overwrite: a resource
that is there already stays as it is.
"""

import json
import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp

from kernel_gateway.settings import Settings

PATH = "/apis/platform-kernel.io/v1alpha1/tenants"
TIMEOUT = 5.0
"""Seconds for an answer of the Kubernetes API."""
REGISTERED = "platform-kernel.io/registered"
"""The label of resources that registrations made."""

_POD_URL = "https://kubernetes.default.svc"

log = logging.getLogger(__name__)


class ClusterAway(Exception):
    """The Kubernetes API can't be asked now; the message is fit to show."""


class ResourceRefused(Exception):
    """The Kubernetes API will never take this resource; the message is fit to show."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A tenant that registered itself below ``parent``."""

    name: str
    display_name: str
    owner_email: str
    parent: str

    def resource(self) -> dict[str, Any]:
        return {
            "apiVersion": "platform-kernel.io/v1alpha1",
            "kind": "Tenant",
            "metadata": {"name": self.name, "labels": {REGISTERED: "true"}},
            "spec": {
                "displayName": self.display_name,
                "tier": "client",
                "parent": self.parent,
                "owner": {"email": self.owner_email},
            },
        }


class TenantResources:
    """The token is read anew for each request: a pod's is replaced every hour."""

    def __init__(self, url: str, token: Path, ca: Path) -> None:
        self._url, self._token, self._ca = url.rstrip("/"), token, ca
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """None where no way to a cluster is given."""
        if settings.kubernetes_url is None and not settings.kubernetes_token_file.exists():
            return None
        return cls(settings.kubernetes_url or _POD_URL, settings.kubernetes_token_file, settings.kubernetes_ca_file)

    async def exists(self, name: str) -> bool:
        """Raises ClusterAway."""
        status, _ = await self._ask("GET", f"{PATH}/{name}")
        return status == 200

    async def create(self, tenant: Registered) -> bool:
        """Makes the resource; False when one of that name is there. Raises ClusterAway and ResourceRefused."""
        status, _ = await self._ask("POST", PATH, tenant.resource())
        return status == 201

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _ask(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        try:
            headers = {"Authorization": f"Bearer {self._token.read_text().strip()}"}
            if self._session is None:
                context = ssl.create_default_context(cafile=str(self._ca))
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(ssl=context, limit=4),
                    timeout=aiohttp.ClientTimeout(total=TIMEOUT),
                )
            async with self._session.request(method, self._url + path, json=body, headers=headers) as answer:
                status, text = answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ClusterAway(f"the Kubernetes API can't be asked [{type(error).__name__}]") from None
        if status in (200, 201, 404, 409):
            return status, text
        refusal = f"the Kubernetes API answered {status}: {_reason(text)}"
        raise ResourceRefused(refusal) if status in (400, 422) else ClusterAway(refusal)


def _reason(text: str) -> str:
    try:
        return str(json.loads(text)["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return "no reason was given"
