"""The engine in this process: one chdb data directory, connections to it, and re-opening it with new users.

Each request gets a connection of its own (0.2 ms): settings and temporary views stay inside, requests run in
parallel. Users and row filters are read from users.xml when the engine starts, which happens with the first
connection; the base connection keeps it up between requests. So a change of users means: let all requests end,
close the base connection, write users.xml, connect again.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import chdb

from kernel_local.clickhouse import users_xml
from kernel_local.clickhouse.errors import ClickHouseError, from_engine
from kernel_local.clickhouse.gate import Gate
from kernel_local.clickhouse.state import AccessState, Rights, write_atomically
from kernel_local.clickhouse.system_tables import SystemTables
from kernel_local.clickhouse.tokens import quote_identifier, quote_string

# Caches are sized for production in the engine; a development server shall be small.
_CONFIG = """<clickhouse>
  <users_config>{users}</users_config>
  <mark_cache_size>67108864</mark_cache_size>
  <primary_index_cache_size>67108864</primary_index_cache_size>
  <uncompressed_cache_size>0</uncompressed_cache_size>
  <query_condition_cache_size>0</query_condition_cache_size>
  <background_pool_size>4</background_pool_size>
</clickhouse>
"""
# Inserts are on disk when they are answered; caches that users would share are off.
_FIXED_SETTINGS = {"async_insert": "0", "use_query_cache": "0", "use_query_condition_cache": "0"}


class DataDirectoryBusy(RuntimeError):
    """Another process has the data directory open."""


class Connection:
    """One chdb connection; the engine's failures become ClickHouseError."""

    def __init__(self, address: str) -> None:
        try:
            self._chdb: Any = chdb.connect(address)
        except Exception as failure:
            raise from_engine(failure) from None

    def query(self, sql: str, output_format: str = "TabSeparated") -> Any:
        """Runs a statement; gives chdb's result with `.bytes()` and counters."""
        try:
            return self._chdb.query(sql, output_format)
        except Exception as failure:
            raise from_engine(failure) from None

    def stream(self, sql: str, output_format: str) -> Iterator[bytes]:
        """Runs a query and gives its output piece by piece."""
        try:
            for piece in self._chdb.send_query(sql, output_format):
                if content := piece.bytes():
                    yield content
        except ClickHouseError:
            raise
        except Exception as failure:
            raise from_engine(failure) from None

    def insert(self, head: str, input_format: str, payload: memoryview) -> tuple[int, int]:
        """Runs an INSERT whose data are `payload` in `input_format`; gives (rows, bytes) written."""
        try:
            inserter = self._chdb.send_insert(head, input_format)
            try:
                for start in range(0, len(payload), 1 << 20):
                    inserter.append(bytes(payload[start : start + (1 << 20)]))
                result = inserter.finish()
            finally:
                inserter.close()
        except Exception as failure:
            raise from_engine(failure) from None
        return result.rows_written, result.bytes_written

    def set(self, settings: Mapping[str, str]) -> None:
        """Applies settings to this connection; unknown or bad ones fail with ClickHouse's error."""
        if settings:
            pairs = ", ".join(f"{quote_identifier(name)} = {quote_string(value)}" for name, value in settings.items())
            self.query(f"SET {pairs}")

    def close(self) -> None:
        """Closes it; an unfinished query is cancelled."""
        self._chdb.close()


class Engine:
    """The engine over one directory. `reopens` counts how often users were loaded anew."""

    def __init__(self, directory: Path, state: AccessState) -> None:
        """Opens the directory, which must exist.

        Raises:
            DataDirectoryBusy: another process holds it.
            ClickHouseError: the engine can't read it.
        """
        self._directory = directory.resolve()
        self._lock = _lock(self._directory)
        self.gate = Gate()
        self.reopens = -1
        self._base: Connection | None = None
        self._tables: SystemTables | None = None
        self._config = self._directory / "config.xml"
        self._users = self._directory / "users.xml"
        # Paths with spaces are fine in XML and in the address; a question mark would end the path there.
        write_atomically(self._config, _CONFIG.format(users=_xml_text(self._users)).encode())
        self._rights: set[Rights] = set()
        self._filters: dict[tuple[str, str, str], tuple[str, bool]] = {}
        self.put_in_force(state)

    def put_in_force(self, state: AccessState) -> None:
        """Makes the state what the engine enforces and shows; only while nothing else uses it (`gate.alone`).

        Re-opens the engine only for rights or policies that it does not have yet.
        """
        wanted = state.all_rights()
        filters = {key: (one.condition, one.restrictive) for key, one in state.policies.items()}
        if self._base is None or not wanted <= self._rights or filters != self._filters:
            self._reopen(state, wanted)
            self._rights, self._filters = wanted, filters
        assert self._tables is not None
        self._tables.show(state)

    def _reopen(self, state: AccessState, all_rights: set[Rights]) -> None:
        if self._base is not None:
            self._base.close()
            self._base = None
        write_atomically(self._users, users_xml.render(state, all_rights).encode())
        self._base = self._connect()
        self._tables = SystemTables(self._base)
        self.reopens += 1

    def _connect(self) -> Connection:
        return Connection(f"{self._directory}/data?config-file={self._config}")

    @contextlib.contextmanager
    def connection(self, database: str = "") -> Iterator[Connection]:
        """A connection for one request, inside the gate, with this default database."""
        with self.gate.inside():
            connection = self._connect()
            try:
                connection.set(_FIXED_SETTINGS)
                if database:
                    connection.query(f"USE {quote_identifier(database)}")
                yield connection
            finally:
                connection.close()

    def normalize(self, sql: str) -> str:
        """One statement in the engine's own normal form: one line, no comments, keywords in capitals.

        Raises:
            ClickHouseError: SYNTAX_ERROR, also for more than one statement.
        """
        with self.connection() as connection:
            return normalize(connection, sql)

    def close(self) -> None:
        """Closes the engine and lets the directory go."""
        if self._base is not None:
            self._base.close()
            self._base = None
        os.close(self._lock)


def normalize(connection: Connection, sql: str) -> str:
    """As `Engine.normalize`, on a connection that is open."""
    try:
        result = connection.query(f"SELECT formatQuerySingleLine({quote_string(sql)})", "TSVRaw")
    except ClickHouseError as failure:
        message = failure.message.partition(": In scope SELECT formatQuerySingleLine(")[0]
        if "IDENTIFIED" in sql.upper():  # the engine quotes the statement, and with it the password
            message = "Syntax error in a statement with IDENTIFIED (its text is withheld)"
        raise ClickHouseError(failure.code, f"{message} (SYNTAX_ERROR)" if failure.code == 62 else message) from None
    text: str = result.bytes().decode()
    return text.removesuffix("\n")


def _xml_text(path: Path) -> str:
    return str(path).replace("&", "&amp;").replace("<", "&lt;")


def _lock(directory: Path) -> int:
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise DataDirectoryBusy(f"{directory} is in use by process {holder or '(unknown)'}") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
