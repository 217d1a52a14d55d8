"""A module grows; whatever would break its rows or its neighbours is refused, and the running version stays."""

import copy
import json
from uuid import uuid4

import asyncpg
import pytest
from e2e_manifests import module, namespace, tenant
from redis.asyncio import Redis


@pytest.fixture(scope="module")
def installed(cluster):
    """A module 1.0.0 that is Ready, as its manifest."""
    mark = uuid4().hex[:6]
    owner, place, slug = f"evo-{mark}", f"evo-{mark}", f"e{mark}"
    body = module(slug, namespace=place, tenants={"names": [owner]})
    cluster.apply(tenant(owner, tier="owner"), namespace(place), body)
    cluster.wait_ready("kmod", slug, "-n", place)
    yield body
    cluster.delete("kmod", slug, "-n", place)
    cluster.delete("tenant", owner)
    cluster.delete("namespace", place, wait=False)


def edited(body, version="2.0.0", **models):
    """The manifest as a later version whose first model has ``models`` changed."""
    new = copy.deepcopy(body)
    new["spec"]["version"] = version
    new["spec"]["dataApi"]["models"][0].update(models)
    return new


def place_of(body):
    return (body["metadata"]["name"], "-n", body["metadata"]["namespace"])


BODY = {"name": "body", "type": "text", "required": True}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ([{"name": "other", "type": "text"}], "field body"),
        ([{"name": "body", "type": "integer", "required": True}], "field body"),
        ([BODY, {"name": "late", "type": "text", "required": True}], "field late"),
    ],
    ids=["removed", "retyped", "newly-required"],
)
def test_what_would_break_rows_is_refused_at_the_door(cluster, installed, fields, named) -> None:
    said = cluster.run("apply", "-f", "-", stdin=json.dumps(edited(installed, fields=fields)), check=False)
    assert "is invalid" in said
    assert named in said
    assert cluster.get("kmod", *place_of(installed))["spec"]["version"] == "1.0.0"


async def test_a_removed_model_is_refused_and_the_former_version_serves(cluster, provider, installed) -> None:
    slug = installed["metadata"]["name"]
    without = edited(installed, name="entries")
    cluster.apply(without)
    try:
        told = cluster.wait_reason("IncompatibleChange", "kmod", *place_of(installed))
        assert "notes" in told["message"]
        status = cluster.get("kmod", *place_of(installed))["status"]
        assert (status["installedVersion"], status["phase"]) == ("1.0.0", "Active")
        async with Redis.from_url(provider.valkey_admin_url) as valkey:
            assert json.loads(await valkey.hget("routes:table", slug))["version"] == "1.0.0"
        connection = await asyncpg.connect(provider.database_admin_url)
        try:
            assert await connection.fetchval("SELECT to_regclass($1) IS NULL", f"module_{slug}.entries")
        finally:
            await connection.close()
    finally:
        cluster.run("delete", "kmod", *place_of(installed))
        cluster.apply(installed)
        cluster.wait_ready("kmod", *place_of(installed))


async def test_a_new_field_is_there_in_every_system(cluster, provider, installed) -> None:
    slug = installed["metadata"]["name"]
    grown = edited(installed, "1.1.0", fields=[BODY, {"name": "stars", "type": "integer"}])
    cluster.apply(grown)
    cluster.run(
        "wait", "--for=jsonpath={.status.installedVersion}=1.1.0", "kmod", *place_of(installed), "--timeout=60s"
    )
    connection = await asyncpg.connect(provider.database_admin_url)
    try:
        kind = await connection.fetchval(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = $1::text::regclass"
            " AND attname = 'stars'",
            f"module_{slug}.notes",
        )
        assert kind == "integer"
    finally:
        await connection.close()
    rows = await provider.clickhouse_rows(
        "SELECT type FROM system.columns WHERE table = {t:String} AND name = 'stars'", t=f"module_{slug}__notes"
    )
    assert rows == [("Nullable(Int32)",)]


@pytest.mark.parametrize("name", ["@acme/kernel", "@acme/platform", "@acme/money"])
def test_a_reserved_slug_is_refused_at_the_door(cluster, installed, name) -> None:
    body = copy.deepcopy(installed)
    body["metadata"]["name"] = "reserved"
    body["spec"]["moduleName"] = name
    said = cluster.run("apply", "-f", "-", stdin=json.dumps(body), check=False)
    assert "choose another name" in said
