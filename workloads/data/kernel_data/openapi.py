"""The OpenAPI document: what FastAPI makes of the routes, the query string as it is read, and our errors."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from kernel_common.problems import MEDIA_TYPE, SCHEMA
from kernel_data.question import DEFAULT_ROWS, MAX_GROUPS, MAX_ROWS, MAX_TERMS


class Meta(BaseModel):
    model_config = ConfigDict(extra="forbid")

    last_sync_at: str | None = Field(
        alias="lastSyncAt", description="Everything committed before this moment is in the answer; null: not known"
    )
    rows_scanned: int = Field(alias="rowsScanned")
    duration_ms: float = Field(alias="durationMs")
    has_more: bool = Field(alias="hasMore", description="There are more groups than `limit`")


class Aggregates(BaseModel):
    """``data``: an object a group, its names as they were asked for (`stage`, `sum:amount`). Integers are exact, of any
    size; decimals are strings."""

    data: list[dict[str, int | float | str | bool | None]]
    meta: Meta


class Status(BaseModel):
    status: str
    reason: str | None = None


def _list(name: str, description: str, pattern: str, most: int, *examples: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "description": description,
        "style": "form",
        "explode": False,
        "schema": {
            "type": "array",
            "items": {"type": "string", "pattern": pattern},
            "minItems": 1,
            "maxItems": most,
            "uniqueItems": True,
        },
        "examples": {f"example{number}": {"value": [text]} for number, text in enumerate(examples, 1)},
    }


_FIELD = "[a-z][a-z0-9_]*"
_PARAMETERS = [
    _list(
        "select",
        "Aggregates: `count`, or `count:F`, `sum:F`, `avg:F`, `min:F`, `max:F` of a field F. Without it: `count`",
        f"^(count|(count|sum|avg|min|max):{_FIELD})$",
        MAX_TERMS,
        "count",
    ),
    _list(
        "groupBy",
        "Fields; dates and timestamps also by `F:hour`, `F:day`, `F:week`, `F:month`, `F:quarter`, `F:year` (UTC)",
        f"^{_FIELD}(:(hour|day|week|month|quarter|year))?$",
        MAX_GROUPS,
        "created_at:day",
    ),
    _list(
        "orderBy",
        "Names out of `select` and `groupBy`, the largest first with `-`. Otherwise groups come in their own order",
        f"^-?{_FIELD}(:{_FIELD})?$",
        MAX_TERMS,
        "-count",
    ),
    {
        "name": "limit",
        "in": "query",
        "description": "Groups that are answered at most",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_ROWS, "default": DEFAULT_ROWS},
    },
    {
        "name": "filter",
        "in": "query",
        "style": "deepObject",
        "explode": True,
        "description": "`filter[F][operator]=value`; all of them must hold. Operators: `eq`, `neq`, `in` (values "
        "separated by commas, `\\,` is a comma in a value), `gt`, `gte`, `lt`, `lte`, `like`, `ilike` (`%` and `_`), "
        "`is` (`null` or `notnull`)",
        "schema": {"type": "object"},  # OpenAPI has no word for the second pair of brackets
        "example": {"created_at": {"gte": "2026-01-01"}},
    },
]


def _problem(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


AGGREGATE: dict[str, Any] = {
    "operation_id": "aggregate",
    "summary": "Aggregates over the records of a model",
    "description": "Needs the permission `{module}.{model}.read`, and the module must be active for the tenant.",
    "tags": ["analytics"],
    "response_model": Aggregates,
    "openapi_extra": {"parameters": _PARAMETERS, "security": [{"bearer": []}]},
    "responses": {
        400: _problem("A field, aggregate, operator or value is wrong; `errors` names each, and what there is"),
        401: _problem("No token that holds"),
        403: _problem("The permission is missing, or the tenant is blocked"),
        404: _problem("The module is not active for the tenant, or has no such model with analytics"),
        422: _problem("The question takes too much time or memory; ask for less"),
        429: _problem("Too many requests; `Retry-After` says when"),
        500: _problem("Something went wrong on our side"),
        503: _problem("ClickHouse can't answer now; `Retry-After` says when to try again"),
    },
}
LIVE: dict[str, Any] = {
    "operation_id": "live",
    "summary": "The process runs",
    "tags": ["health"],
}
READY: dict[str, Any] = {
    "operation_id": "ready",
    "summary": "The process can serve requests",
    "tags": ["health"],
    "response_model": Status,
    "responses": {503: {"model": Status, "description": "Not now; `reason` says why"}},
}


def document(app: FastAPI) -> dict[str, Any]:
    """The document of ``app``, made once."""
    if app.openapi_schema is None:
        made = FastAPI.openapi(app)
        components = made.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Problem"] = SCHEMA
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
        app.openapi_schema = made
    return app.openapi_schema
