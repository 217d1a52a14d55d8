"""/live, /ready (under their newer names too) and /metrics.

Alive says nothing about others: a restart would not bring them back.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from kernel_cdc.settings import SettingsError

Trouble = Callable[[], str | None]


@asynccontextmanager
async def serving(host: str, port: int, trouble: Trouble) -> AsyncIterator[None]:
    """Answers probes. ``trouble`` says why the process does not do its work; None: it does. Raises SettingsError."""
    runner = web.AppRunner(_application(trouble), access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise SettingsError(f"CDC_PORT: port {port}: {os.strerror(error.errno or 0)}") from None
        yield
    finally:
        await runner.cleanup()


def _application(trouble: Trouble) -> web.Application:
    async def live(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def ready(_: web.Request) -> web.Response:
        if reason := trouble():
            return web.json_response({"status": "not_ready", "reason": reason}, status=503)
        return web.json_response({"status": "ready"})

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get(path, live) for path in ("/live", "/health/live")])
    app.add_routes([web.get(path, ready) for path in ("/ready", "/health/ready")])
    app.add_routes([web.get("/metrics", metrics)])
    return app
