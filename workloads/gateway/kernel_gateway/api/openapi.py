"""The OpenAPI document: what FastAPI makes of the routes, with our errors in place of the framework's."""

from typing import Any

from fastapi import FastAPI
from starlette.routing import compile_path

from kernel_common.problems import MEDIA_TYPE, SCHEMA

_DESCRIPTIONS = {
    400: "The request is not valid; `errors` names the fields",
    401: "No token or credentials that hold",
    403: "The permission is missing, or the tenant is blocked",
    404: "There is no such thing here",
    409: "It conflicts with what is there",
    413: "The body is too large",
    429: "Too many requests; `Retry-After` says when",
    500: "Something went wrong on our side",
    503: "The service can't answer now; try again",
}
_ALWAYS = (413, 429, 500, 503)
"""What every route under a rule may answer."""


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that may answer these errors, besides those that every route may answer."""
    return {
        status: {
            "description": _DESCRIPTIONS[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted({*statuses, *_ALWAYS})
    }


def methods_at(app: FastAPI, path: str) -> list[str]:
    """What may be done at ``path``: the framework tells of one route only."""
    documented = "/api" + path if path.startswith("/v1/") else path
    paths = document(app)["paths"]
    # The literal path, where there is one, stands before templates that it would fit too.
    fitting = [documented] if documented in paths else [p for p in paths if compile_path(p)[0].fullmatch(documented)]
    return sorted({method.upper() for template in fitting for method in paths[template]})


def document(app: FastAPI) -> dict[str, Any]:
    """The document of ``app``, made once."""
    if app.openapi_schema is None:
        made = FastAPI.openapi(app)
        for path in made["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)  # our validation errors are 400
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Problem"] = SCHEMA
        app.openapi_schema = made
    return app.openapi_schema
