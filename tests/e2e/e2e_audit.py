"""Holds every system against the resources, and names each difference and each thing that nobody asked for.

It is written from the documents (docs/operator.md, docs/systems.md, docs/postgresql.md) and shares no code with the
operator's own comparison: what both took for right would else be found by nobody. What the rules of deletion keep is no
orphan: the rows and blocked marks of removed tenants, the tables and topics of a module whose resource is gone.
"""

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType
from redis.asyncio import Redis

from kernel_common.ids import tenant_id

OURS = "platform-kernel.io/finalizer"
HOUR = 3_600_000
KERNEL = ("auth", "module", "money", "data", "files", "notify", "billing", "audit")
LISTS = (
    "/apis/platform-kernel.io/v1alpha1/tenants",
    "/apis/platform-kernel.io/v1alpha1/kernelmodules",
    "/api/v1/secrets?labelSelector=platform-kernel.io/module",
)
HASHES = {
    "permissions": "permissions:registry",
    "events": "events:rights",
    "notify": "notify:channels",
    "routes": "routes:table",
}
REFUSED = {
    *("ParentNotFound", "ParentTierTooLow", "RetainedDataFound", "NameTaken", "InvalidSpec"),
    *("ScopeNotAllowed", "SelectionNotAllowed", "SlugTaken", "RouteTaken", "KernelVersionMismatch"),
    *("IncompatibleChange", "PartitionsFixed", "UnsafeLogin", "NotOwned", "SecretTaken", "NameTooLong"),
}
"""Reasons of resources that can't be had as they are written: nothing is asked for them, what ran before stays."""
COLUMNS = {
    "text": ("text", "String"),
    "integer": ("integer", "Int32"),
    "bigint": ("bigint", "Int64"),
    "decimal": ("numeric(20,6)", "Decimal(20, 6)"),
    "float": ("double precision", "Float64"),
    "boolean": ("boolean", "Bool"),
    "date": ("date", "Date32"),
    "timestamp": ("timestamp with time zone", "DateTime64(6, 'UTC')"),
    "uuid": ("uuid", "UUID"),
    "json": ("jsonb", "String"),
}


PEOPLE_LEFT = """
    SELECT 'members' AS name, tenant_id FROM auth.members WHERE tenant_id = ANY($1)
    UNION SELECT 'member_roles', tenant_id FROM auth.member_roles WHERE tenant_id = ANY($1)
    UNION SELECT 'refresh_tokens', tenant_id FROM auth.refresh_tokens WHERE tenant_id = ANY($1)
    UNION SELECT 'one_time_tokens', tenant_id FROM auth.one_time_tokens WHERE tenant_id = ANY($1)
    UNION SELECT 'roles', tenant_id FROM auth.roles WHERE tenant_id = ANY($1) AND NOT built_in"""
OWNERLESS = """
    SELECT name FROM kernel.tenants AS t WHERE id = ANY($1) AND NOT EXISTS (
      SELECT FROM auth.member_roles AS r JOIN auth.roles AS o ON o.tenant_id = r.tenant_id AND o.id = r.role_id
      WHERE r.tenant_id = t.id AND o.built_in AND o.name = 'Owner')"""


@dataclass
class Tenant:
    """A living Tenant. ``line`` is itself and those above it."""

    id: UUID
    body: Mapping[str, Any]
    line: list[UUID]
    blocked: bool

    @property
    def spec(self) -> Mapping[str, Any]:
        return self.body["spec"]


@dataclass
class Module:
    """A living KernelModule. ``judged`` is false for one that was refused: its former version may run."""

    body: Mapping[str, Any]
    slug: str
    judged: bool
    tenants: set[UUID]

    @property
    def spec(self) -> Mapping[str, Any]:
        return self.body["spec"]

    @property
    def enabled(self) -> bool:
        return self.spec.get("enabled", True)

    @property
    def models(self) -> dict[str, Mapping[str, Any]]:
        return {model["name"]: model for model in self.spec.get("dataApi", {}).get("models", [])}

    @property
    def analysed(self) -> list[str]:
        return [name for name, model in self.models.items() if model.get("analytics", {}).get("enabled")]


