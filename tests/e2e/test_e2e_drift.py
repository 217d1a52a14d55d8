"""What somebody changes behind the operator's back is put right by the next comparison, and told.

All damage is done at once, as each system's administrator; then each kind of it is awaited by itself.
"""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from e2e_cluster import Cluster, eventually
from e2e_manifests import module, namespace, tenant
from redis.asyncio import Redis

from kernel_common.ids import tenant_id

PATIENCE = 90.0
EXTRA = [{"name": "body", "type": "text", "required": True}, {"name": "score", "type": "integer"}]


@dataclass
class World:
    """One tenant and one module, and an administrator's hand in each system. ``provider`` is the platform."""

    cluster: Cluster
    provider: Any
    slug: str
    place: str
    name: str
    database: asyncpg.Connection
    valkey: Any
    admin: AdminClient

    @property
    def tenant(self) -> str:
        return str(tenant_id(self.name))

    async def sql(self, statement: str) -> Any:
        return await self.database.execute(statement.format(s=self.slug, t=self.tenant))

    async def ask(self, question: str) -> Any:
        return await self.database.fetchval(question.format(s=self.slug, t=self.tenant))

    async def click(self, statement: str) -> None:
        await self.provider.clickhouse_command(statement.format(s=self.slug, t=self.tenant))

    async def count(self, question: str) -> int:
        return int((await self.provider.clickhouse_rows(question.format(s=self.slug, t=self.tenant)))[0][0])

    async def topic(self, action: Callable[[AdminClient, str], Any], suffix: str = "") -> None:
        await asyncio.to_thread(action, self.admin, f"platform.{self.slug}.events{suffix}")


Step = Callable[[World], Awaitable[Any]]


@dataclass(frozen=True)
class Damage:
    """``do`` makes it; ``whole`` answers true when it is put right."""

    name: str
    do: Step
    whole: Step


def on_table(name: str, table: str, statement: str, question: str) -> Damage:
    """Damage to a table of the module, whose ``question`` is true when all is well."""
    subject = f"'module_{{s}}.{table}'::regclass"
    return Damage(
        name,
        lambda w: w.sql(statement.replace("TABLE_", f"module_{{s}}.{table}")),
        lambda w: w.ask(f"SELECT {question}".replace("TABLE_", subject)),
    )


POLICY = "SELECT count(*) = 1 FROM pg_policy WHERE polname = 'tenant_isolation' AND polrelid = TABLE_"
PG_CLASS = "(SELECT {0} FROM pg_class WHERE oid = TABLE_)"
TRIGGERS = "(SELECT count(*) = {0} FROM pg_trigger WHERE tgrelid = TABLE_ AND NOT tgisinternal AND tgenabled <> 'D')"


def delete_topic(admin: AdminClient, topic: str) -> None:
    admin.delete_topics([topic])[topic].result(10)


def keep_forever(admin: AdminClient, topic: str) -> None:
    entry = ConfigEntry("retention.ms", "-1", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(10)


def keeps(hours: int, suffix: str = "") -> Step:
    async def whole(w: World) -> bool:
        try:
            return bool(await w.provider.topic_hours(f"platform.{w.slug}.events{suffix}") == hours)
        except KeyError:
            return False

    return whole


def counts(question: str, expected: int) -> Step:
    async def whole(w: World) -> bool:
        return await w.count(question) == expected

    return whole


async def secret_of(w: World) -> dict[str, str]:
    if not w.cluster.exists("secret", f"{w.slug}-database", "-n", w.place):
        return {}
    data = w.cluster.get("secret", f"{w.slug}-database", "-n", w.place)["data"]
    return {name: base64.b64decode(value).decode() for name, value in data.items()}


async def login_works(w: World) -> bool:
    secret = await secret_of(w)
    if not secret:
        return False
    try:
        await (await asyncpg.connect(secret["DATABASE_URL"])).close()
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError):
        return False
    return True


async def spoil_secret(w: World) -> None:
    password = base64.b64encode(b"short").decode()
    patch = json.dumps({"data": {"password": password, "DATABASE_URL": password}})
    w.cluster.run("patch", "secret", f"{w.slug}-database", "-n", w.place, "--type=merge", "-p", patch)


async def valkey_is(w: World, read: Awaitable[Any], good: Callable[[Any], bool]) -> bool:
    return good(await read)


