"""CREATE, ALTER and DROP USER. Passwords are hashed here and kept as hashes."""

import hashlib
import re
from collections.abc import Sequence

from kernel_local.clickhouse import errors
from kernel_local.clickhouse.access_clauses import expect_end, read_existence, read_names, require, unsupported
from kernel_local.clickhouse.errors import error
from kernel_local.clickhouse.state import ADMINISTRATOR, AccessState, Grant
from kernel_local.clickhouse.tokens import Cursor

_SHA256 = re.compile(r"[0-9a-f]{64}")


def _password(cursor: Cursor) -> str | None:
    """The hash after IDENTIFIED, or None where the statement does not say."""
    if not cursor.accept("IDENTIFIED"):
        return None
    method = "sha256_password"
    if cursor.accept("WITH"):
        method = cursor.name() or ""
    if method == "no_password":
        raise error(errors.BAD_ARGUMENTS, "Authentication type NO_PASSWORD is not allowed: use IDENTIFIED BY")
    secret = cursor.peek if cursor.accept("BY") else None
    if secret is None or secret.kind != "string" or method not in ("sha256_password", "sha256_hash"):
        raise unsupported("this authentication method: use sha256_password or sha256_hash without SALT")
    cursor.index += 1
    if method == "sha256_password":
        return hashlib.sha256(secret.value.encode()).hexdigest()
    if not _SHA256.fullmatch(secret.value.lower()):
        raise error(
            errors.BAD_ARGUMENTS, "Password hash for the 'SHA256_PASSWORD' type has to be 64 hexadecimal digits"
        )
    return secret.value.lower()


def _user_clauses(cursor: Cursor) -> tuple[list[str], str | None]:
    names = read_names(cursor)
    if ADMINISTRATOR in names:
        raise error(
            errors.ACCESS_STORAGE_READONLY,
            f"Cannot change user `{ADMINISTRATOR}`: it is the administrator",
        )
    password = _password(cursor)
    cursor.accept("HOST", "ANY")
    expect_end(cursor)
    return names, password


def create(cursor: Cursor, state: AccessState, principal: str) -> None:
    """CREATE USER, behind these words."""
    meaning = read_existence(cursor)
    names, password = _user_clauses(cursor)
    _require_each(state, principal, "CREATE USER", names)
    if password is None:
        raise error(errors.BAD_ARGUMENTS, "Authentication type NO_PASSWORD is not allowed: use IDENTIFIED BY")
    for name in names:
        if name in state.users:
            if meaning == "skip":
                continue
            if meaning != "replace":
                raise error(
                    errors.ACCESS_ENTITY_ALREADY_EXISTS,
                    f"user `{name}`: cannot insert because user `{name}` already exists in `local_directory`",
                )
            _remove_user(name, state)
        state.users[name] = password


def alter(cursor: Cursor, state: AccessState, principal: str) -> None:
    """ALTER USER, behind these words: a new password."""
    meaning = read_existence(cursor)
    names, password = _user_clauses(cursor)
    _require_each(state, principal, "ALTER USER", names)
    for name in names:
        if name not in state.users:
            if meaning == "skip":
                continue
            raise _no_user(name)
        if password is not None:
            state.users[name] = password


def drop(cursor: Cursor, state: AccessState, principal: str) -> None:
    """DROP USER, behind these words: with the user go its grants and its places in policies."""
    meaning = read_existence(cursor)
    names, _ = _user_clauses(cursor)
    _require_each(state, principal, "DROP USER", names)
    for name in names:
        if name in state.users:
            _remove_user(name, state)
        elif meaning != "skip":
            raise _no_user(name)


def _require_each(state: AccessState, principal: str, access: str, names: Sequence[str]) -> None:
    for name in names:
        require(state, principal, Grant(access, named=name))


def _remove_user(name: str, state: AccessState) -> None:
    del state.users[name]
    state.grants.pop(name, None)
    state.policies = {key: policy.without(name) for key, policy in state.policies.items()}


def _no_user(name: str) -> errors.ClickHouseError:
    return error(errors.UNKNOWN_USER, f"There is no user `{name}` in user directories")
