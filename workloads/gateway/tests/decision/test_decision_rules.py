"""Who may pass: permissions, membership, blocks and modules, with rights read from PostgreSQL and kept in Valkey."""

from dataclasses import replace
from uuid import uuid4

import pytest
from decision_world import CLIENT, MODULE, Seat, World

from kernel_gateway.access import Allowed, Identity, Refused, Rule, Verdict
from kernel_gateway.decision.script import sufficient

READ = Rule(MODULE, "dcrm.contacts.read")
CREATE = Rule(MODULE, "dcrm.contacts.create")
ANY = Rule(MODULE)


async def decided(seat: Seat, world: World, identity: Identity, rule: Rule) -> Verdict:
    """The verdict, the same one three times: from PostgreSQL, and then from what was kept."""
    token = world.bearer(identity)
    verdicts = [await seat.decider.decide(rule, [token], CLIENT) for _ in range(3)]
    kinds = {(verdict.status, verdict.slug) if isinstance(verdict, Refused) else "allowed" for verdict in verdicts}
    assert len(kinds) == 1, kinds
    return verdicts[-1]


def refusal(verdict: Verdict) -> tuple[int, str]:
    assert isinstance(verdict, Refused), verdict
    return verdict.status, verdict.slug


@pytest.mark.parametrize(
    ("role", "rule", "passes"),
    [
        ("Owner", READ, True),
        ("Owner", Rule(None, "system.shutdown"), True),
        ("Admin", CREATE, True),
        ("Admin", Rule(None, "users.impersonate"), True),
        ("Admin", Rule(None, "system.shutdown"), False),
        ("Admin", Rule(None, "other.things.read"), False),
        ("Member", READ, True),
        ("Member", Rule(MODULE, "dcrm.deals.read"), True),
        ("Member", CREATE, False),
        ("Member", Rule(None, "users.list"), False),
        ("Member", ANY, True),
    ],
)
async def test_built_in_roles(world: World, seat: Seat, role: str, rule: Rule, passes: bool) -> None:
    person = await world.person(await world.tenant(), role)
    verdict = await decided(seat, world, person, rule)
    if passes:
        assert isinstance(verdict, Allowed)
        assert verdict.identity == person
    else:
        assert refusal(verdict) == (403, "forbidden")


@pytest.mark.parametrize(
    ("held", "asked", "passes"),
    [
        ("crm.a.b", "crm.a.b", True),
        ("crm.a.b", "crm.a.bc", False),
        ("crm.a.bc", "crm.a.b", False),
        ("crm.*", "crm.a.b", True),
        ("crm.*", "crmx.a.b", False),
        ("crm.*", "crm", True),
        ("crm.a.*", "crm.a.b", False),
        ("*.a.b", "crm.a.b", False),
        ("crm", "crm.a.b", False),
        ("CRM.*", "crm.a.b", False),
        ("crm.a.read ", "crm.a.read", False),
        ("@member", "crm.a.b", False),
    ],
)
async def test_what_satisfies_a_permission(world: World, seat: Seat, held: str, asked: str, passes: bool) -> None:
    tenant = await world.tenant()
    await world.role(tenant, "special", held)
    person = await world.person(tenant, "special")
    verdict = await decided(seat, world, person, Rule(None, asked))
    assert isinstance(verdict, Allowed) is passes
    assert (held in sufficient(Rule(None, asked))) is passes


async def test_a_member_without_roles_has_no_rights_and_is_no_miss(
    world: World, seat: Seat, administrator: "object"
) -> None:
    person = await world.person(await world.tenant())
    assert refusal(await decided(seat, world, person, READ)) == (403, "forbidden")
    kept = await administrator.smembers(f"rbac:{person.tenant}:{person.user}")  # type: ignore[attr-defined]
    assert len(kept) == 2, "the stamp and the membership"
    assert isinstance(await decided(seat, world, person, ANY), Allowed)


@pytest.mark.parametrize("status", ["blocked", "invited"])
async def test_only_active_members_pass_even_where_any_user_may(world: World, seat: Seat, status: str) -> None:
    person = await world.person(await world.tenant(), "Admin", status=status)
    assert refusal(await decided(seat, world, person, ANY)) == (403, "forbidden")
    assert refusal(await decided(seat, world, person, READ)) == (403, "forbidden")


