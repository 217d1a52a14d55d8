"""What Valkey holds of modules: rights, routes, and for whom each is active.

Hashes by slug, each with a version of its own: ``permissions:registry``, ``events:rights``,
``notify:channels``, ``routes:table``. A change of a tenant's modules, or of the permissions of one of
them, gives the tenant a new epoch. Membership is kept twice: ``modules:active:{tenant}`` is what
the gateway reads; ``modules:tenants:{slug}`` lets us find the tenants of a module without a scan of
the key space. Both are compared, so that either one, lost alone, is put back.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from kernel_operator.desired import Outcome
from kernel_operator.targets.valkey.connection import ask, commit, epoch_key, version_key
from kernel_operator.targets.valkey.entries import CHANNELS, EVENTS, HASHES, PERMISSIONS, ROUTES, Entry

MEMBERS = "modules"
_WHAT = {PERMISSIONS: "permissions", EVENTS: "event rights", CHANNELS: "notification channels", ROUTES: "route"}


@dataclass(frozen=True, slots=True)
class Found:
    """``entries`` by slug, ``active`` by tenant, ``missing`` versions, ``broken`` keys of another type."""

    entries: Mapping[str, Entry]
    active: Mapping[str, frozenset[str]]
    missing: frozenset[str]
    broken: frozenset[str]


@dataclass(slots=True)
class Changes:
    """The difference of one module, as it will be written."""

    slug: str
    set_fields: dict[str, str] = field(default_factory=dict)
    drop_fields: list[str] = field(default_factory=list)
    activate: set[str] = field(default_factory=set)
    withdraw: set[str] = field(default_factory=set)
    index_add: set[str] = field(default_factory=set)
    index_drop: set[str] = field(default_factory=set)
    holders: set[str] = field(default_factory=set)
    """The tenants that have the module before or after."""

    def tables(self) -> set[str]:
        members = self.activate or self.withdraw or self.index_add or self.index_drop
        return {*self.set_fields, *self.drop_fields, *([MEMBERS] if members else [])}

    def touched(self) -> set[str]:
        """The tenants whose rights may be others now."""
        rights = PERMISSIONS in self.set_fields or PERMISSIONS in self.drop_fields
        return self.holders if rights else self.activate | self.withdraw

    def clauses(self) -> list[str]:
        clauses = [f"set the {_WHAT[table]} of {self.slug} in Valkey" for table in self.set_fields]
        clauses += [f"removed the {_WHAT[table]} of {self.slug} from Valkey" for table in self.drop_fields]
        if self.activate:
            clauses.append(f"activated {self.slug} for {_tenants(self.activate)}")
        if self.withdraw:
            clauses.append(f"withdrew {self.slug} from {_tenants(self.withdraw)}")
        if not (self.activate or self.withdraw) and (self.index_add or self.index_drop):
            clauses.append(f"put right the tenants of {self.slug} in Valkey")
        return clauses

    def write(self, transaction: Pipeline) -> None:
        for table, value in self.set_fields.items():
            transaction.hset(HASHES[table], self.slug, value)
        for table in self.drop_fields:
            transaction.hdel(HASHES[table], self.slug)
        for tenant in self.activate:
            transaction.sadd(_active(tenant), self.slug)
        for tenant in self.withdraw:
            transaction.srem(_active(tenant), self.slug)
        if self.index_add:
            transaction.sadd(_index(self.slug), *self.index_add)
        if self.index_drop:
            transaction.srem(_index(self.slug), *self.index_drop)


def _tenants(which: Collection[str]) -> str:
    return f"{len(which)} tenant{'s' if len(which) != 1 else ''}"


def _active(tenant: str) -> str:
    return f"modules:active:{tenant}"


def _index(slug: str) -> str:
    return f"modules:tenants:{slug}"


async def observe(client: Redis, slugs: Iterable[str], tenants: Iterable[str], *, everything: bool = False) -> Found:
    """The modules ``slugs`` (with ``everything``: also those that only Valkey knows), and the active sets
    of ``tenants`` and of every tenant that the index of a module names. One round trip when the index names
    no others, else two."""
    wanted = sorted(set(slugs))
    around = sorted(set(tenants))
    values, broken = await _hashes(client, wanted, around, everything=everything)
    known = {slug for per_table in values.fields.values() for slug in per_table}
    missing_index = sorted((known | {s for a in values.active.values() for s in a}) - set(wanted)) if everything else []
    more = sorted({t for members in values.index.values() for t in members} - set(around))
    if missing_index or more:
        async with client.pipeline(transaction=False) as pipeline:
            for slug in missing_index:
                pipeline.smembers(_index(slug))
            for tenant in more:
                pipeline.smembers(_active(tenant))
            answers = await ask(pipeline)
        keys = [_index(slug) for slug in missing_index] + [_active(tenant) for tenant in more]
        broken |= {key for key, answer in zip(keys, answers, strict=True) if answer is None}
        values.index |= {s: frozenset(a or ()) for s, a in zip(missing_index, answers, strict=False)}
        values.active |= {t: frozenset(a or ()) for t, a in zip(more, answers[len(missing_index) :], strict=True)}
    entries = {
        slug: Entry(
            {table: text[slug] for table, text in values.fields.items() if slug in text},
            values.index.get(slug, frozenset()),
        )
        for slug in [*wanted, *missing_index]
    }
    return Found(entries, values.active, frozenset(values.missing), frozenset(broken))


@dataclass(slots=True)
class _Values:
    fields: dict[str, dict[str, str]]
    index: dict[str, frozenset[str]]
    active: dict[str, frozenset[str]]
    missing: set[str]


async def _hashes(client: Redis, slugs: list[str], tenants: list[str], *, everything: bool) -> tuple[_Values, set[str]]:
    tables = [*HASHES, MEMBERS]
    async with client.pipeline(transaction=False) as pipeline:
        pipeline.mget([version_key(table) for table in tables])
        for key in HASHES.values():
            if everything:
                pipeline.hgetall(key)
            else:
                pipeline.hmget(key, slugs)
        for slug in slugs:
            pipeline.smembers(_index(slug))
        for tenant in tenants:
            pipeline.smembers(_active(tenant))
        answers = list(await ask(pipeline))
    keys = [*HASHES.values(), *map(_index, slugs), *map(_active, tenants)]
    broken = {key for key, answer in zip(keys, answers[1:], strict=True) if answer is None}
    hashes = answers[1 : 1 + len(HASHES)]
    sets = answers[1 + len(HASHES) :]
    return (
        _Values(
            fields={table: _by_slug(answer, slugs) for table, answer in zip(HASHES, hashes, strict=True)},
            index={slug: frozenset(answer or ()) for slug, answer in zip(slugs, sets, strict=False)},
            active={t: frozenset(answer or ()) for t, answer in zip(tenants, sets[len(slugs) :], strict=True)},
            missing={table for table, version in zip(tables, answers[0], strict=True) if version is None},
        ),
        broken,
    )


def _by_slug(answer: Mapping[str, str] | Sequence[str | None] | None, slugs: list[str]) -> dict[str, str]:
    if answer is None:
        return {}
    if isinstance(answer, Mapping):
        return dict(answer)
    return {slug: text for slug, text in zip(slugs, answer, strict=True) if text is not None}


def compare(slug: str, wanted: Entry, found: Found) -> Changes:
    """What ``slug`` lacks, or has too much of."""
    there = found.entries.get(slug, Entry())
    holders = {tenant for tenant, slugs in found.active.items() if slug in slugs}
    return Changes(
        slug,
        set_fields={table: text for table, text in wanted.fields.items() if there.fields.get(table) != text},
        drop_fields=[table for table in there.fields if table not in wanted.fields],
        activate=set(wanted.tenants - holders),
        withdraw=set(holders - wanted.tenants),
        index_add=set(wanted.tenants - there.tenants),
        index_drop=set(there.tenants - wanted.tenants),
        holders=holders | wanted.tenants,
    )


async def reach(
    client: Redis, wanted: Mapping[str, Entry], tenants: Iterable[UUID] | None = None
) -> dict[str, Outcome]:
    """Brings the modules ``wanted`` (by slug) there, in one transaction.

    ``tenants``: every tenant there is, given when ``wanted`` are all modules there are. Then modules
    that only Valkey knows are removed, and memberships that no index names are found too.
    """
    everything = tenants is not None
    if not wanted and not everything:
        return {}
    around = {tenant for entry in wanted.values() for tenant in entry.tenants} | {str(t) for t in tenants or ()}
    found = await observe(client, wanted, around, everything=everything)
    goal = {**{slug: Entry() for slug in found.entries}, **wanted}
    changes = {slug: compare(slug, entry, found) for slug, entry in goal.items()}
    tables = {table for change in changes.values() for table in change.tables()}
    if tables or found.broken or found.missing:
        async with client.pipeline(transaction=True) as transaction:
            if found.broken:
                transaction.delete(*sorted(found.broken))
            for change in changes.values():
                change.write(transaction)
            touched = set().union(*(change.touched() for change in changes.values()))
            await commit(transaction, sorted(tables | found.missing), new_epoch_of=sorted(touched))
    return {slug: Outcome(change.clauses()) for slug, change in changes.items()}


async def withdraw_tenant(client: Redis, tenant: UUID) -> list[str]:
    """Takes ``tenant`` out of every module, and its epoch away; a clause for each module. The tenant must be blocked:
    its rights are not asked for any more, and when the block goes there is a new epoch."""
    key, epoch = _active(str(tenant)), epoch_key(str(tenant))
    async with client.pipeline(transaction=False) as pipeline:
        pipeline.smembers(key)
        pipeline.mget([epoch])
        answers = await ask(pipeline)
    slugs = sorted(answers[0] or ())
    if slugs or answers[1] != [None]:
        async with client.pipeline(transaction=True) as transaction:
            transaction.delete(key, epoch)
            for slug in slugs:
                transaction.srem(_index(slug), str(tenant))
            await commit(transaction, [MEMBERS] if slugs else [])
    return [f"withdrew {slug} from the tenant in Valkey" for slug in slugs]
