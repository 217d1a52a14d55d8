"""``python -m bench [NAME]``: measures each path as a ratio to a limit or a peer of the same run.

A benchmark is not a test: it prints and writes ``bench/results/latest.json``, and judges nothing.
"""

import argparse
import asyncio
import importlib
import json
import os
import platform
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.measure import Measure

NAMES = ("platform", "operator", "queue", "decision", "gateway", "cdc_source", "cdc_sink", "cdc_lag")
RESULTS = Path(__file__).parent / "results" / "latest.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("name", nargs="?", choices=[*NAMES, []], default=[], help="one path; all of them without it")
    chosen = parser.parse_args().name
    console = Console() if sys.stdout.isatty() else Console(width=160)  # whole in a pipe or a log
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"
    found: list[Measure] = []
    for name in [chosen] if chosen else NAMES:
        console.print(f"[bold]{name}[/bold] ...")
        found += asyncio.run(importlib.import_module(f"bench.{name}").run())
    console.print(table(found))
    keep([measure.row(machine) for measure in found])
    console.print(f"written to {RESULTS}")


def keep(rows: list[dict[str, object]]) -> None:
    """Bring ``rows`` into the results, in the place of those of the same paths; other paths keep theirs."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    former = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    measured = {row["name"] for row in rows}
    kept = [row for row in former if row["name"] not in measured]
    RESULTS.write_text(json.dumps(sorted([*kept, *rows], key=_place), indent=1) + "\n")


def _place(row: dict[str, object]) -> int:
    return NAMES.index(str(row["name"])) if row["name"] in NAMES else len(NAMES)


def table(measures: list[Measure]) -> Table:
    shown = Table(title="each path against its limit or a peer, in this run")
    numbers = ("value", "reference value", "ratio", "target")
    for heading in ("path", "measure", "value", "reference", "reference value", "ratio", "target"):
        shown.add_column(heading, justify="right" if heading in numbers else "left")
    for m in measures:
        better = m.ratio >= m.target if m.better == "higher" else m.ratio <= m.target
        colour = "green" if better else "yellow"
        limit = f"{'>=' if m.better == 'higher' else '<='} {m.target:g}"
        shown.add_row(
            m.name,
            m.measure,
            f"{m.value:,.4g} {m.unit}",
            m.reference,
            f"{m.reference_value:,.4g} {m.unit}",
            f"[{colour}]{m.ratio:.3g}[/{colour}]",
            limit,
        )
    return shown


if __name__ == "__main__":
    main()
