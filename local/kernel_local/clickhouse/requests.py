"""One request after authentication: from statement, data and options to an answer."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from kernel_local.clickhouse import access_clauses, errors, guard, parameters, reading, statements
from kernel_local.clickhouse.commits import AccessCommits
from kernel_local.clickhouse.engine import Connection, Engine, normalize
from kernel_local.clickhouse.errors import ClickHouseError, error
from kernel_local.clickhouse.guard import Principal
from kernel_local.clickhouse.sessions import Session, Sessions
from kernel_local.clickhouse.state import ADMINISTRATOR
from kernel_local.clickhouse.tokens import Cursor, quote_string, tokenize
from kernel_local.clickhouse.users_xml import grant_sql

# Options of the HTTP interface; all other URL parameters are settings.
_TRANSPORT = frozenset(
    {
        "query",
        "database",
        "user",
        "password",
        "session_id",
        "session_timeout",
        "session_check",
        "query_id",
        "quota_key",
        "compress",
        "decompress",
        "wait_end_of_query",
        "buffer_size",
        "default_format",
        "role",
        "send_progress_in_http_headers",
        "http_headers_progress_interval_ms",
        "enable_http_compression",
        "client_protocol_version",
        "close_session",
        "stacktrace",
    }
)
# The server decides these: an answered insert is on disk, nothing is shared between users, and a read-only request
# is refused by its kind, as reading itself makes a temporary view.
_IGNORED = frozenset(
    {"async_insert", "wait_for_async_insert", "use_query_cache", "use_query_condition_cache", "readonly"}
)
# Formats that can be cut anywhere; others are made whole first, as their end depends on all rows.
_STREAMED = frozenset({"native", "tabseparated", "tsv", "csv", "rowbinary", "jsoneachrow"})
_READ_ONLY = frozenset({"select", "describe", "exists", "show", "explain"})


@dataclass
class Request:
    """What the HTTP layer hands over. `options` are the URL's and the form's fields."""

    principal: Principal
    statement: bytes
    data: bytes
    options: Mapping[str, str]
    by_get: bool = False

    @property
    def read_only(self) -> bool:
        """Whether it may only read: ClickHouse's rule for GET, or `readonly` as a setting."""
        return self.by_get or self.options.get("readonly", "0") not in ("0", "")


@dataclass
class Answer:
    """What goes back: the body in pieces, its format if it is a result, and counters for X-ClickHouse-Summary."""

    pieces: Iterator[bytes] = field(default_factory=lambda: iter(()))
    output_format: str | None = None
    summary: dict[str, int] = field(default_factory=dict)
    kind: str = ""


