"""A small client for the few Kubernetes calls that the operator makes, over the session that Kopf watches with.

The official client costs a Python process most of its memory; eight calls don't need it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import kopf

from kernel_operator import faults
from kernel_operator.desired import Unavailable

GROUP = "platform-kernel.io"
VERSION = "v1alpha1"
FINALIZER = f"{GROUP}/finalizer"
TENANTS = "tenants"
MODULES = "kernelmodules"

_MERGE = "application/merge-patch+json"
_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=5)
_PAGE = 500
_TOKEN_AGE = timedelta(minutes=10)
_AT_ONCE = 32
"""Calls under way; a batch of 250 statuses would else open as many connections and be turned away."""

log = logging.getLogger(__name__)


class KubeError(Exception):
    """The API server refused a call. ``status`` is the HTTP status, ``reason`` Kubernetes' word for it."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message or reason)
        self.status = status
        self.reason = reason


class LoginMissing(Exception):
    """There is no way to log in to a cluster. The message names what to set, and quotes no file."""


def find_login(settings: kopf.OperatorSettings) -> kopf.ConnectionInfo:
    """The login of this pod's service account, else of the kubeconfig. Raises LoginMissing.

    A service account's token is read again before it can run out: the kubelet replaces it within the hour.
    """
    try:
        if (mounted := kopf.login_with_service_account(settings=settings)) is not None:
            return replace(mounted, expiration=datetime.now(UTC) + _TOKEN_AGE)
        if (configured := kopf.login_with_kubeconfig(settings=settings)) is not None:
            return configured
    except Exception as error:
        trouble = f"can't be read ({type(error).__name__})"
        raise LoginMissing(f"KUBECONFIG: the login to the cluster {trouble}") from None
    raise LoginMissing("KUBECONFIG: is not set, and no service account is mounted")


async def log_in(settings: kopf.OperatorSettings) -> kopf.AiohttpSession:
    """A session for the API server. Raises LoginMissing."""
    info = find_login(settings)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
        headers=info.as_http_headers(),
        trust_env=info.trust_env,
    )
    return kopf.AiohttpSession(
        server=info.server,
        aiohttp_session=session,
        default_namespace=info.default_namespace,
        expiration=info.expiration,
    )


