"""The application: its routes, and the pool that they share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from crm_service import contacts, deals
from kernel_common.database import open_pool, waiting_explained
from kernel_common.web.problems import answer_problems

PREFIX = "/api/v1/crm"
"""The route of the KernelModule: the gateway passes paths on as they came."""


def create_app(database_url: str) -> FastAPI:
    """``database_url`` is the module's login. It starts without a database and says so in /ready."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with await open_pool(database_url, application="crm") as pool:
            app.state.pool = pool
            yield

    app = FastAPI(title="Acme CRM", version="1.4.0", lifespan=lifespan)
    answer_problems(app)
    app.include_router(contacts.router, prefix=PREFIX)
    app.include_router(deals.router, prefix=PREFIX)

    @app.get("/live", include_in_schema=False)
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", include_in_schema=False)
    async def ready() -> dict[str, str]:
        with waiting_explained():
            async with asyncio.timeout(2):
                await app.state.pool.fetchval("SELECT 1")
        return {"status": "ok"}

    return app
