"""The FastAPI application: one question, and probes."""

from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse

from kernel_common.web.caller import Caller
from kernel_common.web.problems import answer_problems
from kernel_data import openapi
from kernel_data.analytics import Analytics
from kernel_data.clickhouse import Away, ClickHouse
from kernel_data.passage import Passage

PREFIX = "/api/v1/analytics"

router = APIRouter()


@dataclass
class Services:
    """What the routes work with. ``stopping``: the process is about to end."""

    analytics: Analytics
    clickhouse: ClickHouse
    stopping: bool = field(default=False)


@router.get(f"{PREFIX}/{{module}}/{{model}}", **openapi.AGGREGATE)
async def aggregate(request: Request, caller: Caller, module: str, model: str) -> Response:
    services: Services = request.app.state.services
    answer = await services.analytics.answer(caller.tenant, module, model, request.query_params.multi_items())
    return Response(answer, media_type="application/json")


@router.get("/live", **openapi.LIVE)
@router.get("/health/live", include_in_schema=False)
async def live() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/ready", **openapi.READY)
@router.get("/health/ready", include_in_schema=False)
async def ready(request: Request) -> Response:
    services: Services = request.app.state.services
    reason = "shutting down" if services.stopping else None
    if reason is None:
        try:
            await services.clickhouse.ping()
        except Away as away:
            reason = f"ClickHouse: {away}"
    if reason:
        return JSONResponse({"status": "not_ready", "reason": reason}, 503)
    return JSONResponse({"status": "ready"})


@router.get("/metrics", include_in_schema=False)
async def metrics() -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


class DataApi(FastAPI):
    def openapi(self) -> dict[str, Any]:
        return openapi.document(self)


def create_app(services: Services | None = None) -> FastAPI:
    """The application; without ``services`` it can only describe itself."""
    app = DataApi(
        title="Platform-Kernel analytics",
        version="1",
        description="Aggregates over the records of a module's model. Errors are problem documents (RFC 9457).",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    answer_problems(app)
    app.include_router(router)
    app.add_middleware(Passage)
    app.state.services = services
    return app