async def test_a_member_of_one_tenant_is_nobody_in_another(world: World, seat: Seat) -> None:
    here, there = await world.tenant(), await world.tenant()
    owner = await world.person(here, "Owner")
    assert refusal(await decided(seat, world, replace(owner, tenant=there), ANY)) == (403, "forbidden")
    assert refusal(await decided(seat, world, replace(owner, tenant=uuid4()), ANY)) == (403, "forbidden")


async def test_roles_of_the_token_give_no_rights(world: World, seat: Seat) -> None:
    person = await world.person(await world.tenant(), "Member")
    assert refusal(await decided(seat, world, replace(person, roles=("Owner",)), CREATE)) == (403, "forbidden")


async def test_a_blocked_tenant(world: World, seat: Seat) -> None:
    person = await world.person(await world.tenant(), "Owner")
    assert isinstance(await decided(seat, world, person, READ), Allowed)
    await world.operator.set(f"tenant:blocked:{person.tenant}", "1")
    assert refusal(await decided(seat, world, person, READ)) == (403, "tenant-blocked")
    await world.operator.delete(f"tenant:blocked:{person.tenant}")
    assert isinstance(await decided(seat, world, person, READ), Allowed)


async def test_a_module_that_is_not_active(world: World, seat: Seat) -> None:
    person = await world.person(await world.tenant(module=False), "Owner")
    assert refusal(await decided(seat, world, person, READ)) == (404, "module-not-active")
    assert refusal(await decided(seat, world, person, ANY)) == (404, "module-not-active")
    assert isinstance(await decided(seat, world, person, Rule(None, "users.list")), Allowed)


async def test_new_modules_bring_new_rights_at_once(world: World, seat: Seat) -> None:
    """The operator writes the epoch after the database: what was kept before it no longer counts."""
    person = await world.person(await world.tenant(module=False), "Member")
    await world.operator.sadd(f"modules:active:{person.tenant}", MODULE)
    assert refusal(await decided(seat, world, person, READ)) == (403, "forbidden")
    await world.sql("INSERT INTO kernel.module_tenants (slug, tenant_id) VALUES ($1, $2)", MODULE, person.tenant)
    await world.operator.set(f"modules:epoch:{person.tenant}", uuid4().hex)
    assert isinstance(await decided(seat, world, person, READ), Allowed)


async def test_what_a_server_has_lost_is_read_from_the_database(world: World, seat: Seat) -> None:
    """A flushed Valkey knows no block and no module: neither a way in nor an outage."""
    good = await world.person(await world.tenant(), "Member")
    bad = await world.person(await world.tenant(), "Owner")
    without = await world.person(await world.tenant(module=False), "Owner")
    await world.sql("UPDATE kernel.tenants SET blocked = true WHERE id = $1", bad.tenant)
    for person in (good, bad, without):
        await world.operator.delete(f"rate_limit:config:{person.tenant}", f"modules:active:{person.tenant}")
    verdict = await decided(seat, world, good, READ)
    assert isinstance(verdict, Allowed)
    assert verdict.headers["x-ratelimit-limit"] == "1000"
    assert refusal(await decided(seat, world, good, CREATE)) == (403, "forbidden")
    assert refusal(await decided(seat, world, bad, READ)) == (403, "tenant-blocked")
    assert refusal(await decided(seat, world, without, READ)) == (404, "module-not-active")


async def test_the_one_who_impersonates_is_told(world: World, seat: Seat) -> None:
    person = replace(await world.person(await world.tenant(), "Member"), actor=uuid4())
    verdict = await decided(seat, world, person, READ)
    assert isinstance(verdict, Allowed)
    assert verdict.identity == person


async def test_refused_tokens(world: World, seat: Seat) -> None:
    person = await world.person(await world.tenant(), "Member")
    token, other = world.bearer(person), world.bearer(person)
    expired = world.bearer(person, lives=-60)
    decide = seat.decider.decide
    for authorization, expected in (
        ([], (401, "unauthenticated")),
        (["Bearer nonsense"], (401, "unauthenticated")),
        ([token + "A"], (401, "unauthenticated")),
        ([expired], (401, "token-expired")),
        ([token, other], (400, "validation-error")),
    ):
        verdict = await decide(READ, authorization, CLIENT)
        assert refusal(verdict) == expected
        assert (verdict.headers.get("www-authenticate") == "Bearer") is (expected[0] == 401)
    assert isinstance(await decide(READ, [token, token], CLIENT), Allowed)
