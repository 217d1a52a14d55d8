"""A request from its query string to the JSON of its answer."""

import json
import re
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from kernel_common.web.problems import ProblemError, unavailable
from kernel_data import metrics, question
from kernel_data.clickhouse import Answer, Away, Changed, ClickHouse, TooMany, TooMuch
from kernel_data.freshness import Freshness
from kernel_data.models import Models, NoModel
from kernel_data.question import Question, Term
from kernel_data.sql import compose
from kernel_data.values import SHOWN

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


class Analytics:
    def __init__(self, clickhouse: ClickHouse, freshness: Freshness, database: str) -> None:
        self._clickhouse, self._freshness, self._database = clickhouse, freshness, database
        self._models = Models(clickhouse, database)

    async def answer(self, tenant: UUID, module: str, model: str, query: Sequence[tuple[str, str]]) -> bytes:
        """JSON. Raises ProblemError."""
        table = f"module_{module}__{model}"
        try:
            if not _NAME.fullmatch(module) or not _NAME.fullmatch(model):
                raise NoModel
            synced = await self._freshness.of(table)
            started = time.perf_counter()
            asked, found = await self._ask(tenant, table, query)
        except NoModel:
            raise ProblemError(
                404, "not-found", f"there is no model {model[:60]} with analytics in the module {module[:60]}"
            ) from None
        except Away as away:
            raise unavailable(f"analytics can't answer now: {away}") from None
        except TooMany:
            # Not 503, which would count against the service in the gateway's breaker, for every tenant.
            detail = "too many questions of the tenant are under way; wait for their answers"
            raise ProblemError(429, "rate-limit-exceeded", detail, headers={"Retry-After": "1"}) from None
        except TooMuch as error:
            raise ProblemError(422, "query-too-large", str(error)) from None
        metrics.rows_read.inc(found.rows_read)
        return _json(asked, found, synced, time.perf_counter() - started)

    async def _ask(self, tenant: UUID, table: str, query: Sequence[tuple[str, str]]) -> tuple[Question, Answer]:
        """What is known of the table may be old: whatever does not fit is tried again with what is there now."""
        while True:
            fields = await self._models.fields(tenant, table)
            try:
                asked = question.read(query, fields)
                statement = compose(asked, self._database, table, tenant)
                return asked, await self._clickhouse.ask(tenant, statement.text, statement.parameters)
            except ProblemError:
                if not self._models.doubt(table) or await self._models.fields(tenant, table) == fields:
                    raise
            except Changed:
                if not self._models.doubt(table):
                    raise Away("the table is being changed") from None


def _json(asked: Question, found: Answer, synced: datetime | None, seconds: float) -> bytes:
    terms: list[Term] = [*asked.groups, *asked.aggregates]
    columns = [(term.name, SHOWN[term.kind]) for term in terms]
    data: list[dict[str, Any]] = [
        {name: None if value is None else show(value) for (name, show), value in zip(columns, row, strict=True)}
        for row in found.rows[: asked.limit]
    ]
    meta = {
        "lastSyncAt": synced.isoformat(timespec="microseconds").replace("+00:00", "Z") if synced else None,
        "rowsScanned": found.rows_read,
        "durationMs": round(seconds * 1000, 1),
        "hasMore": len(found.rows) > asked.limit,
    }
    return json.dumps({"data": data, "meta": meta}, ensure_ascii=False, separators=(",", ":")).encode()
