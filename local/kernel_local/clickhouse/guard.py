"""What nobody may reach through a statement, and what each principal may run.

A production ClickHouse decides by grants alone. Here grants and row policies hold for what is read, by the engine;
the rest runs with the engine's own rights, so this module decides it: by the kind of statement for each principal,
and by names in the engine's own syntax tree (EXPLAIN AST), which comments, quotes and odd spelling can't fool.
"""

import re
from dataclasses import dataclass

from kernel_local.clickhouse import errors, statements
from kernel_local.clickhouse.engine import Connection
from kernel_local.clickhouse.errors import denied, error
from kernel_local.clickhouse.state import ADMINISTRATOR
from kernel_local.clickhouse.tokens import Cursor, tokenize

ANALYTICS = "analytics"
OPERATOR = "kernel_operator"
WRITER = "cdc_writer"

_READING = frozenset({"select", "describe", "exists", "set"})
_DDL = frozenset(
    {"create_table", "create_view", "create_database", "alter_table", "drop_table", "drop_view", "drop_database"}
)
_MAY_RUN = {
    ADMINISTRATOR: frozenset({kind for _, kind in statements.PATTERNS} | {"insert"}),
    OPERATOR: _READING | _DDL | {"access", "optimize", "delete", "show"},
    WRITER: _READING | {"insert", "insert_select"},
}

# Table functions that make rows of nothing; all others reach files, networks, other tables or this process.
_TABLE_FUNCTIONS = frozenset(
    {
        "numbers",
        "numbers_mt",
        "zeros",
        "zeros_mt",
        "values",
        "null",
        "generaterandom",
        "generateseries",
        "generate_series",
        "format",
        "view",
    }
)
_FUNCTIONS = re.compile(
    r"dict.*|joinget.*|file|filesystem.*|ai[A-Z].*|naivebayes.*|region.*|getserversetting|getmacro|getserverport|"
    r"tcpport|serveruuid|showcertificate|hascolumnintable|addressto.*|demangle|catboost.*|logtrace|pg[A-Z].*|"
    r"getclienthttpheader|currentrequesturl|zookeeper.*|python|__.*",
    re.I,
)
# System tables that say nothing about other users or their data.
_SYSTEM_TABLES = frozenset(
    {
        "one",
        "numbers",
        "numbers_mt",
        "zeros",
        "zeros_mt",
        "settings",
        "functions",
        "formats",
        "data_type_families",
        "time_zones",
        "build_options",
        "collations",
        "table_functions",
        "aggregate_function_combinators",
    }
)
_SYSTEM_DATABASES = frozenset({"system", "information_schema"})
_ENGINES = re.compile(r"(Replacing|Summing|Aggregating|Collapsing|VersionedCollapsing)?MergeTree|Memory|Null|Atomic")
_ALTER_ABROAD = ("FETCH", "FREEZE", "UNFREEZE", "MOVE", "ATTACH", "EXPORT", "DISK", "VOLUME")
_TENANT_SETTINGS = re.compile(
    r"max_(execution_time|result_(rows|bytes)|rows_to_read|bytes_to_read|threads|block_size|memory_usage|"
    r"rows_to_group_by|rows_to_sort|rows_in_set|rows_in_join)|(read|result|timeout|group_by|sort|join)_overflow_mode|"
    r"output_format_\w+|date_time_\w+_format|session_timezone|join_algorithm|join_use_nulls|final|extremes|"
    r"prefer_column_name_to_alias|cast_\w+|log_comment|readonly|allow_experimental_\w+_type|"
    r"async_insert|wait_for_async_insert|cancel_http_readonly_queries_on_client_close|empty_result_for_aggregation_by_empty_set"
)
# Only the first word behind the kind: an alias behind it may hold anything, line feeds included.
_NODE = re.compile(r" *(Function|TableIdentifier|Identifier) (\S+)")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, as the rules see it."""

    name: str

    @property
    def is_administrator(self) -> bool:
        """The user `default`, whom the engine does not filter."""
        return self.name == ADMINISTRATOR

    @property
    def sees_system(self) -> bool:
        """Whether all system tables are open (what they show is still up to grants)."""
        return self.name in (ADMINISTRATOR, OPERATOR)

    @property
    def is_trusted(self) -> bool:
        """One of the platform's own, whose settings are not restricted."""
        return self.name in _MAY_RUN


def check_kind(principal: Principal, kind: str, statement: str) -> None:
    """Refuses kinds of statement that the principal may not run.

    Raises:
        ClickHouseError: ACCESS_DENIED.
    """
    if kind not in _MAY_RUN.get(principal.name, _READING):
        words = " ".join(token.text for token in tokenize(statement[:200])[:2] if token.kind == "word")
        raise denied(principal.name, f"The development server does not let this user run {words.upper()} statements.")


