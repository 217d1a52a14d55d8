"""The rate limit: exact whatever the arrivals, shared by all replicas, told to the client."""

import asyncio
import ipaddress
from typing import Any

import pytest
import redis
from decision_world import CLIENT, MODULE, Seat, World
from hypothesis import given, settings
from hypothesis import strategies as st

from kernel_gateway.access import Allowed, Refused, Rule
from kernel_gateway.decision.script import read
from kernel_local.testing import ValkeyServer

MINUTE = 60_000_000
READ = Rule(MODULE, "dcrm.contacts.read")

# Production asks the server for the time inside the script; here the same arithmetic gets the time from the test.
ARRIVALS = (
    read("budget.lua").decode()
    + """
local passed, state = {}, nil
for number = 3, #ARGV do
  local ok, level = spend(state, tonumber(ARGV[number]), tonumber(ARGV[1]), tonumber(ARGV[2]))
  if ok then
    state = string.format('%.0f %.0f', ARGV[number], level)
    passed[#passed + 1] = number - 2
  end
end
return passed
"""
)


@pytest.fixture(scope="module")
def lua(valkey: ValkeyServer) -> Any:
    client: Any = redis.Redis.from_url(valkey.admin_url)
    yield client
    client.close()


def admitted(lua: Any, limit: int, burst: int, arrivals: list[int]) -> list[int]:
    return [arrivals[at - 1] for at in lua.eval(ARRIVALS, 0, limit, burst, *arrivals)]


@settings(max_examples=60, deadline=None)
@given(
    limit=st.integers(1, 5_000),
    burst=st.integers(1, 300),
    gaps=st.lists(st.one_of(st.integers(0, 50_000), st.integers(0, 40_000_000)), min_size=1, max_size=600),
    start=st.integers(1_700_000_000_000_000, 2_500_000_000_000_000),
)
def test_never_more_than_limit_and_burst_in_any_minute(
    lua: Any, limit: int, burst: int, gaps: list[int], start: int
) -> None:
    arrivals = [start := start + gap for gap in gaps]
    passed = admitted(lua, limit, burst, arrivals)
    assert passed[0] == arrivals[0]
    last = 0
    for first, time in enumerate(passed):
        while last < len(passed) and passed[last] <= time + MINUTE:
            last += 1
        assert last - first <= limit + burst
        # Stronger, for every shorter stretch: no more than what drained in it and what fits in at once.
        for end in range(first + burst, min(last, first + burst + 20)):
            assert (end - first + 1 - burst) * MINUTE <= limit * (passed[end] - time)


@settings(max_examples=25, deadline=None)
@given(limit=st.integers(30, 2_000), burst=st.integers(2, 200), share=st.floats(0.05, 0.9))
def test_one_who_hammers_gets_no_less_than_the_limit(lua: Any, limit: int, burst: int, share: float) -> None:
    gap = max(1, int(MINUTE / limit * share))
    arrivals = [1_800_000_000_000_000 + n * gap for n in range(4_000)]
    passed = admitted(lua, limit, burst, arrivals)
    drained = limit * (arrivals[-1] - arrivals[0]) / MINUTE
    assert drained + burst - 2 <= len(passed) <= drained + burst


async def test_replicas_share_one_budget_exactly(world: World, administrator: Any) -> None:
    limit, burst = 30_000, 200
    person = await world.person(await world.tenant(limit=limit, burst=burst), "Member")
    seats = [await world.seat(), await world.seat()]
    token = world.bearer(person)
    for seat in seats:
        await seat.decider.decide(Rule(None), [token], CLIENT)  # rights are kept from here on
    await administrator.delete(f"rate_limit:{person.tenant}")
    loop = asyncio.get_running_loop()

    async def now() -> int:
        seconds, micros = await administrator.time()
        return int(seconds) * 1_000_000 + int(micros)

    async def hammer(seat: Seat) -> int:
        passed, until = 0, loop.time() + 0.5
        while loop.time() < until:
            verdicts = await asyncio.gather(*(seat.decider.decide(READ, [token], CLIENT) for _ in range(25)))
            passed += sum(isinstance(verdict, Allowed) for verdict in verdicts)
            assert all(verdict.slug == "rate-limit-exceeded" for verdict in verdicts if isinstance(verdict, Refused))
        return passed

    before = await now()
    passed = sum(await asyncio.gather(*(hammer(seat) for seat in seats)))
    drained = limit * (await now() - before) / MINUTE
    assert passed <= drained + burst
    assert passed >= limit * 0.5 / 60


