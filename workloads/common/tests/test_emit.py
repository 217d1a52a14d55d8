"""emit() as the login of a workload: in the caller's transaction, for the caller's tenant."""

from typing import Any

import asyncpg
import pytest

from kernel_common.events import Envelope, EventNotDeclared, NotInTransaction, UnfitEvent, emit
from kernel_common.tenancy import tenant_transaction


def events(tenant: Any, count: int) -> list[Envelope]:
    return [event(tenant) for _ in range(count)]


def event(tenant: Any, **other: Any) -> Envelope:
    plain = {"type": "common_tests.thing.made", "source": "@tests/common-tests", "tenant_id": tenant}
    return Envelope(**{**plain, **other})


@pytest.fixture
async def outbox(postgres: Any, service: Any) -> Any:
    """The superuser, who can look into the outbox."""
    admin = await asyncpg.connect(postgres.admin_url, database="platform")
    yield lambda given: admin.fetchval("SELECT count(*) FROM kernel.outbox WHERE id = ANY($1)", [e.id for e in given])
    await admin.close()


async def test_events_are_there_exactly_when_the_change_is(pool: asyncpg.Pool, service: Any, outbox: Any) -> None:
    kept, undone = events(service.a, 3), events(service.a, 3)
    async with tenant_transaction(pool, service.a) as connection:
        await emit(connection, *kept)
        await emit(connection)
    with pytest.raises(ZeroDivisionError):
        async with tenant_transaction(pool, service.a) as connection:
            await emit(connection, *undone)
            raise ZeroDivisionError
    assert await outbox(kept) == 3
    assert await outbox(undone) == 0


async def test_outside_a_transaction_it_refuses(pool: asyncpg.Pool, service: Any, outbox: Any) -> None:
    given = events(service.a, 1)
    async with pool.acquire() as connection:
        with pytest.raises(NotInTransaction):
            await emit(connection, *given)
    assert await outbox(given) == 0


async def test_an_event_of_another_tenant_is_refused_with_all_beside_it(
    pool: asyncpg.Pool, service: Any, outbox: Any
) -> None:
    given = [*events(service.a, 1), *events(service.b, 1)]
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        async with tenant_transaction(pool, service.a) as connection:
            await emit(connection, *given)
    assert await outbox(given) == 0


async def test_what_the_module_does_not_declare_is_refused_by_its_type(
    pool: asyncpg.Pool, service: Any, outbox: Any
) -> None:
    given = [event(service.a), event(service.a, type="common_tests.thing.lost")]
    with pytest.raises(EventNotDeclared, match=r"may not publish common_tests\.thing\.lost") as caught:
        async with tenant_transaction(pool, service.a) as connection:
            await emit(connection, *given)
    assert caught.value.type == "common_tests.thing.lost"
    assert await outbox(given) == 0


async def test_a_payload_that_does_not_fit_is_refused_before_anything_is_written(
    pool: asyncpg.Pool, service: Any, outbox: Any
) -> None:
    given = [event(service.a), event(service.a, type="auth.mfa.enabled", data={"userId": 7})]
    async with tenant_transaction(pool, service.a) as connection:
        with pytest.raises(UnfitEvent, match=r"auth\.mfa\.enabled: data\.userId"):
            await emit(connection, *given)
        assert await connection.fetchval("SELECT 1") == 1, "the transaction goes on"
    assert await outbox(given) == 0
