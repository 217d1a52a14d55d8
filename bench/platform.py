"""The embedded platform against its budgets: how fast it comes up warm, and what it holds when idle."""

from bench.embedded import embedded_platform
from bench.measure import Measure

UP_BUDGET = 10.0
MEMORY_BUDGET = 1200.0


async def run() -> list[Measure]:
    with embedded_platform() as (servers, seconds):
        megabytes = servers.memory() / 2**20
    return [
        Measure("platform", "up on kept data", seconds, "s", "budget", UP_BUDGET, 1.0, "lower"),
        Measure("platform", "memory of all parts when idle", megabytes, "MB", "budget", MEMORY_BUDGET, 1.0, "lower"),
    ]