class Kube:
    """Calls of the API server. Every one raises KubeError, or Unavailable when no answer came."""

    def __init__(self) -> None:
        self._login: kopf.AiohttpSession | None = None
        self._logged_in = asyncio.Event()
        self._gate = asyncio.Semaphore(_AT_ONCE)

    def use(self, login: kopf.AiohttpSession) -> None:
        """Call with ``login`` from now on; Kopf logs in anew when a token is no longer taken."""
        self._login = login
        self._logged_in.set()

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        *,
        content_type: str = "application/json",
        accept: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        await self._logged_in.wait()
        assert self._login is not None
        headers = {"Accept": accept, "Content-Type": content_type}
        try:
            async with (
                self._gate,
                self._login.aiohttp_session.request(
                    method,
                    self._login.server.rstrip("/") + path,
                    json=body,
                    headers=headers,
                    params=query,
                    timeout=_TIMEOUT,
                ) as response,
            ):
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError, RuntimeError) as error:
            # RuntimeError: Kopf has logged in anew and closed the session under our hands
            raise Unavailable("Kubernetes", f"no answer from the API server ({type(error).__name__})") from error
        if response.status in (401, 429) or response.status >= 500:
            raise Unavailable("Kubernetes", f"the API server answered {response.status}")
        if not isinstance(answer, dict):  # a proxy's word, or a server that does not serve our resources yet
            raise Unavailable("Kubernetes", f"the API server answered {response.status} without an object")
        if response.status >= 400:
            raise KubeError(response.status, answer.get("reason", ""), answer.get("message", ""))
        if method != "GET":
            faults.wrote()
        return answer

    async def read(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """The object, or None when there is none."""
        return await self._or_none(self.call("GET", path_of(kind, namespace, name)))

    async def list_metadata(self, kind: str) -> tuple[list[dict[str, Any]], int]:
        """The metadata of every object of ``kind``, read in pages, and the resource version of which all are.

        Raises KubeError 410 when reading took so long that the server has forgotten that version.
        """
        query = {"limit": str(_PAGE)}
        accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
        listed: list[dict[str, Any]] = []
        while True:
            page = await self.call("GET", path_of(kind), accept=accept, query=query)
            listed += [item["metadata"] for item in page["items"] or ()]  # an empty list comes as null
            if not (token := page["metadata"].get("continue")):
                return listed, int(page["metadata"]["resourceVersion"])
            query["continue"] = token

    async def patch_status(
        self, body: Mapping[str, Any], kind: str, status: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Bring the fields of ``status`` into the status of exactly this object, and take away those that are None;
        None when the object is gone.

        Raises KubeError 422 when another object has come under its name.
        """
        meta = body["metadata"]
        current = body.get("status")
        change: list[dict[str, Any]] = [{"op": "test", "path": "/metadata/uid", "value": meta["uid"]}]
        if current is None:
            change.append({"op": "add", "path": "/status", "value": {}})
        for name, value in status.items():
            if value is not None:
                change.append({"op": "add", "path": f"/status/{name}", "value": value})
            elif name in (current or ()):
                change.append({"op": "remove", "path": f"/status/{name}"})
        path = path_of(kind, meta.get("namespace", ""), meta["name"]) + "/status"
        return await self._or_none(self.call("PATCH", path, change, content_type="application/json-patch+json"))

    async def set_finalizers(self, body: Mapping[str, Any], kind: str, finalizers: list[str]) -> dict[str, Any] | None:
        """Replace the finalizers of exactly this version of the object; None when the object is gone.

        Raises KubeError 409 when the object has changed meanwhile.
        """
        meta = body["metadata"]
        change = {"metadata": {"finalizers": finalizers, "resourceVersion": meta["resourceVersion"]}}
        path = path_of(kind, meta.get("namespace", ""), meta["name"])
        return await self._or_none(self.call("PATCH", path, change, content_type=_MERGE))

    async def read_config_map(self, namespace: str, name: str) -> dict[str, Any] | None:
        """The ConfigMap, or None when there is none."""
        return await self._or_none(self.call("GET", f"/api/v1/namespaces/{namespace}/configmaps/{name}"))

    async def read_secret(self, namespace: str, name: str) -> dict[str, Any] | None:
        """The Secret, or None when there is none."""
        return await self._or_none(self.call("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}"))

    async def create_secret(self, secret: Mapping[str, Any]) -> dict[str, Any]:
        return await self.call("POST", f"/api/v1/namespaces/{secret['metadata']['namespace']}/secrets", secret)

    async def patch_secret(self, secret: Mapping[str, Any]) -> dict[str, Any]:
        meta = secret["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/secrets/{meta['name']}"
        return await self.call("PATCH", path, secret, content_type=_MERGE)

    async def delete_secret(self, secret: Mapping[str, Any]) -> None:
        """Delete exactly this Secret, whether or not it is still there. Raises KubeError 409 when it was replaced."""
        meta = secret["metadata"]
        options = {"preconditions": {"uid": meta["uid"]}}
        path = f"/api/v1/namespaces/{meta['namespace']}/secrets/{meta['name']}"
        await self._or_none(self.call("DELETE", path, options))

    async def create_event(self, event: Mapping[str, Any]) -> None:
        namespace = event["metadata"]["namespace"]
        await self.call("POST", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", event)

    async def _or_none(self, call: Awaitable[dict[str, Any]]) -> dict[str, Any] | None:
        try:
            return await call
        except KubeError as error:
            if error.status == 404:
                return None
            raise


def path_of(kind: str, namespace: str = "", name: str = "") -> str:
    """The URL path of our resources: all of a kind, or one object."""
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{GROUP}/{VERSION}{scope}/{kind}" + (f"/{name}" if name else "")
