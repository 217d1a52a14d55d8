"""Guessing is stopped, however many guess at once."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from gateway_api import Client, Reply, SomeTenant

from kernel_gateway.api.problems import ProblemError
from kernel_gateway.api.services import Services
from kernel_gateway.login.lockout import Attempt

NewTenant = Callable[..., Awaitable[SomeTenant]]


async def guess(
    client: Client, tenant: SomeTenant, password: str = "a wrong password", address: str = "198.51.100.1"
) -> Reply:
    body = {"email": tenant.owner.email, "password": password}
    return await client("POST", "auth/login", body, X_Kernel_Client=address)


async def test_two_hundred_guesses_at_once_are_ten_at_most(client: Client, a_tenant: NewTenant) -> None:
    tenant = await a_tenant()
    replies = await asyncio.gather(*(guess(client, tenant) for _ in range(200)))
    statuses = Counter(reply.status for reply in replies)
    assert set(statuses) <= {401, 429}
    assert statuses[401] <= 10
    late = await guess(client, tenant, tenant.owner.password)
    assert (late.status, late.slug) == (429, "rate-limit-exceeded")
    assert 0 < int(late.headers["Retry-After"]) <= 900


async def test_the_eleventh_guess_is_refused_and_waiting_is_enough(
    client: Client, a_tenant: NewTenant, admin: asyncpg.Connection
) -> None:
    tenant = await a_tenant()
    for _ in range(10):
        assert (await guess(client, tenant)).status == 401
    for _ in range(3):  # and it does not get longer by being tried
        assert (await guess(client, tenant, tenant.owner.password)).status == 429
    assert (await guess(client, tenant, tenant.owner.password, "198.51.100.2")).status == 200, (
        "elsewhere it is not locked"
    )
    await admin.execute("UPDATE auth.login_failures SET failed_at = failed_at - interval '15 minutes'")
    assert (await guess(client, tenant, tenant.owner.password)).status == 200


async def test_success_forgets_the_failures(client: Client, a_tenant: NewTenant) -> None:
    tenant = await a_tenant()
    for _ in range(2):
        for _ in range(9):
            assert (await guess(client, tenant)).status == 401
        assert (await guess(client, tenant, tenant.owner.password)).status == 200


async def test_an_unknown_address_is_locked_as_a_known_one(client: Client) -> None:
    body = {"email": "nobody@locked.example", "password": "a wrong password"}
    statuses = [(await client("POST", "auth/login", body, X_Kernel_Client="198.51.100.3")).status for _ in range(12)]
    assert statuses == [401] * 10 + [429] * 2


async def test_one_customer_with_many_ipv6_addresses_is_one(services: Services, admin: asyncpg.Connection) -> None:
    for number in range(10):
        await Attempt("somebody@v6.example", f"2001:db8:1:2::{number:x}").begin(services.pool)
    with pytest.raises(ProblemError, match="too many failed attempts"):
        await Attempt("somebody@v6.example", "2001:db8:1:2:ffff::1").begin(services.pool)
    await Attempt("somebody@v6.example", "2001:db8:1:3::1").begin(services.pool)
