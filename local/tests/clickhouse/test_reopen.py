"""Requests while access statements re-open the engine."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

ADMIN = ("default", "admin-password")
LONG = "SELECT count() FROM numbers(100000000000) WHERE NOT ignore(sipHash64(number)) SETTINGS max_threads = 1"


def test_no_request_fails_because_of_a_reopen(server) -> None:
    server.make_table("during")
    ended = threading.Event()

    def insert(lane: int) -> int:
        count = 0
        while not ended.is_set():
            answer = server.as_writer(
                f"INSERT INTO during (record_id, amount, note) VALUES (generateUUIDv4(), {count}, 'lane {lane}')"
            )
            assert answer.status == 200, answer.text
            count += 1
        return count

    def read() -> int:
        count = 0
        while not ended.is_set():
            answer = server.as_writer("SELECT number FROM numbers(5000)")
            assert len(answer.text.split()) == 5000, answer.text
            count += 1
        return count

    before = server.reopens()
    with ThreadPoolExecutor(5) as pool:
        try:
            running = [*(pool.submit(insert, lane) for lane in range(3)), pool.submit(read)]
            for number in range(25):
                server.ask(f"CREATE ROW POLICY p ON analytics.during_{number} USING 1 TO ALL")
        finally:
            ended.set()
        counts = [one.result(60) for one in running]
    assert server.reopens() - before == 25
    assert min(counts) > 0
    assert server.ask("SELECT count() FROM analytics.during") == str(sum(counts[:3]))


def test_requests_run_in_parallel(server) -> None:
    """Two requests are inside at the same time: one sees the other."""
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(server.http, *ADMIN, LONG.replace("100000000000", "200000000"))
        deadline = time.monotonic() + 30
        while server.ask("SELECT count() FROM system.processes WHERE query LIKE '%sipHash64%'") < "2":
            assert time.monotonic() < deadline
            assert not slow.done()
        assert slow.result(60).status == 200


def test_a_long_query_delays_a_reopen_only_so_long(server) -> None:
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(server.http, *ADMIN, LONG, query_id="long-one", max_execution_time="60")
        deadline = time.monotonic() + 30
        while server.ask("SELECT count() FROM system.processes WHERE query LIKE '%sipHash64%'") < "2":
            assert time.monotonic() < deadline
        began = time.monotonic()
        answer = server.http(*ADMIN, "CREATE USER impatient IDENTIFIED BY 'x'")
        assert (answer.code, answer.status) == (159, 408)
        assert 14 < time.monotonic() - began < 30
        assert not slow.done()
        assert server.ask("SELECT count() FROM system.users WHERE name = 'impatient'") == "0"
        assert server.ask("KILL QUERY WHERE query LIKE '%sipHash64%' AND query NOT LIKE '%KILL%' SYNC")
        assert slow.result(30).code == 394
    server.ask("CREATE USER impatient IDENTIFIED BY 'x'")