class Requests:
    """Answers requests on one engine."""

    def __init__(self, engine: Engine, commits: AccessCommits) -> None:
        self._engine = engine
        self._commits = commits
        self._sessions = Sessions()

    def answer(self, request: Request, held: ExitStack) -> Answer:
        """Runs a request.

        Args:
            request: what to do and for whom.
            held: keeps the connection and the session while the answer's pieces are read; close it after.

        Raises:
            ClickHouseError: what goes to the client.
        """
        options = request.options
        session = held.enter_context(
            self._sessions.use(
                request.principal.name,
                options.get("session_id", ""),
                options.get("session_timeout", ""),
                options.get("session_check") == "1",
            )
        )
        database = options.get("database") or session.database
        guard.check_database(request.principal, database)
        if insert := statements.insert_with_data(request.statement):
            return self._insert(request, insert, session, database, held)
        text = request.statement + (b"\n" + request.data if request.data else b"")
        try:
            raw = text.decode()
        except UnicodeDecodeError:
            raise error(errors.SYNTAX_ERROR, "The statement is not valid UTF-8") from None
        normal = self._engine.normalize(raw)
        kind = statements.kind_of(normal)
        values = {name[6:]: value for name, value in options.items() if name.startswith("param_")}
        normal = parameters.bind(normal, values, all_must_be_set=kind != "create_view")
        guard.check_kind(request.principal, kind, normal)
        if request.read_only and kind not in _READ_ONLY:
            raise error(
                errors.READONLY, "Cannot execute query in readonly mode (a GET request, or the setting readonly)"
            )
        if kind == "access":
            self._commits.run(normal, request.principal.name, database or "default")
            return Answer(kind=kind)
        connection = held.enter_context(self._engine.connection(database))
        self._configure(connection, request, session)
        answer = self._run(connection, request, normal, kind, session=session, database=database)
        answer.kind = kind
        return answer

    def _configure(self, connection: Connection, request: Request, session: Session) -> None:
        settings = {
            name: value
            for name, value in request.options.items()
            if name not in _TRANSPORT and name not in _IGNORED and not name.startswith("param_")
        }
        guard.check_settings(request.principal, set(settings))
        connection.set(session.settings)
        connection.set(settings)

    def _insert(
        self, request: Request, insert: statements.Insert, session: Session, database: str, held: ExitStack
    ) -> Answer:
        principal = request.principal
        guard.check_kind(principal, "insert", "INSERT INTO")
        if request.read_only:
            raise error(
                errors.READONLY, "Cannot execute query in readonly mode (a GET request, or the setting readonly)"
            )
        connection = held.enter_context(self._engine.connection(database))
        self._configure(connection, request, session)
        values = {name[6:]: value for name, value in request.options.items() if name.startswith("param_")}
        head = normalize(connection, f"{insert.head} FORMAT {insert.input_format}")
        head = parameters.bind(head, values)
        guard.check_target(principal, head, database)
        guard.check_names(principal, head, connection)
        payload = memoryview(request.statement)[insert.data_start :]
        if request.data:
            payload = memoryview(bytes(payload) + request.data)
        cut = head[: head.rindex(" FORMAT ")]
        rows, size = connection.insert(cut, insert.input_format, payload)
        return Answer(summary={"written_rows": rows, "written_bytes": size}, kind="insert")

    def _run(
        self, connection: Connection, request: Request, normal: str, kind: str, *, session: Session, database: str
    ) -> Answer:
        principal = request.principal
        if kind == "set":
            return self._set(connection, principal, normal, session)
        if kind == "use":
            session.database = Cursor(tokenize(normal)[1:]).name() or ""
            connection.query(normal)
            return Answer()
        if kind in ("describe", "exists", "optimize", "insert_select"):
            guard.check_target(principal, normal, database)
        guard.check_names(principal, normal, connection)
        query = statements.split_query(normal)
        default = request.options.get("default_format") or "TabSeparated"
        output_format = query.output_format or default
        if kind == "select":
            connection.set({name: value for name, value in query.settings.items() if name not in _IGNORED})
            return self._select(connection, request, query.text, output_format)
        if kind == "insert_select" and not principal.is_administrator:
            return self._insert_select(connection, request, normal)
        if query.text.startswith("SHOW GRANTS"):
            sql = self._show_grants(query.text, principal.name)
        elif kind in _READ_ONLY or kind in ("check", "kill"):
            sql = query.text
        else:
            sql = normal
        return _whole(connection, sql, output_format)

    def _select(self, connection: Connection, request: Request, sql: str, output_format: str) -> Answer:
        principal = request.principal
        if principal.is_administrator:
            return _result(connection, request, sql, output_format)
        with self._as_user(principal) as engine_user:
            sql = reading.prepare(connection, sql, principal.name, engine_user)
            return _result(connection, request, sql, output_format)

    def _insert_select(self, connection: Connection, request: Request, normal: str) -> Answer:
        """What is inserted is read with the user's rights; where to, `check_target` has decided."""
        head, select, settings = statements.split_insert_select(normal)
        connection.set({name: value for name, value in settings.items() if name not in _IGNORED})
        with self._as_user(request.principal) as engine_user:
            sql = reading.prepare(connection, select, request.principal.name, engine_user)
            return _whole(connection, f"{head} {sql}", "Null")

    @contextmanager
    def _as_user(self, principal: Principal) -> Iterator[str]:
        """The engine's user with the principal's rights; errors inside name the principal instead.

        Used inside the gate: the engine enforces this very state until the request has left.
        """
        state = self._commits.state
        if principal.name not in state.users:
            raise error(errors.UNKNOWN_USER, f"There is no user `{principal.name}` in user directories")
        engine_user = state.rights(principal.name).engine_user
        try:
            yield engine_user
        except ClickHouseError as failure:
            raise ClickHouseError(failure.code, failure.message.replace(engine_user, principal.name)) from None

    def _show_grants(self, normal: str, principal: str) -> str:
        cursor = Cursor(tokenize(normal)[2:])
        names = access_clauses.read_names(cursor) if cursor.accept("FOR") else [principal]
        state = self._commits.state
        if ADMINISTRATOR in names:
            grants = [f"GRANT ALL ON *.* TO {ADMINISTRATOR} WITH GRANT OPTION"]
        else:
            access_clauses.existing(names, state)
            grants = [grant_sql(one, name) for name in names for one in sorted(state.grants.get(name, ()))]
        return f"SELECT arrayJoin([{', '.join(quote_string(one) for one in grants)}]::Array(String)) AS GRANTS"

    def _set(self, connection: Connection, principal: Principal, normal: str, session: Session) -> Answer:
        settings = statements.read_settings(tokenize(normal)[1:])
        if settings is None:
            raise error(errors.NOT_IMPLEMENTED, "The development server supports SET name = value only")
        guard.check_settings(principal, set(settings))
        kept = {name: value for name, value in settings.items() if name not in _IGNORED}
        connection.set(kept)
        session.settings |= kept
        return Answer()


def _result(connection: Connection, request: Request, sql: str, output_format: str) -> Answer:
    """A SELECT's answer, streamed where its format allows."""
    if output_format.lower() in _STREAMED and request.options.get("wait_end_of_query") != "1":
        return Answer(_started(connection.stream(sql, output_format)), output_format)
    return _whole(connection, sql, output_format)


def _whole(connection: Connection, sql: str, output_format: str) -> Answer:
    started = time.monotonic_ns()
    result = connection.query(sql, output_format)
    body = result.bytes() if result is not None else b""
    summary = {"elapsed_ns": time.monotonic_ns() - started}
    if result is not None:
        summary |= {"read_rows": result.storage_rows_read(), "read_bytes": result.storage_bytes_read()}
        summary |= {"result_rows": result.rows_read()}
    return Answer(iter((body,) if body else ()), output_format, summary)


def _started(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Reads the first piece now, so that an error before any output is an ordinary error answer."""
    first = next(pieces, b"")

    def whole() -> Iterator[bytes]:
        if first:
            yield first
        yield from pieces

    return whole()
