"""A way to the API server on which watches are unruly: told twice, told late, torn off.

Everything else passes as it is. A delayed event comes after up to three later ones, or when nothing comes any more; a
stream that is torn off has told what it held back, since no API server loses what lies before something it has told.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web
from yarl import URL

_QUIET = 0.2
"""Seconds without an event after which what was held back is told."""
_PASSED = ("Authorization", "Accept", "Content-Type")


class WatchProxy:
    """Serves plain HTTP on 127.0.0.1; whoever asks brings the login. ``done`` counts what was done to events."""

    def __init__(self, kubeconfig: Path, seed: int) -> None:
        """``kubeconfig``: of whoever is to be proxied."""
        self._config: dict[str, Any] = yaml.safe_load(kubeconfig.read_text())
        self._upstream: str = self._config["clusters"][0]["cluster"]["server"]
        self._dice = random.Random(seed)
        self._session: aiohttp.ClientSession
        self.done: Counter[str] = Counter()

    @asynccontextmanager
    async def serving(self, kubeconfig: Path) -> AsyncIterator[None]:
        """Serves while the block runs; ``kubeconfig`` is written for it."""
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", self._forward)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1, handler_cancellation=True)
        # The API server is the test's own, on this machine.
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False, limit=0)) as self._session:
            await runner.setup()
            try:
                site = web.TCPSite(runner, "127.0.0.1", 0)
                await site.start()
                port = runner.addresses[0][1]
                self._config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{port}"}
                kubeconfig.write_text(json.dumps(self._config))
                yield
            finally:
                await runner.cleanup()

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        headers = {name: request.headers[name] for name in _PASSED if name in request.headers}
        body = await request.read()
        url = URL(self._upstream.rstrip("/") + request.raw_path, encoded=True)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        try:
            async with self._session.request(
                request.method, url, data=body or None, headers=headers, timeout=timeout
            ) as answer:
                if request.query.get("watch") == "true" and answer.status == 200:
                    return await self._watch(request, answer)
                return web.Response(
                    status=answer.status,
                    body=await answer.read(),
                    headers={"Content-Type": answer.headers.get("Content-Type", "application/json")},
                )
        except aiohttp.ClientError:
            return web.Response(status=502)

    async def _watch(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        told = web.StreamResponse(headers={"Content-Type": "application/json"})
        await told.prepare(request)
        lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        reading = asyncio.create_task(_read(answer, lines))
        try:
            async with aclosing(self._disorder(lines)) as disorder:
                async for line in disorder:
                    await told.write(line)
            self.done["ended"] += 1
            if self._dice.random() < 0.5 and request.transport is not None:
                request.transport.abort()  # in the middle of an answer
            return told
        except ConnectionError:
            return told  # whoever watched is gone
        finally:
            reading.cancel()
            await asyncio.wait([reading])

    async def _disorder(self, lines: asyncio.Queue[bytes | None]) -> AsyncGenerator[bytes, None]:
        """The lines, some twice, some behind later ones; it ends with the stream, or by chance before."""
        held: list[list[Any]] = []
        while True:
            try:
                async with asyncio.timeout(_QUIET if held else None):
                    line = await lines.get()
            except TimeoutError:
                line = b""
            if not line:
                for _, late in held:
                    yield late
                held.clear()
                if line is None:
                    return
                continue
            match self._dice.random():
                case roll if roll < 0.25:
                    self.done["told twice at once"] += 1
                    yield line
                    yield line
                case roll if roll < 0.4:
                    self.done["told again later"] += 1
                    yield line
                    held.append([self._dice.randint(1, 3), line])
                    continue
                case roll if roll < 0.7:
                    self.done["told late"] += 1
                    held.append([self._dice.randint(1, 3), line])
                    continue
                case _:
                    yield line
            for entry in held:
                entry[0] -= 1
            for entry in [entry for entry in held if entry[0] <= 0]:
                held.remove(entry)
                yield entry[1]
            if self._dice.random() < 0.03:
                self.done["torn off"] += 1
                for _, late in held:
                    yield late
                return


async def _read(answer: aiohttp.ClientResponse, lines: "asyncio.Queue[bytes | None]") -> None:
    """Put each line into ``lines``, and None at the end of the stream."""
    rest = b""
    try:
        async for piece in answer.content.iter_any():
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                lines.put_nowait(line + b"\n")
    except aiohttp.ClientError:
        pass  # the API server ended it
    finally:
        lines.put_nowait(None)
