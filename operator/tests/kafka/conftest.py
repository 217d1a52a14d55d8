"""A real Kafka, the target as its limited user, and module states with slugs of their own for each test."""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from kernel_operator.desired import ModuleState
from kernel_operator.targets.kafka import KafkaTarget

_NUMBERS = count(1)


def target_of(configuration: dict[str, Any]) -> KafkaTarget:
    return KafkaTarget(
        configuration["bootstrap.servers"],
        username=configuration["sasl.username"],
        password=configuration["sasl.password"],
        security_protocol=configuration["security.protocol"],
        sasl_mechanism=configuration.get("sasl.mechanisms") or configuration["sasl.mechanism"],
    )


@pytest.fixture
async def target(kafka: Any) -> AsyncIterator[KafkaTarget]:
    target = target_of(kafka.operator_conf)
    yield target
    await target.close()


@pytest.fixture
def make_target(kafka: Any) -> Callable[[], KafkaTarget]:
    return lambda: target_of(kafka.operator_conf)


class Broker:
    """What the administrator sees and does, independent of the target's code."""

    def __init__(self, configuration: dict[str, Any]) -> None:
        self.client = AdminClient({**configuration, "log_level": 0})

    def topics(self) -> dict[str, int]:
        """Names and numbers of partitions."""
        return {name: len(topic.partitions) for name, topic in self.client.list_topics(timeout=10).topics.items()}

    def overrides(self, topic: str) -> dict[str, str]:
        """What was set on the topic itself."""
        (future,) = self.client.describe_configs([ConfigResource(ResourceType.TOPIC, topic)]).values()
        return {k: e.value for k, e in future.result(10).items() if e.source == 1}

    def create(self, topic: str, partitions: int) -> None:
        for future in self.client.create_topics([NewTopic(topic, partitions, 1)]).values():
            future.result(10)
        self.until(lambda: self.topics().get(topic) == partitions)

    def delete(self, topic: str) -> None:
        for future in self.client.delete_topics([topic]).values():
            future.result(10)
        self.until(lambda: topic not in self.topics())

    @staticmethod
    def until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def broker(kafka: Any) -> Broker:
    return Broker(kafka.admin_conf)


def user(kafka: Any, name: str) -> dict[str, Any]:
    """The configuration of a user who can log in; what it may do comes from ACLs. It is not removed again: the server
    ends with the run, and a Kafka 4.3 that is killed soon after a user's removal comes back without any user."""
    admin = AdminClient({**kafka.admin_conf, "log_level": 0})
    made = UserScramCredentialUpsertion(name, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096), b"probe-secret")
    for future in admin.alter_user_scram_credentials([made]).values():
        future.result(10)
    return {**kafka.operator_conf, "sasl.username": name, "sasl.password": "probe-secret"}


@pytest.fixture
def stranger(kafka: Any) -> dict[str, Any]:
    """A user without any ACL."""
    return user(kafka, "probe-stranger")


@pytest.fixture
async def looker(kafka: Any) -> AsyncIterator[KafkaTarget]:
    """The target as a user who may describe topics and nothing else."""
    admin = AdminClient({**kafka.admin_conf, "log_level": 0})
    bindings = [
        AclBinding(
            ResourceType.TOPIC,
            "platform.",
            ResourcePatternType.PREFIXED,
            "User:probe-looker",
            "*",
            operation,
            AclPermissionType.ALLOW,
        )
        for operation in (AclOperation.DESCRIBE, AclOperation.DESCRIBE_CONFIGS)
    ]
    for future in admin.create_acls(bindings).values():
        future.result(10)
    target = target_of(user(kafka, "probe-looker"))
    yield target
    await target.close()
    mine = AclBindingFilter(
        ResourceType.ANY,
        None,
        ResourcePatternType.ANY,
        "User:probe-looker",
        None,
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    for future in admin.delete_acls([mine]).values():
        future.result(10)


@pytest.fixture
def module() -> Callable[..., ModuleState]:
    def make(slug: str = "", **changes: Any) -> ModuleState:
        slug = slug or f"m{next(_NUMBERS)}"
        state = ModuleState(
            slug=slug,
            module_name=f"@acme/{slug}",
            namespace=slug,
            name=slug,
            uid=f"uid-{slug}",
            version="1.0.0",
            publishes=(f"{slug}.contact.created",),
            partitions=2,
            retention_hours=5,
        )
        return replace(state, **changes)

    return make
