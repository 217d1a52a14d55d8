"""A prepared database, the platform's topics, and the source's own limited logins."""

import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
from cdc_source_world import EVERY_TYPE, Install, Installed

from kernel_cdc.settings import SourceSettings
from kernel_cdc.source import slot
from kernel_common.ids import tenant_id
from kernel_local.testing import KafkaServer, PostgresServer
from kernel_operator.desired import ModuleState, TenantState, Tier
from kernel_operator.targets.postgres import PostgresTarget

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
async def database(postgres: PostgresServer) -> AsyncIterator[PostgresTarget]:
    """The operator's hand on the prepared database."""
    target = PostgresTarget(postgres.operator_url)
    await target.prepare()
    yield target
    await target.close()


@pytest.fixture(scope="session")
async def admin(postgres: PostgresServer, database: PostgresTarget) -> AsyncIterator[asyncpg.Pool]:
    """The superuser in the database of the platform. The slot goes with it: others' logs would be kept for it."""
    pool = await asyncpg.create_pool(postgres.admin_url, database="platform", min_size=0, max_size=4)
    yield pool
    await pool.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1", slot.SLOT
    )
    await pool.close()


@pytest.fixture(scope="session")
def environment(postgres: PostgresServer, kafka: KafkaServer) -> dict[str, str]:
    """The variables of the source."""
    conf = kafka.cdc_conf
    return {
        "DATABASE_URL": postgres.cdc_url,
        "KAFKA_BROKERS": conf["bootstrap.servers"],
        "KAFKA_SECURITY_PROTOCOL": conf["security.protocol"],
        "KAFKA_SASL_MECHANISM": conf["sasl.mechanisms"],
        "KAFKA_USERNAME": conf["sasl.username"],
        "KAFKA_PASSWORD": conf["sasl.password"],
        "CDC_HEARTBEAT_SEC": "0.5",
    }


@pytest.fixture(scope="session")
def settings(environment: dict[str, str]) -> SourceSettings:
    named = {name.lower(): value for name, value in environment.items()}
    return SourceSettings(**named, cdc_host="127.0.0.1", cdc_port=0)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def install(database: PostgresTarget) -> Install:
    """``await install()``: a module of its own with one tenant; fields of ModuleState, or a former one to change."""

    async def install(former: Installed | None = None, **fields: object) -> Installed:
        if former is not None:
            module, tenant = replace(former.module, **fields), former.tenant  # type: ignore[arg-type]
        else:
            name = f"cdc{next(_numbers)}x{time.time_ns() % 10**9}"
            tenant = tenant_id(name)
            owner = TenantState(tenant, name, f"uid-{name}", name, Tier.CLIENT, f"owner@{name}.example")
            await database.apply_tenants([owner])
            plain = ModuleState(
                slug=name,
                module_name=f"@acme/{name}",
                namespace=name,
                name=name,
                uid=f"uid-{name}",
                version="1.0.0",
                models=(EVERY_TYPE,),
                tenants=frozenset({tenant}),
            )
            module = replace(plain, **fields)  # type: ignore[arg-type]
        outcome = await database.apply_module(module, "a-random-password-Zq8")
        assert outcome.refusal is None
        return Installed(module, tenant)

    return install
