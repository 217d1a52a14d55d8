"""The small client against a real API server."""

import asyncio
from pathlib import Path

import pytest
from reconcile_world import World, logged_in

from kernel_operator.cluster import Cluster
from kernel_operator.desired import Unavailable
from kernel_operator.kube import MODULES, TENANTS, Kube, KubeError
from kernel_operator.loop import until_caught_up


async def test_a_list_in_pages_is_whole_and_of_one_version(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernel_operator.kube._PAGE", 2)
    made = [await world.tenant(f"t{n}") for n in range(5)]
    listed, version = await world.kube.list_metadata(TENANTS)
    names = [metadata["name"] for metadata in listed]
    assert len(names) == len(set(names))
    assert {key.name for key in made} <= set(names)
    assert version >= max(int(metadata["resourceVersion"]) for metadata in listed)
    assert all(set(metadata) <= {"name", "uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"}
               for metadata in listed if metadata["name"] in {key.name for key in made}), "no spec is read"  # fmt: skip


async def test_a_session_that_is_replaced_under_a_call_is_no_error_of_ours(operator_login: Path) -> None:
    """Kopf logs in anew and closes the former session, whatever is under way on it."""
    kube = Kube()
    former = await logged_in(operator_login)
    kube.use(former)
    calls = [asyncio.create_task(kube.list_metadata(TENANTS)) for _ in range(40)]
    await asyncio.sleep(0)
    await former.aiohttp_session.close()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(end, Unavailable | tuple) for end in ended), ended
    assert any(isinstance(end, Unavailable) for end in ended)
    with pytest.raises(Unavailable):
        await kube.list_metadata(TENANTS)
    renewed = await logged_in(operator_login)
    kube.use(renewed)
    assert (await kube.list_metadata(TENANTS))[1] > 0
    await renewed.aiohttp_session.close()


async def test_a_token_that_is_no_longer_taken_is_waited_for(operator_login: Path, tmp_path: Path) -> None:
    stale = tmp_path / "stale"
    stale.write_text(operator_login.read_text().replace('"token": "', '"token": "x'))
    kube = Kube()
    session = await logged_in(stale)
    kube.use(session)
    with pytest.raises(Unavailable, match="401"):
        await kube.read(TENANTS, "", "a")
    await session.aiohttp_session.close()


async def test_a_resource_that_is_not_served_is_not_an_object_that_is_gone(world: World) -> None:
    with pytest.raises(Unavailable, match="no answer from the API server"):
        await world.people.read("teapots", "", "a")


async def test_the_operator_reads_no_secret_but_by_name(world: World) -> None:
    assert await world.kube.read_secret("default", "no-such-secret") is None
    with pytest.raises(KubeError, match="cannot list") as error:
        await world.kube.call("GET", "/api/v1/secrets")
    assert error.value.status == 403


async def test_nothing_begins_before_the_watch_has_told_what_is_there(world: World) -> None:
    tenants = [await world.tenant(f"t{n}") for n in range(3)]
    module = await world.module("a")
    for kind in (TENANTS, MODULES):  # of other tests
        for metadata in (await world.kube.list_metadata(kind))[0]:
            if not metadata["name"].endswith(world.mark):
                body = await world.people.read(kind, metadata.get("namespace", ""), metadata["name"])
                if body:
                    world.cluster.observe(kind, body)
    waiting = asyncio.create_task(until_caught_up(world.kube, world.cluster))
    for key in (tenants[0], module, tenants[1]):
        await world.tell(key)
    done, _ = await asyncio.wait({waiting}, timeout=0.3)
    assert not done, "one is missing still"
    await world.delete(tenants[2])
    async with asyncio.timeout(10):
        await waiting
    assert {key.name for key in world.cluster.keys(TENANTS)} >= {key.name for key in tenants[:2]}


async def test_an_api_server_that_is_away_at_the_start_is_waited_for(operator_login: Path, tmp_path: Path) -> None:
    login = tmp_path / "elsewhere"
    login.write_text(operator_login.read_text().replace("127.0.0.1:", "127.0.0.1:1/"))
    kube, session = Kube(), await logged_in(login)
    kube.use(session)
    waiting = asyncio.create_task(until_caught_up(kube, Cluster()))
    done, _ = await asyncio.wait({waiting}, timeout=0.3)
    assert not done
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await session.aiohttp_session.close()
