"""GRANT and REVOKE of privileges on databases and tables (no roles)."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from kernel_local.clickhouse import errors
from kernel_local.clickhouse.access_clauses import (
    TABLE_NAME,
    existing,
    expect_end,
    missing_grant,
    read_names,
    unsupported,
)
from kernel_local.clickhouse.errors import error
from kernel_local.clickhouse.state import ADMINISTRATOR, AccessState, Grant
from kernel_local.clickhouse.tokens import Cursor

_ACCESS = re.compile(r"[A-Z][A-Z ]*")
# Privileges on users and table engines: `ON name`, `ON prefix*` or `ON *`; the engine prints `ON *` for all of them.
ON_NAMES = re.compile(r"(CREATE|ALTER|DROP) (USER|ROLE)|TABLE ENGINE|SET DEFINER|IMPERSONATE")


def grant(cursor: Cursor, state: AccessState, principal: str, database: str) -> None:
    """GRANT, behind this word. Nobody but the administrator can grant what they don't hold with GRANT OPTION."""
    wanted = _read_privileges(cursor, database, "TO")
    users = existing(read_names(cursor), state)
    option = cursor.accept("WITH", "GRANT", "OPTION")
    expect_end(cursor)
    _refuse_administrator(users)
    _may_grant(wanted, state, principal)
    given = frozenset(replace(one, grant_option=option) for one in wanted)
    for user in users:
        held = state.grants.get(user, frozenset())
        # With the option swallows without; the other way round the option stays.
        news = {one for one in given if replace(one, grant_option=True) not in held}
        swallowed = {replace(one, grant_option=False) for one in news if one.grant_option}
        state.grants[user] = (held - swallowed) | news


def revoke(cursor: Cursor, state: AccessState, principal: str, database: str) -> None:
    """REVOKE, behind this word. A part of what one GRANT gave can't be taken back alone."""
    only_option = cursor.accept("GRANT", "OPTION", "FOR")
    unwanted = _read_privileges(cursor, database, "FROM")
    users = existing(read_names(cursor), state)
    expect_end(cursor)
    _refuse_administrator(users)
    _may_grant(unwanted, state, principal)
    for user in users:
        held = state.grants.get(user, frozenset())
        state.grants[user] = frozenset(_after_revoke(held, unwanted, only_option))


def _after_revoke(held: Iterable[Grant], unwanted: Sequence[Grant], only_option: bool) -> Iterable[Grant]:
    for one in held:
        if not any(away.covers(one) for away in unwanted):
            if any(one.covers(away) for away in unwanted):
                raise unsupported("revoking a part of what was granted: revoke and grant the whole")
            yield one
        elif only_option:
            yield replace(one, grant_option=False)


def _read_privileges(cursor: Cursor, database: str, ending: str) -> list[Grant]:
    """The elements `ACCESS[(columns)], ... ON target[, ...]` and the word behind them, without the grant option."""
    grants: list[Grant] = []
    elements: list[tuple[str, tuple[str, ...]]] = []
    while not cursor.accept(ending):
        if cursor.accept("ON"):
            if elements and all(ON_NAMES.fullmatch(access) for access, _ in elements):
                named = _read_named(cursor)
                grants += [Grant(access, named=named) for access, _ in elements]
            else:
                scope = _read_scope(cursor, database)
                grants += [Grant(access, *scope, columns=columns) for access, columns in elements]
            elements = []
        else:
            elements.append(_read_element(cursor))
        cursor.accept(",")
    if elements or not grants:
        raise unsupported("roles")
    return grants


def _read_element(cursor: Cursor) -> tuple[str, tuple[str, ...]]:
    words = []
    while (token := cursor.peek) is not None and token.kind == "word" and not token.is_word("ON", "TO", "FROM"):
        words.append(token.text.upper())
        cursor.index += 1
    columns: tuple[str, ...] = ()
    if cursor.accept("("):
        columns = tuple(sorted(read_names(cursor)))
        cursor.accept(")")
    access = " ".join(words).removesuffix(" PRIVILEGES")
    if not _ACCESS.fullmatch(access) or access.startswith("CURRENT GRANTS"):
        raise unsupported("roles, or this form of GRANT or REVOKE")
    return access, columns


def _read_named(cursor: Cursor) -> str:
    if cursor.accept("*"):
        cursor.accept(".", "*")
        return "*"
    name = cursor.name() or ""
    if not re.fullmatch(r"[A-Za-z_][\w-]*", name, re.A):
        raise unsupported("grants on names that are not of letters, digits, underscores and hyphens")
    return name + ("*" if cursor.accept("*") else "")


def _read_scope(cursor: Cursor, database: str) -> tuple[str, str]:
    if cursor.accept("*", ".", "*"):
        return "", ""
    if cursor.accept("*"):
        return database, ""
    first = cursor.name() or ""
    scope = (first, "")
    if not cursor.accept("."):
        scope = (database, first)
    elif not cursor.accept("*"):
        scope = (first, cursor.name() or "-")
    if not TABLE_NAME.fullmatch(scope[0]) or (scope[1] and not TABLE_NAME.fullmatch(scope[1])):
        raise unsupported("grants on names that are not of letters, digits and underscores")
    return scope


def _refuse_administrator(users: Sequence[str]) -> None:
    if ADMINISTRATOR in users:
        raise error(errors.ACCESS_STORAGE_READONLY, f"Cannot change user `{ADMINISTRATOR}`: it is the administrator")


def _may_grant(wanted: Sequence[Grant], state: AccessState, principal: str) -> None:
    for one in wanted:
        if not state.holds(principal, one, with_option=True):
            raise missing_grant(principal, one, " WITH GRANT OPTION")
