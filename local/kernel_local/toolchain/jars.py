"""The broker's jars, from Maven Central through Maven or, without it, through the PyPI package jgo.

``kafka/jars.sha256`` pins every file. What either client brings is checked against it, so both give the same folder.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from kernel_local import files, paths
from kernel_local.errors import PlatformError
from kernel_local.site import Site
from kernel_local.toolchain import uv

_HERE = Path(__file__).parent / "kafka"
_JGO = "jgo==3.2.0"
LOGGING = _HERE / "log4j2.xml"


def _pinned() -> dict[str, str]:
    """Repository path of each jar -> its SHA-256."""
    lines = (_HERE / "jars.sha256").read_text().splitlines()
    return {path: digest for digest, path in (line.split() for line in lines)}


def folder() -> Path:
    """Where the jars of exactly this list lie, or will."""
    return paths.cache() / f"kafka-jars-{hashlib.sha256((_HERE / 'jars.sha256').read_bytes()).hexdigest()[:12]}"


async def find(site: Site, note: Callable[[str], None]) -> Path:
    """The folder with the jars; fetches them once. Raises PlatformError."""
    target = folder()
    if target.exists():
        return target
    async with files.locked(target.with_name(f".{target.name}.lock"), lambda: note("another command fetches the jars")):
        if not target.exists():
            note("fetching the broker's jars (38 MB, once)")
            temporary = target.with_name(f".{target.name}.new")
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            await _fetch(site, temporary)
            temporary.rename(target)
    return target


async def _fetch(site: Site, target: Path) -> None:
    pinned = _pinned()
    work = target / "work"
    work.mkdir()
    if maven := shutil.which("mvn"):
        # A copy of the pom, because Maven writes beside it.
        pom = shutil.copy(_HERE / "pom.xml", work)
        options = ["-q", "-B", "-f", pom, "dependency:copy-dependencies", f"-DoutputDirectory={work}"]
        await site.processes.call("kafka-jars", [maven, *options], environment=os.environ, timeout=900)
    else:
        await site.processes.call(
            "kafka-jars",
            [
                *(uv.find(), "run", "--quiet", "--no-project", "--python", sys.executable, "--with", _JGO),
                *("python", _HERE / "fetch.py", work),
            ],
            environment=uv.environment(),
            data="\n".join(pinned).encode(),
            timeout=900,
        )
    found = {path.name: path for path in work.rglob("*.jar")}
    for path, digest in pinned.items():
        name = path.rpartition("/")[2]
        if name not in found or hashlib.sha256(found[name].read_bytes()).hexdigest() != digest:
            raise PlatformError(f"{name} is missing or is not the file that jars.sha256 pins")
        found[name].rename(target / name)
    shutil.rmtree(work)
