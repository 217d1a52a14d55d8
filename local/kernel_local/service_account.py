"""kubectl as the administrator, and the logins of service accounts: how our own processes reach the cluster."""

import base64
import json
import shutil
from pathlib import Path
from typing import Any

from kernel_local import files
from kernel_local.errors import PartFailed, PlatformError
from kernel_local.part import minimal_environment
from kernel_local.site import Site
from kernel_local.toolchain import kube

NAMESPACE = "platform-kernel"
_LIFETIME = "8760h"


def program(cluster: str) -> Path:
    """A kubectl for the cluster: our own build for the embedded one, the machine's for another, ours if it has none."""
    machine = shutil.which("kubectl") if cluster == "current" else None
    return Path(machine) if machine else kube.program("kubectl")


async def kubectl(site: Site, part: str, *arguments: str) -> str:
    """What kubectl prints, run for ``part`` as the administrator. Raises PartFailed."""
    try:
        return await site.processes.call(
            "kubectl",
            [program(site.get("cluster")), *arguments],
            environment=minimal_environment() | {"KUBECONFIG": str(site.data / "kubeconfig")},
            timeout=120,
        )
    except PlatformError as error:
        raise PartFailed(f"{part}: {error}") from None


async def _token(site: Site, part: str, account: str) -> str:
    request = ("create", "token", account, f"--namespace={NAMESPACE}", f"--duration={_LIFETIME}")
    return (await kubectl(site, part, *request)).strip()


async def write_token(site: Site, part: str, account: str, folder: Path) -> None:
    """Writes what a pod would find mounted: ``token`` and ``ca.crt``. Raises PartFailed."""
    files.write(folder / "token", await _token(site, part, account))
    files.write(folder / "ca.crt", _authority(site))


def address(site: Site) -> str:
    """The URL of the API server."""
    return str(_cluster(site)["server"])


def _authority(site: Site) -> str:
    cluster = _cluster(site)
    if data := cluster.get("certificate-authority-data"):
        return base64.b64decode(data).decode()
    return Path(cluster["certificate-authority"]).read_text() if "certificate-authority" in cluster else ""


def _cluster(site: Site) -> dict[str, Any]:
    admin: dict[str, Any] = json.loads((site.data / "kubeconfig").read_text())
    found: dict[str, Any] = admin["clusters"][0]["cluster"]
    return found


async def write_kubeconfig(site: Site, part: str, account: str, target: Path) -> None:
    """Writes the administrator's kubeconfig to ``target`` with a token of the service account in place of his own
    login. Raises PartFailed."""
    token = await _token(site, part, account)
    admin: dict[str, Any] = json.loads((site.data / "kubeconfig").read_text())
    admin["users"] = [{"name": user["name"], "user": {"token": token}} for user in admin["users"]]
    files.write(target, json.dumps(admin, indent=1))
