"""An operator of a test's own, in place of the platform's, started as often as a test likes.

Most of a start is Python reading modules. So the processes are forked from one that has read them; what they run, from
the settings on, is what ``python -m kernel_operator`` runs.
"""

import asyncio
import multiprocessing
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import aiohttp

_FORK = multiprocessing.get_context("forkserver")
_FORK.set_forkserver_preload(["kernel_operator.__main__", "kernel_operator.app"])


class OwnOperator:
    """Runs on the port of the platform's, which must be down. ``log`` gets what it prints."""

    def __init__(self, platform: Any, log: Path) -> None:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self._environment = inherited | platform.operator_env
        self._log = log

    @asynccontextmanager
    async def running(self, **settings: str) -> AsyncIterator[BaseProcess]:
        """It ends by -9 when the block does."""
        process = _FORK.Process(target=_operate, args=(self._environment | settings, self._log), daemon=True)
        process.start()
        try:
            yield process
        finally:
            process.kill()
            await asyncio.to_thread(process.join)

    async def ready(self, process: BaseProcess, seconds: float = 30) -> None:
        """Return when it works."""
        url = f"http://127.0.0.1:{self._environment['OPERATOR_HTTP_PORT']}/readyz"
        async with aiohttp.ClientSession() as session, asyncio.timeout(seconds):
            while process.is_alive():
                try:
                    async with session.get(url) as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass  # it does not listen yet
                await asyncio.sleep(0.02)
        raise AssertionError(f"the operator ended with {process.exitcode}")


def _operate(environment: Mapping[str, str], log: Path) -> None:
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    from kernel_operator.__main__ import main

    main()
