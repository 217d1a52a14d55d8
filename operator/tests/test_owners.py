"""First owners, on a real API server and database: who becomes it, what the Secret tells, what a crash leaves."""

import base64
import json
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from argon2 import PasswordHasher
from reconcile_world import World

from kernel_local.testing import KubernetesServer, PostgresServer
from kernel_operator.desired import NewOwner, Unavailable
from kernel_operator.kube import KubeError
from kernel_operator.queue import Key
from kernel_operator.targets.postgres import PostgresTarget

SECRETS = "/api/v1/namespaces/platform-kernel/secrets"
OWNER = UUID("00000000-0000-7000-8000-000000000001")


@pytest.fixture
async def database(postgres: PostgresServer, world: World) -> AsyncIterator[PostgresTarget]:
    """The operator's own database behind the reconcilers."""
    target = PostgresTarget(postgres.operator_url)
    await target.prepare()
    world.postgres = world.owners = target  # type: ignore[assignment]
    world.restart()
    yield target
    await target.close()


@pytest.fixture
async def admin(postgres: PostgresServer, database: PostgresTarget) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres.admin_url, database="platform")
    yield connection
    await connection.close()


async def secret_of(world: World, key: Key) -> dict[str, str] | None:
    try:
        found = await world.people.call("GET", f"{SECRETS}/tenant-{key.name}-owner")
    except KubeError as error:
        assert error.status == 404
        return None
    return {name: base64.b64decode(value).decode() for name, value in found["data"].items()}


async def owner_of(admin: asyncpg.Connection, world: World, key: Key) -> asyncpg.Record:
    return await admin.fetchrow(
        "SELECT u.*, m.status FROM auth.member_roles r JOIN auth.users u ON u.id = r.user_id "
        "JOIN auth.members m USING (tenant_id, user_id) WHERE r.tenant_id = $1 AND r.role_id = $2",
        world.id(key),
        OWNER,
    )


async def an_account(admin: asyncpg.Connection, email: str) -> UUID:
    made: UUID = await admin.fetchval(
        "INSERT INTO auth.users (email, password_hash, email_verified_at) "
        "VALUES ($1, '$argon2id$theirs', now()) RETURNING id",
        email,
    )
    return made


def opens(account: asyncpg.Record, password: str) -> bool:
    return PasswordHasher().verify(account["password_hash"], password)


async def test_a_new_tenant_gets_an_owner_and_a_secret_that_tells_how_to_log_in(
    world: World, admin: asyncpg.Connection
) -> None:
    email = f"Ada@{world.mark}.example"
    key = await world.tenant("a", owner={"email": email})
    await world.tell(key)
    assert await world.reconcile(key) == set()
    assert world.kube.writes == ["PATCH object", "POST secrets", "PATCH status", "POST events"]
    assert (await world.condition(key))["status"] == "True"
    account, secret = await owner_of(admin, world, key), await secret_of(world, key)
    assert secret is not None
    assert secret["email"] == account["email"] == email.lower()
    assert (account["status"], bool(account["email_verified_at"]), account["platform_owner"]) == ("active", True, False)
    assert len(secret["password"]) >= 40
    assert opens(account, secret["password"])
    found = await world.people.call("GET", f"{SECRETS}/tenant-{key.name}-owner")
    assert found["metadata"]["labels"]["platform-kernel.io/tenant"] == key.name
    [owner] = found["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Tenant", (await world.read(key) or {})["metadata"]["uid"])

    await world.people.call("DELETE", f"{SECRETS}/tenant-{key.name}-owner")
    await world.tell(key)
    assert await world.reconcile(key) == set()
    assert world.kube.writes == []
    assert await secret_of(world, key) is None, "who took it has it"


async def test_an_account_that_is_there_becomes_the_owner_as_it_is(world: World, admin: asyncpg.Connection) -> None:
    user = await an_account(admin, f"ada@{world.mark}.example")
    key = await world.tenant("a", owner={"email": f"ADA@{world.mark}.example"})
    await world.settle(key)
    account = await owner_of(admin, world, key)
    assert (account["id"], account["password_hash"]) == (user, "$argon2id$theirs")
    assert await secret_of(world, key) is None


async def test_an_account_that_nobody_has_proven_gets_the_password_of_the_secret(
    world: World, admin: asyncpg.Connection
) -> None:
    email = f"ada@{world.mark}.example"
    user = await admin.fetchval(
        "INSERT INTO auth.users (email, password_hash) VALUES ($1, '$argon2id$strangers') RETURNING id", email
    )
    key = await world.tenant("a", owner={"email": email})
    await world.settle(key)
    account, secret = await owner_of(admin, world, key), await secret_of(world, key)
    assert account["id"] == user
    assert opens(account, (secret or {})["password"])