class Resources:
    """What the resources ask for, and what is wrong with the resources themselves."""

    def __init__(self, cluster: Any) -> None:
        tenants, modules, self.secrets = ThreadPoolExecutor(3).map(lambda path: _listed(cluster, path), LISTS)
        self.problems = [problem for body in [*tenants, *modules] for problem in _unfinished(body)]
        living = {body["metadata"]["name"]: body for body in tenants if _living(body) and not _refused(body)}
        self.tenants = {tenant.id: tenant for tenant in _with_ancestors(living)}
        self.modules: dict[str, Module] = {}
        for body in filter(_living, modules):
            slug = body["spec"]["moduleName"].partition("/")[2].replace("-", "_")
            if slug not in self.modules or not _refused(body):
                chosen = {t.id for t in self.tenants.values() if _selects(body["spec"]["tenants"], t.body["metadata"])}
                self.modules[slug] = Module(body, slug, not _refused(body), chosen)

    @property
    def judged(self) -> Iterator[Module]:
        return (module for module in self.modules.values() if module.judged)


def _listed(cluster: Any, path: str) -> list[dict[str, Any]]:
    """Raw, because kubectl then asks nothing else."""
    found: list[dict[str, Any]] = json.loads(cluster.run("get", "--raw", path))["items"]
    return found


def _living(body: Mapping[str, Any]) -> bool:
    return not body["metadata"].get("deletionTimestamp")


def _ready(body: Mapping[str, Any]) -> Mapping[str, Any]:
    conditions = body.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == "Ready"), {})


def _refused(body: Mapping[str, Any]) -> bool:
    return _ready(body).get("status") == "False" and _ready(body)["reason"] in REFUSED


def _unfinished(body: Mapping[str, Any]) -> Iterator[str]:
    meta, ready = body["metadata"], _ready(body)
    name = f"{body['kind']} {meta.get('namespace', '')}/{meta['name']}".replace(" /", " ")
    if not _living(body):
        if OURS in meta.get("finalizers", []):
            yield f"{name} is being deleted: {ready.get('reason')}: {ready.get('message')}"
        return
    if ready.get("observedGeneration") != meta["generation"]:
        yield f"{name}: generation {meta['generation']} was not looked at, {ready.get('observedGeneration')} was"
    elif ready["status"] != "True" and ready["reason"] not in {*REFUSED, "TenantNotFound"}:
        yield f"{name} is not Ready: {ready['reason']}: {ready['message']}"
    if OURS not in meta.get("finalizers", []) and not _refused(body):
        yield f"{name} has no finalizer"


def _with_ancestors(living: Mapping[str, Mapping[str, Any]]) -> Iterator[Tenant]:
    for name, body in living.items():
        line, names, above = [tenant_id(name)], [name], body["spec"].get("parent")
        while above in living:
            line.append(tenant_id(above))
            names.append(above)
            above = living[above]["spec"].get("parent")
        blocked = any(living[one]["spec"].get("suspended") for one in names)
        yield Tenant(line[0], body, line, blocked)


def _selects(selection: Mapping[str, Any], meta: Mapping[str, Any]) -> bool:
    if "names" in selection:
        return meta["name"] in selection["names"]
    if "all" in selection:
        return True
    labels, asked = meta.get("labels", {}), selection["selector"]
    judge = {
        "In": lambda e: labels.get(e["key"]) in e["values"],
        "NotIn": lambda e: labels.get(e["key"]) not in e["values"],
        "Exists": lambda e: e["key"] in labels,
        "DoesNotExist": lambda e: e["key"] not in labels,
    }
    return asked.get("matchLabels", {}).items() <= labels.items() and all(
        judge[e["operator"]](e) for e in asked.get("matchExpressions", [])
    )


async def audit(cluster: Any, provider: Any) -> list[str]:
    """A line for each difference, none when every system is as the resources ask. One look: while something is
    being worked on it shows; see ``clean``."""
    try:
        return await _audit(cluster, provider)
    except (asyncpg.UndefinedTableError, UnknownTable) as error:
        return [f"gone while it was looked at: {error}"]


