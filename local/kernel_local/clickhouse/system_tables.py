"""Tables that answer for system.users, system.grants and system.row_policies from an AccessState.

The engine's own would show users.xml. Columns have the names and meaning of ClickHouse's; enumerations are strings
here. They live in memory and are filled by difference: one user more beside ten thousand is one row more.
"""

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar

from kernel_local.clickhouse.state import ADMINISTRATOR, AccessState, Grant, RowPolicy

COLUMNS = {
    "users": "name String, id UUID, storage String, auth_type Array(String), auth_params Array(String)",
    "grants": (
        "user_name Nullable(String), role_name Nullable(String), access_type String, access_object String, "
        "database Nullable(String), table Nullable(String), column Nullable(String), "
        "is_partial_revoke UInt8, grant_option UInt8"
    ),
    "row_policies": (
        "name String, short_name String, database String, table String, id UUID, storage String, select_filter String, "
        "is_restrictive UInt8, apply_to_all UInt8, apply_to_list Array(String), apply_to_except Array(String)"
    ),
}
_NAMESPACE = uuid.UUID("6f2d7f0e-5c1b-5d39-9d0a-0f4a5b1f7c11")
_MAX_PIECES = 64
"""Each insert is a piece of its own, and every question reads all of them."""

Row = list[object]
Key = TypeVar("Key")
Value = TypeVar("Value")


class Base(Protocol):
    """The engine's connection, as far as it is needed here."""

    def query(self, sql: str, output_format: str = ...) -> Any: ...
    def insert(self, head: str, input_format: str, payload: memoryview) -> tuple[int, int]: ...


class SystemTables:
    """The three tables in one opening of the engine."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._users = _Shown(base, "users", _user_rows)
        self._grants = _Shown(base, "grants", _grant_rows)
        self._policies = _Shown(base, "row_policies", _policy_rows)
        for name, columns in COLUMNS.items():
            base.query(f"DETACH TABLE system.{name}")
            base.query(f"CREATE TABLE system.{name} ({columns}) ENGINE = Memory")

    def show(self, state: AccessState) -> None:
        """Brings the tables to ``state``. After an error they are written anew by the next call."""
        self._users.show({ADMINISTRATOR: "", **state.users})
        self._grants.show({ADMINISTRATOR: frozenset({Grant("ALL", grant_option=True)}), **state.grants})
        self._policies.show(state.policies)


class _Shown(Generic[Key, Value]):
    """One table, and what it was filled from."""

    def __init__(self, base: Base, name: str, rows: Callable[[Key, Value], Iterable[Row]]) -> None:
        self._base, self._table, self._rows = base, f"system.{name}", rows
        self._content: Mapping[Key, Value] | None = {}
        self._pieces = 0

    def show(self, content: Mapping[Key, Value]) -> None:
        before, self._content = self._content, None
        if before != content:
            grew = before is not None and all(content.get(key) == value for key, value in before.items())
            if before is None or not grew or self._pieces >= _MAX_PIECES:
                self._base.query(f"TRUNCATE TABLE {self._table}")
                before, self._pieces = {}, 0
            self._insert({key: value for key, value in content.items() if key not in before})
        self._content = content

    def _insert(self, added: Mapping[Key, Value]) -> None:
        lines = [json.dumps(row) for key, value in added.items() for row in self._rows(key, value)]
        if lines:
            payload = memoryview("\n".join(lines).encode())
            self._base.insert(f"INSERT INTO {self._table}", "JSONCompactEachRow", payload)
            self._pieces += 1


def _user_rows(name: str, password_hash: str) -> Iterator[Row]:
    storage = "users_xml" if name == ADMINISTRATOR else "local_directory"
    yield [name, _id("user", name), storage, ["sha256_password"], ["{}"]]


def _grant_rows(user: str, grants: frozenset[Grant]) -> Iterator[Row]:
    for one in sorted(grants):
        for column in one.columns or (None,):
            where = one.database or None, one.table or None, column
            yield [user, None, one.access, one.named, *where, 0, int(one.grant_option)]


def _policy_rows(key: tuple[str, str, str], one: RowPolicy) -> Iterator[Row]:
    yield [
        *(f"{one.name} ON {one.database}.{one.table}", *key, _id("policy", *key), "local_directory"),
        *(one.condition, int(one.restrictive), int(one.to_all), list(one.to), list(one.excepted)),
    ]


@lru_cache(maxsize=50_000)
def _id(*parts: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, "\0".join(parts)))
