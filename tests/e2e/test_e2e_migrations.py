"""A module's own SQL, from its resource to its tables: run once, isolated like every table, refused when it must be."""

from uuid import uuid4

import asyncpg
import pytest
from e2e_cluster import eventually
from e2e_manifests import module, namespace, tenant
from test_e2e_modules import service_url

from kernel_common.ids import tenant_id

TAGS = """
CREATE TABLE tags (
  tenant_id uuid NOT NULL,
  name text NOT NULL,
  PRIMARY KEY (tenant_id, name)
);
"""


@pytest.fixture(scope="module")
def owner(cluster):
    name = f"mig-{uuid4().hex[:6]}"
    cluster.apply(tenant(name, tier="owner"))
    cluster.wait_ready("tenant", name)
    yield name
    cluster.delete("tenant", name)


@pytest.fixture
def place(cluster):
    name = f"mig-{uuid4().hex[:6]}"
    cluster.apply(namespace(name))
    yield name
    cluster.delete("kernelmodules", "--all", "-n", name)
    cluster.delete("namespace", name, wait=False)


def config_map(place: str, **files: str) -> dict:
    data = {f"{name}.sql": text for name, text in files.items()}
    metadata = {"name": "sql", "namespace": place}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def from_config_map(slug: str, place: str, owner: str, **spec):
    return module(
        slug, namespace=place, tenants={"names": [owner]}, migrations={"configMapRef": {"name": "sql"}}, **spec
    )


async def test_a_table_of_a_migration_is_isolated_like_every_other(cluster, owner, place) -> None:
    slug = f"m{uuid4().hex[:8]}"
    cluster.apply(config_map(place, **{"0001_tags": TAGS}), from_config_map(slug, place, owner))
    cluster.wait_ready("kmod", slug, "-n", place)
    connection = await asyncpg.connect(service_url(cluster, slug, place))
    try:
        async with connection.transaction():
            await connection.execute("SELECT set_config('app.tenant_id', $1, true)", str(tenant_id(owner)))
            await connection.execute(
                f"INSERT INTO module_{slug}.tags (tenant_id, name) VALUES ($1, 'x')", tenant_id(owner)
            )
            assert await connection.fetchval(f"SELECT count(*) FROM module_{slug}.tags") == 1
        assert await connection.fetchval(f"SELECT count(*) FROM module_{slug}.tags") == 0, "no tenant, no rows"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f"ALTER TABLE module_{slug}.tags DISABLE ROW LEVEL SECURITY")
    finally:
        await connection.close()


async def test_a_second_file_is_added_and_a_changed_first_refused(cluster, provider, owner, place) -> None:
    slug = f"m{uuid4().hex[:8]}"
    cluster.apply(config_map(place, **{"0001_tags": TAGS}), from_config_map(slug, place, owner))
    cluster.wait_ready("kmod", slug, "-n", place)
    more = {"0001_tags": TAGS, "0002_colour": "ALTER TABLE tags ADD COLUMN colour text;"}
    cluster.apply(config_map(place, **more), from_config_map(slug, place, owner, version="1.1.0"))
    eventually(lambda: cluster.get("kmod", slug, "-n", place)["status"].get("installedVersion"), lambda v: v == "1.1.0")
    connection = await asyncpg.connect(provider.database_admin_url)
    try:
        columns = await connection.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0", f"module_{slug}.tags"
        )
        assert "colour" in {row["attname"] for row in columns}
        changed = more | {"0001_tags": TAGS.replace("text", "varchar")}
        cluster.apply(config_map(place, **changed), from_config_map(slug, place, owner, version="1.2.0"))
        told = cluster.wait_reason("MigrationChanged", "kmod", slug, "-n", place)
        assert "0001_tags.sql" in told["message"]
        status = cluster.get("kmod", slug, "-n", place)["status"]
        assert (status["installedVersion"], status["phase"]) == ("1.1.0", "Active"), "the former version serves"
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "sql",
    [
        "DO $$ BEGIN EXECUTE 'DROP SCHEMA kernel CASCADE'; END $$;",
        "SET ROLE kernel_operator;",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';",
        "ALTER TABLE notes DISABLE ROW LEVEL SECURITY;",
        "INSERT INTO kernel.tenants (id) VALUES (gen_random_uuid());",
        "COPY notes FROM PROGRAM 'id';",
    ],
)
def test_hostile_sql_is_refused_with_its_reason(cluster, owner, place, sql) -> None:
    slug = f"m{uuid4().hex[:8]}"
    cluster.apply(module(slug, namespace=place, tenants={"names": [owner]}, migrations={"inline": sql}))
    condition = eventually(
        lambda: cluster.condition("DatabaseReady", "kmod", slug, "-n", place), lambda c: c.get("status") == "False"
    )
    assert condition["reason"].startswith("Migration")
    assert "inline.sql" in condition["message"]
    assert cluster.get("kmod", slug, "-n", place)["status"]["phase"] == "Failed"


def test_a_missing_config_map_is_named_and_waited_for(cluster, owner, place) -> None:
    slug = f"m{uuid4().hex[:8]}"
    cluster.apply(from_config_map(slug, place, owner))
    assert "'sql'" in cluster.wait_reason("ConfigMapNotFound", "kmod", slug, "-n", place)["message"]
    cluster.apply(config_map(place, **{"0001_tags": TAGS}))
    cluster.wait_ready("kmod", slug, "-n", place)
