"""The ClickHouse user of a tenant: what it should be, and what is there.

A user has one right, SELECT on the analytics database; the row policies do the rest. A blocked tenant
has no user: its password is derived, so taking the user away loses nothing, and no session can start.
A user that has any other right, or another kind of password, is replaced as a whole.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from hashlib import sha256
from typing import Any
from uuid import UUID

from kernel_common.analytics import tenant_password, tenant_user
from kernel_operator.targets.clickhouse.quoting import identifier, literal

_SHA256 = ("sha256_password", "['sha256_password']")
_GRANTED_TOGETHER = 100


@dataclass(frozen=True, slots=True)
class ObservedUser:
    auth_type: str
    grants: frozenset[tuple[Any, ...]] = frozenset()


class Lack(Enum):
    """What stands between a tenant's user and its desired state."""

    USER = auto()
    GRANT = auto()
    REPLACEMENT = auto()
    REMOVAL = auto()


def observed_users(users: Iterable[Mapping[str, Any]], grants: Iterable[Mapping[str, Any]]) -> dict[str, ObservedUser]:
    """By name, from the rows of ``observe_users`` and ``observe_grants``."""
    rights: dict[str, set[tuple[Any, ...]]] = {}
    for row in grants:
        rights.setdefault(row["user_name"], set()).add(
            (
                row["access_type"],
                row["database"] or "",
                row["table"] or "",
                row["column"] or "",
                bool(row["is_partial_revoke"]),
                bool(row["grant_option"]),
            )
        )
    return {row["name"]: ObservedUser(row["auth_type"], frozenset(rights.get(row["name"], ()))) for row in users}


def compare(found: ObservedUser | None, *, blocked: bool, database: str) -> Lack | None:
    if blocked:
        return Lack.REMOVAL if found else None
    if found is None:
        return Lack.USER
    if found.auth_type not in _SHA256:
        return Lack.REPLACEMENT
    if not found.grants:
        return Lack.GRANT
    return None if found.grants == {("SELECT", database, "", "", False, False)} else Lack.REPLACEMENT


def create_sql(master_key: bytes, tenant: UUID, *, replace: bool) -> str:
    """Makes the tenant's user; the server is told the hash of its password, never the password."""
    digest = sha256(tenant_password(master_key, tenant).encode()).hexdigest()
    how = "OR REPLACE " if replace else "IF NOT EXISTS "
    return f"CREATE USER {how}{identifier(tenant_user(tenant))} IDENTIFIED WITH sha256_hash BY {literal(digest)}"


def drop_sql(name: str) -> str:
    return f"DROP USER IF EXISTS {identifier(name)}"


def grant_sqls(database: str, tenants: Sequence[UUID]) -> list[str]:
    """The one right, for many users a statement."""
    return [
        f"GRANT SELECT ON {identifier(database)}.* TO "
        + ", ".join(identifier(tenant_user(tenant)) for tenant in tenants[start : start + _GRANTED_TOGETHER])
        for start in range(0, len(tenants), _GRANTED_TOGETHER)
    ]
