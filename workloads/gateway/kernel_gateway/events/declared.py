"""What modules have declared: the events that each publishes and subscribes to.

What is published is read in the caller's transaction, from where the database itself judges it; what is subscribed to
is in Valkey, as the operator keeps it. A module that is off has neither.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import asyncpg
import hiredis

from kernel_gateway.api.problems import unavailable
from kernel_gateway.decision.script import command
from kernel_gateway.decision.valkey import Valkey, ValkeyAway

_QUESTION = command("HGETALL", "events:rights")


@dataclass(frozen=True, slots=True)
class Publishes:
    """``source``: the module's name, which its events bear."""

    source: str
    types: tuple[str, ...]


async def published_by(transaction: asyncpg.Connection) -> dict[str, Publishes]:
    """What the active modules of the transaction's tenant publish, by slug."""
    rows = await transaction.fetch("SELECT * FROM kernel.declared_events()")
    return {row["slug"]: Publishes(row["source"], tuple(row["types"])) for row in rows}


async def subscribed_by(valkey: Valkey) -> dict[str, tuple[str, ...]]:
    """The types that each module subscribes to, by slug; of all modules that are on and declare anything. Raises
    ProblemError (503)."""
    try:
        reply = await valkey.call(_QUESTION)
    except (ValkeyAway, hiredis.ReplyError):
        raise unavailable("what modules have declared can't be read now: Valkey does not answer", 1) from None
    return {slug.decode(): _subscribes(text) for slug, text in _pairs(reply)}


def _pairs(reply: Any) -> Iterable[tuple[bytes, bytes]]:
    return reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)


def _subscribes(text: bytes) -> tuple[str, ...]:
    """What can't be understood declares nothing."""
    try:
        return tuple(map(str, json.loads(text)["subscribes"]))
    except (ValueError, KeyError, TypeError):
        return ()
