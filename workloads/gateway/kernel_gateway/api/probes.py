"""/live, /ready, /health and /metrics, under their newer names too.

Alive says nothing about others: a restart would not bring them back.
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse

from kernel_gateway.access import Identity
from kernel_gateway.api.dependencies import TheServices, requires
from kernel_gateway.api.models import Answer
from kernel_gateway.api.openapi import errors


class Status(Answer):
    status: Literal["ok", "ready", "not_ready"]
    reason: str | None = None


class Report(Answer):
    """``components``: whether each of them answers."""

    status: Literal["ready", "not_ready"]
    reason: str | None = None
    components: dict[str, bool]


router = APIRouter(tags=["health"])


@router.get("/live", operation_id="live", summary="The process runs", response_model_exclude_none=True)
@router.get("/health/live", include_in_schema=False, response_model_exclude_none=True)
async def live() -> Status:
    return Status(status="ok")


@router.get(
    "/ready",
    operation_id="ready",
    summary="The process can serve requests",
    response_model=Status,
    response_model_exclude_none=True,
    responses={503: {"model": Status, "description": "Not now; `reason` says why"}},
)
@router.get("/health/ready", include_in_schema=False)
async def ready(services: TheServices) -> Response:
    reason = await services.health.trouble()
    if reason:
        return JSONResponse({"status": "not_ready", "reason": reason}, 503)
    return JSONResponse({"status": "ready"})


@router.get(
    "/health",
    operation_id="health",
    summary="Which parts answer (administrators)",
    response_model_exclude_none=True,
    responses=errors(400, 401, 403),
)
async def health(services: TheServices, _: Annotated[Identity, Depends(requires("settings.read"))]) -> Report:
    reason = await services.health.trouble()
    status: Literal["ready", "not_ready"] = "not_ready" if reason else "ready"
    return Report(status=status, reason=reason, components=await services.health.components())


@router.get("/metrics", include_in_schema=False)
async def metrics() -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
