"""The gateway, run as in a cluster: under its own logins and its own service account.

Envoy stands in front of it (``parts/envoy.py``). A module's service runs wherever its developer runs it: the port at
which the gateway looks for each is in the platform's state, and ``GATEWAY_UPSTREAM_OVERRIDES`` names others.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import ClassVar

from kernel_local import paths, probe
from kernel_local.connections import Connections
from kernel_local.part import Command, Part, minimal_environment
from kernel_local.service_account import write_kubeconfig

TUNABLE = (
    "JWT_ACCESS_TTL_SEC",
    "JWT_REFRESH_TTL_SEC",
    "REFRESH_GRACE_SEC",
    "REFRESH_REUSE_REVOKES_FAMILY",
    "RBAC_CACHE_TTL_SEC",
    "CB_FAILURES",
    "CB_WINDOW_SEC",
    "CB_OPEN_SEC",
    "LOCAL_RATE_PER_SEC",
    "ANONYMOUS_REQUESTS_PER_MINUTE",
    "GATEWAY_CORS_ORIGINS",
    "GATEWAY_REGISTRATION_PARENT",
    "SMTP_URL",
    "MAIL_FROM",
    "LOG_LEVEL",
)
"""Settings of the gateway that are taken over from the environment of ``kernel up``."""
DEVELOPMENT = {"CB_OPEN_SEC": "10", "GATEWAY_REGISTRATION_PARENT": "platform"}
"""Who tries out the breaker should not wait a minute; new tenants go below the root of examples/tenants.yaml."""
SAMPLE = "crm"
"""The module whose service ``kernel demo`` runs."""
_ACCOUNT = "kernel-gateway"
_SOURCES = (paths.REPOSITORY / "workloads/gateway/kernel_gateway", paths.REPOSITORY / "workloads/common/kernel_common")


class Gateway(Part):
    name = "gateway"
    needs = ("postgres", "valkey", "operator", "kube-apiserver")
    port_names = ("gateway-api", "gateway-decision")
    grace = 35.0
    outer_port: ClassVar[str] = "gateway"
    """The name of Envoy's port, which browsers and tokens know us by."""

    @property
    def where(self) -> str:
        return f"http://127.0.0.1:{self.site.port('gateway-api')}"

    @property
    def keys(self) -> Path:
        return self.home / "keys"

    @property
    def mails(self) -> Path:
        """Where mails are written while no SMTP_URL is given."""
        return self.home / "mail"

    @property
    def envoy_files(self) -> Path:
        """Where Envoy finds what the gateway writes for it."""
        return self.site.data / "envoy-files"

    async def start(self) -> bool:
        if self.process() is not None and self.site.get("gateway") != self._fingerprint():
            self.note("it has changed: restarting")
            await self.stop()
        return await super().start()

    async def prepare(self) -> None:
        # Envoy starts after us and keeps the port while it runs; tokens and links carry it.
        if self.site.processes.find("envoy") is None:
            self.site.settle_ports((self.outer_port,))
        self.site.settle_ports((f"service-{SAMPLE}",))
        for folder in (self.keys, self.mails, self.envoy_files):
            folder.mkdir(mode=0o755 if folder == self.envoy_files else 0o700, exist_ok=True)
        if not any(self.keys.glob("*.pem")):
            await self.site.processes.call(
                "gateway-keys",
                [sys.executable, "-m", "kernel_gateway", "keys", "rotate", "--directory", self.keys],
                environment=minimal_environment(),
            )
        await write_kubeconfig(self.site, self.name, _ACCOUNT, self.home / "kubeconfig")
        self.site.put("gateway", self._fingerprint())

    def _environment(self) -> dict[str, str]:
        tuned = DEVELOPMENT | {name: value for name in TUNABLE if (value := os.environ.get(name))}
        upstreams = {SAMPLE: f"127.0.0.1:{self.site.port(f'service-{SAMPLE}')}"}
        upstreams |= json.loads(os.environ.get("GATEWAY_UPSTREAM_OVERRIDES") or "{}")
        return (
            Connections(self.site).gateway()
            | tuned
            | {
                "KERNEL_MASTER_KEY": self.site.master_key(),
                "KUBECONFIG": str(self.home / "kubeconfig"),
                "GATEWAY_HOST": "127.0.0.1",
                "GATEWAY_PORT": str(self.site.port("gateway-api")),
                "GATEWAY_DECISION_PORT": str(self.site.port("gateway-decision")),
                "GATEWAY_KEYS_DIRECTORY": str(self.keys),
                "GATEWAY_ENVOY_DIRECTORY": str(self.envoy_files),
                "GATEWAY_UPSTREAM_OVERRIDES": json.dumps(upstreams),
                "GATEWAY_PUBLIC_URL": f"https://localhost:{self.site.port(self.outer_port)}",
                "MAIL_DIRECTORY": str(self.mails),
                "PYTHONUNBUFFERED": "1",
            }
        )

    def _fingerprint(self) -> str:
        ports = ("GATEWAY_PORT", "GATEWAY_DECISION_PORT")
        values = {n: v for n, v in self._environment().items() if n not in ports}
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
        for folder in _SOURCES:
            for path in sorted(folder.rglob("*")):
                if path.suffix in (".py", ".sql", ".lua", ".json"):
                    digest.update(path.read_bytes())
        return digest.hexdigest()

    def command(self) -> Command:
        return Command([sys.executable, "-m", "kernel_gateway", "serve"], self._environment())

    async def ready(self) -> bool:
        return await probe.answers(self.site.port("gateway-api"), "/ready")
