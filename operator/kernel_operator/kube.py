"""A small client for the few Kubernetes calls that the operator makes, over the session that Kopf watches with.

The official client costs a Python process most of its memory; eight calls don't need it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import kopf

from kernel_operator.desired import Unavailable

GROUP = "platform-kernel.io"
VERSION = "v1alpha1"
FINALIZER = f"{GROUP}/finalizer"
TENANTS = "tenants"
MODULES = "kernelmodules"

_MERGE = "application/merge-patch+json"
_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=5)
_PAGE = 500

log = logging.getLogger(__name__)


class KubeError(Exception):
    """The API server refused a call. ``status`` is the HTTP status, ``reason`` Kubernetes' word for it."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message or reason)
        self.status = status
        self.reason = reason


async def credentials(settings: kopf.OperatorSettings) -> kopf.AiohttpSession:
    """A session for the API server of this pod's service account, else of the kubeconfig."""
    info = kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)
    if info is None:
        raise kopf.LoginError("no service account and no kubeconfig: set KUBECONFIG")
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
        headers=info.as_http_headers(),
        trust_env=info.trust_env,
    )
    return kopf.AiohttpSession(server=info.server, aiohttp_session=session, default_namespace=info.default_namespace)


class Kube:
    """Calls of the API server. Every one raises KubeError, or Unavailable when no answer came."""

    def __init__(self) -> None:
        self._login: kopf.AiohttpSession | None = None
        self._logged_in = asyncio.Event()

    def use(self, login: kopf.AiohttpSession) -> None:
        """Call with ``login`` from now on; Kopf logs in anew when a token is no longer taken."""
        self._login = login
        self._logged_in.set()

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content_type: str = "application/json",
        accept: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        await self._logged_in.wait()
        assert self._login is not None
        headers = {"Accept": accept, "Content-Type": content_type}
        try:
            async with self._login.aiohttp_session.request(
                method,
                self._login.server.rstrip("/") + path,
                json=body,
                headers=headers,
                params=query,
                timeout=_TIMEOUT,
            ) as response:
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError, RuntimeError) as error:
            raise Unavailable("Kubernetes", f"no answer from the API server ({type(error).__name__})") from error
        if response.status in (401, 429) or response.status >= 500:
            raise Unavailable("Kubernetes", f"the API server answered {response.status}")
        if response.status >= 400:
            raise KubeError(response.status, answer.get("reason", ""), answer.get("message", ""))
        return dict(answer)

    async def read(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """The object, or None when there is none."""
        return await self._or_none(self.call("GET", path_of(kind, namespace, name)))

    async def list_metadata(self, kind: str) -> AsyncIterator[dict[str, Any]]:
        """The metadata of every object of ``kind``, read in pages."""
        query = {"limit": str(_PAGE)}
        accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
        while True:
            page = await self.call("GET", path_of(kind), accept=accept, query=query)
            for item in page["items"] or ():  # an empty list comes as null
                yield item["metadata"]
            if not (token := page["metadata"].get("continue")):
                return
            query["continue"] = token

    async def patch_status(
        self, kind: str, namespace: str, name: str, status: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Merge ``status`` into the object's; None when the object is gone."""
        path = path_of(kind, namespace, name) + "/status"
        return await self._or_none(self.call("PATCH", path, {"status": status}, content_type=_MERGE))

    async def set_finalizers(self, body: Mapping[str, Any], kind: str, finalizers: list[str]) -> dict[str, Any] | None:
        """Replace the finalizers of exactly this version of the object; None when the object is gone.

        Raises KubeError 409 when the object has changed meanwhile.
        """
        meta = body["metadata"]
        change = {"metadata": {"finalizers": finalizers, "resourceVersion": meta["resourceVersion"]}}
        path = path_of(kind, meta.get("namespace", ""), meta["name"])
        return await self._or_none(self.call("PATCH", path, change, content_type=_MERGE))

    async def read_secret(self, namespace: str, name: str) -> dict[str, Any] | None:
        """The Secret, or None when there is none."""
        return await self._or_none(self.call("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}"))

    async def create_secret(self, secret: Mapping[str, Any]) -> dict[str, Any]:
        return await self.call("POST", f"/api/v1/namespaces/{secret['metadata']['namespace']}/secrets", secret)

    async def patch_secret(self, secret: Mapping[str, Any]) -> dict[str, Any]:
        meta = secret["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/secrets/{meta['name']}"
        return await self.call("PATCH", path, secret, content_type=_MERGE)

    async def delete_secret(self, namespace: str, name: str) -> None:
        """Delete the Secret, whether or not it is there."""
        await self._or_none(self.call("DELETE", f"/api/v1/namespaces/{namespace}/secrets/{name}"))

    async def create_event(self, event: Mapping[str, Any]) -> None:
        namespace = event["metadata"]["namespace"]
        await self.call("POST", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", event)

    async def _or_none(self, call: Any) -> dict[str, Any] | None:
        try:
            return await call  # type: ignore[no-any-return]
        except KubeError as error:
            if error.status == 404:
                return None
            raise


def path_of(kind: str, namespace: str = "", name: str = "") -> str:
    """The URL path of our resources: all of a kind, or one object."""
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{GROUP}/{VERSION}{scope}/{kind}" + (f"/{name}" if name else "")
