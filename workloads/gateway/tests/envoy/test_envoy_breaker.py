"""The breaker: five failures in a row, and what they are; open, probe, closed; one upstream and worker at a time."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from envoy_edge import Answer, Edge, Upstream, crm, eventually, running_edge
from prometheus_client import REGISTRY

from kernel_gateway.envoy import transitions

OPEN_SECONDS, WINDOW_SECONDS = 1.2, 2.5
CONTACTS, SLOW = "/api/v1/crm/contacts", "/api/v1/crm/slow"


@pytest.fixture(scope="module")
async def own(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    folder = tmp_path_factory.mktemp("breaker")
    async with running_edge(folder, cb_failures=5, cb_open_sec=OPEN_SECONDS, cb_window_sec=WINDOW_SECONDS) as edge:
        yield edge


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    await upstream.start()
    yield upstream
    upstream.hold.set()
    await upstream.stop()


_numbers = iter(range(1000))


@pytest.fixture
async def edge(own: Edge, upstream: Upstream) -> Edge:
    """Each test has a module, and so a breaker, of its own."""
    own.reports.clear()
    await own.publish(crm(upstream.port, slug=f"crm_{next(_numbers)}"))
    return own


def is_refusal(answer: Answer) -> bool:
    return answer.status == 503 and "failed repeatedly" in answer.problem()["detail"]


async def refused(edge: Edge) -> None:
    answer = await edge.ask(CONTACTS)
    assert is_refusal(answer), answer


async def fail(edge: Edge, upstream: Upstream, times: int, status: int = 500) -> None:
    upstream.status = status
    assert {answer.status for answer in await edge.burst(CONTACTS, times)} == {status}
    upstream.status = 200


async def opened(edge: Edge, upstream: Upstream) -> None:
    await fail(edge, upstream, 5)
    await refused(edge)


async def half_open(edge: Edge) -> None:
    await asyncio.sleep(OPEN_SECONDS)


def states(edge: Edge) -> list[str]:
    return [str(report["state"]) for report in sorted(edge.reports, key=lambda report: int(report["turn"]))]


def gauge(edge: Edge) -> float | None:
    upstream = edge.reports[-1]["upstream"]
    return REGISTRY.get_sample_value("circuit_breaker_state", {"target": upstream})


async def test_five_failures_in_a_row_open_it_and_a_good_probe_closes_it(edge: Edge, upstream: Upstream) -> None:
    await fail(edge, upstream, 5)
    for answer in await edge.burst(CONTACTS, 20):
        assert is_refusal(answer) and answer.slug == "service-unavailable"
        assert answer.header("retry-after") in ("1", "2")
    assert len(upstream.seen) == 5
    await eventually(lambda: states(edge) == ["open"] and gauge(edge) == 2)
    await half_open(edge)
    assert (await edge.ask(CONTACTS)).status == 200
    assert (await edge.ask(CONTACTS)).status == 200
    await eventually(lambda: states(edge) == ["open", "half-open", "closed"] and gauge(edge) == 0)


async def test_the_probe_is_one_and_alone(edge: Edge, upstream: Upstream) -> None:
    await opened(edge, upstream)
    await half_open(edge)
    upstream.seen.clear()
    together = [asyncio.ensure_future(edge.ask(SLOW)) for _ in range(8)]
    await eventually(lambda: sum(task.done() for task in together) == 7)
    await eventually(lambda: len(upstream.seen) == 1)
    await refused(edge)
    upstream.hold.set()
    answers = await asyncio.gather(*together)
    assert sorted(answer.status for answer in answers) == [200] + [503] * 7
    assert len(upstream.seen) == 1 and (await edge.ask(CONTACTS)).status == 200


async def test_a_bad_probe_opens_it_again(edge: Edge, upstream: Upstream) -> None:
    await opened(edge, upstream)
    await half_open(edge)
    await fail(edge, upstream, 1)
    await refused(edge)
    assert len(upstream.seen) == 6
    await eventually(lambda: states(edge) == ["open", "half-open", "open"])
    await half_open(edge)
    assert (await edge.ask(CONTACTS)).status == 200


async def test_what_clients_do_wrong_never_counts(edge: Edge, upstream: Upstream) -> None:
    for status in (400, 401, 403, 404, 409, 422, 429):
        await fail(edge, upstream, 6, status)
    assert (await edge.ask(CONTACTS)).status == 200


async def test_any_success_forgets_the_failures(edge: Edge, upstream: Upstream) -> None:
    for good in (200, 404, 302):
        await fail(edge, upstream, 4)
        await fail(edge, upstream, 1, good)
    await fail(edge, upstream, 4)
    assert (await edge.ask(CONTACTS)).status == 200


async def test_failures_older_than_the_window_don_t_count(edge: Edge, upstream: Upstream) -> None:
    await fail(edge, upstream, 4)
    await asyncio.sleep(WINDOW_SECONDS + 0.1)
    await fail(edge, upstream, 4)
    assert states(edge) == []
    await fail(edge, upstream, 1)
    await refused(edge)


async def test_refused_connections_open_it(edge: Edge, upstream: Upstream) -> None:
    await upstream.stop()
    for answer in await edge.burst(CONTACTS, 5):
        assert answer.status == 503 and "can't be reached" in answer.problem()["detail"]
        assert answer.header("retry-after") == "1"
    await refused(edge)
    await upstream.start()
    await half_open(edge)
    assert (await edge.ask(CONTACTS)).status == 200


async def test_time_outs_open_it(edge: Edge, upstream: Upstream) -> None:
    await edge.publish(crm(upstream.port, slug=f"crm_{next(_numbers)}"), request_seconds=0.3)
    late = await asyncio.gather(*(edge.ask(SLOW) for _ in range(5)))
    assert [(answer.status, answer.slug) for answer in late] == [(504, "gateway-timeout")] * 5
    await refused(edge)


async def test_a_probe_whose_client_went_away_is_given_up(edge: Edge, upstream: Upstream) -> None:
    await opened(edge, upstream)
    await half_open(edge)
    upstream.seen.clear()
    _, writer = await asyncio.open_connection("localhost", edge.port, ssl=edge.tls)
    writer.write(f"GET {SLOW} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer ada\r\n\r\n".encode())
    await eventually(lambda: len(upstream.seen) == 1)
    writer.transport.abort()
    await refused(edge)
    await half_open(edge)
    assert (await edge.ask(CONTACTS)).status == 200


async def test_an_answer_from_before_it_opened_changes_nothing(edge: Edge, upstream: Upstream) -> None:
    slow = asyncio.ensure_future(edge.ask(SLOW))
    await eventually(lambda: len(upstream.seen) == 1)
    await opened(edge, upstream)
    upstream.hold.set()
    assert (await slow).status == 200
    await refused(edge)


async def test_what_never_reached_the_service_doesn_t_count(edge: Edge, upstream: Upstream) -> None:
    for _ in range(6):
        assert (await edge.ask(CONTACTS, token="eve")).status == 403
    await edge.decisions_down()
    try:
        for _ in range(6):
            answer = await edge.ask(CONTACTS)
            assert answer.status == 503 and answer.slug == "service-unavailable"
            assert answer.header("retry-after") == "1"
    finally:
        await edge.decisions_up()
    assert (await edge.ask(CONTACTS)).status == 200 and states(edge) == []


async def test_what_envoy_s_own_limits_hold_back_doesn_t_count(edge: Edge, upstream: Upstream) -> None:
    limited = crm(upstream.port, slug=f"crm_{next(_numbers)}")
    await edge.publish(limited, most=1)
    waiting = f"cluster.{limited.upstream}.upstream_rq_pending_active"
    slow: list[asyncio.Future[Answer]] = []

    async def full() -> bool:
        return await edge.stat(waiting) == 1

    # One under way, one waiting for its connection; of two at once both might get one, before either counts.
    for _ in range(2):
        slow.append(asyncio.ensure_future(edge.ask(SLOW)))
        await eventually(lambda: len(upstream.seen) == 1)
    await eventually(full)
    held_back = [await edge.ask(CONTACTS) for _ in range(8)]
    upstream.hold.set()
    assert {answer.status for answer in await asyncio.gather(*slow)} == {200}
    assert {answer.status for answer in held_back} == {503}
    assert all("can't be reached" in answer.problem()["detail"] for answer in held_back)
    assert states(edge) == [] and (await edge.ask(CONTACTS)).status == 200


async def test_one_upstream_s_breaker_is_not_another_s(edge: Edge, upstream: Upstream) -> None:
    other = Upstream()
    await other.start()
    try:
        await edge.publish(
            crm(upstream.port, slug=f"crm_{next(_numbers)}"), crm(other.port, slug="other", prefix="/api/v1/other")
        )
        await opened(edge, upstream)
        assert (await edge.ask("/api/v1/other/contacts")).status == 200
    finally:
        await other.stop()


async def test_a_change_of_routes_forgets_nothing(edge: Edge, upstream: Upstream) -> None:
    slug = f"crm_{next(_numbers)}"
    await edge.publish(crm(upstream.port, slug=slug))
    await opened(edge, upstream)
    await edge.publish(crm(upstream.port, slug=slug), crm(upstream.port, slug="other", prefix="/api/v1/other"))
    await refused(edge)
    assert len(upstream.seen) == 5


async def test_a_bad_pod_among_good_ones_is_passed_over(edge: Edge, upstream: Upstream) -> None:
    bad = Upstream(status=500)
    await bad.start()
    try:
        await edge.publish(crm(upstream.port, slug=f"crm_{next(_numbers)}"), also=[bad.port])
        answers = [answer.status for answer in await edge.burst(CONTACTS, 40)]
        assert answers.count(500) == 5 and set(answers) == {200, 500} and states(edge) == []
        await fail(edge, upstream, 5)
        await refused(edge)
    finally:
        await bad.stop()


async def test_each_worker_has_its_own_and_all_open(tmp_path: Path, upstream: Upstream) -> None:
    async with running_edge(
        tmp_path, concurrency=2, cb_failures=5, cb_open_sec=OPEN_SECONDS, cb_window_sec=5.0
    ) as edge:
        await edge.publish(crm(upstream.port))
        upstream.status = 500
        async with asyncio.timeout(20):
            while len(workers(edge)) < 2 or workers(edge, "open") != workers(edge):
                await asyncio.gather(*(edge.ask(CONTACTS) for _ in range(8)))
        assert gauge(edge) == 2
        upstream.status = 200
        async with asyncio.timeout(20):
            while workers(edge, "closed") != workers(edge):
                await asyncio.gather(*(edge.ask(CONTACTS) for _ in range(8)))
        await eventually(lambda: gauge(edge) == 0)
        assert {(await edge.ask(CONTACTS)).status for _ in range(20)} == {200}


def workers(edge: Edge, state: str | None = None) -> set[str]:
    """Those that have reported (that state)."""
    return {str(report["worker"]) for report in edge.reports if state in (None, report["state"])}


async def test_reports_are_kept_in_order_and_end_with_their_envoy() -> None:
    def report(state: str, worker: str = "0x1", born: int = 1000, turn: int = 1) -> bytes:
        return f'{{"upstream":"module_crm","worker":"{worker}","born":{born},"turn":{turn},"state":"{state}"}}'.encode()

    def shown() -> float | None:
        return REGISTRY.get_sample_value("circuit_breaker_state", {"target": "module_crm"})

    transitions.handle(report("half-open", turn=2))
    transitions.handle(report("open", turn=1))
    assert shown() == 1
    transitions.handle(report("open", worker="0x2", turn=1))
    assert shown() == 2
    transitions.handle(report("closed", worker="0x9", born=2000))
    assert shown() == 0
    transitions.handle(report("open", turn=99))
    assert shown() == 0
    transitions.forget("module_crm")
    assert shown() is None
    for wrong in (b"", b"[]", report("ajar"), report("open", worker="x" * 65), b'{"upstream":"x"}', b" " * 2000):
        with pytest.raises(ValueError):
            transitions.handle(wrong)
    transitions.handle(report("open").replace(b"crm", b"gone"))
    transitions.forget()
    assert REGISTRY.get_sample_value("circuit_breaker_state", {"target": "module_gone"}) is None
