"""Tables that ClickHouse refuses rows of.

Nothing of such a table is skipped and nothing of it is kept in memory but the rows that were refused, which are tried
again. The partitions' offsets stay where its first row was refused, though the other tables go on past it. When the
rows are taken, reading goes back there: what the others get twice is the same version of the same row.
"""

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from kernel_cdc import metrics
from kernel_cdc.sink.batch import Batch, Place

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Stopped:
    reason: str
    refused: Batch
    held: dict[Place, int]
    """The offset of the first message of each partition that is not written."""


class StoppedTables:
    def __init__(self) -> None:
        self._tables: dict[str, Stopped] = {}

    def __contains__(self, table: str) -> bool:
        return table in self._tables

    def __bool__(self) -> bool:
        return bool(self._tables)

    def items(self) -> list[tuple[str, Stopped]]:
        return list(self._tables.items())

    def stop(self, table: str, reason: str, refused: Batch) -> None:
        _log.error("table %s is stopped: %s", table, reason)
        held = {place: part.first for place, part in refused.parts.items()}
        self._tables[table] = Stopped(reason, refused, held)
        metrics.sink_stopped.labels(table).set(1)

    def hold(self, table: str, place: Place, offset: int) -> None:
        """A message of a stopped table came."""
        held = self._tables[table].held
        held[place] = min(offset, held.get(place, offset))

    def go_on(self, table: str) -> dict[Place, int]:
        """From where the table's messages have to be read again."""
        _log.info("table %s goes on", table)
        metrics.sink_stopped.labels(table).set(0)
        return self._tables.pop(table).held

    def forget(self, places: Collection[Place]) -> None:
        """These partitions are another's now; it will find out by itself."""
        for table, stopped in self.items():
            stopped.refused.drop(places)
            for place in places:
                stopped.held.pop(place, None)
            if not stopped.held:
                self.go_on(table)

    @property
    def held(self) -> dict[str, list[int]]:
        """Partitions with messages that are not written, by table."""
        return {table: sorted(partition for _, partition in stopped.held) for table, stopped in self._tables.items()}

    def limit(self, place: Place, offset: int) -> int:
        """Up to where ``place`` is done, when all is that is not held back."""
        held: Iterable[int] = (s.held[place] for s in self._tables.values() if place in s.held)
        return min(offset, *held, offset)

    @property
    def trouble(self) -> str | None:
        return next((f"ClickHouse: {table}: {stopped.reason}" for table, stopped in self._tables.items()), None)
