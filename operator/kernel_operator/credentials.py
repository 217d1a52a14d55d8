"""The database login of a module, in a Secret beside it.

The Secret is the source of truth: PostgreSQL is given what the Secret holds. It is written before
PostgreSQL hears of it, so a crash in between leaves a Secret whose password is set on the next try.
A Secret that lost its password, or holds one that we would not make, gets a new one.
"""

import base64
import re
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from kernel_operator.kube import GROUP, VERSION, Kube, KubeError
from kernel_operator.resources import KernelModule

_PASSWORD = re.compile(r"[A-Za-z0-9_-]{40,128}")


class SecretTaken(Exception):
    """A Secret of that name is there and is not this module's."""


def secret_name(module: KernelModule) -> str:
    return f"{module.name}-database"


async def module_password(kube: Kube, module: KernelModule, database_url: str, host: str = "") -> str:
    """The password that the module's service finds in its Secret, which is made or mended when it has to be.

    ``database_url`` is the operator's own: the module gets its host, port and database. Raises
    SecretTaken, KubeError (403, 404 of the namespace) and Unavailable.
    """
    found = await kube.read_secret(module.namespace, secret_name(module))
    if found is not None and not _is_ours(found, module):
        raise SecretTaken(f"the Secret {secret_name(module)!r} belongs to something else; rename it, or this module")
    password = password_of(found)
    wanted = _secret(module, password or secrets.token_urlsafe(36), database_url, host)
    if found is None:
        try:
            await kube.create_secret(wanted)
        except KubeError as error:
            if error.status != 409:
                raise
            return await module_password(kube, module, database_url, host)
    elif not _holds(found, wanted):
        await kube.patch_secret(wanted)
    return base64.b64decode(wanted["data"]["password"]).decode()


async def remove_secret(kube: Kube, module: KernelModule) -> None:
    """Delete the module's Secret; one of that name that is somebody else's stays. Raises KubeError and Unavailable."""
    found = await kube.read_secret(module.namespace, secret_name(module))
    if found is not None and _is_ours(found, module):
        await kube.delete_secret(found)


def _is_ours(secret: Mapping[str, Any], module: KernelModule) -> bool:
    owners = secret["metadata"].get("ownerReferences") or []
    mine = secret["metadata"].get("labels", {}).get(f"{GROUP}/module") == module.name
    return mine and all(owner.get("kind") == "KernelModule" and owner.get("name") == module.name for owner in owners)


def _holds(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    data, owners = found.get("data") or {}, found["metadata"].get("ownerReferences") or []
    return wanted["data"].items() <= data.items() and [o.get("uid") for o in owners] == [
        wanted["metadata"]["ownerReferences"][0]["uid"]
    ]


def encoded(data: Mapping[str, str]) -> dict[str, str]:
    """``data`` as a Secret holds it."""
    return {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}


def password_of(secret: Mapping[str, Any] | None) -> str | None:
    """The password that ``secret`` holds; None when it holds none that we would have made."""
    text = ((secret or {}).get("data") or {}).get("password")
    if not text:
        return None
    try:
        password = base64.b64decode(text, validate=True).decode("ascii")
    except ValueError:
        return None
    return password if _PASSWORD.fullmatch(password) else None


def _secret(module: KernelModule, password: str, database_url: str, host: str) -> dict[str, Any]:
    url = urlsplit(database_url)
    user, where, port = f"module_{module.slug}", host or url.hostname or "localhost", url.port or 5432
    name = url.path.lstrip("/")
    query = f"?{url.query}" if url.query else ""
    data = {
        "username": user,
        "password": password,
        "host": where,
        "port": str(port),
        "database": name,
        "DATABASE_URL": f"postgres://{user}:{password}@{where}:{port}/{name}{query}",
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": secret_name(module),
            "namespace": module.namespace,
            "labels": {"app.kubernetes.io/managed-by": "platform-kernel", f"{GROUP}/module": module.name},
            "ownerReferences": [
                {
                    "apiVersion": f"{GROUP}/{VERSION}",
                    "kind": "KernelModule",
                    "name": module.name,
                    "uid": module.uid,
                    "controller": True,
                }
            ],
        },
        "type": "Opaque",
        "data": encoded(data),
    }
