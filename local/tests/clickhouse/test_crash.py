"""The server is killed, started twice, stopped, and started on what a kill left."""

import re
import subprocess
import threading
import time
from pathlib import Path

import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError


def test_kill_loses_no_answered_insert_and_no_access_statement(make_server) -> None:
    server = make_server()
    server.start()
    server.bootstrap()
    server.make_table("kept")
    answered_rows: list[int] = []
    answered_users: list[str] = []
    unsure: list[int] = []
    number = 0
    for round_number in range(6):
        ended = threading.Event()

        def insert(start: int, ended=ended) -> None:
            position = start
            while not ended.is_set():
                try:
                    answer = server.as_writer(
                        f"INSERT INTO kept (record_id, amount) VALUES (generateUUIDv4(), {position})"
                    )
                except OSError:
                    unsure.append(position)
                    return
                assert answer.status == 200, answer.text
                answered_rows.append(position)
                position += 1

        def make_users(start: int, ended=ended) -> None:
            position = start
            while not ended.is_set():
                try:
                    answer = server.as_operator(f"CREATE USER kept_{position} IDENTIFIED BY 'x'")
                except OSError:
                    return
                assert answer.status == 200, answer.text
                answered_users.append(f"kept_{position}")
                position += 1

        def make_tables(ended=ended, number=round_number) -> None:
            position = 0
            while not ended.is_set():
                position += 1
                try:
                    server.as_operator(f"CREATE TABLE t{number}_{position} (x Int8) ENGINE = MergeTree ORDER BY x")
                    server.as_operator(f"DROP TABLE t{number}_{position}")
                except OSError:
                    return

        threads = [
            *(threading.Thread(target=insert, args=(number + 100_000 * lane,)) for lane in range(3)),
            threading.Thread(target=make_users, args=(number,)),
            threading.Thread(target=make_tables),
        ]
        enough = len(answered_rows) + 40, len(answered_users) + 3
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while len(answered_rows) < enough[0] or len(answered_users) < enough[1]:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        server.kill()
        ended.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        number += 10_000
        server.start()
        there = [int(one) for one in server.ask("SELECT amount FROM analytics.kept").split()]
        assert set(answered_rows) <= set(there) <= set(answered_rows) | set(unsure)
        assert len(there) == len(set(there))
        users = server.ask("SELECT name FROM system.users").split()
        assert set(answered_users) <= set(users)
    server.close()


def test_one_process_a_data_directory(server) -> None:
    second = subprocess.run(server.command(0), capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert f"{server.data} is in use by process {server.process.pid}" in second.stderr
    assert server.ask("SELECT 1") == "1"


def test_stop_lets_requests_end_and_start_finds_everything(make_server) -> None:
    server = make_server()
    server.start()
    server.bootstrap()
    answers: list[str] = []
    query = "SELECT count() FROM numbers(50000000) WHERE NOT ignore(sipHash64(number)) SETTINGS max_threads = 1"
    thread = threading.Thread(target=lambda: answers.append(server.ask(query)))
    thread.start()
    deadline = time.monotonic() + 30
    while server.ask("SELECT count() FROM system.processes WHERE query LIKE '%sipHash64%'") < "2":
        assert time.monotonic() < deadline
    assert server.stop() == 0
    thread.join(30)
    assert answers == ["50000000"]
    assert re.search(r"stopped\n$", server.log.read_text())
    server.start()
    assert "cdc_writer" in server.ask("SELECT name FROM system.users")
    server.close()


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [("x\n", 0o644, "chmod 600"), ("", 0o600, "is empty"), (None, 0o600, "No such file")],
)
def test_a_bad_password_file_is_one_line(make_server, tmp_path: Path, content, mode, message) -> None:
    server = make_server()
    server.password_file = tmp_path / "password"
    if content is not None:
        server.password_file.write_text(content)
        server.password_file.chmod(mode)
    ended = subprocess.run(server.command(0), capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_damaged_access_file_is_one_line_and_is_left_alone(make_server) -> None:
    server = make_server()
    server.data.mkdir()
    (server.data / "access.json").write_text('{"users": ')
    ended = subprocess.run(server.command(0), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "access.json" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert (server.data / "access.json").read_text() == '{"users": '


def test_says_that_it_is_for_development(server) -> None:
    assert "development server, not for production" in server.log.read_text()
    help_text = subprocess.run(
        [*server.command(0)[:3], "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "not for production" in help_text.stdout


def test_idle_memory(make_server) -> None:
    import uuid

    import psutil

    server = make_server()
    server.start()
    process = psutil.Process(server.process.pid)
    assert process.memory_info().rss < 320 << 20
    server.bootstrap()
    for number in range(3):
        server.make_table(f"table_{number}")
    for number in range(30):
        server.make_tenant(uuid.UUID(int=number))
    assert server.reopens() <= 12
    assert process.memory_info().rss < 400 << 20
    server.close()


def test_password_never_in_the_command_line(server) -> None:
    command = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
    assert b"admin-password" not in command
    with pytest.raises(ClickHouseError, match="516"):
        server.client("default", "")
