"""One partition: its messages one after the other, however long one takes, beside all other partitions."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from confluent_kafka import Message

from kernel_common.events.feed import Place
from kernel_common.events.outage import LetGo, Partition

FULL, LOW = 256, 64
"""Messages waiting in a lane: at FULL its partition is paused, at LOW it goes on."""
FULL_BYTES, LOW_BYTES = 2_000_000, 500_000


class Lane:
    """Runs ``conclude`` for each message and then calls ``done_up_to``; also a Partition, for the deliveries in it."""

    def __init__(
        self,
        place: Place,
        conclude: Callable[[Message, Partition], Awaitable[None]],
        done_up_to: Callable[[Place, int], None],
    ) -> None:
        self._place, self._conclude, self._done_up_to = place, conclude, done_up_to
        self._waiting: asyncio.Queue[Message | None] = asyncio.Queue()
        self._bytes = 0
        self._letting_go = asyncio.Event()
        self.reason: str | None = None
        """What it waits for, if a system is away."""
        self.paused = False
        self.next_offset: int | None = None
        """Of the first message that is not done; None before any came."""
        self.task = asyncio.create_task(self._run())

    def put(self, message: Message) -> None:
        if self.next_offset is None:
            self.next_offset = message.offset()
        self._bytes += len(message)
        self._waiting.put_nowait(message)

    @property
    def full(self) -> bool:
        return self._waiting.qsize() >= FULL or self._bytes >= FULL_BYTES

    @property
    def low(self) -> bool:
        return self._waiting.qsize() <= LOW and self._bytes <= LOW_BYTES

    async def wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._letting_go.wait(), seconds)
            raise LetGo

    def blocked(self, reason: str | None) -> None:
        self.reason = reason

    async def let_go(self, grace: float) -> None:
        """Ends the lane: the delivery under way has ``grace`` seconds, and no time at all when it only waits."""
        self._letting_go.set()
        self._waiting.put_nowait(None)  # wakes it
        await asyncio.wait([self.task], timeout=grace)
        self.task.cancel()
        await asyncio.wait([self.task])

    async def _run(self) -> None:
        while True:
            message = await self._waiting.get()
            if message is None or self._letting_go.is_set():
                return
            self._bytes -= len(message)
            try:
                await self._conclude(message, self)
            except LetGo:
                return
            self.next_offset = (message.offset() or 0) + 1
            self._done_up_to(self._place, self.next_offset)
