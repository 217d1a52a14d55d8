"""How it goes, while it goes: a live table on a terminal, one line a change of state elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

_STYLES = {
    "waiting": "dim",
    "starting": "yellow",
    "ready": "green",
    "reused": "green",
    "failed": "bold red",
    "stopping": "yellow",
    "stopped": "dim",
}


class Progress:
    """A report for Platform, and the context in which it shows."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: dict[str, tuple[str, str, str]] = {}
        self._began: dict[str, float] = {}
        self._took: dict[str, float] = {}
        self._live = (
            Live(console=console, get_renderable=self._table, refresh_per_second=8) if console.is_terminal else None
        )

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, part: str, state: str, note: str, where: str) -> None:
        before = self._rows.get(part, ("", "", ""))[0]
        if state in ("starting", "stopping") and before != state:
            self._began[part] = time.monotonic()
            self._took.pop(part, None)
        elif state in ("ready", "reused", "failed", "stopped") and part in self._began:
            self._took[part] = time.monotonic() - self._began[part]
        self._rows[part] = (state, note, where)
        if self._live is None and state not in ("waiting", "starting", "stopping") and state != before:
            # Why something failed is said once, at the end, on stderr.
            self._console.print(Text(f"{part}: {state}{self._seconds(part)} {where}".rstrip()), soft_wrap=True)

    def _seconds(self, part: str) -> str:
        return f" after {self._took[part]:.1f} s" if part in self._took else ""

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("part", "state", "seconds", "where"):
            table.add_column(heading, justify="right" if heading == "seconds" else "left", no_wrap=True)
        for part, (state, note, where) in self._rows.items():
            began = self._began.get(part)
            seconds = self._took.get(part, time.monotonic() - began if began else 0.0)
            detail = where if state in ("ready", "reused") else note
            table.add_row(part, Text(state, _STYLES.get(state, "")), f"{seconds:.1f}" if began else "", Text(detail))
        return table
