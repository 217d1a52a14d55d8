"""The control plane's binary: API server, controller manager, kubectl and etcd in one, built once from Go modules.

The cache keeps it under a hash of everything that decides its content, so a changed pin or flag is a new build and an
unchanged one never is. It is linked under a temporary name and moved into place, and a lock keeps two from building at
once. The four programs are links to it: it acts by the name it is called by.
"""

import asyncio
import hashlib
import os
import platform
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from kernel_local import files, paths
from kernel_local.errors import PlatformError
from kernel_local.site import Site
from kernel_local.toolchain import go

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
_SOURCE = paths.REPOSITORY / "local" / "kube"
_FLAGS = "-buildvcs=false -mod=readonly"
_STAMPED = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")


def version() -> str:
    """The Kubernetes version that go.mod pins, without its ``v``."""
    match = re.search(r"^\s*k8s\.io/kubernetes v(\S+)$", (_SOURCE / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise PlatformError(f"{_SOURCE / 'go.mod'} pins no k8s.io/kubernetes")
    return match[1]


def _linker_flags() -> str:
    # An unstamped server calls itself v0.0.0, and clients such as helm refuse it.
    major, minor, _ = version().split(".", 2)
    values = {"gitVersion": f"v{version()}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return " ".join(["-s -w", *(f"-X {package}.{name}={v}" for package in _STAMPED for name, v in values.items())])


def folder() -> Path:
    """Where the build of exactly these sources and flags lies, or will."""
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum", "main.go"):
        digest.update((_SOURCE / name).read_bytes() + b"\0")
    digest.update(f"{_linker_flags()}\0{_FLAGS}\0{platform.machine()}".encode())
    return paths.cache() / f"kube-{version()}-{digest.hexdigest()[:12]}"


def program(name: str) -> Path:
    """The path of one of PROGRAMS. It exists once ``build`` has returned."""
    return folder() / name


async def build(site: Site, note: Callable[[str], None]) -> None:
    """Makes the binary unless the cache has it. Takes minutes, and says how far it is. Raises PlatformError."""
    target = folder()
    if target.exists():
        return
    async with files.locked(target.with_name(f".{target.name}.lock"), lambda: note("another command builds it")):
        if target.exists():
            return
        temporary = target.with_name(f".{target.name}.new")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        await _compile(site, temporary / "kube", note)
        for name in PROGRAMS:
            (temporary / name).symlink_to("kube")
        temporary.rename(target)


async def _compile(site: Site, output: Path, note: Callable[[str], None]) -> None:
    note("building the control plane (minutes, once)")
    needed = re.search(r"^go (\S+)$", (_SOURCE / "go.mod").read_text(), re.MULTILINE)
    compiler = await go.find(site, needed[1] if needed else "1")
    environment = dict(os.environ) | {"CGO_ENABLED": "0", "GOFLAGS": _FLAGS, "GOWORK": "off"}
    log = site.log("kube-build")
    log.write_text("")
    note("fetching Go modules")
    source: tuple[str | Path, ...] = ("-C", _SOURCE)
    listed = await site.processes.call(
        "kube-list", [compiler, "list", *source, "-deps", "."], environment=environment, log=log, timeout=1800
    )
    total = len(listed.splitlines())
    process = site.processes.spawn(
        "kube-build",
        [compiler, "build", *source, "-v", "-ldflags", _linker_flags(), "-o", output, "."],
        environment=environment,
        log=log,
    )
    try:
        while process.alive():
            built = sum(1 for line in log.read_text(errors="replace").splitlines() if _is_package(line))
            # Packages that the machine's Go has built before are not built, and not counted, again.
            note(f"compiled {built} of at most {total} packages, then one link")
            await asyncio.sleep(0.5)
    finally:
        process.signal(9, group=True)
        await process.ended()
        site.processes.forget("kube-build")
    if not os.access(output, os.X_OK):
        lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        raise PlatformError(f"the control plane could not be built: {lines[-1][:300]} (whole log: {log})")


def _is_package(line: str) -> bool:
    """``go build -v`` prints import paths; what else it says has spaces."""
    return bool(line) and " " not in line
