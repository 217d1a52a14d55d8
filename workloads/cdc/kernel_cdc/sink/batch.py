"""What waits to be written to one table: rows, sweeps behind them, and which messages they were."""

import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import chain

from kernel_cdc.sink.changes import Change, Sweep

Place = tuple[str, int]
"""Topic and partition."""


@dataclass(slots=True)
class Part:
    """Of one partition: its rows in order, and the sweep behind them. Nothing follows a sweep."""

    first: int
    lines: list[bytes] = field(default_factory=list)
    sweep: Sweep | None = None


@dataclass(slots=True)
class Batch:
    parts: dict[Place, Part] = field(default_factory=dict)
    newest: str = ""
    rows: int = 0
    size: int = 0
    """Bytes."""
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    """Of this one insert, however often it is sent. The same rows from Kafka again are another insert: the engine keeps
    the last of equal versions, so what is written again must be all of it, in order. A row that was left out as known
    would else be hidden by an older one before it."""

    def add(self, change: Change, place: Place, offset: int) -> None:
        """Raises ValueError behind a sweep."""
        part = self.parts.get(place)
        if part is None:
            part = self.parts[place] = Part(offset)
        elif part.sweep is not None:
            raise ValueError("a row behind a sweep")
        part.lines.append(change.line)
        self.rows += 1
        self.size += len(change.line)
        self.newest = max(self.newest, change.committed_at)

    def add_sweep(self, sweep: Sweep, place: Place, offset: int) -> None:
        """Raises ValueError behind another one."""
        part = self.parts.setdefault(place, Part(offset))
        if part.sweep is not None:
            raise ValueError("a sweep behind a sweep")
        part.sweep = sweep

    def is_swept(self, place: Place) -> bool:
        part = self.parts.get(place)
        return part is not None and part.sweep is not None

    def drop(self, places: Collection[Place]) -> None:
        """Another process writes these partitions now. What comes late from here would stand behind its rows."""
        gone = [self.parts.pop(place) for place in places if place in self.parts]
        self.rows -= sum(len(part.lines) for part in gone)
        self.size -= sum(len(line) for part in gone for line in part.lines)
        if gone:
            self.token = secrets.token_hex(16)

    @property
    def lines(self) -> Iterable[bytes]:
        return chain.from_iterable(part.lines for part in self.parts.values())

    @property
    def sweeps(self) -> dict[tuple[int, int], list[int]]:
        """LSN and number of partitions, to the partitions that are swept."""
        found: dict[tuple[int, int], list[int]] = {}
        for part in self.parts.values():
            if part.sweep is not None:
                found.setdefault((part.sweep.lsn, part.sweep.partitions), []).append(part.sweep.partition)
        return found
