"""Kafka as the event API uses it: dead letters sent again, and where consumer groups are.

Nothing here connects before it is used, so a gateway starts and serves everything else while no broker answers.
"""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient

from kernel_gateway.api.problems import ProblemError, unavailable
from kernel_gateway.api.services import Services

T = TypeVar("T")

SEND_SECONDS = 8.0
"""How long a broker has to take what is sent."""
ASK_SECONDS = 5.0
LARGEST = 1_030_000
"""Bytes of a message: the largest letter, with its key and headers."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    topic: str
    key: bytes | None
    value: bytes | None
    headers: Mapping[str, str]


class Kafka:
    """``configuration`` is librdkafka's, with the way to the brokers."""

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self.configuration = {**configuration, "log_level": 0}

    async def send(self, messages: Sequence[Outgoing]) -> list[str | None]:
        """Sends in this order; for each why it was not taken, or None. What was not acknowledged may be there all the
        same."""
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[str | None]] = []
        for message in messages:
            answer: asyncio.Future[str | None] = loop.create_future()
            answers.append(answer)
            try:
                self._producer.produce(
                    message.topic,
                    value=message.value,
                    key=message.key,
                    headers=[(name, value.encode()) for name, value in message.headers.items()],
                    on_delivery=_settling(loop, answer),
                )
            except (KafkaException, BufferError) as error:
                answer.set_result(_reason(error))
        await loop.run_in_executor(None, self._producer.flush, SEND_SECONDS + 1)
        _, late = await asyncio.wait(answers, timeout=1)
        for each in late:
            each.cancel()
        return ["no answer in time" if answer in late else answer.result() for answer in answers]

    async def ask(self, future: "Future[T]") -> T:
        """The answer of ``admin`` to one question. Raises KafkaException for what the broker refuses; ProblemError
        (503) when it can't be asked."""
        try:
            async with asyncio.timeout(ASK_SECONDS + 1):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise away("no answer in time") from None
        except KafkaException as error:
            if error.args[0].code() in _AWAY or error.args[0].retriable():
                raise away(_reason(error)) from None
            raise

    @cached_property
    def admin(self) -> AdminClient:
        return AdminClient(self.configuration)

    @cached_property
    def _producer(self) -> Producer:
        return Producer(
            {
                **self.configuration,
                "enable.idempotence": True,
                "acks": "all",
                "message.timeout.ms": round(SEND_SECONDS * 1000),
                "message.max.bytes": LARGEST,
                "queue.buffering.max.kbytes": 32_768,
                "linger.ms": 2,
                # As whoever published the event: a key stays in its partition.
                "partitioner": "murmur2_random",
            }
        )

    async def close(self) -> None:
        if "_producer" in self.__dict__:
            await asyncio.get_running_loop().run_in_executor(None, self._producer.flush, 1)


def kafka_of(services: Services) -> Kafka:
    """Raises ProblemError (503) where the gateway was given no brokers."""
    if services.kafka is None:
        raise unavailable("this gateway was given no Kafka (KAFKA_BROKERS)", 60)
    return services.kafka


def away(reason: str) -> ProblemError:
    return unavailable(f"Kafka can't answer now ({reason}); try again later")


_AWAY = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._RESOLVE,
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
    }
)


def _settling(loop: asyncio.AbstractEventLoop, answer: "asyncio.Future[str | None]") -> Any:
    def settle(reason: str | None) -> None:
        if not answer.done():
            answer.set_result(reason)

    def delivered(error: KafkaError | None, _: Message) -> None:
        loop.call_soon_threadsafe(settle, None if error is None else error.name())

    return delivered


def _reason(error: Exception) -> str:
    """Without addresses."""
    found = error.args[0] if error.args else None
    return str(found.name()) if isinstance(found, KafkaError) else "the queue is full"
