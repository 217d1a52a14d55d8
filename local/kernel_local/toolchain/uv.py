"""Installing a registry package into the cache, beside the project's environment, with uv."""

import os
import shutil
import sys
from pathlib import Path

from kernel_local import files, paths
from kernel_local.errors import PlatformError
from kernel_local.site import Site

_SYSTEM_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def find() -> Path:
    """The uv that runs us, one on PATH, or the one the bootstrap put into the cache."""
    for candidate in (os.environ.get("UV"), shutil.which("uv"), paths.cache() / "uv" / "bin" / "uv"):
        if candidate and Path(candidate).exists():
            return Path(candidate)
    raise PlatformError("uv is not to be found: run `make up` once, or install it (https://docs.astral.sh/uv)")


def environment() -> dict[str, str]:
    """The caller's, with what the machine says to pip said to uv (and to Python's requests) as well: which
    certificates to trust, which index to ask. Without a word, the system's certificates."""
    own = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    trusted = own.get("SSL_CERT_FILE") or own.get("PIP_CERT") or _SYSTEM_CERTIFICATES
    if Path(trusted).exists():
        own |= {"SSL_CERT_FILE": trusted, "REQUESTS_CA_BUNDLE": own.get("REQUESTS_CA_BUNDLE", trusted)}
    if "PIP_INDEX_URL" in own:
        own.setdefault("UV_DEFAULT_INDEX", own["PIP_INDEX_URL"])
    return own | {"UV_PYTHON_DOWNLOADS": own.get("UV_PYTHON_DOWNLOADS", "never")}


async def install(site: Site, requirement: str) -> Path:
    """A folder with the pinned ``name==version`` installed, made once. Raises PlatformError."""
    target = paths.cache() / requirement.replace("==", "-")
    async with files.locked(target.with_name(f".{target.name}.lock"), lambda: None):
        if not target.exists():
            temporary = target.with_name(f".{target.name}.new")
            shutil.rmtree(temporary, ignore_errors=True)
            await site.processes.call(
                "install-" + requirement.partition("==")[0],
                [
                    *(find(), "pip", "install", "--quiet", "--no-deps", "--python", sys.executable),
                    *("--target", temporary, requirement),
                ],
                environment=environment(),
                timeout=900,
            )
            temporary.rename(target)
    return target
