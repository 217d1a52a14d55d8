"""The connection to Valkey, its errors, and how a change becomes known.

A change and its announcement are one MULTI: a reader that hears of a version finds the change, and a
process that dies leaves both or neither. ``kernel:version:{table}`` holds an opaque stamp, to be
compared for equality only; a counter would start again after a flush and could show a reader the
number it already has. The stamp goes out on the channel ``kernel:changes`` as ``{table} {stamp}``.
Messages of a channel can be missed, so readers compare the keys too.

``modules:epoch:{tenant}`` holds the stamp of the last change of what the rights of the tenant's people
are made of: its active modules, their permissions, its block. Rights that the gateway remembers carry
the epoch under which they were read, and count only under that one. A missing epoch reads as empty:
a flush takes the remembered rights with it.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis import exceptions as errors
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from kernel_common.ids import uuid7
from kernel_operator import faults
from kernel_operator.desired import Unavailable

CHANNEL = "kernel:changes"


def version_key(table: str) -> str:
    return f"kernel:version:{table}"


def connect(url: str) -> Redis:
    """A client of few connections; a dead server is noticed in seconds. The operator's queue repeats work."""
    pool = BlockingConnectionPool.from_url(
        url,
        decode_responses=True,
        max_connections=8,
        timeout=10,  # for a free connection
        socket_connect_timeout=3,
        socket_timeout=10,
        retry=Retry(NoBackoff(), 1),  # once: a pooled connection that the server has closed meanwhile
    )
    return Redis.from_pool(pool)


@contextmanager
def answering() -> Iterator[None]:
    """Turns the client's errors into Unavailable, without the address."""
    try:
        yield
    except errors.BusyLoadingError:
        raise Unavailable("Valkey", "the server is still loading its data") from None
    except (errors.AuthenticationError, errors.AuthenticationWrongNumberOfArgsError):
        raise Unavailable("Valkey", "the user name or password was refused") from None
    except errors.TimeoutError:
        raise Unavailable("Valkey", "no answer in time") from None
    except (errors.ConnectionError, OSError):
        raise Unavailable("Valkey", "the server can't be reached") from None
    except errors.NoPermissionError:
        raise Unavailable("Valkey", "the operator's user lacks a right on a command, key or channel") from None
    except errors.ReadOnlyError:
        raise Unavailable("Valkey", "the server is a read-only replica") from None
    except errors.RedisError as error:
        raise Unavailable("Valkey", f"the server refused the request [{type(error).__name__}]") from None


def epoch_key(tenant: str) -> str:
    return f"modules:epoch:{tenant}"


async def commit(transaction: Pipeline, tables: Iterable[str], *, new_epoch_of: Iterable[str] = ()) -> None:
    """Executes ``transaction`` with a new version of each of ``tables``, its message, and a new epoch of each of
    the tenants ``new_epoch_of`` (ids), in it."""
    stamp = uuid7().hex
    if epochs := {epoch_key(tenant): stamp for tenant in new_epoch_of}:
        transaction.mset(epochs)
    for table in tables:
        transaction.set(version_key(table), stamp)
        transaction.publish(CHANNEL, f"{table} {stamp}")
    await transaction.execute()
    faults.wrote()


async def ask(pipeline: Pipeline) -> Sequence[Any]:
    """The answers of ``pipeline``, in order. A key of a type that we never made reads as None, and is
    written anew (``write`` deletes first); every other error is raised."""
    answers = await pipeline.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, Exception) and not _wrong_type(answer):
            raise answer
    return [None if isinstance(answer, Exception) else answer for answer in answers]


def _wrong_type(error: Exception) -> bool:
    return isinstance(error, errors.ResponseError) and str(error).startswith("WRONGTYPE")
