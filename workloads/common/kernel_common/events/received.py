"""An event as a consumer's handler gets it, read from a Kafka message."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from confluent_kafka import Message
from pydantic import ValidationError

from kernel_common.events.envelope import Envelope
from kernel_common.traces import trace_id


class NotAnEvent(Exception):
    """A message that is no valid envelope of its topic's domain, now and for ever. Fit to show: no content of it."""


@dataclass(frozen=True, slots=True)
class Received:
    """One delivery of an event."""

    envelope: Envelope
    topic: str
    partition: int
    offset: int
    traceparent: str | None
    """The header as the publisher set it; pass it on to what the handler calls."""
    attempt: int = 1
    """Of this consumer, from 1; a delivery that another process died with counts anew."""

    @property
    def trace_id(self) -> str:
        """Of the traceparent, else the envelope's; empty when neither has one."""
        return trace_id(self.traceparent) or self.envelope.trace_id or ""


def headers_of(message: Message) -> dict[str, str]:
    """Header names to values; of several with one name the last. What is no UTF-8 or has no value is left out."""
    raw: Iterable[tuple[str, str | bytes | None]] = _pairs(message)
    found = {}
    for name, value in raw:
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        if text is not None and "\ufffd" not in text:
            found[name] = text
    return found


def _pairs(message: Message) -> Iterable[tuple[str, str | bytes | None]]:
    headers = message.headers() or []
    return headers.items() if isinstance(headers, Mapping) else headers


def read(message: Message, headers: Mapping[str, str]) -> Received:
    """Raises NotAnEvent."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    if topic is None or partition is None or offset is None:
        raise NotAnEvent("the message has no place in a topic")
    try:
        envelope = Envelope.model_validate_json(message.value() or b"")
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, e['loc'])) or 'the value'}: {e['msg']}" for e in error.errors(include_input=False)
        )
        raise NotAnEvent("no valid envelope: " + "; ".join(problems)[:400]) from None
    if envelope.topic != topic:
        raise NotAnEvent(f"an event of the domain {envelope.domain} does not belong to this topic")
    return Received(envelope, topic, partition, offset, headers.get("traceparent"))
