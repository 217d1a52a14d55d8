"""Which fields a model has: what ClickHouse says of its view, asked as the tenant.

There is no other list to keep in step with: what can be queried is what is there. Descriptions are the same for every
tenant and only ever grow, so they are kept for a minute; a field that is not found is looked for again at once.
"""

import time
from dataclasses import dataclass
from uuid import UUID

from kernel_data.clickhouse import Changed, ClickHouse
from kernel_data.fields import Fields, fields_of
from kernel_data.sql import quoted

KEEP_SECONDS = 60.0
AGAIN_SECONDS = 1.0
"""How old a description must at least be to be doubted."""


class NoModel(Exception):
    """ClickHouse has no such table."""


@dataclass(frozen=True, slots=True)
class _Known:
    fields: Fields
    since: float


class Models:
    def __init__(self, clickhouse: ClickHouse, database: str) -> None:
        self._clickhouse, self._database = clickhouse, database
        self._known: dict[str, _Known] = {}

    async def fields(self, tenant: UUID, table: str) -> Fields:
        """Raises NoModel, Away and TooMuch."""
        known = self._known.get(table)
        if known is None or time.monotonic() - known.since > KEEP_SECONDS:
            known = await self._describe(tenant, table)
        return known.fields

    def doubt(self, table: str) -> bool:
        """Forgets what is known of ``table``; False when that is new."""
        known = self._known.get(table)
        if known is not None and time.monotonic() - known.since < AGAIN_SECONDS:
            return False
        self._known.pop(table, None)
        return True

    async def _describe(self, tenant: UUID, table: str) -> _Known:
        try:
            sql = f"DESCRIBE TABLE {quoted(self._database)}.{quoted(f'{table}__current')}"
            answer = await self._clickhouse.ask(tenant, sql, {})
        except Changed:
            self._known.pop(table, None)
            raise NoModel from None
        known = _Known(fields_of((row[0], row[1]) for row in answer.rows), time.monotonic())
        self._known[table] = known
        return known