async def _audit(cluster: Any, provider: Any) -> list[str]:
    resources = await asyncio.to_thread(Resources, cluster)
    connection = await asyncpg.connect(provider.database_admin_url)
    try:
        known, database = await _postgres(connection, resources)
    finally:
        await connection.close()
    others = [
        _kafka(AdminClient(provider.kafka_admin), resources, known),
        _clickhouse(provider.clickhouse_admin_url, resources, known),
        _valkey(provider.valkey_admin_url, resources, known),
    ]
    found = [*resources.problems, *_secrets(resources), *database]
    for problems in await asyncio.gather(*others):
        found += problems
    return found


async def clean(cluster: Any, provider: Any, seconds: float = 60) -> None:
    """Wait until an audit finds nothing; after ``seconds`` its findings are the failure."""
    deadline = asyncio.get_running_loop().time() + seconds
    while found := await audit(cluster, provider):
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError("the audit finds:\n" + "\n".join(found[:40]))
        await asyncio.sleep(0.3)


@dataclass
class Known:
    """What PostgreSQL remembers, by which the leftovers of deletions are told from orphans."""

    tenants: Mapping[UUID, str]
    """Id to status."""
    slugs: set[str]
    analysed: set[tuple[str, str]]
    """Slug and model of each table that was ever declared."""
    deleted: list[UUID]


def _secrets(resources: Resources) -> Iterator[str]:
    owners = {}
    for secret in resources.secrets:
        meta = secret["metadata"]
        owners[(meta["namespace"], meta["name"])] = [o["uid"] for o in meta.get("ownerReferences", [])]
    wanted = {}
    for module in resources.modules.values():
        meta = module.body["metadata"]
        wanted[(meta["namespace"], f"{meta['name']}-database")] = (meta["uid"], module.judged)
    for place, (uid, judged) in wanted.items():
        if judged and owners.get(place) != [uid]:
            yield f"Secret {'/'.join(place)}: owned by {owners.get(place)}, not by {uid}"
    for place in owners.keys() - wanted.keys():
        yield f"Secret {'/'.join(place)} is nobody's"


async def _postgres(connection: asyncpg.Connection, resources: Resources) -> tuple[Known, list[str]]:
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        tenants = {row["id"]: row for row in await connection.fetch("SELECT * FROM kernel.tenants")}
        lines: dict[UUID, list[UUID]] = {}
        for row in await connection.fetch("SELECT * FROM kernel.tenant_closure ORDER BY descendant_id, depth"):
            lines.setdefault(row["descendant_id"], []).append(row["ancestor_id"])
        modules = {row["slug"]: row for row in await connection.fetch("SELECT * FROM kernel.modules")}
        members: dict[str, set[UUID]] = {}
        for row in await connection.fetch("SELECT * FROM kernel.module_tenants"):
            members.setdefault(row["slug"], set()).add(row["tenant_id"])
        declared = await connection.fetch("SELECT * FROM kernel.module_models")
        schemas = {r[0] for r in await connection.fetch(r"SELECT nspname FROM pg_namespace WHERE nspname ~ '^module_'")}
        roles = {r["rolname"]: r for r in await connection.fetch("SELECT * FROM pg_roles WHERE rolname ~ '^module_'")}
        tables = await _tables(connection)
        known = Known(
            {identity: row["status"] for identity, row in tenants.items()},
            set(modules),
            {(row["slug"], row["model"]) for row in declared},
            [identity for identity, row in tenants.items() if row["status"] == "deleted"],
        )
        found = [*_tenant_rows(resources, tenants, lines)]
        found += _module_rows(resources, modules, members, tenants)
        found += _logins(resources, modules, schemas, roles)
        found += _model_tables(resources, known, tables)
        for table in tables.values():
            if known.deleted and "tenant_id" in table["columns"]:
                left = f"SELECT DISTINCT tenant_id FROM {table['quoted']} WHERE tenant_id = ANY($1)"
                for row in await connection.fetch(left, known.deleted):
                    found.append(f"PostgreSQL: {table['name']} holds rows of the deleted tenant {row[0]}")
        for row in await connection.fetch(PEOPLE_LEFT, known.deleted):
            found.append(f"PostgreSQL: auth.{row['name']} holds rows of the deleted tenant {row['tenant_id']}")
        for row in await connection.fetch(OWNERLESS, list(resources.tenants)):
            found.append(f"PostgreSQL: tenant {row['name']} has no owner")
    return known, found