DAMAGE = [
    on_table("policy dropped", "a", "DROP POLICY tenant_isolation ON TABLE_", f"({POLICY})"),
    on_table(
        "policy opened",
        "b",
        "ALTER POLICY tenant_isolation ON TABLE_ USING (true)",
        "(SELECT pg_get_expr(polqual, polrelid) LIKE '%app.tenant_id%' FROM pg_policy WHERE polrelid = TABLE_)",
    ),
    on_table(
        "stranger's policy",
        "c",
        "CREATE POLICY open ON TABLE_ USING (true)",
        "(SELECT count(*) = 1 FROM pg_policy WHERE polrelid = TABLE_)",
    ),
    on_table(
        "row security off", "d", "ALTER TABLE TABLE_ DISABLE ROW LEVEL SECURITY", PG_CLASS.format("relrowsecurity")
    ),
    on_table(
        "row security not forced",
        "e",
        "ALTER TABLE TABLE_ NO FORCE ROW LEVEL SECURITY",
        PG_CLASS.format("relforcerowsecurity"),
    ),
    on_table(
        "replica identity", "a", "ALTER TABLE TABLE_ REPLICA IDENTITY DEFAULT", PG_CLASS.format("relreplident = 'f'")
    ),
    on_table(
        "publication left",
        "b",
        "ALTER PUBLICATION platform_cdc DROP TABLE TABLE_",
        "EXISTS (SELECT FROM pg_publication_rel WHERE prrelid = TABLE_)",
    ),
    on_table("triggers disabled", "c", "ALTER TABLE TABLE_ DISABLE TRIGGER ALL", TRIGGERS.format(2)),
    on_table(
        "right revoked",
        "d",
        "REVOKE INSERT ON TABLE_ FROM module_{s}",
        "has_table_privilege('module_{s}', TABLE_, 'INSERT')",
    ),
    on_table(
        "right added",
        "e",
        "GRANT TRUNCATE ON TABLE_ TO module_{s}",
        "NOT has_table_privilege('module_{s}', TABLE_, 'TRUNCATE')",
    ),
    on_table(
        "right of everybody",
        "a",
        "GRANT SELECT ON TABLE_ TO PUBLIC",
        "NOT EXISTS (SELECT FROM pg_class, aclexplode(relacl) g WHERE oid = TABLE_ AND g.grantee = 0)",
    ),
    Damage(
        "table dropped",
        lambda w: w.sql("DROP TABLE module_{s}.f"),
        lambda w: w.ask("SELECT to_regclass('module_{s}.f') IS NOT NULL"),
    ),
    Damage(
        "login closed",
        lambda w: w.sql("ALTER ROLE module_{s} NOLOGIN"),
        lambda w: w.ask("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'module_{s}'"),
    ),
    Damage(
        "login may make roles",
        lambda w: w.sql("ALTER ROLE module_{s} CREATEROLE"),
        lambda w: w.ask("SELECT NOT rolcreaterole FROM pg_roles WHERE rolname = 'module_{s}'"),
    ),
    Damage(
        "tenant's row changed",
        lambda w: w.sql("UPDATE kernel.tenants SET display_name = 'Mallory' WHERE id = '{t}'"),
        lambda w: w.ask("SELECT display_name <> 'Mallory' FROM kernel.tenants WHERE id = '{t}'"),
    ),
    Damage(
        "ancestry lost",
        lambda w: w.sql("DELETE FROM kernel.tenant_closure WHERE descendant_id = '{t}'"),
        lambda w: w.ask("SELECT count(*) = 1 FROM kernel.tenant_closure WHERE descendant_id = '{t}'"),
    ),
    Damage(
        "activation lost",
        lambda w: w.sql("DELETE FROM kernel.module_tenants WHERE slug = '{s}'"),
        lambda w: w.ask("SELECT count(*) = 1 FROM kernel.module_tenants WHERE slug = '{s}'"),
    ),
    Damage("topic's retention", lambda w: w.topic(keep_forever), keeps(168)),
    Damage("dead letters deleted", lambda w: w.topic(delete_topic, ".dlq"), keeps(720, ".dlq")),
    Damage(
        "analytics user dropped",
        lambda w: w.click("DROP USER `tenant_{t}`"),
        counts("SELECT count() FROM system.users WHERE name = 'tenant_{t}'", 1),
    ),
    Damage(
        "analytics policy dropped",
        lambda w: w.click("DROP ROW POLICY tenant_isolation ON analytics.module_{s}__a"),
        counts(
            "SELECT count() FROM system.row_policies WHERE table = 'module_{s}__a' AND short_name = 'tenant_isolation'",
            1,
        ),
    ),
    Damage(
        "stranger's analytics policy",
        lambda w: w.click("CREATE ROW POLICY open ON analytics.module_{s}__b USING 1 TO ALL"),
        counts("SELECT count() FROM system.row_policies WHERE table = 'module_{s}__b' AND short_name = 'open'", 0),
    ),
    Damage(
        "analytics view dropped",
        lambda w: w.click("DROP VIEW analytics.module_{s}__c__current"),
        counts("SELECT count() FROM system.tables WHERE name = 'module_{s}__c__current'", 1),
    ),
    Damage(
        "analytics table dropped",
        lambda w: w.click("DROP TABLE analytics.module_{s}__d"),
        counts("SELECT count() FROM system.tables WHERE name = 'module_{s}__d'", 1),
    ),
    Damage(
        "analytics column dropped",
        lambda w: w.click("ALTER TABLE analytics.module_{s}__e DROP COLUMN score"),
        counts("SELECT count() FROM system.columns WHERE table = 'module_{s}__e' AND name = 'score'", 1),
    ),
    Damage(
        "limit changed",
        lambda w: w.valkey.set(f"rate_limit:config:{w.tenant}", '{"rps": 1000000}'),
        lambda w: valkey_is(w, w.valkey.get(f"rate_limit:config:{w.tenant}"), lambda v: json.loads(v)["rps"] == 1000),
    ),
    Damage(
        "limits lost",
        lambda w: w.valkey.delete(f"tenant:limits:{w.tenant}"),
        lambda w: valkey_is(w, w.valkey.exists(f"tenant:limits:{w.tenant}"), bool),
    ),
    Damage(
        "tenant blocked",
        lambda w: w.valkey.set(f"tenant:blocked:{w.tenant}", "1"),
        lambda w: valkey_is(w, w.valkey.exists(f"tenant:blocked:{w.tenant}"), lambda n: n == 0),
    ),
    Damage(
        "active set lost",
        lambda w: w.valkey.delete(f"modules:active:{w.tenant}"),
        lambda w: valkey_is(w, w.valkey.smembers(f"modules:active:{w.tenant}"), lambda s: w.slug in s),
    ),
    Damage(
        "route lost",
        lambda w: w.valkey.hdel("routes:table", w.slug),
        lambda w: valkey_is(w, w.valkey.hexists("routes:table", w.slug), bool),
    ),
    Damage(
        "permission added",
        lambda w: w.valkey.hset("permissions:registry", w.slug, '["platform.everything"]'),
        lambda w: valkey_is(w, w.valkey.hget("permissions:registry", w.slug), lambda v: "platform" not in v),
    ),
    Damage(
        "event right added",
        lambda w: w.valkey.hset("events:rights", w.slug, '{"publishes": ["money.wallet.credited"], "subscribes": []}'),
        lambda w: valkey_is(w, w.valkey.hget("events:rights", w.slug), lambda v: "money" not in v),
    ),
    Damage("secret spoiled", spoil_secret, login_works),
]


