"""Views that answer for system.users, system.grants and system.row_policies from an AccessState.

The engine's own tables would show users.xml. Columns have the names and meaning of ClickHouse's; enumerations are
strings here.
"""

import uuid
from collections.abc import Sequence

from kernel_local.clickhouse.state import ADMINISTRATOR, AccessState
from kernel_local.clickhouse.tokens import quote_string

VIEWS = ("users", "grants", "row_policies")
_NAMESPACE = uuid.UUID("6f2d7f0e-5c1b-5d39-9d0a-0f4a5b1f7c11")
_USERS = "name String, id UUID, storage String, auth_type Array(String), auth_params Array(String)"
_GRANTS = (
    "user_name Nullable(String), role_name Nullable(String), access_type String, access_object String, "
    "database Nullable(String), table Nullable(String), column Nullable(String), "
    "is_partial_revoke UInt8, grant_option UInt8"
)
_POLICIES = (
    "name String, short_name String, database String, table String, id UUID, storage String, select_filter String, "
    "is_restrictive UInt8, apply_to_all UInt8, apply_to_list Array(String), apply_to_except Array(String)"
)


def statements(state: AccessState) -> list[str]:
    """One CREATE OR REPLACE VIEW for each of VIEWS."""
    return [_users(state), _grants(state), _policies(state)]


def _users(state: AccessState) -> str:
    return _view(
        "users",
        _USERS,
        [[name, _id("user", name), "local_directory", ["sha256_password"], ["{}"]] for name in state.users]
        + [[ADMINISTRATOR, _id("user", ADMINISTRATOR), "users_xml", ["sha256_password"], ["{}"]]],
    )


def _grants(state: AccessState) -> str:
    rows: list[Sequence[object]] = [[ADMINISTRATOR, None, "ALL", "", None, None, None, 0, 1]]
    for user, grants in state.grants.items():
        for one in sorted(grants):
            for column in one.columns or (None,):
                where = one.database or None, one.table or None, column
                rows.append([user, None, one.access, one.named, *where, 0, int(one.grant_option)])
    return _view("grants", _GRANTS, rows)


def _policies(state: AccessState) -> str:
    return _view(
        "row_policies",
        _POLICIES,
        [
            [
                *(f"{one.name} ON {one.database}.{one.table}", *one.key, _id("policy", *one.key), "local_directory"),
                *(one.condition, int(one.restrictive), int(one.to_all), list(one.to), list(one.excepted)),
            ]
            for one in state.policies.values()
        ],
    )


def _id(*parts: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, "\0".join(parts)))


def _view(name: str, columns: str, rows: Sequence[Sequence[object]]) -> str:
    # The row of blanks gives an empty view its columns; the filter takes it away again.
    blank = ", ".join("NULL" if "Nullable" in one else _BLANKS[one.split()[1]] for one in columns.split(", "))
    values = ", ".join([f"(0, {blank})", *(f"(1, {', '.join(_literal(one) for one in row)})" for row in rows)])
    source = f"values({quote_string(f'real UInt8, {columns}')}, {values})"
    return f"CREATE OR REPLACE VIEW system.{name} AS SELECT * EXCEPT real FROM {source} WHERE real"  # noqa: S608


_BLANKS = {"String": "''", "UInt8": "0", "UUID": f"'{uuid.UUID(int=0)}'", "Array(String)": "[]"}


def _literal(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return f"[{', '.join(quote_string(one) for one in value)}]"
    return str(value) if isinstance(value, int) else quote_string(str(value))