async def _tables(connection: asyncpg.Connection) -> dict[str, dict[str, Any]]:
    rows = await connection.fetch("""
        SELECT n.nspname || '.' || c.relname AS name, format('%I.%I', nspname, relname) AS quoted,
          c.relrowsecurity AND c.relforcerowsecurity AS isolated, c.relreplident::text AS identity,
          ARRAY(SELECT polname::text FROM pg_policy WHERE polrelid = c.oid) AS policies,
          ARRAY(SELECT pubname::text FROM pg_publication_rel JOIN pg_publication p ON p.oid = prpubid
                WHERE prrelid = c.oid) AS publications,
          (SELECT jsonb_object_agg(attname, format_type(atttypid, atttypmod)) FROM pg_attribute
           WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) AS columns
        FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
        WHERE relkind IN ('r', 'p') AND nspname ~ '^module_'""")
    return {row["name"]: {**row, "columns": json.loads(row["columns"])} for row in rows}


def _tenant_rows(resources: Resources, rows: Mapping[UUID, Any], lines: Mapping[UUID, list[UUID]]) -> Iterator[str]:
    for tenant in resources.tenants.values():
        name, spec = tenant.body["metadata"]["name"], tenant.spec
        row = rows.get(tenant.id)
        if row is None:
            yield f"kernel.tenants: {name} is missing"
            continue
        wanted = {
            "name": name,
            "display_name": spec["displayName"],
            "tier": spec["tier"],
            "parent_id": tenant.line[1] if len(tenant.line) > 1 else None,
            "owner_email": spec["owner"]["email"],
            "status": "suspended" if spec.get("suspended") else "active",
            "suspended": bool(spec.get("suspended")),
            "blocked": tenant.blocked,
            "resource_uid": tenant.body["metadata"]["uid"],
        }
        yield from _differences(f"kernel.tenants: {name}", wanted, row)
        limits, rates = json.loads(row["limits"]), spec["rateLimit"]
        wanted = {
            "requests_per_minute": rates["requestsPerMinute"],
            "admin_requests_per_minute": rates["adminRequestsPerMinute"],
            "burst": rates["burst"],
            "max_connections": spec["notifications"]["maxConnections"],
            "messages_per_second": spec["notifications"]["messagesPerSecond"],
            "max_open_holds_per_wallet": spec["money"]["maxOpenHoldsPerWallet"],
            "max_amount": spec["money"]["maxAmount"],
        }
        yield from _differences(f"kernel.tenants: limits of {name}", wanted, limits)
        if lines.get(tenant.id) != tenant.line:
            yield f"kernel.tenant_closure: {name} is below {lines.get(tenant.id)}, not {tenant.line}"
    for identity, row in rows.items():
        if identity in resources.tenants:
            continue
        if row["status"] not in ("retired", "deleted") or not row["blocked"]:
            yield f"kernel.tenants: {row['name']} is {row['status']} without a Tenant"
        if row["status"] == "deleted" and (row["display_name"] or row["owner_email"] or identity in lines):
            yield f"kernel.tenants: {row['name']} is deleted, and something of it is left"


def _module_rows(
    resources: Resources, rows: Mapping[str, Any], members: Mapping[str, set[UUID]], tenants: Mapping[UUID, Any]
) -> Iterator[str]:
    for module in resources.judged:
        row, meta = rows.get(module.slug), module.body["metadata"]
        if row is None:
            yield f"kernel.modules: {module.slug} is missing"
            continue
        wanted = {
            "module_name": module.spec["moduleName"],
            "namespace": meta["namespace"],
            "name": meta["name"],
            "resource_uid": meta["uid"],
            "version": module.spec["version"],
            "active": module.enabled,
            "removed_at": None,
        }
        yield from _differences(f"kernel.modules: {module.slug}", wanted, row)
        yield from _sets(f"kernel.module_tenants: {module.slug}", module.tenants, members.get(module.slug, set()))
    for slug, row in rows.items():
        if slug not in resources.modules:
            if row["removed_at"] is None or row["active"]:
                yield f"kernel.modules: {slug} serves without a KernelModule"
            if members.get(slug):
                yield f"kernel.module_tenants: {slug} has no KernelModule and {len(members[slug])} tenants"
    for slug, ids in members.items():
        for identity in ids:
            if tenants[identity]["status"] in ("retired", "deleted"):
                yield f"kernel.module_tenants: {slug} serves the removed tenant {tenants[identity]['name']}"