async def test_a_refusal_costs_nothing_and_says_when_to_come_back(world: World, seat: Seat, administrator: Any) -> None:
    person = await world.person(await world.tenant(limit=2, burst=2), "Member")
    token = world.bearer(person)
    for left in ("1", "0"):
        verdict = await seat.decider.decide(READ, [token], CLIENT)
        assert isinstance(verdict, Allowed)
        assert verdict.headers["x-ratelimit-remaining"] == left
    before = await administrator.get(f"rate_limit:{person.tenant}")
    for _ in range(5):
        verdict = await seat.decider.decide(READ, [token], CLIENT)
        assert isinstance(verdict, Refused)
        assert (verdict.status, verdict.slug) == (429, "rate-limit-exceeded")
        wait = int(verdict.headers["retry-after"])
        assert 20 <= wait <= 30
        assert verdict.headers["x-ratelimit-limit"] == "2"
        assert verdict.headers["x-ratelimit-remaining"] == "0"
        assert verdict.headers["ratelimit-policy"] == '"default";q=2;w=60'
        assert verdict.headers["ratelimit"] == f'"default";r=0;t={wait}'
        seconds, _ = await administrator.time()
        assert 50 <= int(verdict.headers["x-ratelimit-reset"]) - int(seconds) <= 60
    assert await administrator.get(f"rate_limit:{person.tenant}") == before


async def test_one_who_waits_as_told_passes(world: World, seat: Seat) -> None:
    person = await world.person(await world.tenant(limit=60, burst=1), "Member")
    token = world.bearer(person)
    async with asyncio.timeout(10):
        while isinstance(verdict := await seat.decider.decide(READ, [token], CLIENT), Allowed):
            pass
    assert isinstance(verdict, Refused)
    assert verdict.headers["retry-after"] == "1"
    await asyncio.sleep(int(verdict.headers["retry-after"]))  # what a client does
    assert isinstance(await seat.decider.decide(READ, [token], CLIENT), Allowed)


async def test_administrators_have_a_budget_of_their_own(world: World, seat: Seat) -> None:
    tenant = await world.tenant(limit=2, burst=1, admin=7_000)
    member, admin = await world.person(tenant, "Member"), await world.person(tenant, "Admin")
    assert isinstance(await seat.decider.decide(READ, [world.bearer(member)], CLIENT), Allowed)
    assert isinstance(await seat.decider.decide(READ, [world.bearer(member)], CLIENT), Refused)
    verdict = await seat.decider.decide(READ, [world.bearer(admin)], CLIENT)
    assert isinstance(verdict, Allowed)
    assert verdict.headers["x-ratelimit-limit"] == "7000"


async def test_a_new_limit_holds_from_the_next_request(world: World, seat: Seat) -> None:
    person = await world.person(await world.tenant(limit=2, burst=1), "Member")
    token = world.bearer(person)
    await seat.decider.decide(READ, [token], CLIENT)
    assert isinstance(await seat.decider.decide(READ, [token], CLIENT), Refused)
    await world.told(person.tenant, limit=3, burst=50)
    verdict = await seat.decider.decide(READ, [token], CLIENT)
    assert isinstance(verdict, Allowed)
    assert (verdict.headers["x-ratelimit-limit"], verdict.headers["x-ratelimit-remaining"]) == ("3", "48")


@pytest.mark.parametrize("config", ["{", "[]", '{"rps":0,"burst":"many"}', '{"rps":-5,"burst":1e300}', "7"])
async def test_a_configuration_that_makes_no_sense_means_the_defaults(world: World, seat: Seat, config: str) -> None:
    person = await world.person(await world.tenant(), "Member")
    await world.operator.set(f"rate_limit:config:{person.tenant}", config)
    verdict = await seat.decider.decide(READ, [world.bearer(person)], CLIENT)
    assert isinstance(verdict, Allowed)
    assert (verdict.headers["x-ratelimit-limit"], verdict.headers["x-ratelimit-remaining"]) == ("1000", "199")


