"""People who register: a user, a tenant, and the Tenant resource, whatever dies or is away."""

import asyncio
import base64
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from gateway_api import PASSWORD, Client, Reply, SomeTenant, calling, serving
from login_world import events, logged_in

from kernel_common.ids import tenant_id
from kernel_gateway.api.services import Services
from kernel_gateway.login.registration import apply_missing
from kernel_gateway.login.tenant_resources import ClusterAway, Registered, TenantResources
from kernel_local.testing import KubernetesServer
from kernel_operator.desired import TenantState, Tier
from kernel_operator.targets.postgres import PostgresTarget

REPOSITORY = Path(__file__).parents[4]
NewTenant = Callable[..., Awaitable[SomeTenant]]

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def cluster(kubernetes: KubernetesServer) -> KubernetesServer:
    for folder in ("crds", "operator/rbac"):
        kubernetes.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(REPOSITORY / folder))
    kubernetes.kubectl("wait", "--for=condition=Established", "-f", str(REPOSITORY / "crds"), "--timeout=30s")
    return kubernetes


@pytest.fixture(scope="module")
async def resources(
    cluster: KubernetesServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[TenantResources]:
    """With the rights of the gateway's own service account."""
    folder = tmp_path_factory.mktemp("account")
    token, ca = folder / "token", folder / "ca.crt"
    token.write_text(cluster.kubectl("create", "token", "kernel-gateway", "--namespace=platform-kernel").stdout)
    admin = json.loads(cluster.kubeconfig.read_text())["clusters"][0]["cluster"]
    data = admin.get("certificate-authority-data")
    ca.write_bytes(base64.b64decode(data) if data else Path(admin["certificate-authority"]).read_bytes())
    resources = TenantResources(cluster.url, token, ca)
    async with asyncio.timeout(30):
        while True:  # the CRD is established, but perhaps not served yet
            try:
                await resources.exists("nobody")
                break
            except ClusterAway:
                await asyncio.sleep(0.1)
    yield resources
    await resources.close()


@pytest.fixture(scope="module")
async def open_services(services: Services, a_tenant: NewTenant, resources: TenantResources) -> Services:
    """A gateway where people may register below a partner."""
    parent = await a_tenant(tier=Tier.PARTNER)
    return replace(
        services,
        settings=services.settings.model_copy(update={"gateway_registration_parent": parent.name}),
        tenants=resources,
    )


@pytest.fixture
async def open_client(open_services: Services) -> AsyncIterator[Client]:
    async with serving(open_services) as base, calling(base) as client:
        yield client


def somebody(**fields: Any) -> dict[str, Any]:
    number = f"{next(_numbers)}-{time.time_ns() % 10**9}"
    plain = {
        "email": f"New.{number}@People.example",
        "password": PASSWORD,
        "displayName": "Ada Lovelace",
        "tenant": {"name": f"registered-{number}", "displayName": "Acme & Söhne"},
    }
    return plain | fields


async def register(client: Client, body: dict[str, Any]) -> Reply:
    return await client("POST", "auth/register", body, X_Client="native")


def resource(cluster: KubernetesServer, name: str) -> dict[str, Any] | None:
    found = cluster.kubectl("get", "tenant", name, "--output=json", check=False)
    return dict(json.loads(found.stdout)) if found.returncode == 0 else None


def bound(name: str, parent: str) -> TenantState:
    """What the operator makes of the resource."""
    return TenantState(
        tenant_id(name), name, f"uid-{name}", "Acme & Söhne", Tier.CLIENT, "x@y.example", ancestors=(tenant_id(parent),)
    )


async def test_a_registration_makes_a_user_a_tenant_and_its_resource(
    open_client: Client,
    open_services: Services,
    cluster: KubernetesServer,
    admin: asyncpg.Connection,
    database: PostgresTarget,
) -> None:
    body = somebody()
    name, email = body["tenant"]["name"], body["email"].lower()
    reply = await register(open_client, body)
    assert reply.status == 201, reply.json
    tenant = tenant_id(name)

    me = await open_client("GET", "auth/me", Authorization=f"Bearer {reply.json['accessToken']}")
    assert (me.status, me.json["roles"], me.json["tenant"]["id"]) == (200, ["Owner"], str(tenant))
    assert (me.json["email"], me.json["emailVerified"]) == (email, False)

    made = resource(cluster, name)
    assert made is not None
    parent = open_services.settings.gateway_registration_parent
    assert made["spec"]["displayName"] == "Acme & Söhne"
    assert (made["spec"]["tier"], made["spec"]["parent"]) == ("client", parent)
    assert made["spec"]["owner"] == {"email": email}

    created = await events(admin, tenant, "auth.user.created")
    assert [(event["email"], event["roles"]) for event in created] == [(email, ["Owner"])]
    (told,) = await events(admin, tenant, "auth.tenant.created")
    assert (told["name"], told["parentId"]) == (name, str(tenant_id(parent or "")))
    assert len(await events(admin, tenant, "auth.user.logged_in")) == 1

    state = replace(bound(name, parent or ""), owner_email=email)
    outcome = (await database.apply_tenants([state]))[tenant]
    assert outcome.refusal is None
    assert list(outcome.changes) == ["bound the tenant to its new resource"], "the operator finds nothing else to do"
    again = await open_client("POST", "auth/login", {"email": email, "password": PASSWORD})
    assert again.status == 200


@pytest.mark.parametrize("same", ["email", "tenant"])
async def test_of_many_at_once_one_gets_it(open_client: Client, admin: asyncpg.Connection, same: str) -> None:
    first = somebody()
    bodies = [somebody(**{same: first[same]}) for _ in range(6)]
    replies = await asyncio.gather(*(register(open_client, body) for body in bodies))
    assert Counter(reply.status for reply in replies) == {201: 1, 409: 5}
    assert {reply.slug for reply in replies} == {"", "conflict"}
    emails = [body["email"].lower() for body in bodies]
    assert await admin.fetchval("SELECT count(*) FROM auth.users WHERE email = ANY ($1)", emails) == 1
    names = [body["tenant"]["name"] for body in bodies]
    assert await admin.fetchval("SELECT count(*) FROM kernel.tenants WHERE name = ANY ($1)", names) == 1


async def test_a_name_that_is_in_use_or_was_is_nobody_elses(
    open_client: Client, a_tenant: NewTenant, database: PostgresTarget, cluster: KubernetesServer
) -> None:
    retired = await a_tenant()
    await database.retire_tenant(retired.id)
    unseen = f"unseen-{next(_numbers)}"
    cluster.kubectl(
        "apply", "-f", "-", stdin=json.dumps(Registered(unseen, "Unseen", "a@else.example", "platform").resource())
    )
    for name in (retired.name, unseen):
        reply = await register(open_client, somebody(tenant={"name": name, "displayName": "Mine now"}))
        assert (reply.status, reply.slug) == (409, "conflict")


async def test_a_gateway_that_died_before_it_told_the_cluster_is_made_up_for(
    open_services: Services,
    resources: TenantResources,
    cluster: KubernetesServer,
    database: PostgresTarget,
    tmp_path: Path,
) -> None:
    """The cluster is away during the registration; afterwards several gateways sweep at once."""
    (tmp_path / "token").write_text("none")
    away = TenantResources("https://127.0.0.1:1", tmp_path / "token", resources._ca)
    async with serving(replace(open_services, tenants=away)) as base, calling(base) as client:
        body = somebody()
        assert (await register(client, body)).status == 201
    await away.close()
    name = body["tenant"]["name"]
    assert resource(cluster, name) is None
    assert sum(await asyncio.gather(*(apply_missing(open_services) for _ in range(3)))) >= 1
    assert resource(cluster, name) is not None

    parent = open_services.settings.gateway_registration_parent or ""
    await database.apply_tenants([bound(name, parent)])
    cluster.kubectl("delete", "tenant", name, "--wait=true")
    await database.retire_tenant(tenant_id(name))
    await apply_missing(open_services)
    assert resource(cluster, name) is None, "a tenant that was deleted is not brought back"


async def test_a_tenant_that_can_never_be_a_resource_holds_up_no_other(
    open_services: Services,
    open_client: Client,
    cluster: KubernetesServer,
    admin: asyncpg.Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = []
    for _ in range(2):
        body = somebody()
        assert (await register(open_client, body)).status == 201
        names.append(body["tenant"]["name"])
        cluster.kubectl("delete", "tenant", names[-1], "--wait=true")
    await admin.execute("UPDATE kernel.tenants SET display_name = '' WHERE name = $1", names[0])
    await apply_missing(open_services)
    assert [resource(cluster, name) is not None for name in names] == [False, True]
    assert names[0] in caplog.text
    await admin.execute("UPDATE kernel.tenants SET display_name = 'Acme' WHERE name = $1", names[0])


async def test_who_is_in_no_tenant_makes_one_after_the_password(
    open_client: Client, a_tenant: NewTenant, admin: asyncpg.Connection, cluster: KubernetesServer
) -> None:
    owner = (await a_tenant()).owner
    await admin.execute("DELETE FROM auth.members WHERE user_id = $1", owner.id)
    choice = await logged_in(open_client, owner)
    tenant = somebody()["tenant"]
    body = {"sessionToken": choice.json["sessionToken"], "tenant": tenant}
    reply = await open_client("POST", "auth/select-tenant", body)
    assert reply.status == 200
    assert resource(cluster, tenant["name"]) is not None
    second = await open_client("POST", "auth/select-tenant", body | {"tenant": somebody()["tenant"]})
    assert (second.status, second.slug) == (401, "token-revoked")
    assert "accessToken" in (await logged_in(open_client, owner)).json


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", "no address"),
        ("email", "a@b"),
        ("email", "ada@acme.example\x00"),
        ("password", "elevenchars"),
        ("displayName", "two\nlines"),
        ("displayName", "\u202etext"),
        ("displayName", ""),
        ("tenant.name", "Acme"),
        ("tenant.name", "a" * 41),
        ("tenant.name", "-acme"),
        ("tenant.name", "acme\n"),
        ("tenant.displayName", " Acme"),
        ("tenant.tier", "owner"),
        ("platformOwner", True),
    ],
)
async def test_what_no_tenant_resource_could_be_is_refused_by_its_field(client: Client, field: str, value: Any) -> None:
    body = somebody()
    if field.startswith("tenant."):
        body["tenant"] = body["tenant"] | {field.removeprefix("tenant."): value}
    else:
        body[field] = value
    reply = await client("POST", "auth/register", body)
    assert (reply.status, reply.slug) == (400, "validation-error")
    assert [error["field"] for error in reply.json["errors"]] == [field]
    if isinstance(value, str) and len(value) > 4:
        assert value not in reply.json["detail"]


async def test_registration_is_closed_unless_it_is_opened(
    client: Client, services: Services, admin: asyncpg.Connection, tmp_path: Path
) -> None:
    body = somebody()
    reply = await register(client, body)
    assert (reply.status, reply.slug) == (403, "registration-closed")
    wrong = services.settings.model_copy(update={"gateway_registration_parent": "nobody-at-all"})
    (tmp_path / "token").write_text("none")
    away = TenantResources("http://127.0.0.1:1", tmp_path / "token", tmp_path / "ca")
    for tenants in (None, away):
        async with serving(replace(services, settings=wrong, tenants=tenants)) as base, calling(base) as other:
            reply = await register(other, body)
            assert (reply.status, reply.slug) == (503, "service-unavailable")
    assert await admin.fetchval("SELECT count(*) FROM auth.users WHERE email = $1", body["email"].lower()) == 0


def test_without_a_way_to_a_cluster_there_is_none(services: Services) -> None:
    assert TenantResources.of(services.settings) is None
