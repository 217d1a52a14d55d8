"""The operator, run as in a cluster: under its own service account and rights, with its own logins.

Before it starts, the CRDs and its RBAC rules are applied as the administrator, and a token is asked for. When its
connections, these files or its own code have changed since it was started, ``kernel up`` restarts it.
"""

import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path

from kernel_local import paths, probe
from kernel_local.connections import Connections
from kernel_local.errors import PartFailed
from kernel_local.part import Command, Part
from kernel_local.service_account import NAMESPACE, kubectl, write_kubeconfig

TUNABLE = ("OPERATOR_RESYNC_SECONDS", "OPERATOR_STALL_SECONDS", "OPERATOR_FAULT_AFTER_WRITES", "LOG_LEVEL")
"""Settings of the operator that are taken over from the environment of ``kernel up``."""
DEVELOPMENT = {"OPERATOR_RESYNC_SECONDS": "10"}
"""Who tries things out should not wait a minute to see a repair."""
_ACCOUNT = "kernel-operator"
_RULES = (paths.REPOSITORY / "crds", paths.REPOSITORY / "operator/rbac")
_SOURCES = (
    *_RULES,
    paths.REPOSITORY / "operator/kernel_operator",
    paths.REPOSITORY / "workloads/common/kernel_common",
)


class Operator(Part):
    name = "operator"
    needs = ("postgres", "kafka", "valkey", "clickhouse", "kube-apiserver")
    port_names = ("operator",)
    grace = 15.0

    @property
    def where(self) -> str:
        return f"http://127.0.0.1:{self.site.port('operator')}"

    @property
    def kubeconfig(self) -> Path:
        """The operator's own, with a service account token."""
        return self.home / "kubeconfig"

    async def start(self) -> bool:
        if self.process() is not None and self.site.get("operator") != self._fingerprint():
            self.note("it has changed: restarting")
            await self.stop()
        return await super().start()

    async def prepare(self) -> None:
        await self._apply()
        await write_kubeconfig(self.site, self.name, _ACCOUNT, self.kubeconfig)
        self.site.put("operator", self._fingerprint())

    async def _apply(self) -> None:
        self.note("applying CRDs and rights")
        sources = [f"--filename={folder}" for folder in _RULES]
        options = ("apply", "--server-side", "--force-conflicts", "--field-manager=kernel-local")
        await kubectl(self.site, self.name, *options, *sources)
        await kubectl(
            self.site,
            self.name,
            *("wait", "--for=condition=Established", "--timeout=60s", "crd"),
            *("tenants.platform-kernel.io", "kernelmodules.platform-kernel.io"),
        )
        # Established is not yet answering: for a moment, new resources are "(re)initializing".
        for attempt in range(50):
            try:
                await kubectl(self.site, self.name, "get", "tenants,kernelmodules", "--all-namespaces", "--output=name")
                return
            except PartFailed:
                if attempt == 49:
                    raise
                await asyncio.sleep(0.1)

    def _environment(self) -> dict[str, str]:
        tuned = DEVELOPMENT | {name: value for name in TUNABLE if (value := os.environ.get(name))}
        return (
            Connections(self.site).operator()
            | tuned
            | {
                "KERNEL_MASTER_KEY": self.site.master_key(),
                "KUBECONFIG": str(self.kubeconfig),
                "OPERATOR_NAMESPACE": NAMESPACE,
                "OPERATOR_SELECTOR_NAMESPACES": "",
                "OPERATOR_HTTP_HOST": "127.0.0.1",
                "OPERATOR_HTTP_PORT": str(self.site.port("operator")),
                "PYTHONUNBUFFERED": "1",
            }
        )

    def _fingerprint(self) -> str:
        values = {n: v for n, v in self._environment().items() if n != "OPERATOR_HTTP_PORT"}
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
        for folder in _SOURCES:
            for path in sorted(folder.rglob("*")):
                if path.suffix in (".py", ".sql", ".yaml"):
                    digest.update(path.read_bytes())
        return digest.hexdigest()

    def command(self) -> Command:
        return Command([sys.executable, "-m", "kernel_operator"], self._environment())

    async def ready(self) -> bool:
        return await probe.answers(self.site.port("operator"), "/readyz")
