"""A consumer as a process, to be killed: python consumer_process.py DOMAIN GROUP, the rest in the environment."""

import asyncio
import json
import os
import sys

import asyncpg
from redis.asyncio import Redis

from kernel_common.database import open_pool
from kernel_common.events.consumer import Consumer
from kernel_common.events.received import Received


async def main(domain: str, group: str) -> None:
    pool = await open_pool(os.environ["DATABASE_URL"], application="events-tests", max_size=2)
    effects, marks = Redis.from_url(os.environ["EFFECTS_URL"]), Redis.from_url(os.environ["VALKEY_URL"])

    async def outside(event: Received) -> None:
        await asyncio.sleep(0.01)
        await effects.rpush(f"seen:{domain}", event.envelope.data["number"])

    async def exactly(event: Received, connection: asyncpg.Connection) -> None:
        await connection.execute("INSERT INTO things (label) VALUES ($1)", f"{domain}-{event.envelope.data['number']}")
        await asyncio.sleep(0.01)

    await Consumer(
        kafka=json.loads(os.environ["KAFKA"]),
        group=group,
        handlers={f"{domain}.thing.seen": outside},
        in_database={f"{domain}.thing.made": exactly},
        valkey=marks,
        pool=pool,
        session_timeout=6,
    ).run(asyncio.Event())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
