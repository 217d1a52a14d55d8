"""The gateway, run as in a cluster: under its own logins and its own service account.

Envoy stands in front of it (``parts/envoy.py``). A module's service runs wherever its developer runs it: the port at
which the gateway looks for each is in the platform's state, and ``GATEWAY_UPSTREAM_OVERRIDES`` names others.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

from kernel_local import paths, probe
from kernel_local.connections import Connections
from kernel_local.part import Command, Part, minimal_environment
from kernel_local.parts import envoy, kafka
from kernel_local.service_account import address, write_token

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
GRPC_PORT = "gateway_grpc"
_ACCOUNT = "kernel-gateway"
_SOURCES = (paths.REPOSITORY / "workloads/gateway/kernel_gateway", paths.REPOSITORY / "workloads/common/kernel_common")


class Gateway(Part):
    name = "gateway"
    needs = ("postgres", "valkey", "operator", "kube-apiserver", "data")
    port_names = (envoy.API_PORT, envoy.DECISION_PORT, GRPC_PORT)
    grace = 35.0

    @property
    def where(self) -> str:
        return f"http://127.0.0.1:{self.site.port(envoy.API_PORT)}"

    @property
    def keys(self) -> Path:
        return self.home / "keys"

    @property
    def mails(self) -> Path:
        """Where mails are written while no SMTP_URL is given."""
        return self.home / "mail"

    async def start(self) -> bool:
        if self.process() is not None and self.site.get("gateway") != self._fingerprint():
            self.note("it has changed: restarting")
            await self.stop()
        return await super().start()

    async def prepare(self) -> None:
        # Envoy starts after us and keeps the port while it runs; tokens and links carry it.
        if self.site.processes.find("envoy") is None:
            self.site.settle_ports((envoy.HTTPS_PORT, envoy.ADMIN_PORT))
        if not self.site.port(f"service-{SAMPLE}"):  # once: whoever listens there is the service
            self.site.settle_ports((f"service-{SAMPLE}",))
        for folder in (self.keys, self.mails, envoy.directory(self.site)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not any(self.keys.glob("*.pem")):
            await self.site.processes.call(
                "gateway-keys",
                [sys.executable, "-m", "kernel_gateway", "keys", "rotate", "--directory", self.keys],
                environment=minimal_environment(),
            )
        await write_token(self.site, self.name, _ACCOUNT, self.home)
        self.site.put("gateway", self._fingerprint())

    def _environment(self) -> dict[str, str]:
        tuned = DEVELOPMENT | {name: value for name in TUNABLE if (value := os.environ.get(name))}
        upstreams = {SAMPLE: f"127.0.0.1:{self.site.port(f'service-{SAMPLE}')}"}
        if port := self.site.port("data"):
            upstreams["data"] = f"127.0.0.1:{port}"
        upstreams |= json.loads(os.environ.get("GATEWAY_UPSTREAM_OVERRIDES") or "{}")
        return (
            Connections(self.site).gateway()
            | self._kafka()
            | tuned
            | {
                "KERNEL_MASTER_KEY": self.site.master_key(),
                "KUBERNETES_URL": address(self.site),
                "KUBERNETES_TOKEN_FILE": str(self.home / "token"),
                "KUBERNETES_CA_FILE": str(self.home / "ca.crt"),
                "GATEWAY_HOST": "127.0.0.1",
                "GATEWAY_PORT": str(self.site.port(envoy.API_PORT)),
                "GATEWAY_DECISION_PORT": str(self.site.port(envoy.DECISION_PORT)),
                "GATEWAY_GRPC_PORT": str(self.site.port(GRPC_PORT)),
                "GATEWAY_KEYS_DIRECTORY": str(self.keys),
                "GATEWAY_ENVOY_ADMIN_PORT": str(self.site.port(envoy.ADMIN_PORT)),
                "GATEWAY_ENVOY_DIRECTORY": str(envoy.directory(self.site)),
                "GATEWAY_UPSTREAM_OVERRIDES": json.dumps(upstreams),
                "GATEWAY_PUBLIC_URL": f"https://localhost:{self.site.port(envoy.HTTPS_PORT)}",
                "GATEWAY_SHUTDOWN_DELAY": "0",
                "MAIL_DIRECTORY": str(self.mails),
                "PYTHONUNBUFFERED": "1",
            }
        )

    def _kafka(self) -> dict[str, str]:
        """As the operator reaches it, under the gateway's own login."""
        given = {n: v for n, v in Connections(self.site).operator().items() if n.startswith("KAFKA_")}
        password = self.site.secret(f"kafka_{kafka.GATEWAY}")
        return given | {"KAFKA_USERNAME": kafka.GATEWAY, "KAFKA_PASSWORD": password}

    def _fingerprint(self) -> str:
        ports = ("GATEWAY_PORT", "GATEWAY_DECISION_PORT", "GATEWAY_GRPC_PORT")
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
        return await probe.answers(self.site.port(envoy.API_PORT), "/ready")
