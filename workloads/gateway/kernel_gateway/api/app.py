"""The FastAPI application: routes, problem documents, and what wraps every request."""

from typing import Any

from fastapi import APIRouter, FastAPI

from kernel_gateway.api import openapi, probes, problems
from kernel_gateway.api.middleware import Passage
from kernel_gateway.api.services import Services
from kernel_gateway.events.routes import router as events_router
from kernel_gateway.login.routes import jwks_router
from kernel_gateway.login.routes import router as login_router
from kernel_gateway.people.routes import router as people_router

API, OLD_API = "/api/v1", "/v1"


class GatewayApi(FastAPI):
    def openapi(self) -> dict[str, Any]:
        return openapi.document(self)


def create_app(services: Services) -> FastAPI:
    """The application that serves with ``services``."""
    app = _routed()
    app.state.services = services
    return app


def document() -> dict[str, Any]:
    """The OpenAPI document; needs nothing that serves."""
    return _routed().openapi()


def _routed() -> FastAPI:
    app = GatewayApi(
        title="Platform-Kernel gateway",
        version="1",
        description="Login, sessions, roles, members and events. Errors are problem documents (RFC 9457).",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    problems.install(app)
    routes: tuple[APIRouter, ...] = (login_router, people_router, events_router)
    for router in routes:
        app.include_router(router, prefix=API)
        app.include_router(router, prefix=OLD_API, include_in_schema=False)
    app.include_router(jwks_router)
    app.include_router(probes.router)
    app.add_middleware(Passage)
    return app