@pytest.fixture(scope="module")
async def damaged(cluster, provider):
    """The world after all of the damage."""
    mark = uuid4().hex[:6]
    slug, place, name = f"d{mark}", f"drift-{mark}", f"drift-{mark}"
    models = [{"name": letter, "fields": EXTRA, "analytics": {"enabled": True}} for letter in "abcdef"]
    cluster.apply(tenant(name, tier="owner"), namespace(place))
    cluster.apply(module(slug, namespace=place, tenants={"names": [name]}, dataApi={"models": models}))
    cluster.wait_ready("tenant", name)
    cluster.wait_ready("kmod", slug, "-n", place)
    database = await asyncpg.connect(provider.database_admin_url)
    async with Redis.from_url(provider.valkey_admin_url, decode_responses=True) as valkey:
        world = World(cluster, provider, slug, place, name, database, valkey, AdminClient(provider.kafka_admin))
        for damage in DAMAGE:
            await damage.do(world)
        yield world
    await database.close()
    cluster.delete("kmod", slug, "-n", place)
    cluster.delete("tenant", name)
    cluster.delete("namespace", place, wait=False)


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.name.replace(" ", "-"))
async def test_it_is_put_right(damaged: World, damage: Damage) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await damage.whole(damaged):
            await asyncio.sleep(0.05)


def test_each_system_is_named_in_an_event(damaged: World) -> None:
    wanted = {"PostgreSQL", "Kafka", "ClickHouse", "Valkey"}

    def told() -> set[str]:
        notes = damaged.cluster.run("get", "events", "-n", damaged.place, "--field-selector=reason=Repaired")
        return {system for system in wanted if f"{system} had been changed" in notes}

    eventually(told, lambda found: found == wanted, what="an Event for each system")


async def test_each_repair_is_counted(damaged: World) -> None:
    text = await damaged.provider.operator_metrics()
    for system in ("PostgreSQL", "Kafka", "ClickHouse", "Valkey"):
        assert f'platform_kernel_repairs_total{{system="{system}"}}' in text


def test_both_resources_are_ready_again(damaged: World) -> None:
    damaged.cluster.wait_ready("tenant", damaged.name)
    damaged.cluster.wait_ready("kmod", damaged.slug, "-n", damaged.place)