async def test_tenants_of_one_new_person_share_the_account_and_one_secret(
    world: World, admin: asyncpg.Connection
) -> None:
    owner = {"email": f"ada@{world.mark}.example"}
    keys = [await world.tenant(name, owner=owner) for name in ("c", "a", "b")]
    await world.settle(*keys)
    accounts = [await owner_of(admin, world, key) for key in keys]
    assert len({account["id"] for account in accounts}) == 1
    secrets = {key.name[0]: await secret_of(world, key) for key in keys}
    assert [name for name, secret in secrets.items() if secret] == ["a"]
    assert opens(accounts[0], (secrets["a"] or {})["password"])
    later = await world.tenant("d", owner=owner)
    await world.settle(later)
    assert (await owner_of(admin, world, later))["id"] == accounts[0]["id"]
    assert await secret_of(world, later) is None


class DiesAtOwners:
    """The database up to the moment at which owners are made: there the process dies, ``before`` or after."""

    def __init__(self, target: PostgresTarget, *, before: bool) -> None:
        self._target, self._before = target, before

    async def ownerless_tenants(self, tenants: Any) -> dict[UUID, bool]:
        return await self._target.ownerless_tenants(tenants)

    async def make_owners(self, new: Sequence[NewOwner]) -> frozenset[UUID]:
        if not self._before:
            await self._target.make_owners(new)
        raise ProcessDied


class ProcessDied(BaseException):
    """Nobody catches it."""


async def die_at_owners(world: World, target: PostgresTarget, *keys: Key, before: bool) -> None:
    world.owners = DiesAtOwners(target, before=before)
    world.restart()
    await world.tell(*keys)
    with pytest.raises(ProcessDied):
        await world.reconcile(*keys)
    world.owners = target
    world.restart()


@pytest.mark.parametrize("before", [True, False], ids=["before the account", "after the account"])
async def test_a_crash_leaves_no_account_whose_password_nobody_knows(
    before: bool, world: World, database: PostgresTarget, admin: asyncpg.Connection
) -> None:
    key = await world.tenant("a", owner={"email": f"ada@{world.mark}.example"})
    await die_at_owners(world, database, key, before=before)
    left = await secret_of(world, key)
    assert left is not None
    assert (await owner_of(admin, world, key) is None) is before
    await world.settle(key)
    assert await secret_of(world, key) == left
    assert opens(await owner_of(admin, world, key), left["password"])


async def test_a_secret_whose_password_was_never_set_goes_when_the_account_came_otherwise(
    world: World, database: PostgresTarget, admin: asyncpg.Connection
) -> None:
    email = f"ada@{world.mark}.example"
    key = await world.tenant("a", owner={"email": email})
    await die_at_owners(world, database, key, before=True)
    assert await secret_of(world, key)
    user = await an_account(admin, email)
    await world.settle(key)
    assert await secret_of(world, key) is None
    assert (await owner_of(admin, world, key))["id"] == user


async def test_an_account_that_comes_between_the_question_and_the_making_is_no_harm(
    world: World, database: PostgresTarget, admin: asyncpg.Connection
) -> None:
    email = f"ada@{world.mark}.example"
    key = await world.tenant("a", owner={"email": email})

    class Overtaken(DiesAtOwners):
        async def make_owners(self, new: Sequence[NewOwner]) -> frozenset[UUID]:
            await an_account(admin, email)
            return await self._target.make_owners(new)

    world.owners = Overtaken(database, before=True)
    world.restart()
    await world.tell(key)
    assert await world.reconcile(key) == {key}, "it is tried again"
    assert (await world.condition(key, "DatabaseReady"))["reason"] == "PostgreSQLUnavailable"
    assert (await world.status(key))["tenantId"] == str(world.id(key)), "the tenant itself stands"
    world.owners = database
    world.restart()
    await world.settle(key)
    assert await secret_of(world, key) is None
    assert (await owner_of(admin, world, key))["password_hash"] == "$argon2id$theirs"


async def test_a_secret_that_is_somebody_elses_is_told_and_left_alone(
    world: World, admin: asyncpg.Connection, cluster_of_ours: KubernetesServer
) -> None:
    key = await world.tenant("a", owner={"email": f"ada@{world.mark}.example"})
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"tenant-{key.name}-owner", "namespace": "platform-kernel"},
        "stringData": {"password": "theirs"},
    }
    await world.people.call("POST", SECRETS, body)
    await world.tell(key)
    assert await world.reconcile(key) == set()
    condition = await world.condition(key, "DatabaseReady")
    assert (condition["status"], condition["reason"]) == ("False", "SecretTaken")
    assert f"tenant-{key.name}-owner" in condition["message"]
    assert (await world.status(key))["tenantId"], "its deletion still knows whose data it is"
    assert await secret_of(world, key) == {"password": "theirs"}
    assert await owner_of(admin, world, key) is None
    await world.people.call("DELETE", f"{SECRETS}/tenant-{key.name}-owner")
    await world.settle(key)
    assert (await world.condition(key))["status"] == "True"
    assert opens(await owner_of(admin, world, key), (await secret_of(world, key) or {})["password"])