def _logins(
    resources: Resources, modules: Mapping[str, Any], schemas: set[str], roles: Mapping[str, Any]
) -> Iterator[str]:
    names = {f"module_{slug}": slug for slug in modules}
    yield from (f"PostgreSQL: schema {name} is nobody's" for name in schemas - names.keys())
    yield from (f"PostgreSQL: role {name} is nobody's" for name in roles.keys() - names.keys())
    for name, slug in names.items():
        module, role = resources.modules.get(slug), roles.get(name)
        if name not in schemas:
            yield f"PostgreSQL: schema {name} is missing"
        if module is None and role is not None and role["rolcanlogin"]:
            yield f"PostgreSQL: {name} may log in without a KernelModule"
        if module is not None and module.judged and (role is not None and role["rolcanlogin"]) is not module.enabled:
            yield f"PostgreSQL: {name} {'may not' if module.enabled else 'may'} log in"
        if role is not None and any(role[f"rol{right}"] for right in ("super", "createrole", "createdb", "bypassrls")):
            yield f"PostgreSQL: {name} may too much"


def _model_tables(resources: Resources, known: Known, tables: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, table in tables.items():
        if not table["isolated"] or "tenant_isolation" not in table["policies"]:
            yield f"PostgreSQL: {name} does not keep tenants apart"
        schema, _, model = name.partition(".")
        if table["publications"] and (schema.removeprefix("module_"), model) not in known.analysed:
            yield f"PostgreSQL: {name} is published and no model"
    for module in resources.judged:
        for model, declared in module.models.items():
            name = f"module_{module.slug}.{model}"
            if (table := tables.get(name)) is None:
                yield f"PostgreSQL: {name} is missing"
                continue
            analysed = model in module.analysed
            if table["publications"] != (["platform_cdc"] if analysed else []):
                yield f"PostgreSQL: {name} is in the publications {table['publications']}"
            if analysed and table["identity"] != "f":
                yield f"PostgreSQL: {name} has replica identity {table['identity']}"
            if table["policies"] != ["tenant_isolation"]:
                yield f"PostgreSQL: {name} has the policies {table['policies']}"
            columns = {field["name"]: COLUMNS[field["type"]][0] for field in declared["fields"]}
            yield from _differences(f"PostgreSQL: {name}", columns, table["columns"])
            if (module.slug, model) not in known.analysed:
                yield f"kernel.module_models: {module.slug}.{model} is missing"


class UnknownTable(Exception):
    """Dropped between two questions."""


async def _kafka(admin: AdminClient, resources: Resources, known: Known) -> list[str]:
    found: list[str] = []
    topics = (await asyncio.to_thread(admin.list_topics, timeout=10)).topics
    ours = {name: len(topic.partitions) for name, topic in topics.items() if name.startswith("platform.")}
    wanted = {f"platform.{domain}.events": (None, 720 if domain == "audit" else 168) for domain in KERNEL}
    for module in resources.judged:
        if module.spec.get("events", {}).get("publishes") and module.slug not in KERNEL:
            events = module.spec["events"]
            kept = (events.get("partitions", 12), events.get("retentionHours", 168))
            wanted[f"platform.{module.slug}.events"] = kept
    wanted |= {f"{name}.dlq": (None, 720) for name in wanted}
    there = sorted(ours.keys() & wanted.keys())
    futures = admin.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in there])
    hours = {r.name: int((await asyncio.wrap_future(f))["retention.ms"].value) / HOUR for r, f in futures.items()}
    for name, (partitions, kept) in wanted.items():
        if name not in ours:
            found.append(f"Kafka: topic {name} is missing")
        elif (partitions is not None and ours[name] != partitions) or hours[name] != kept:
            found.append(f"Kafka: topic {name} has {ours[name]} partitions and keeps {hours[name]} h")
    may_stay = {f"platform.{slug}.events{end}" for slug in known.slugs | set(resources.modules) for end in ("", ".dlq")}
    return [*found, *(f"Kafka: topic {name} is nobody's" for name in ours.keys() - wanted.keys() - may_stay)]


