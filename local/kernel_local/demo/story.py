"""The story the demo tells: apply the examples, wait as a person would, then ask every system."""

import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from kernel_local.demo import systems
from kernel_local.demo.gateway import Door, Service, visits
from kernel_local.demo.proof import Proof
from kernel_local.demo.repair import repairs
from kernel_local.demo.stream import streams

Kubectl = Callable[..., str]
"""Runs kubectl with these arguments and returns what it prints; raises PlatformError when it fails."""


@dataclass(frozen=True, slots=True)
class Access:
    """The administrator's way to each system."""

    database_url: str
    kafka: Mapping[str, systems.KafkaOption]
    clickhouse_url: str
    clickhouse_database: str
    valkey_url: str
    master_key: str
    door: Door
    service: Callable[[str], Service]
    """The sample module's service, given the DATABASE_URL of the module's Secret."""


async def tell(console: Console, kubectl: Kubectl, access: Access, examples: Path) -> bool:
    """Apply ``examples``, wait, prove. True when every answer was the right one."""
    for step in (
        ("apply", "-f", str(examples / "tenants.yaml")),
        ("wait", "--for=condition=Ready", "tenants", "--all", "--timeout=90s"),
        ("apply", "-f", str(examples / "crm.yaml")),
        ("wait", "--for=condition=Ready", "kernelmodule/crm", "-n", "crm", "--timeout=90s"),
        ("get", "tenants"),
        ("get", "kernelmodules", "-A"),
    ):
        console.print(f"[bold]$ kubectl {' '.join(_short(word, examples) for word in step)}[/bold]")
        started = time.perf_counter()
        console.print(kubectl(*step).rstrip(), highlight=False)
        console.print(f"[dim]{time.perf_counter() - started:.1f} s[/dim]\n")
    encoded = kubectl("get", "secret", "crm-database", "-n", "crm", "-o", "jsonpath={.data.DATABASE_URL}")
    database_url = base64.b64decode(encoded).decode()
    proofs = await _ask(database_url, access)
    console.print(_table("What each system answers", proofs))
    console.print("\n[bold]The service of crm starts; its users come in through Envoy ...[/bold]")
    service = access.service(database_url)
    await service.start()
    visited = await visits(access.door, kubectl, service)
    console.print(_table("What they meet", visited))
    proofs += visited
    console.print("\n[bold]A change goes its way ...[/bold]")
    streamed = await streams(access.door, kubectl, access.kafka)
    console.print(_table("What follows it", streamed))
    proofs += streamed
    console.print("\n[bold]Somebody drops a policy and a topic behind the operator's back ...[/bold]")
    repaired = await repairs(access.database_url, access.kafka)
    console.print(_table("What became of it", repaired))
    proofs += repaired
    wrong = [proof for proof in proofs if not proof.right]
    if wrong:
        console.print(f"[red]{len(wrong)} of {len(proofs)} answers are wrong.[/red]")
    else:
        console.print(f"[green]All {len(proofs)} answers are right.[/green]")
    return not wrong


async def _ask(database_url: str, access: Access) -> list[Proof]:
    return [
        *await systems.postgres(database_url),
        *await systems.kafka(access.kafka),
        *await systems.clickhouse(access.clickhouse_url, access.clickhouse_database, access.master_key),
        *await systems.valkey(access.valkey_url),
    ]


def _table(title: str, proofs: list[Proof]) -> Table:
    table = Table(title=title)
    for heading in ("system", "asked", "answer", "ms"):
        table.add_column(heading, justify="right" if heading == "ms" else "left")
    before = ""
    for proof in proofs:
        mark = "[green]✓[/green]" if proof.right else "[red]✗[/red]"
        system = "" if proof.system == before else proof.system
        table.add_row(system, proof.question, f"{mark} {proof.answer}", f"{proof.milliseconds:.1f}")
        before = proof.system
    return table


def _short(word: str, examples: Path) -> str:
    return word.replace(f"{examples}/", "examples/")
