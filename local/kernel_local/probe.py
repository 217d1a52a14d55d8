"""Asking a server on this machine whether it is there."""

import asyncio
import contextlib
import ssl


async def listens(port: int) -> bool:
    """Whether something accepts connections on 127.0.0.1:port."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


async def answers(port: int, path: str, tls: ssl.SSLContext | None = None, *, timeout: float = 5.0) -> bool:
    """Whether GET path on 127.0.0.1:port answers 200."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                await writer.drain()
                return (await reader.readline()).split()[1:2] == [b"200"]
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError):
        return False
