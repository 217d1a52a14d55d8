"""A real API server with our CRDs and the operator's rights, and the reconcilers on it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from reconcile_world import World, logged_in, operator_kubeconfig

from kernel_local.testing import KubernetesServer
from kernel_operator.kube import Kube

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def cluster_of_ours(kubernetes: KubernetesServer) -> KubernetesServer:
    """The API server as the operator finds it."""
    for folder in ("crds", "operator/rbac"):
        kubernetes.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(REPOSITORY / folder))
    kubernetes.kubectl("wait", "--for=condition=Established", "-f", str(REPOSITORY / "crds"), "--timeout=30s")
    return kubernetes


@pytest.fixture(scope="session")
async def people(cluster_of_ours: KubernetesServer) -> AsyncIterator[Kube]:
    """The API server as an administrator calls it."""
    kube = Kube()
    session = await logged_in(cluster_of_ours.kubeconfig)
    kube.use(session)
    async with asyncio.timeout(30):
        while True:  # Established is not yet answering
            if await kube.read("tenants", "", "no-such-tenant") is None:
                break
    yield kube
    await session.aiohttp_session.close()


@pytest.fixture(scope="session")
def operator_login(cluster_of_ours: KubernetesServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig with the rights of the operator's service account."""
    return operator_kubeconfig(cluster_of_ours, tmp_path_factory.mktemp("login") / "kubeconfig")


@pytest.fixture
async def world(people: Kube, operator_login: Path) -> AsyncIterator[World]:
    world = World(people)
    session = await logged_in(operator_login)
    world.kube.use(session)
    yield world
    await world.clear()
    await session.aiohttp_session.close()
