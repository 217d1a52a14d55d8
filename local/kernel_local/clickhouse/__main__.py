"""python -m kernel_local.clickhouse --data DIR --port N [--host 127.0.0.1] --password-file FILE

The development ClickHouse server. FILE holds the password of the administrator, user `default`, and may be readable
by its owner only. Prints `ready HOST:PORT` when it listens; SIGTERM and SIGINT end it.
"""

import argparse
import hashlib
import os
import signal
import stat
import sys
import threading
from pathlib import Path

DRAIN_SECONDS = 10.0
CLOSE_SECONDS = 10.0


def main() -> None:
    """Runs the server until a signal; exits 1 with one line where it can't start."""
    parser = argparse.ArgumentParser(
        prog="kernel_local.clickhouse", description="A ClickHouse server for development and tests, not for production."
    )
    parser.add_argument("--data", type=Path, required=True, help="data directory, made if absent")
    parser.add_argument("--port", type=int, required=True, help="port to listen on; 0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--password-file", type=Path, required=True, help="password of user default, mode 0600")
    arguments = parser.parse_args()
    try:
        _serve(arguments.data, arguments.host, arguments.port, _read_password(arguments.password_file))
    except (OSError, ValueError, RuntimeError) as failure:
        sys.exit(f"clickhouse (development): {failure}")


def _read_password(path: Path) -> str:
    """The file's first line.

    Raises:
        ValueError: others may read it, or it is empty.
    """
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ValueError(f"--password-file {path}: others may read it; run chmod 600 {path}")
    password = path.read_text().rstrip("\r\n")
    if not password:
        raise ValueError(f"--password-file {path}: is empty; write the administrator's password into it")
    return password


def _serve(data: Path, host: str, port: int, password: str) -> None:
    from kernel_local.clickhouse import state as states
    from kernel_local.clickhouse.commits import AccessCommits
    from kernel_local.clickhouse.engine import Engine
    from kernel_local.clickhouse.errors import ClickHouseError
    from kernel_local.clickhouse.logs import log
    from kernel_local.clickhouse.requests import Requests
    from kernel_local.clickhouse.server import Server

    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    access_file = data.resolve() / "access.json"
    state = states.load(access_file)
    try:
        engine = Engine(data, state)
    except ClickHouseError as failure:
        raise RuntimeError(f"the data directory {data} can't be opened: {failure.message}") from None
    commits = AccessCommits(engine, access_file, state)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with Server(
        (host, port), hashlib.sha256(password.encode()).hexdigest(), Requests(engine, commits), commits
    ) as server:
        threading.Thread(target=server.serve_forever, args=(0.1,), name="accept", daemon=True).start()
        log(f"development server, not for production; data in {data}, engine {_version()}")
        print(f"ready {host}:{server.server_port}", flush=True)  # noqa: T201
        stop.wait()
        log("stopping")
        server.shutdown()
        ended = server.drain(DRAIN_SECONDS)
    commits.close()
    if not ended:
        log(f"requests were still running after {DRAIN_SECONDS:g} s; they are cut")
        os._exit(0)  # committed inserts are on disk; the engine's own close would wait for the queries
    guard = threading.Timer(CLOSE_SECONDS, lambda: os._exit(0))
    guard.daemon = True
    guard.start()
    engine.close()
    log("stopped")


def _version() -> str:
    import chdb

    return str(chdb.engine_version)


if __name__ == "__main__":
    main()
