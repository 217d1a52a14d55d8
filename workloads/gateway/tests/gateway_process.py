"""The gateway as a process of its own: ``python -m kernel_gateway``."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from kernel_local import ports

_given: set[int] = set()


def free_port() -> int:
    """One that nobody else is given here, and that no outgoing connection of this machine takes meanwhile."""
    port = ports.choose(_given)
    _given.add(port)
    return port


@dataclass(frozen=True)
class GatewayProcess:
    process: asyncio.subprocess.Process
    base: str

    async def answers(self, path: str) -> int:
        """The status of a GET; 0 while nobody listens."""
        async with aiohttp.ClientSession() as session:
            try:
                async with session.get(self.base + path) as answer:
                    return answer.status
            except aiohttp.ClientError:
                return 0

    async def until(self, path: str, status: int, seconds: float = 150) -> None:
        async with asyncio.timeout(seconds):
            while await self.answers(path) != status:
                if self.process.returncode is not None:
                    raise AssertionError(f"the gateway has ended: {(await self.ended())[1][-2000:]}")
                await asyncio.sleep(0.05)

    async def ended(self, seconds: float = 60) -> tuple[int, str]:
        """Its exit code and what it said, when it has ended by itself."""
        async with asyncio.timeout(seconds):
            _, said = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, said.decode()


@asynccontextmanager
async def running(environment: Mapping[str, str], **more: str) -> AsyncIterator[GatewayProcess]:
    """A process with ``environment`` and ``more``, on ports of its own; ended with SIGTERM if it still runs."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "kernel_gateway",
        "serve",
        env={
            "PATH": os.environ["PATH"],
            **environment,
            "GATEWAY_PORT": str(port),
            "GATEWAY_DECISION_PORT": str(free_port()),
            "GATEWAY_GRPC_PORT": "0",
            "GATEWAY_ENVOY_ADMIN_PORT": str(free_port()),
            **more,
        },
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 24,
    )
    gateway = GatewayProcess(process, f"http://127.0.0.1:{port}")
    try:
        yield gateway
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await gateway.ended()
            finally:
                if process.returncode is None:
                    process.kill()


async def command(
    environment: Mapping[str, str], *arguments: str, said: str | None = None, **more: str
) -> tuple[int, str, str]:
    """Runs the command line; its exit code, its output and its complaint."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "kernel_gateway",
        *arguments,
        env={"PATH": os.environ["PATH"], **environment, **more},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        out, complaint = await process.communicate((said or "").encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), complaint.decode()
