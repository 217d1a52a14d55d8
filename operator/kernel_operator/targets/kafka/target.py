"""Topics of the kernel and of modules: observe, compare, apply what differs."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from kernel_operator.desired import ModuleState, Outcome, Refusal
from kernel_operator.targets.kafka.admin import Admin
from kernel_operator.targets.kafka.topics import KERNEL_DOMAINS, Difference, Observed, Retention, Topic, compare


class KafkaTarget:
    """Every method raises Unavailable when the cluster can't be asked; the same call is then repeated."""

    def __init__(
        self,
        brokers: str,
        *,
        username: str = "",
        password: str = "",
        security_protocol: str = "SASL_SSL",
        sasl_mechanism: str = "SCRAM-SHA-256",
        retention_hours: int = 168,
        audit_retention_hours: int = 720,
    ) -> None:
        config = {"bootstrap.servers": brokers, "security.protocol": security_protocol}
        if security_protocol.startswith("SASL"):
            config |= {"sasl.mechanisms": sasl_mechanism, "sasl.username": username, "sasl.password": password}
        self._admin = Admin(config)
        self._retention = Retention(retention_hours, audit_retention_hours)

    async def ensure_kernel_topics(self) -> Outcome:
        """The topics of the kernel's own domains and their dead letters. A topic that was made with
        another number of partitions is left as it is: nothing that we start relies on the number."""
        topics = self._retention.kernel_topics()
        observed = await self._admin.observe(topic.name for topic in topics)
        done = await self._apply(
            _plain(compare(_as_found(t, observed.get(t.name)), observed.get(t.name)) for t in topics)
        )
        return Outcome([clause for topic in topics for clause in done.get(topic.name, ())])

    async def observe_modules(self, modules: Iterable[ModuleState]) -> dict[str, Observed]:
        """The existing topics of ``modules``, by name: two requests however many there are."""
        return await self._admin.observe(topic.name for m in modules for topic in self._retention.module_topics(m))

    def compare_module(
        self, module: ModuleState, observed: Mapping[str, Observed], *, allow_growth: bool = False
    ) -> list[Difference] | Refusal:
        """What the topics of ``module`` lack; an empty list when nothing."""
        differences = []
        for topic in self._retention.module_topics(module):
            found = observed.get(topic.name)
            wanted = _as_found(topic, found) if module.slug in KERNEL_DOMAINS else topic
            difference = compare(wanted, found, allow_growth=allow_growth)
            if isinstance(difference, Refusal):
                return difference
            if any(difference.clauses()):
                differences.append(difference)
        return differences

    async def apply_modules(
        self, modules: Sequence[ModuleState], *, allow_growth: Collection[str] = ()
    ) -> dict[str, Outcome]:
        """The topics of ``modules`` by slug. ``allow_growth`` names the slugs whose topics may get
        more partitions. A module that publishes nothing needs no topic."""
        observed = await self.observe_modules(modules)
        compared = {m.slug: self.compare_module(m, observed, allow_growth=m.slug in allow_growth) for m in modules}
        done = await self._apply([d for found in compared.values() if not isinstance(found, Refusal) for d in found])
        return {
            slug: Outcome(refusal=found)
            if isinstance(found, Refusal)
            else Outcome([clause for d in found for clause in done[d.topic.name]])
            for slug, found in compared.items()
        }

    async def remove_module(self, slug: str, *, drop_data: bool) -> Outcome:
        """Deletes the module's topics with their events when ``drop_data``; else they stay for their
        retention. The kernel's own topics always stay."""
        if not drop_data or slug in KERNEL_DOMAINS:
            return Outcome()
        topic = f"platform.{slug}.events"
        deleted = await self._admin.delete([topic, f"{topic}.dlq"])
        return Outcome([f"deleted topic {name}" for name in sorted(deleted)])

    async def ping(self) -> None:
        await self._admin.brokers()

    async def close(self) -> None:
        """Nothing to wait for: the client's threads end with the last reference to it."""

    async def _apply(self, differences: Sequence[Difference]) -> dict[str, list[str]]:
        """One request a kind of change, for all topics. Returns what was done by the topic's name."""
        missing = [d.topic for d in differences if d.create]
        created = await self._admin.create(missing, await self._admin.brokers()) if missing else set()
        growing = [d.topic for d in differences if d.grow]
        await self._admin.grow(growing)
        await self._admin.set_config({d.topic.name: d.config for d in differences if d.config})
        await self._admin.until_visible([*(topic for topic in missing if topic.name in created), *growing])
        return {d.topic.name: list(d.clauses()) if not d.create or d.topic.name in created else [] for d in differences}


def _as_found(topic: Topic, observed: Observed | None) -> Topic:
    return topic if observed is None else replace(topic, partitions=observed.partitions)


def _plain(compared: Iterable[Difference | Refusal]) -> list[Difference]:
    return [d for d in compared if isinstance(d, Difference) and any(d.clauses())]
