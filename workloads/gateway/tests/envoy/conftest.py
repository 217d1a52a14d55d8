"""One Envoy for the tests that only send requests; those that break something start their own."""

from collections.abc import AsyncIterator

import pytest
from envoy_edge import Edge, Upstream, crm, running_edge

from kernel_gateway.envoy import transitions

ORIGIN = "https://app.example"


@pytest.fixture(scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Edge, Upstream]]:
    upstream = Upstream()
    await upstream.start()
    async with running_edge(tmp_path_factory.mktemp("edge"), origins=(ORIGIN,), local_rate_per_sec=5000) as edge:
        await edge.publish(crm(upstream.port, max_body=2048))
        yield edge, upstream
    await upstream.stop()


@pytest.fixture
def edge(shared: tuple[Edge, Upstream]) -> Edge:
    shared[0].tokens.asked.clear()
    return shared[0]


@pytest.fixture
def upstream(shared: tuple[Edge, Upstream]) -> Upstream:
    shared[1].seen.clear()
    return shared[1]


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """What one Envoy's breakers have reported is no other test's."""
    transitions.forget()
