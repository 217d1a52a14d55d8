"""Development ClickHouse servers as real processes, and the users that the platform gives them."""

import base64
import hashlib
import http.client
import re
import select
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import clickhouse_connect
import pytest

ADMIN_PASSWORD = "admin-password"
OPERATOR_PASSWORD = "operator-password"
WRITER_PASSWORD = "writer-password"
TENANT_A = uuid.UUID("0191a000-0000-7000-8000-00000000000a")
TENANT_B = uuid.UUID("0191a000-0000-7000-8000-00000000000b")

BOOTSTRAP = """
CREATE DATABASE IF NOT EXISTS analytics;
CREATE USER IF NOT EXISTS kernel_operator IDENTIFIED WITH sha256_hash BY '{operator}';
CREATE USER IF NOT EXISTS cdc_writer IDENTIFIED WITH sha256_hash BY '{writer}';
GRANT CREATE TABLE, CREATE VIEW, DROP TABLE, DROP VIEW, ALTER TABLE, ALTER DELETE, OPTIMIZE
    ON analytics.* TO kernel_operator;
GRANT CREATE USER, ALTER USER, DROP USER, CREATE ROW POLICY, ALTER ROW POLICY, DROP ROW POLICY, SHOW ACCESS
    ON *.* TO kernel_operator;
GRANT SELECT ON analytics.* TO kernel_operator WITH GRANT OPTION;
GRANT INSERT, SELECT, OPTIMIZE ON analytics.* TO cdc_writer;
"""
TABLE = """
CREATE TABLE IF NOT EXISTS analytics.{name} (
    tenant_id UUID, record_id UUID, amount Int64, note String, updated_at DateTime64(6, 'UTC')
) ENGINE = ReplacingMergeTree(updated_at) ORDER BY (tenant_id, record_id)
SETTINGS non_replicated_deduplication_window = 1000
"""
POLICY = (
    "CREATE ROW POLICY OR REPLACE tenant_isolation ON analytics.{name} "
    "USING tenant_id = toUUIDOrZero(substring(currentUser(), 8)) TO ALL EXCEPT cdc_writer, kernel_operator"
)


