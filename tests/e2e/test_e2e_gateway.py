"""The authenticated request, end to end: Envoy, the decision, a module's service under row-level security."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import uuid4

import pytest
from e2e_cluster import Cluster, eventually
from e2e_gateway import Client, owner
from e2e_manifests import module, namespace, tenant
from e2e_sample import Sample, sample_module

CONTACTS = "/api/v1/crm/contacts"


@dataclass(frozen=True, slots=True)
class Shop:
    """Two tenants with the module crm, one without, and the tokens of their owners."""

    root: str
    acme: str
    globex: str
    without: str
    place: str
    acme_token: str
    globex_token: str
    without_token: str
    sample: Sample


@pytest.fixture(scope="module")
async def client(provider) -> AsyncIterator[Client]:
    async with Client(provider.gateway_url, provider.gateway_authority) as client:
        yield client


@pytest.fixture(scope="module")
async def shop(cluster: Cluster, provider, client: Client) -> AsyncIterator[Shop]:
    mark = uuid4().hex[:6]
    root, acme, globex, without = (f"{word}-{mark}" for word in ("root", "acme", "globex", "without"))
    cluster.apply(
        tenant(root, tier="owner"),
        *(tenant(name, parent=root) for name in (acme, globex, without)),
    )
    cluster.wait_ready("tenant", root, acme, globex, without)
    place = f"crm-{mark}"
    cluster.apply(namespace(place), sample_module(place, [acme, globex]))
    cluster.wait_ready("kmod", "crm", "-n", place)
    async with provider.sample(cluster, place) as sample:
        tokens = [await client.login(*owner(cluster, name)) for name in (acme, globex, without)]
        yield Shop(root, acme, globex, without, place, *tokens, sample)
    cluster.delete("kmod", "crm", "-n", place)
    cluster.delete("namespace", place, wait=False)
    for name in (acme, globex, without, root):
        cluster.delete("tenant", name)


async def test_each_tenant_sees_its_own_rows(client: Client, shop: Shop) -> None:
    mail = f"{uuid4().hex}@people.example"
    created = await client.call("POST", CONTACTS, token=shop.acme_token, json={"email": mail})
    assert created.status == 201, created
    seen = await client.call("GET", CONTACTS, token=shop.acme_token)
    assert mail in [row["email"] for row in seen.body["data"]]
    others = await client.call("GET", CONTACTS, token=shop.globex_token)
    assert others.status == 200
    assert mail not in [row["email"] for row in others.body["data"]]
    theirs = await client.call("GET", f"{CONTACTS}/{created.body['id']}", token=shop.globex_token)
    assert (theirs.status, theirs.problem) == (404, "not-found")


async def test_nothing_passes_without_a_token(client: Client, shop: Shop) -> None:
    answer = await client.call("GET", CONTACTS)
    assert (answer.status, answer.problem) == (401, "unauthenticated")


async def test_another_tenant_can_not_be_named(client: Client, shop: Shop) -> None:
    """Identity headers of a client never reach the service, however they are written."""
    mail = f"{uuid4().hex}@people.example"
    headers = {
        "X-Tenant-ID": "x",
        "x-tenant-id ".strip().upper(): "y",
        "X-User-Roles": "Owner",
        "X-Kernel-Rule": "- public",
    }
    created = await client.call("POST", CONTACTS, token=shop.acme_token, json={"email": mail}, headers=headers)
    assert created.status == 201, created
    seen = await client.call("GET", CONTACTS, token=shop.globex_token)
    assert mail not in [row["email"] for row in seen.body["data"]]


async def test_a_module_that_is_not_active_is_not_there(client: Client, shop: Shop) -> None:
    answer = await client.call("GET", CONTACTS, token=shop.without_token)
    assert (answer.status, answer.problem) == (404, "module-not-active")


async def test_a_suspended_tenant_is_refused_and_comes_back(cluster: Cluster, client: Client, shop: Shop) -> None:
    patch = ("patch", "tenant", shop.globex, "--type=merge", "-p")
    cluster.run(*patch, '{"spec":{"suspended":true}}')
    refused = await client.until(CONTACTS, 403, token=shop.globex_token)
    assert refused.problem == "tenant-blocked"
    email, password = owner(cluster, shop.globex)
    login = await client.call("POST", "/api/v1/auth/login", json={"email": email, "password": password})
    assert login.status == 403, login
    cluster.run(*patch, '{"spec":{"suspended":false}}')
    await client.until(CONTACTS, 200, token=shop.globex_token)


async def test_a_route_lives_within_a_second_of_ready_and_goes_with_its_module(
    cluster: Cluster, client: Client, shop: Shop
) -> None:
    slug = f"m{uuid4().hex[:8]}"
    path = f"/api/v1/{slug}/notes"
    assert (await client.call("GET", path)).problem == "not-found"
    cluster.apply(module(slug, namespace=shop.place, tenants={"names": [shop.acme]}))
    eventually(lambda: cluster.condition("Ready", "kmod", slug, "-n", shop.place), lambda c: c.get("status") == "True")
    began = time.monotonic()
    await client.until(path, 401)
    assert time.monotonic() - began < 1.0
    cluster.delete("kmod", slug, "-n", shop.place)
    assert (await client.until(path, 404)).problem == "not-found"


async def test_a_tenant_is_limited_alone(cluster: Cluster, client: Client, shop: Shop) -> None:
    """The owner's role counts against the tenant's limit for administrators."""
    cluster.run(
        *("patch", "tenant", shop.globex, "--type=merge", "-p"),
        '{"spec":{"rateLimit":{"requestsPerMinute":30,"adminRequestsPerMinute":60,"burst":5}}}',
    )
    await client.until(CONTACTS, 200, token=shop.globex_token)
    async with asyncio.timeout(20):
        while (answer := await client.call("GET", CONTACTS, token=shop.globex_token)).status == 200:
            assert int(answer.headers["x-ratelimit-limit"]) > 0
    assert (answer.status, answer.problem) == (429, "rate-limit-exceeded")
    assert int(answer.headers["retry-after"]) >= 1
    assert (await client.call("GET", CONTACTS, token=shop.acme_token)).status == 200
    cluster.run(
        *("patch", "tenant", shop.globex, "--type=merge", "-p"),
        '{"spec":{"rateLimit":{"requestsPerMinute":1000,"adminRequestsPerMinute":5000,"burst":200}}}',
    )
    await client.until(CONTACTS, 200, token=shop.globex_token)


async def test_a_right_holds_from_the_very_next_request(client: Client, shop: Shop) -> None:
    """Somebody is invited, comes in as a Member, and loses and gains rights."""
    mail, password, token = f"{uuid4().hex}@people.example", "a-long-enough-password", shop.acme_token
    body = {"name": f"reader-{uuid4().hex[:6]}", "permissionIds": ["crm.contacts.read"]}
    reader = await client.call("POST", "/api/v1/roles", token=token, json=body)
    assert reader.status == 201, reader
    invited = await client.call("POST", "/api/v1/members/invite", token=token, json={"email": mail})
    assert invited.status == 201, invited
    acceptance = {"token": await shop.sample.invitation(mail), "password": password}
    accepted = await client.call("POST", "/api/v1/invitations/accept", json=acceptance)
    assert accepted.status == 200, accepted
    theirs = await client.login(mail, password)
    assert (await client.call("GET", CONTACTS, token=theirs)).status == 200, "a Member reads"

    user = accepted.body["userId"]
    member = next(role["id"] for role in invited.body["roles"] if role["name"] == "Member")
    for what, role, status in (
        ("withdraw", member, 403),
        ("assign", reader.body["id"], 200),
        ("withdraw", reader.body["id"], 403),
        ("assign", member, 200),
    ):
        path = f"/api/v1/members/{user}/{what}-roles"
        changed = await client.call("POST", path, token=token, json={"roleIds": [role]})
        assert changed.status == 200, changed
        assert (await client.call("GET", CONTACTS, token=theirs)).status == status, (what, role)
        assert (await client.call("POST", CONTACTS, token=theirs, json={"email": mail})).status == 403
    blocked = await client.call("POST", f"/api/v1/members/{user}/block", token=token)
    assert blocked.status == 200, blocked
    assert (await client.call("GET", CONTACTS, token=theirs)).status == 403


async def test_a_dead_service_opens_its_breaker_and_one_probe_closes_it(client: Client, shop: Shop) -> None:
    await shop.sample.kill()
    seen = [await client.call("GET", CONTACTS, token=shop.acme_token) for _ in range(6)]
    assert {answer.status for answer in seen} == {503}
    assert {answer.problem for answer in seen} == {"service-unavailable"}
    assert int(seen[-1].headers["retry-after"]) > 1, "the sixth is answered by the open breaker"
    await shop.sample.start()
    at_once = await client.call("GET", CONTACTS, token=shop.acme_token)
    assert at_once.status == 503, "it must stay open until its time is over"
    await client.until(CONTACTS, 200, token=shop.acme_token, seconds=20)


async def test_without_a_decision_nothing_passes(client: Client, provider, shop: Shop) -> None:
    await provider.kill("gateway")
    refused = await client.call("GET", CONTACTS, token=shop.acme_token)
    assert (refused.status, refused.problem) == (503, "service-unavailable")
    await provider.start("gateway")
    await client.until(CONTACTS, 200, token=shop.acme_token)


async def test_without_valkey_rights_hold_and_limits_open(client: Client, provider, shop: Shop) -> None:
    await provider.kill("valkey")
    try:
        assert (await client.until(CONTACTS, 200, token=shop.acme_token)).status == 200
        assert (await client.call("GET", CONTACTS, token=shop.without_token)).problem == "module-not-active"
        assert (await client.call("GET", CONTACTS)).status == 401
    finally:
        await provider.start("valkey")
    await client.until(CONTACTS, 200, token=shop.acme_token)


async def test_who_registers_gets_a_tenant_resource(cluster: Cluster, client: Client, shop: Shop) -> None:
    name = f"reg-{uuid4().hex[:6]}"
    mail = f"{uuid4().hex}@people.example"
    body = {
        "email": mail,
        "password": "a-long-enough-password",
        "displayName": "Grace",
        "tenant": {"name": name, "displayName": "Grace's"},
    }
    if not cluster.exists("tenant", "platform"):
        cluster.apply(tenant("platform", tier="owner"))
        cluster.wait_ready("tenant", "platform")
    registered = await client.call("POST", "/api/v1/auth/register", json=body)
    assert registered.status == 201, registered
    eventually(lambda: cluster.exists("tenant", name), bool)
    cluster.wait_ready("tenant", name)
    me = await client.call("GET", "/api/v1/auth/me", token=registered.body["accessToken"])
    assert me.body["tenant"]["name"] == name, me
    again = await client.call("POST", "/api/v1/auth/register", json={**body, "email": f"x{mail}"})
    assert (again.status, again.problem) == (409, "conflict")
    cluster.delete("tenant", name)
    cluster.delete("tenant", "platform")
