"""Topics of the kernel and of modules: made once, with our settings, repaired, and never touched in between."""

import asyncio
from dataclasses import replace

import pytest
from confluent_kafka.admin import (
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from kernel_operator.desired import Unavailable
from kernel_operator.targets.kafka.topics import KERNEL_DOMAINS, Observed, Topic, compare

HOUR = 3_600_000


def set_config(broker, topic, key, value):
    entry = ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for future in broker.client.incremental_alter_configs([resource]).values():
        future.result(10)


async def test_the_kernel_s_topics(target, broker):
    await target.ensure_kernel_topics()
    topics = broker.topics()
    for domain in KERNEL_DOMAINS:
        assert topics[f"platform.{domain}.events"] == 12
        hours = 720 if domain == "audit" else 168
        assert broker.overrides(f"platform.{domain}.events") == {
            "cleanup.policy": "delete",
            "retention.ms": str(hours * HOUR),
            "min.insync.replicas": "1",
        }
        assert broker.overrides(f"platform.{domain}.events.dlq")["retention.ms"] == str(720 * HOUR)
    assert not (await target.ensure_kernel_topics()).changes


async def test_a_module_s_topics(target, broker, module):
    crm = module(partitions=5, retention_hours=7)
    outcome = (await target.apply_modules([crm]))[crm.slug]
    assert outcome.changes == [f"created topic {crm.topic}", f"created topic {crm.topic}.dlq"]
    assert {n: p for n, p in broker.topics().items() if n.startswith(crm.topic)} == {
        crm.topic: 5,
        f"{crm.topic}.dlq": 3,
    }
    assert broker.overrides(crm.topic) == {
        "cleanup.policy": "delete",
        "retention.ms": str(7 * HOUR),
        "min.insync.replicas": "1",
    }


async def test_unchanged_topics_are_only_looked_at(target, looker, module):
    """As a user who may look and change nothing: one attempt to write would fail."""
    modules = [module() for _ in range(5)]
    await target.apply_modules(modules)
    outcomes = await looker.apply_modules(modules)
    assert len(outcomes) == 5
    assert not any(outcome.changes or outcome.refusal for outcome in outcomes.values())
    with pytest.raises(Unavailable, match="lacks a right"):
        await looker.apply_modules([replace(modules[0], retention_hours=6)])


async def test_a_module_that_publishes_nothing_has_no_topic(target, broker, module):
    silent = module(publishes=(), subscribes=("money.wallet.credited",))
    assert not (await target.apply_modules([silent]))[silent.slug].changes
    assert silent.topic not in broker.topics()


async def test_damage_is_repaired_and_other_overrides_stay(target, broker, module):
    crm = module()
    await target.apply_modules([crm])
    set_config(broker, crm.topic, "retention.ms", "1")
    set_config(broker, crm.topic, "cleanup.policy", "compact")
    set_config(broker, crm.topic, "max.message.bytes", "2000000")
    broker.delete(f"{crm.topic}.dlq")
    outcome = (await target.apply_modules([crm]))[crm.slug]
    assert sorted(outcome.changes) == [
        f"created topic {crm.topic}.dlq",
        f"set cleanup.policy=delete on topic {crm.topic}",
        f"set retention.ms={5 * HOUR} on topic {crm.topic}",
    ]
    put_right = {"retention.ms": str(5 * HOUR), "cleanup.policy": "delete", "max.message.bytes": "2000000"}
    broker.until(  # a broker learns of a change a moment after it is made
        lambda: put_right.items() <= broker.overrides(crm.topic).items()
    )
    assert not (await target.apply_modules([crm]))[crm.slug].changes


async def test_a_new_retention_is_set(target, broker, module):
    crm = module()
    await target.apply_modules([crm])
    outcome = (await target.apply_modules([replace(crm, retention_hours=6)]))[crm.slug]
    assert outcome.changes == [f"set retention.ms={6 * HOUR} on topic {crm.topic}"]
    broker.until(
        lambda: broker.overrides(crm.topic).get("retention.ms") == str(6 * HOUR)
    )  # a broker learns of a change a moment after it is made


@pytest.mark.parametrize(("partitions", "hint"), [(1, "can't be reduced"), (4, "grow-partitions")])
async def test_another_number_of_partitions_is_refused(target, broker, module, partitions, hint):
    crm, other = module(), module()
    await target.apply_modules([crm])
    outcomes = await target.apply_modules([replace(crm, partitions=partitions, retention_hours=9), other])
    refusal = outcomes[crm.slug].refusal
    assert refusal.reason == "PartitionsFixed"
    assert "spec.events.partitions" in refusal.message
    assert hint in refusal.message
    assert broker.topics()[crm.topic] == 2
    assert broker.overrides(crm.topic)["retention.ms"] == str(5 * HOUR)
    assert outcomes[other.slug].changes


async def test_growth_that_is_allowed(target, broker, module):
    crm = module()
    await target.apply_modules([crm])
    wider = replace(crm, partitions=4)
    outcome = (await target.apply_modules([wider], allow_growth={crm.slug}))[crm.slug]
    assert outcome.changes == [f"grew topic {crm.topic} to 4 partitions"]
    assert broker.topics()[crm.topic] == 4
    assert not (await target.apply_modules([wider]))[crm.slug].changes
    narrower = (await target.apply_modules([crm], allow_growth={crm.slug}))[crm.slug]
    assert narrower.refusal.reason == "PartitionsFixed"


async def test_the_kernel_s_own_modules_use_the_kernel_s_topics(target, broker, module):
    money = module("money", partitions=3, retention_hours=1)
    await target.ensure_kernel_topics()
    outcome = (await target.apply_modules([money]))["money"]
    assert not outcome.changes
    assert outcome.refusal is None
    broker.until(
        lambda: broker.overrides("platform.money.events").get("retention.ms") == str(168 * HOUR)
    )  # a broker learns of a change a moment after it is made
    assert not (await target.remove_module("money", drop_data=True)).changes
    assert "platform.money.events" in broker.topics()


async def test_a_kernel_topic_with_other_partitions_is_left(target, broker):
    await target.ensure_kernel_topics()
    broker.delete("platform.billing.events")
    broker.create("platform.billing.events", 2)
    await target.ensure_kernel_topics()
    assert broker.topics()["platform.billing.events"] == 2


async def test_removal(target, broker, module):
    crm, other = module(), module()
    await target.apply_modules([crm, other])
    assert not (await target.remove_module(crm.slug, drop_data=False)).changes
    assert crm.topic in broker.topics()
    outcome = await target.remove_module(crm.slug, drop_data=True)
    assert outcome.changes == [f"deleted topic {crm.topic}", f"deleted topic {crm.topic}.dlq"]
    assert not (await target.remove_module(crm.slug, drop_data=True)).changes
    broker.until(lambda: crm.topic not in broker.topics())
    assert set(broker.topics()) >= {other.topic, f"{other.topic}.dlq"}


async def test_two_operators_at_once(target, make_target, broker, module):
    modules = [module() for _ in range(6)]
    others = [make_target(), make_target()]
    results = await asyncio.gather(*(t.apply_modules(modules) for t in (target, *others)))
    topics = broker.topics()
    for crm in modules:
        made = [change for result in results for change in result[crm.slug].changes]
        assert made.count(f"created topic {crm.topic}") == 1
        assert topics[crm.topic] == 2


async def test_many_modules_are_one_request_each(target, module, monkeypatch):
    calls = []
    client = target._admin._client
    for name in ("create_topics", "describe_topics", "describe_configs", "incremental_alter_configs"):
        original = getattr(client, name)

        def counted(*given, _name=name, _original=original, **options):
            calls.append(_name)
            return _original(*given, **options)

        monkeypatch.setattr(client, name, counted, raising=False)
    await target.apply_modules([module() for _ in range(8)])
    assert calls.count("create_topics") == 1
    assert calls.count("describe_configs") == 1
    assert "incremental_alter_configs" not in calls


def test_replicas_decide_how_many_must_be_in_sync():
    topic = Topic("platform.crm.events", 12, 168)
    assert [topic.config(replicas)["min.insync.replicas"] for replicas in (1, 2, 3)] == ["1", "1", "2"]
    wanted = compare(topic, Observed(12, 3, {"cleanup.policy": "delete", "retention.ms": str(168 * HOUR)}))
    assert wanted.config == (("min.insync.replicas", "2"),)


async def test_nothing_to_do(target):
    assert await target.apply_modules([]) == {}
