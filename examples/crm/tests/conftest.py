"""The service on a real database, with the tables and the login that the operator makes of examples/crm.yaml."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import yaml
from crm_world import Crm, as_member, served

from kernel_common.ids import tenant_id
from kernel_local.testing import PostgresServer
from kernel_operator.desired import Column, ColumnType, Model, ModuleState, TenantState, Tier
from kernel_operator.targets.postgres import PostgresTarget

_PASSWORD = "a-random-password-Cr4"
_MANIFEST = Path(__file__).parents[2] / "crm.yaml"


def _models() -> tuple[Model, ...]:
    [module] = [d for d in yaml.safe_load_all(_MANIFEST.read_text()) if d["kind"] == "KernelModule"]
    return tuple(
        Model(
            model["name"],
            tuple(Column(f["name"], ColumnType(f["type"]), f.get("required", False)) for f in model["fields"]),
        )
        for model in module["spec"]["dataApi"]["models"]
    )


@pytest.fixture(scope="session")
async def crm(postgres: PostgresServer) -> AsyncIterator[Crm]:
    """The module ``crm``, active for two tenants."""
    target = PostgresTarget(postgres.operator_url)
    await target.prepare()
    names = ("crm-tests-a", "crm-tests-b")
    tenants = [TenantState(tenant_id(name), name, name, name, Tier.CLIENT, f"{name}@x.example") for name in names]
    await target.apply_tenants(tenants)
    module = ModuleState(
        slug="crm",
        module_name="@acme/crm",
        namespace="crm-tests",
        name="crm",
        uid="crm-tests",
        version="1.4.0",
        models=_models(),
        publishes=("crm.contact.created", "crm.deal.won"),
        tenants=frozenset(tenant.id for tenant in tenants),
    )
    outcome = await target.apply_module(module, _PASSWORD)
    assert outcome.refusal is None
    yield Crm(postgres.url("module_crm", _PASSWORD), tenants[0].id, tenants[1].id)
    await target.remove_module(module.slug, drop_data=True)
    await target.close()


@pytest.fixture(scope="session")
async def address(crm: Crm) -> AsyncIterator[str]:
    async with served(crm.database_url) as address:
        yield address


@pytest.fixture
async def a(address: str, crm: Crm) -> AsyncIterator[aiohttp.ClientSession]:
    async with as_member(address, crm.a) as session:
        yield session


@pytest.fixture
async def b(address: str, crm: Crm) -> AsyncIterator[aiohttp.ClientSession]:
    async with as_member(address, crm.b) as session:
        yield session
