"""The service as a process, and without its database."""

import asyncio
import os
import signal
import socket
import sys

import aiohttp
from crm_world import Crm, served

from kernel_local.testing import PostgresServer


async def test_it_serves_until_it_is_told_to_stop(crm: Crm) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = os.environ | {"DATABASE_URL": crm.database_url, "CRM_HOST": "127.0.0.1", "CRM_PORT": str(port)}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "crm_service", env=environment)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session, asyncio.timeout(20):
            while True:
                try:
                    async with session.get("/ready") as answer:
                        assert answer.status == 200
                        break
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) in (0, -signal.SIGTERM)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_missing_setting_is_named_and_nothing_starts() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "crm_service", env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, complaint = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    assert complaint.decode() == "crm: DATABASE_URL: Field required\n"


async def test_without_its_database_it_lives_and_says_so(postgres: PostgresServer) -> None:
    url = postgres.url("module_nobody", "secret-Zz9")
    async with served(url) as address, aiohttp.ClientSession(address) as session:
        async with session.get("/live") as answer:
            assert answer.status == 200
        async with session.get("/ready") as answer:
            text = await answer.text()
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert "secret-Zz9" not in text
