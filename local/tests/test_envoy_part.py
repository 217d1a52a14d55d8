"""Envoy as a part: HTTPS with the platform's certificate, restarted when what it was started with has changed."""

import asyncio
import json
import ssl
from pathlib import Path

import pytest

from kernel_local.parts import envoy as envoy_part
from kernel_local.parts.envoy import Envoy
from kernel_local.testing import Run


async def get(part: Envoy, path: str) -> tuple[int, bytes]:
    tls = ssl.create_default_context(cafile=part.authority)
    async with asyncio.timeout(10):
        port = part.site.port(envoy_part.HTTPS_PORT)
        reader, writer = await asyncio.open_connection("localhost", port, ssl=tls)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    return int(head.split()[1]), body


async def statuses(part: Envoy, times: int) -> list[int]:
    """Of that many requests on one connection."""
    tls = ssl.create_default_context(cafile=part.authority)
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("localhost", part.site.port(envoy_part.HTTPS_PORT), ssl=tls)
        found = []
        for _ in range(times):
            writer.write(b"HEAD /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n")
            found.append(int((await reader.readuntil(b"\r\n\r\n")).split()[1]))
        writer.close()
    return found


async def test_it_answers_and_follows_its_settings(platform_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    site, background = platform_run.site, platform_run.background
    site.settle_ports((envoy_part.API_PORT, envoy_part.DECISION_PORT))
    part = Envoy(site)
    assert background.run(part.start())
    try:
        status, body = await get(part, "/live")
        assert status == 503 and json.loads(body)["type"].endswith("/service-unavailable")
        assert (await get(part, "/nothing"))[0] == 404
        process = part.process()
        assert process is not None and not background.run(part.start())
        assert part.process() == process
        certificate = (part.authority.parent / "tls.crt").read_bytes()
        monkeypatch.setenv("LOCAL_RATE_PER_SEC", "3")
        assert background.run(part.start()) and part.process() != process
        assert 429 in await statuses(part, 30)
        assert (part.authority.parent / "tls.crt").read_bytes() == certificate
        access = site.log("envoy-access")
        assert access.stat().st_mode & 0o777 == 0o600
        async with asyncio.timeout(10):
            while '"path":"/live"' not in access.read_text():
                await asyncio.sleep(0.05)
    finally:
        assert background.run(part.stop())
    assert Path("/proc", str(process.pid)).exists() is False
