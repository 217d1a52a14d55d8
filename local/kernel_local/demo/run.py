"""Runs the story on a platform that is up."""

import asyncio
import subprocess

from rich.console import Console

from kernel_local import service_account
from kernel_local.connections import Connections
from kernel_local.demo.gateway import Door
from kernel_local.demo.story import Access, tell
from kernel_local.errors import PlatformError
from kernel_local.parts.envoy import Envoy
from kernel_local.parts.sample import SampleService
from kernel_local.paths import REPOSITORY
from kernel_local.site import Site

_TRY_NEXT = """
[bold]Try next[/bold]
  kernel kubectl get platform -A                     both kinds at a glance
  kernel kubectl describe kmod crm -n crm            conditions and Events
  kernel kubectl patch tenant contoso --type=merge -p '{{"spec":{{"suspended":true}}}}'
  kernel psql -c 'DROP POLICY tenant_isolation ON module_crm.contacts'     ... it comes back
  eval "$(kernel env)"                               the connections, for your own tools
  curl --cacert {authority} {url}/api/v1/auth/login \
    --json '{{"email": "ada@acme.example", "password": "..."}}'   the password: Secret tenant-acme-owner
  kernel down                                        stop it; data is kept
(kernel is .venv/bin/kernel, or: uv run kernel)"""


def run(site: Site, console: Console) -> int:
    """Tell the story; 0 when every system gave the right answers, else 1. Raises PlatformError when a step fails."""
    connections = Connections(site)
    right = asyncio.run(tell(console, _Kubectl(site), _access(site, connections), REPOSITORY / "examples"))
    envoy = Envoy(site)
    console.print(_TRY_NEXT.format(authority=envoy.authority, url=envoy.where), highlight=False, soft_wrap=True)
    return 0 if right else 1


class _Kubectl:
    def __init__(self, site: Site) -> None:
        self._command = [str(service_account.program(site.get("cluster"))), f"--kubeconfig={site.data / 'kubeconfig'}"]

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run([*self._command, *arguments], capture_output=True, text=True, timeout=180, check=False)
        if done.returncode:
            raise PlatformError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout


class _Sample:
    """The sample service, started and stopped under the lock of the data directory."""

    def __init__(self, site: Site, database_url: str) -> None:
        self._site, self._part = site, SampleService(site, database_url)

    async def start(self) -> bool:
        async with self._site.locked():
            return await self._part.start()

    async def stop(self, grace: float | None = None) -> bool:
        async with self._site.locked():
            return await self._part.stop(grace)


def _access(site: Site, connections: Connections) -> Access:
    admin, envoy = connections.administrator(), Envoy(site)
    kafka: dict[str, str | int | float | bool] = {
        "bootstrap.servers": admin["KAFKA_BROKERS"],
        "security.protocol": admin["KAFKA_SECURITY_PROTOCOL"],
    }
    if admin["KAFKA_SECURITY_PROTOCOL"].startswith("SASL"):
        kafka |= {
            "sasl.mechanisms": admin["KAFKA_SASL_MECHANISM"],
            "sasl.username": admin["KAFKA_USERNAME"],
            "sasl.password": admin["KAFKA_PASSWORD"],
        }
    return Access(
        database_url=admin["DATABASE_URL"],
        kafka=kafka,
        clickhouse_url=admin["CLICKHOUSE_URL"],
        clickhouse_database=admin["CLICKHOUSE_DATABASE"],
        valkey_url=admin["VALKEY_URL"],
        master_key=site.master_key(),
        door=Door(envoy.where, envoy.authority),
        service=lambda database_url: _Sample(site, database_url),
    )