async def test_a_secret_of_a_former_tenant_of_the_name_is_taken_over(
    world: World, database: PostgresTarget, admin: asyncpg.Connection
) -> None:
    key = await world.tenant("a", owner={"email": f"ada@{world.mark}.example"})
    await die_at_owners(world, database, key, before=True)
    left = await secret_of(world, key)
    path = f"{SECRETS}/tenant-{key.name}-owner"
    reference = {
        "apiVersion": "platform-kernel.io/v1alpha1",
        "kind": "Tenant",
        "name": key.name,
        "uid": (await world.read(key) or {})["metadata"]["uid"],
    }
    # Not a uid that does not exist: the garbage collector would be faster than this test.
    await world.people.call(
        "PATCH",
        path,
        {"metadata": {"ownerReferences": [{**reference, "controller": False}]}},
        content_type="application/merge-patch+json",
    )
    await world.settle(key)
    found = await world.people.call("GET", path)
    assert found["metadata"]["ownerReferences"] == [{**reference, "controller": True}]
    assert await secret_of(world, key) == left
    assert opens(await owner_of(admin, world, key), (left or {})["password"])


async def test_a_database_that_can_not_be_asked_is_waited_for(
    world: World, database: PostgresTarget, admin: asyncpg.Connection
) -> None:
    key = await world.tenant("a", owner={"email": f"ada@{world.mark}.example"})

    class Away(DiesAtOwners):
        async def make_owners(self, new: Sequence[NewOwner]) -> frozenset[UUID]:
            raise Unavailable("PostgreSQL", "away")

    world.owners = Away(database, before=True)
    world.restart()
    await world.tell(key)
    assert await world.reconcile(key) == {key}
    assert (await world.condition(key))["reason"] == "PostgreSQLUnavailable"
    assert {call for system, call, _ in world.calls if system == "Valkey"} == {"apply"}, "others go on"
    world.owners = database
    world.restart()
    await world.settle(key)
    assert opens(await owner_of(admin, world, key), (await secret_of(world, key) or {})["password"])


async def test_a_tenant_that_was_deleted_and_comes_back_gets_its_person_back(
    world: World, database: PostgresTarget, admin: asyncpg.Connection
) -> None:
    key = await world.tenant("a", owner={"email": f"ada@{world.mark}.example"}, deletionPolicy="Delete")
    await world.settle(key)
    before = await owner_of(admin, world, key)
    await world.delete(key)
    await world.settle(key)
    assert await world.read(key) is None
    assert await owner_of(admin, world, key) is None
    again = await world.tenant("a", owner={"email": f"ada@{world.mark}.example"})
    await world.settle(again)
    after = await owner_of(admin, world, again)
    assert (after["id"], after["password_hash"]) == (before["id"], before["password_hash"])


async def test_another_address_later_does_not_change_the_owner(world: World, admin: asyncpg.Connection) -> None:
    key = await world.tenant("a", owner={"email": f"ada@{world.mark}.example"})
    await world.settle(key)
    before = await owner_of(admin, world, key)
    await world.edit(key, {"spec": {"owner": {"email": f"bob@{world.mark}.example"}}})
    await world.settle(key)
    assert (await owner_of(admin, world, key))["id"] == before["id"]
    assert (await world.condition(key))["status"] == "True"


async def test_the_password_is_nowhere_but_in_the_secret(
    world: World, postgres: PostgresServer, admin: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = await world.tenant("a", owner={"email": f"ada@{world.mark}.example"})
    await world.settle(key)
    password = (await secret_of(world, key) or {})["password"]
    events = await world.people.call("GET", "/apis/events.k8s.io/v1/namespaces/default/events")
    outbox = await admin.fetch("SELECT envelope FROM kernel.outbox WHERE tenant_id = $1", world.id(key))
    said = [caplog.text, json.dumps(await world.read(key)), json.dumps(events), str(outbox)]
    said.append(postgres.log.read_text(errors="replace"))
    assert len(outbox) >= 3
    assert not any(password in text or "$argon2" in text for text in said)


async def test_a_batch_costs_as_many_round_trips_to_the_database_as_one(
    world: World, admin: asyncpg.Connection
) -> None:
    await admin.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")

    async def statements(*keys: Key) -> int:
        await world.tell(*keys)
        await admin.fetchval("SELECT pg_stat_statements_reset()")
        assert await world.reconcile(*keys) == set()
        calls: int = await admin.fetchval(
            "SELECT sum(calls)::int FROM pg_stat_statements WHERE userid = 'kernel_operator'::regrole AND toplevel "
            "AND query NOT LIKE '%typeinfo%' AND query NOT LIKE '%pg_advisory_unlock_all%' "
            "AND query NOT IN ('CLOSE ALL', 'UNLISTEN *', 'RESET ALL')"
        )
        return calls

    few, first = [[await world.tenant(n, owner={"email": f"{n}@{world.mark}.example"})] for n in ("one", "first")]
    many = [await world.tenant(f"n{n}", owner={"email": f"n{n}@{world.mark}.example"}) for n in range(20)]
    await statements(*first)  # a new connection asks for more
    assert await statements(*few) == await statements(*many)
    for key in many:
        assert opens(await owner_of(admin, world, key), (await secret_of(world, key) or {})["password"])
