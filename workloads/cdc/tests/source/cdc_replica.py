"""What a consumer that does as the sink is told would hold: the rules of docs/cdc.md, in memory."""

from typing import Any

import asyncpg
from cdc_source_world import DATA, Got, Installed


class Replica:
    """The newest version of each record of one table, deleted ones included."""

    def __init__(self, world: Installed) -> None:
        self._slug = world.module.slug
        self.rows: dict[str, dict[str, Any]] = {}
        self._partitions: dict[str, int] = {}

    def take(self, messages: list[Got]) -> "Replica":
        """In the order of each partition. A version as new as the one that is there replaces it."""
        for got in messages:
            if got.topic != DATA or got.body["module"] != self._slug:
                continue
            if got.body["op"] == "w":
                self._sweep(got)
                continue
            row = {**got.body["row"], "gone": got.body["op"] == "d", "lsn": got.body["lsn"]}
            self._partitions[got.key] = got.partition
            if got.key not in self.rows or row["updated_at"] >= self.rows[got.key]["updated_at"]:
                self.rows[got.key] = row
        return self

    def _sweep(self, sweep: Got) -> None:
        assert sweep.body["partition"] == sweep.partition
        for key, row in self.rows.items():
            if self._partitions[key] == sweep.partition and not row["gone"] and row["lsn"] < sweep.body["lsn"]:
                row["gone"] = True

    @property
    def present(self) -> dict[str, int | None]:
        """Of those that are not gone: id and a_integer."""
        return {key: row["a_integer"] for key, row in self.rows.items() if not row["gone"]}


async def held(admin: asyncpg.Pool, world: Installed) -> dict[str, int | None]:
    """The same of PostgreSQL."""
    return {row["id"]: row["a_integer"] for row in await admin.fetch(f"SELECT id::text, a_integer FROM {world.table}")}
