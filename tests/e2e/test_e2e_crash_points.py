"""The operator dies by -9 after each single change that it makes outside, and is started again: nothing is left over.

What is counted, and how: ``kernel_operator.faults``. Each story is told with n = 1, 2, 3, ... until the operator
survives it, so that no change is left out, and none has to be named here.
"""

import asyncio
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any
from uuid import uuid4

import pytest
from e2e_audit import audit, clean
from e2e_manifests import module, namespace, tenant
from e2e_operator import OwnOperator

pytestmark = pytest.mark.soak

MOST = 60
"""Changes that a story may make."""


class Crashes:
    """An operator that dies, and the one that comes after it."""

    def __init__(self, cluster: Any, provider: Any, operator: OwnOperator) -> None:
        self.cluster, self.provider, self.operator = cluster, provider, operator

    async def dies(self, writes: int) -> bool:
        """Whether the operator makes ``writes`` changes before all is done; then it is dead."""
        async with self.operator.running(OPERATOR_FAULT_AFTER_WRITES=str(writes)) as process:
            deadline = time.monotonic() + 60
            while await self._lives(process, 0.6):
                if not await audit(self.cluster, self.provider):
                    return not await self._lives(process, 1.0)  # an Event comes after all else
                assert time.monotonic() < deadline, await audit(self.cluster, self.provider)
            return True

    async def _lives(self, process: BaseProcess, seconds: float) -> bool:
        """Whether it is still there after ``seconds``; if not, it ended as it should: by -9."""
        await asyncio.to_thread(process.join, seconds)
        assert process.exitcode in (None, -signal.SIGKILL), f"the operator ended with {process.exitcode}"
        return process.is_alive()

    async def recovers(self) -> None:
        async with self.operator.running():
            await clean(self.cluster, self.provider)


@pytest.fixture(scope="module")
async def crashes(cluster, provider, platform, tmp_path_factory):
    await provider.kill("operator")
    yield Crashes(cluster, provider, OwnOperator(platform, tmp_path_factory.mktemp("crashes") / "operator.log"))
    await provider.start("operator")


@pytest.fixture(scope="module")
def world(cluster):
    """What the stories share: a mark in every name, and that nothing of it stays."""
    mark = uuid4().hex[:5]
    cluster.apply(namespace(f"crash-{mark}"))
    yield mark
    assert not cluster.exists("tenants", "-l", f"crash={mark}")
    cluster.delete("namespace", f"crash-{mark}", wait=False)


def the_set(mark: str, n: int) -> list[dict[str, Any]]:
    """Tenants of three tiers and a module for them, with analytics and events."""
    owner, partner, client = (f"crash-{mark}-{n}-{tier}" for tier in ("owner", "partner", "client"))
    common = {"labels": {"crash": mark}, "deletionPolicy": "Delete"}
    slug = f"c{mark}{n}"
    return [
        tenant(owner, tier="owner", **common),
        tenant(partner, tier="partner", parent=owner, **common),
        tenant(client, parent=partner, **common),
        module(
            slug,
            namespace=f"crash-{mark}",
            tenants={"names": [owner, partner, client]},
            deletionPolicy="Delete",
            annotations={"platform-kernel.io/confirm-deletion": slug},
        ),
    ]


async def tell(crashes: Crashes, story: Callable[[int], None]) -> int:
    """How many changes the story made, each of which the operator has died after."""
    for n in range(1, MOST + 1):
        story(n)
        if not await crashes.dies(n):
            return n - 1
        await crashes.recovers()
    raise AssertionError(f"the story goes on after {MOST} changes")


async def test_a_crash_after_each_change_leaves_nothing_over(crashes, cluster, world) -> None:
    await crashes.recovers()

    def create(n: int) -> None:
        cluster.apply(*the_set(world, n))

    def suspend(n: int) -> None:
        body, *_ = the_set(world, 1)
        body["spec"]["suspended"] = n % 2 == 1
        cluster.apply(body)

    def delete(n: int) -> None:
        _, _, client, installed = the_set(world, n)
        cluster.delete("tenant", client["metadata"]["name"], wait=False)
        cluster.delete("kmod", installed["metadata"]["name"], "-n", f"crash-{world}", wait=False)

    created = await tell(crashes, create)
    # 3 finalizers, users, statuses and Events, a module's own; its Secret, tables, policies, view, topics, keys
    assert created >= 20
    assert await tell(crashes, suspend) >= 8, "a row, three users, keys, three statuses"
    assert await tell(crashes, delete) >= 12, "keys, users, tables, topics, rows, Secret, finalizers"
    assert created < MOST
    cluster.run("delete", "kmod", "--all", "-n", f"crash-{world}", "--wait=false")
    cluster.run("delete", "tenants", "-l", f"crash={world}", "--wait=false")
    async with crashes.operator.running():
        await clean(cluster, crashes.provider)
