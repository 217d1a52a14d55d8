"""Follows the route table in Valkey.

Messages on ``kernel:changes`` make a change quick; they can be lost, so the table's version is compared every second
too. A table without a version is one that nobody has written (Valkey was flushed, or is new): the last good documents
stay, until the operator has written it again. A table that Envoy refused is not tried again until it changes.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from kernel_gateway.envoy import metrics
from kernel_gateway.envoy.admin import Admin
from kernel_gateway.envoy.publisher import Publisher

TABLE_KEY, VERSION_KEY, CHANNEL, NAME = "routes:table", "kernel:version:routes", "kernel:changes", "routes"
_COMPARE_SECONDS = 1.0

log = logging.getLogger(__name__)


class Watcher:
    """``overrides`` (slug to host:port), ``origins`` and ``https_only`` are as for the documents; ``directory`` is the
    one that Envoy watches."""

    def __init__(
        self,
        valkey: Redis,
        directory: Path,
        admin: Admin,
        *,
        overrides: Mapping[str, str],
        origins: Sequence[str] = (),
        https_only: bool = False,
    ) -> None:
        self._valkey, self._directory = valkey, directory
        self._publisher = Publisher(directory, admin, overrides=overrides, origins=origins, https_only=https_only)
        self._seen: str | None = None
        self.current = asyncio.Event()
        """Set once the table has been read and published."""

    async def run(self) -> None:
        """Until cancelled. Valkey may come and go."""
        said = ""
        pause = 0.1
        while True:
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
                async with self._valkey.pubsub() as channel:
                    await channel.subscribe(CHANNEL)
                    self._seen = None
                    while True:
                        await self._look()
                        said, pause = "", 0.1
                        await self._news(channel)
            except Exception as error:
                # Once for each kind of trouble, not once for each attempt.
                if type(error).__name__ != said:
                    said = type(error).__name__
                    unexpected = not isinstance(error, RedisError | OSError)
                    log.warning("the routes can't be followed (%s): the last ones stay", said, exc_info=unexpected)
                    metrics.table_losses.inc()
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)

    async def _news(self, channel: PubSub) -> None:
        """Returns when the table may have changed, after a second at most."""
        deadline = time.monotonic() + _COMPARE_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            message = await channel.get_message(ignore_subscribe_messages=True, timeout=left)
            if message is not None and _text(message["data"]).partition(" ")[0] == NAME:
                # Whatever else has been said meanwhile is answered by the same look.
                while await channel.get_message(ignore_subscribe_messages=True, timeout=0) is not None:
                    pass
                return

    async def _look(self) -> None:
        version = await self._valkey.get(VERSION_KEY)
        if version is None or _text(version) != self._seen:
            # The version first: a table that is newer than its version is only read once more.
            async with self._valkey.pipeline(transaction=False) as pipeline:
                pipeline.get(VERSION_KEY)
                pipeline.hgetall(TABLE_KEY)
                version, raw = await pipeline.execute()
            entries = {_text(slug): _text(text) for slug, text in raw.items()}
            if version is not None or entries:
                await self._publisher.publish(entries, announce=self._seen != (version and _text(version)))
                self._seen = None if version is None else _text(version)
                self.current.set()
        await self._publisher.look_after()


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
