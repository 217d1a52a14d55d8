"""The work queue against the plainest queue there is."""

import asyncio
import time

from bench.measure import Measure
from kernel_operator.queue import Key, WorkQueue

KEYS = 20_000
ROUNDS = 5


async def run() -> list[Measure]:
    keys = [Key("tenants", "", f"t{n}") for n in range(KEYS)]
    ours = max([await _ours(keys) for _ in range(ROUNDS)])
    plain = max([await _plain(keys) for _ in range(ROUNDS)])
    return [
        Measure(
            name="queue",
            measure="keys submitted, taken in batches of 250 and finished",
            value=ours,
            unit="keys/s",
            reference="asyncio.Queue: put_nowait, get_nowait, task_done (no deduplication, no batches)",
            reference_value=plain,
            target=0.25,
            better="higher",
        )
    ]


async def _ours(keys: list[Key]) -> float:
    queue = WorkQueue()
    started = time.perf_counter()
    queue.submit(keys)
    left = len(keys)
    while left:
        batch = await queue.take("tenants", 250)
        for key in batch:
            queue.done(key)
        left -= len(batch)
    return len(keys) / (time.perf_counter() - started)


async def _plain(keys: list[Key]) -> float:
    queue: asyncio.Queue[Key] = asyncio.Queue()
    started = time.perf_counter()
    for key in keys:
        queue.put_nowait(key)
    for _ in keys:
        queue.get_nowait()
        queue.task_done()
    return len(keys) / (time.perf_counter() - started)