async def _clickhouse(url: str, resources: Resources, known: Known) -> list[str]:
    where = "WHERE database = 'analytics'"
    async with aiohttp.ClientSession() as session:

        async def ask(sql: str) -> list[list[Any]]:
            async with session.post(url, data=f"{sql} FORMAT JSONCompactEachRow") as answer:
                text = await answer.text()
                if "UNKNOWN_TABLE" in text:
                    raise UnknownTable(text)
                assert answer.status == 200, text
            return [json.loads(line) for line in text.splitlines()]

        users = {row[0] for row in await ask("SELECT name FROM system.users WHERE startsWith(name, 'tenant_')")}
        engines = dict(await ask(f"SELECT name, engine FROM system.tables {where}"))
        columns: dict[str, dict[str, str]] = {}
        for table, name, kind in await ask(f"SELECT table, name, type FROM system.columns {where}"):
            columns.setdefault(table, {})[name] = kind
        policies: dict[str, set[str]] = {}
        for table, name in await ask(f"SELECT table, short_name FROM system.row_policies {where}"):
            policies.setdefault(table, set()).add(name)
        rows = "SELECT DISTINCT '{0}', tenant_id FROM analytics.`{0}`"
        holding = [name for name in engines if "MergeTree" in engines[name] and "tenant_id" in columns.get(name, {})]
        held = await ask(" UNION ALL ".join(map(rows.format, holding))) if holding and known.deleted else []
    wanted_users = {f"tenant_{tenant.id}" for tenant in resources.tenants.values() if not tenant.blocked}
    found = [*_sets("ClickHouse users", wanted_users, users)]
    deleted = {str(identity) for identity in known.deleted}
    found += [f"ClickHouse: {table} holds rows of the deleted tenant {one}" for table, one in held if one in deleted]
    may_stay = {f"module_{slug}__{model}" for slug, model in known.analysed}
    for module in resources.judged:
        for model in module.analysed:
            table = f"module_{module.slug}__{model}"
            if "ReplacingMergeTree" not in engines.get(table, ""):
                found.append(f"ClickHouse: table {table} is missing")
                continue
            if engines.get(f"{table}__current") != "View":
                found.append(f"ClickHouse: view {table}__current is missing")
            fields = {f["name"]: f"Nullable({COLUMNS[f['type']][1]})" for f in module.models[model]["fields"]}
            found += _differences(f"ClickHouse: {table}", fields, columns[table])
            may_stay.add(table)
    expected = {"tenant_isolation", "kernel_services"}
    for table in {*engines, *policies}:
        kept = table.removesuffix("__current") if engines.get(table) == "View" else table
        if kept not in may_stay:
            found.append(f"ClickHouse: {table} is nobody's")
        elif engines.get(table) != "View" and policies.get(table) != expected:
            found.append(f"ClickHouse: {table} has the policies {policies.get(table)}")
    return found


async def _valkey(url: str, resources: Resources, known: Known) -> list[str]:
    async with Redis.from_url(url, decode_responses=True) as valkey:
        keys = {key async for key in valkey.scan_iter(count=1000)}
        families = ("rate_limit:config:", "tenant:limits:", "tenant:blocked:", "modules:active:", "modules:tenants:")
        texts = [key for key in sorted(keys) if key.startswith(families[:3])]
        held = dict(zip(texts, await valkey.mget(texts) if texts else [], strict=True))
        sets = {key: await valkey.smembers(key) for key in keys if key.startswith(families[3:])}
        hashes = {table: await valkey.hgetall(key) for table, key in HASHES.items()}
        versions = {key.removeprefix("kernel:version:") for key in keys if key.startswith("kernel:version:")}
    found = []
    for tenant in resources.tenants.values():
        rates, spec, where = tenant.spec["rateLimit"], tenant.spec, f"Valkey: {tenant.body['metadata']['name']}"
        rate = {
            "rps": rates["requestsPerMinute"],
            "burst": rates["burst"],
            "adminRps": rates["adminRequestsPerMinute"],
        }
        limits = {"notifications": spec["notifications"], "money": spec["money"]}
        for family, value in (("rate_limit:config:", rate), ("tenant:limits:", limits)):
            text = held.pop(f"{family}{tenant.id}", None)
            found += _differences(f"{where}, {family}", value, json.loads(text) if text else {})
        if (held.pop(f"tenant:blocked:{tenant.id}", None) is not None) is not tenant.blocked:
            found.append(f"{where} is {'not ' if tenant.blocked else ''}marked as blocked")
    for key in held:
        family, _, identity = key.rpartition(":")
        if family != "tenant:blocked":
            found.append(f"Valkey: {key} is nobody's")
    living = {identity for identity, status in known.tenants.items() if status in ("active", "suspended")}
    marks = {key.rpartition(":")[2] for key in held}
    for identity in known.tenants.keys() - living:
        if str(identity) not in marks:
            found.append(f"Valkey: the removed tenant {identity} is not marked as blocked")
    return [*found, *_module_keys(resources, sets, hashes, versions)]