async def test_a_clock_that_steps_back_freezes_nobody(world: World, seat: Seat, administrator: Any) -> None:
    """The state is from an hour ahead, and full: it drains from now on, and does not wait for that hour."""
    person = await world.person(await world.tenant(limit=60_000, burst=10), "Member")
    seconds, _ = await administrator.time()
    await administrator.set(f"rate_limit:{person.tenant}", f"{(int(seconds) + 3600) * 1_000_000} {10 * MINUTE}")
    token = world.bearer(person)
    assert isinstance(await seat.decider.decide(READ, [token], CLIENT), Refused)
    async with asyncio.timeout(1):
        while isinstance(await seat.decider.decide(READ, [token], CLIENT), Refused):
            await asyncio.sleep(0.001)


async def _public(seat: Seat, client: str, times: int) -> list[bool]:
    rule = Rule(None, public=True)
    return [isinstance(await seat.decider.decide(rule, [], client), Allowed) for _ in range(times)]


async def test_without_a_token_the_address_is_limited(world: World, administrator: Any) -> None:
    seat = await world.seat(anonymous_limit=8)
    network = ipaddress.ip_network("198.51.100.0/24")
    addresses = [str(network[n]) for n in (1, 2)]
    for address in addresses:
        await administrator.delete(f"rate_limit:ip:{address}")
    assert await _public(seat, addresses[0], 3) == [True, True, False]
    assert await _public(seat, addresses[1], 1) == [True]
    assert await _public(seat, f"::ffff:{addresses[0]}", 1) == [False], "the same address, written as IPv6"


async def test_a_holder_of_an_ipv6_network_has_one_budget(world: World, administrator: Any) -> None:
    seat = await world.seat(anonymous_limit=8)
    await administrator.delete("rate_limit:ip:2001:db8:1:2::/64", "rate_limit:ip:2001:db8:1:3::/64")
    assert await _public(seat, "2001:db8:1:2::1", 2) == [True, True]
    assert await _public(seat, "2001:db8:1:2:ffff:ffff:ffff:ffff", 1) == [False]
    assert await _public(seat, "2001:db8:1:3::1", 1) == [True]


async def test_an_address_is_never_part_of_a_key_unread(world: World, administrator: Any) -> None:
    seat = await world.seat(anonymous_limit=8)
    await administrator.delete("rate_limit:ip:unknown")
    assert await _public(seat, "x:y\r\n:admin", 2) == [True, True]
    assert await _public(seat, "", 1) == [False], "all who come without an address share"


async def test_a_token_on_a_public_route_is_not_looked_at(world: World, seat: Seat) -> None:
    verdict = await seat.decider.decide(Rule(MODULE, public=True), ["Bearer nonsense", "Bearer other"], "192.0.2.9")
    assert isinstance(verdict, Allowed)
    assert verdict.identity is None


async def test_a_key_of_a_wrong_kind_stops_nothing(world: World, seat: Seat, administrator: Any) -> None:
    """The budget is made anew; a set of rights or modules that is none is read from the database instead."""
    person = await world.person(await world.tenant(), "Member")
    token = world.bearer(person)
    for key in (
        f"rate_limit:{person.tenant}",
        f"modules:active:{person.tenant}",
        f"rbac:{person.tenant}:{person.user}",
    ):
        await administrator.delete(key)
        await administrator.rpush(key, "nonsense")
        assert isinstance(await seat.decider.decide(READ, [token], CLIENT), Allowed)
        refused = await seat.decider.decide(Rule(MODULE, "dcrm.contacts.create"), [token], CLIENT)
        assert isinstance(refused, Refused)
        assert refused.slug == "forbidden"


def test_a_budget_of_one_at_a_time(lua: Any) -> None:
    """Requests that are exactly a share apart all pass; one that comes 1 µs early does not."""
    share = MINUTE // 60
    exact = [1_800_000_000_000_000 + n * share for n in range(120)]
    assert admitted(lua, 60, 1, exact) == exact
    early = [1_800_000_000_000_000, 1_800_000_000_000_000 + share - 1]
    assert admitted(lua, 60, 1, early) == early[:1]