def check_settings(principal: Principal, names: set[str]) -> None:
    """Refuses settings that an untrusted principal may not change."""
    if principal.is_trusted:
        return
    for name in sorted(names):
        if not _TENANT_SETTINGS.fullmatch(name):
            raise error(errors.SETTING_CONSTRAINT_VIOLATION, f"Setting {name} should not be changed")


def check_database(principal: Principal, database: str) -> None:
    """Refuses a current database that an untrusted principal has no business in."""
    if not principal.sees_system and database not in ("", "default", ANALYTICS):
        raise denied(principal.name, f"The database {database} is closed to this user.")


def check_names(principal: Principal, normal: str, connection: Connection) -> None:
    """Refuses a statement that names what nobody, or not this principal, may reach.

    Args:
        principal: who asks.
        normal: the statement in normal form with its parameters filled in; exactly what will run.
        connection: used to ask the engine for the syntax tree, which runs nothing.

    Raises:
        ClickHouseError: ACCESS_DENIED, or the engine's own error.
    """
    if not principal.is_trusted:
        check_settings(principal, statements.settings_inside(normal))
    _check_words(principal, normal)
    tree = connection.query(f"EXPLAIN AST {normal}", "TSVRaw").bytes().decode(errors="replace")
    known = _known_table_functions(connection)
    for line in tree.splitlines():
        if found := _NODE.match(line):
            if found[1] == "Function":
                _check_function(principal, found[2], known)
            else:
                _check_identifier(principal, found[2])


def _check_function(principal: Principal, name: str, table_functions: frozenset[str]) -> None:
    lower = name.lower()
    as_table = lower in table_functions and lower not in _TABLE_FUNCTIONS
    if as_table or _FUNCTIONS.fullmatch(name):
        raise denied(principal.name, f"The function {name} is closed on the development server.")


def _check_identifier(principal: Principal, name: str) -> None:
    database, dot, table = name.partition(".")
    if not dot or principal.sees_system or database.lower() not in _SYSTEM_DATABASES:
        return
    if database.lower() != "system" or table.partition(".")[0] not in _SYSTEM_TABLES:
        raise denied(principal.name, f"The table {name} is closed to this user.")


def _check_words(principal: Principal, normal: str) -> None:
    tokens = tokenize(normal)
    altering = normal.startswith("ALTER TABLE")
    for token, following, third in zip(tokens, [*tokens[1:], None], [*tokens[2:], None, None], strict=False):
        if token.is_word("OUTFILE", "INFILE") or (token.is_word("ON") and following and following.is_word("CLUSTER")):
            raise denied(principal.name, f"{token.text} is closed on the development server.")
        engine = token.is_word("ENGINE") and following is not None and following.text == "="
        if engine and (third is None or not _ENGINES.fullmatch(third.value)):
            raise denied(principal.name, "This table engine is closed: only MergeTree family, Memory and Null.")
        if following and following.text == "=" and token.value.lower() in ("disk", "storage_policy"):
            raise denied(principal.name, "Other disks are closed on the development server.")
        if altering and token.is_word(*_ALTER_ABROAD):
            raise denied(principal.name, f"ALTER TABLE with {token.text} is closed on the development server.")
        if (
            not principal.is_administrator
            and not normal.startswith(("SELECT", "WITH", "("))
            and token.kind in ("word", "quoted")
            and token.value.lower() in _SYSTEM_DATABASES
        ):
            raise denied(principal.name, f"The database {token.value} is closed to this statement.")


def check_target(principal: Principal, normal: str, database: str) -> None:
    """Holds an untrusted principal's statement about one table, and the writer's, to the analytics database."""
    if principal.sees_system:
        return
    cursor = Cursor(tokenize(normal))
    for words in (("INSERT", "INTO"), ("OPTIMIZE",), ("DESCRIBE",), ("EXISTS",)):
        if cursor.accept(*words):
            break
    cursor.accept("TABLE")
    cursor.accept("VIEW")
    target = cursor.table()
    if target is None or (target[0] or database) != ANALYTICS:
        raise denied(principal.name, f"This user reaches only the database {ANALYTICS}.")


_functions_cache: list[frozenset[str]] = []


def _known_table_functions(connection: Connection) -> frozenset[str]:
    """The engine's table functions in lower case; asked once, as they are compiled in."""
    if not _functions_cache:
        names = connection.query("SELECT lower(name) FROM system.table_functions", "TSVRaw").bytes().decode().split()
        _functions_cache.append(frozenset(names) | {"python", "input"})
    return _functions_cache[0]
