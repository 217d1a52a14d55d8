"""Kafka's admin API, awaited: a batch is one request, and each error arrives with the name it is about.

confluent-kafka answers each topic by a future of its own, which a thread of librdkafka completes. A
failure hides in that future; here it is raised as Unavailable, with the error's name and without
addresses.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # re-exported without saying so
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

from kernel_operator import faults
from kernel_operator.desired import Unavailable
from kernel_operator.targets.kafka.topics import MAX_REPLICAS, Observed, Topic

REQUEST_SECONDS = 10.0
VISIBLE_SECONDS = 20.0

_EXPLAINED = {
    KafkaError._ALL_BROKERS_DOWN: "no broker answers",
    KafkaError._TRANSPORT: "no broker answers",
    KafkaError._TIMED_OUT: "no answer in time",
    KafkaError._RESOLVE: "the brokers' name can't be resolved",
    KafkaError._AUTHENTICATION: "the user name or password was refused",
    KafkaError.SASL_AUTHENTICATION_FAILED: "the user name or password was refused",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "the operator's user lacks a right on the topic",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "the operator's user lacks a right on the cluster",
}


class Admin:
    """One connection to the cluster's admin API. All calls raise Unavailable."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        # librdkafka's own log would repeat, for ever and on stderr, that a broker is away
        quiet = logging.getLogger("kernel_operator.kafka.client")
        quiet.setLevel(logging.CRITICAL)
        settings: dict[str, Any] = {
            "socket.timeout.ms": 10_000,
            "reconnect.backoff.max.ms": 1_000,
            "log.connection.close": False,
            "error_cb": self._note,
            **config,
        }
        self._last_error: KafkaError | None = None
        self._client = AdminClient(settings, logger=quiet)

    def _note(self, error: KafkaError) -> None:
        if self._last_error is None or error.code() != KafkaError._ALL_BROKERS_DOWN:  # which sums up what was told
            self._last_error = error

    async def brokers(self) -> int:
        """How many brokers the cluster has."""
        cluster = await self._answer(self._client.describe_cluster(request_timeout=REQUEST_SECONDS))
        return len(cluster.nodes)

    async def observe(self, names: Iterable[str]) -> dict[str, Observed]:
        """Those of ``names`` that exist, by two requests that are under way together."""
        wanted = sorted(set(names))
        if not wanted:
            return {}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in wanted]
        futures = {
            resource.name: future
            for resource, future in self._client.describe_configs(resources, request_timeout=REQUEST_SECONDS).items()
        }
        described = await self._described(wanted)
        configured = await self._answers(futures, unless=KafkaError.UNKNOWN_TOPIC_OR_PART)
        return {
            name: Observed(
                partitions=len(topic.partitions),
                replicas=len(topic.partitions[0].replicas),
                config={key: entry.value for key, entry in configured[name].items()},
            )
            for name, topic in described.items()
            if topic.partitions and name in configured
        }

    async def create(self, topics: Iterable[Topic], brokers: int) -> set[str]:
        """Makes ``topics`` in one request; returns the names that were not there before."""
        replicas = min(MAX_REPLICAS, brokers)
        new = [
            NewTopic(t.name, num_partitions=t.partitions, replication_factor=replicas, config=t.config(replicas))
            for t in topics
        ]
        if not new:
            return set()
        futures = self._client.create_topics(
            new, operation_timeout=REQUEST_SECONDS, request_timeout=2 * REQUEST_SECONDS
        )
        return set(await self._changed(futures, unless=KafkaError.TOPIC_ALREADY_EXISTS))

    async def set_config(self, changes: Mapping[str, Iterable[tuple[str, str]]]) -> None:
        """Sets only the keys in ``changes`` (topic to key and value); other overrides stay."""
        resources = [
            ConfigResource(
                ResourceType.TOPIC,
                name,
                incremental_configs=[
                    ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in entries
                ],
            )
            for name, entries in changes.items()
        ]
        if resources:
            futures = self._client.incremental_alter_configs(resources, request_timeout=REQUEST_SECONDS)
            await self._changed({resource.name: future for resource, future in futures.items()})

    async def grow(self, topics: Iterable[Topic]) -> None:
        wishes = [NewPartitions(topic.name, topic.partitions) for topic in topics]
        if wishes:
            # INVALID_PARTITIONS: another process has just done the same
            await self._changed(
                self._client.create_partitions(wishes, request_timeout=REQUEST_SECONDS),
                unless=KafkaError.INVALID_PARTITIONS,
            )

    async def delete(self, names: Iterable[str]) -> set[str]:
        """Deletes topics with all their events; returns the names that were there."""
        wanted = list(names)
        if not wanted:
            return set()
        futures = self._client.delete_topics(
            wanted, operation_timeout=REQUEST_SECONDS, request_timeout=2 * REQUEST_SECONDS
        )
        return set(await self._changed(futures, unless=KafkaError.UNKNOWN_TOPIC_OR_PART))

    async def until_visible(self, topics: Iterable[Topic]) -> None:
        """Waits until each of ``topics`` has all its partitions, each with a leader, for the next client."""
        waiting = {topic.name: topic.partitions for topic in topics}
        deadline = time.monotonic() + VISIBLE_SECONDS
        pause = 0.02
        while waiting:
            for name, found in (await self._described(sorted(waiting))).items():
                if len(found.partitions) >= waiting[name] and all(p.leader is not None for p in found.partitions):
                    del waiting[name]
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise Unavailable("Kafka", f"topic {min(waiting)} was created but has no leader yet")
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)

    async def _described(self, names: list[str]) -> dict[str, Any]:
        futures = self._client.describe_topics(TopicCollection(names), request_timeout=REQUEST_SECONDS)
        return await self._answers(futures, unless=KafkaError.UNKNOWN_TOPIC_OR_PART)

    async def _changed(self, futures: Mapping[str, "Future[Any]"], *, unless: int | None = None) -> dict[str, Any]:
        """``_answers`` of a request that changes something."""
        answers = await self._answers(futures, unless=unless)
        faults.wrote()
        return answers

    async def _answer(self, future: "Future[Any]") -> Any:
        try:
            async with asyncio.timeout(3 * REQUEST_SECONDS):
                return await asyncio.wrap_future(future)
        except KafkaException as error:
            raise self._unavailable(error.args[0]) from None
        except TimeoutError:
            raise Unavailable("Kafka", "no answer in time") from None

    async def _answers(self, futures: Mapping[str, "Future[Any]"], *, unless: int | None = None) -> dict[str, Any]:
        """The answers by name. A name that failed with ``unless`` is left out; any other failure is raised
        when all answers are there, so that nothing is left under way."""

        async def one(name: str, future: "Future[Any]") -> Any:
            try:
                return await asyncio.wrap_future(future)
            except KafkaException as error:
                return error.args[0]

        waits: list[Awaitable[Any]] = [one(name, future) for name, future in futures.items()]
        try:
            async with asyncio.timeout(3 * REQUEST_SECONDS):
                results = dict(zip(futures, await asyncio.gather(*waits), strict=True))
        except TimeoutError:
            raise Unavailable("Kafka", "no answer in time") from None
        failed = {n: r for n, r in results.items() if isinstance(r, KafkaError) and r.code() != unless}
        if failed:
            name, error = next(iter(failed.items()))
            raise self._unavailable(error, name)
        return {name: result for name, result in results.items() if not isinstance(result, KafkaError)}

    def _unavailable(self, error: KafkaError, subject: str = "") -> Unavailable:
        """``error`` in our words. A request that nobody answered fails as a time-out, whatever kept the
        client from a broker: that is told by its last error, which waits to be picked up."""
        if error.code() == KafkaError._TIMED_OUT:
            self._client.poll(0)
            error, self._last_error = self._last_error or error, None
        text = _EXPLAINED.get(error.code(), "the broker refused the request")
        return Unavailable("Kafka", f"{text}{f' ({subject})' if subject else ''} [{error.name()}]")
