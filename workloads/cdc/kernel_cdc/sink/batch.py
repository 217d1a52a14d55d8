"""What waits to be written to one table: rows, and which messages they were."""

from dataclasses import dataclass, field
from hashlib import blake2b

from kernel_cdc.sink.changes import Change

Place = tuple[str, int]
"""Topic and partition."""


@dataclass(slots=True)
class Batch:
    lines: list[bytes] = field(default_factory=list)
    ranges: dict[Place, tuple[int, int]] = field(default_factory=dict)
    """The first and the last offset of each partition."""
    newest: str = ""
    size: int = 0
    """Bytes."""

    def add(self, change: Change, place: Place, offset: int) -> None:
        self.lines.append(change.line)
        self.size += len(change.line)
        first, last = self.ranges.get(place, (offset, offset))
        self.ranges[place] = min(first, offset), max(last, offset)
        self.newest = max(self.newest, change.committed_at)

    @property
    def token(self) -> str:
        """The same for the same messages, and never for others: offsets alone would come again with a topic that was
        made anew, and the engine would drop new rows as old ones."""
        ranges = ",".join(f"{topic}:{partition}:{a}-{b}" for (topic, partition), (a, b) in sorted(self.ranges.items()))
        digest = blake2b(digest_size=16)
        for line in self.lines:
            digest.update(line)
        return f"{ranges}#{digest.hexdigest()}"