def _module_keys(
    resources: Resources,
    sets: Mapping[str, set[str]],
    hashes: Mapping[str, Mapping[str, str]],
    versions: set[str],
) -> Iterator[str]:
    free = {slug for slug, module in resources.modules.items() if not module.judged}
    serving = {m.slug: {str(identity) for identity in m.tenants} if m.enabled else set() for m in resources.judged}
    index = {key.rpartition(":")[2]: found for key, found in sets.items() if key.startswith("modules:tenants:")}
    active: dict[str, set[str]] = {}
    for key, slugs in sets.items():
        if key.startswith("modules:active:"):
            for slug in slugs:
                active.setdefault(slug, set()).add(key.rpartition(":")[2])
    for slug in (serving.keys() | index.keys() | active.keys()) - free:
        for what, holders in (("modules:tenants", index), ("modules:active", active)):
            yield from _sets(f"Valkey: {what} of {slug}", serving.get(slug, set()), holders.get(slug, set()))
    wanted: dict[str, dict[str, Any]] = {table: {} for table in HASHES}
    for module in resources.judged:
        spec, events = module.spec, module.spec.get("events", {})
        if spec.get("permissions"):
            wanted["permissions"][module.slug] = spec["permissions"]
        if not module.enabled:
            continue
        rights = {kind: events.get(kind, []) for kind in ("publishes", "subscribes")}
        if any(rights.values()):
            wanted["events"][module.slug] = rights
        if spec.get("notificationChannels"):
            wanted["notify"][module.slug] = spec["notificationChannels"]
        analytics = {"version": spec["version"]} | ({"analytics": module.analysed} if module.analysed else {})
        if route := spec.get("route"):
            wanted["routes"][module.slug] = analytics | {
                "prefix": route["prefix"],
                "namespace": module.body["metadata"]["namespace"],
                "service": route["service"]["name"],
                "port": route["service"]["port"],
            }
        elif module.analysed:
            wanted["routes"][module.slug] = analytics | {"prefix": None}
    for table, fields in wanted.items():
        found = {slug: json.loads(text) for slug, text in hashes[table].items() if slug not in free}
        yield from _sets(f"Valkey: {HASHES[table]}", set(fields), set(found))
        for slug in fields.keys() & found.keys():
            there = found[slug]
            same = fields[slug].items() <= there.items() if isinstance(there, dict) else fields[slug] == there
            if not same:
                yield f"Valkey: {HASHES[table]} has {there} for {slug}, not {fields[slug]}"
    for table in [*HASHES, "modules"]:
        if (wanted.get(table) or (table == "modules" and any(serving.values()))) and table not in versions:
            yield f"Valkey: kernel:version:{table} is missing"
    if resources.tenants and "tenants" not in versions:
        yield "Valkey: kernel:version:tenants is missing"


def _differences(what: str, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    for name, value in wanted.items():
        if (there := found.get(name)) != value:
            yield f"{what}: {name} is {there!r}, not {value!r}"


def _sets(what: str, wanted: Iterable[Any], found: Iterable[Any]) -> Iterator[str]:
    wanted, found = set(wanted), set(found)
    if wanted - found:
        yield f"{what}: lacks {sorted(map(str, wanted - found))[:5]}"
    if found - wanted:
        yield f"{what}: has {sorted(map(str, found - wanted))[:5]} too much"