def sha256(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


@dataclass
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> int:
        """ClickHouse's error code, 0 for none."""
        return int(self.headers.get("X-ClickHouse-Exception-Code", 0))

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")


class DevelopmentServer:
    """One server process over one data directory; can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data with space"
        self.log = folder / "log"
        self.password_file = folder / "password"
        self.password_file.write_text(ADMIN_PASSWORD + "\n")
        self.password_file.chmod(0o600)
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, port: int) -> list[str]:
        return [
            *(sys.executable, "-m", "kernel_local.clickhouse", "--data", str(self.data)),
            *("--port", str(port), "--password-file", str(self.password_file)),
        ]

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(self.port), stdout=subprocess.PIPE, stderr=log)
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], 60)
        line = self.process.stdout.readline().decode() if readable else ""
        found = re.fullmatch(r"ready 127\.0\.0\.1:(\d+)\n", line)
        assert found, f"not ready: {line!r}, log: {self.log.read_text()[-2000:]}"
        self.port = int(found[1])

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self._ended()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self._ended()

    def _ended(self) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        code = self.process.wait(30)
        self.process.stdout.close()
        return code

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def client(self, user: str = "default", password: str = ADMIN_PASSWORD, **options):
        options.setdefault("autogenerate_session_id", False)
        return clickhouse_connect.get_client(
            host="127.0.0.1", port=self.port, username=user, password=password, **options
        )

    def http(self, user: str, password: str, statement: str | bytes, method: str = "POST", **options: str) -> Answer:
        """One request without a client in between; `headers_X_Y=` sets the header X-Y."""
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        headers = {"Authorization": f"Basic {token}"}
        for name in [name for name in options if name.startswith("headers_")]:
            headers[name[8:].replace("_", "-")] = options.pop(name)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            body = statement.encode() if isinstance(statement, str) else statement
            connection.request(method, f"/?{urlencode(options)}", body, headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.headers), response.read())
        finally:
            connection.close()

    def ask(self, statement: str, **options: str) -> str:
        """The administrator's question, which must succeed."""
        answer = self.http("default", ADMIN_PASSWORD, statement, **options)
        assert answer.status == 200, answer.text
        return answer.text.strip()

    def as_tenant(self, tenant: uuid.UUID, statement: str, **options: str) -> Answer:
        options.setdefault("database", "analytics")
        return self.http(f"tenant_{tenant}", f"password-{tenant}", statement, **options)

    def as_operator(self, statement: str, **options: str) -> Answer:
        options.setdefault("database", "analytics")
        return self.http("kernel_operator", OPERATOR_PASSWORD, statement, **options)

    def as_writer(self, statement: str | bytes, **options: str) -> Answer:
        options.setdefault("database", "analytics")
        return self.http("cdc_writer", WRITER_PASSWORD, statement, **options)

    def admin(self):
        return self.client()

    def operator(self):
        return self.client("kernel_operator", OPERATOR_PASSWORD, database="analytics")

    def writer(self):
        return self.client("cdc_writer", WRITER_PASSWORD, database="analytics")

    def tenant(self, tenant: uuid.UUID, **options):
        return self.client(f"tenant_{tenant}", f"password-{tenant}", database="analytics", **options)

    def bootstrap(self) -> None:
        script = BOOTSTRAP.format(operator=sha256(OPERATOR_PASSWORD), writer=sha256(WRITER_PASSWORD))
        with self.admin() as admin:
            for statement in filter(str.strip, script.split(";\n")):
                admin.command(statement)

    def make_table(self, name: str) -> None:
        with self.operator() as operator:
            operator.command(POLICY.format(name=name))
            operator.command(TABLE.format(name=name))

    def make_tenant(self, tenant: uuid.UUID) -> None:
        with self.operator() as operator:
            operator.command(
                f"CREATE USER IF NOT EXISTS `tenant_{tenant}` "
                f"IDENTIFIED WITH sha256_hash BY '{sha256(f'password-{tenant}')}'"
            )
            operator.command(f"GRANT SELECT ON analytics.* TO `tenant_{tenant}`")

    def reopens(self) -> int:
        return sum(int(count) for count in re.findall(r"accepted, (\d+) re-opens", self.log.read_text()))


COLUMNS = ["tenant_id", "record_id", "amount", "note", "updated_at"]


def rows(tenant: uuid.UUID, count: int, start: int = 0, note: str = "note"):
    """`count` rows of one tenant with record ids from `start`."""
    from datetime import UTC, datetime

    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return [[tenant, uuid.UUID(int=index), index, f"{note}-{tenant}", moment] for index in range(start, start + count)]


def wait_until(condition, seconds: float = 30.0) -> None:
    """Waits for a condition, at most so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "condition did not come true in time"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def make_server(tmp_path_factory) -> Iterator:
    """Makes further servers (not started); all are ended with the run."""
    made: list[DevelopmentServer] = []

    def make() -> DevelopmentServer:
        made.append(DevelopmentServer(tmp_path_factory.mktemp("clickhouse")))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture(scope="session")
def server(make_server) -> DevelopmentServer:
    """A server with the platform's users, two tenants, and the table `analytics.orders` with rows of both."""
    server = make_server()
    server.start()
    server.bootstrap()
    server.make_table("orders")
    for tenant in (TENANT_A, TENANT_B):
        server.make_tenant(tenant)
    with server.operator() as operator:
        operator.command("CREATE VIEW orders__current SQL SECURITY INVOKER AS SELECT * FROM orders FINAL")
    with server.writer() as writer:
        writer.insert("orders", rows(TENANT_A, 10, note="mine"), column_names=COLUMNS)
        writer.insert("orders", rows(TENANT_B, 7, note="secret-of-b"), column_names=COLUMNS)
    return server
