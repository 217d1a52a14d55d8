"""CREATE, ALTER and DROP ROW POLICY."""

from collections.abc import Sequence
from dataclasses import replace

from kernel_local.clickhouse import errors
from kernel_local.clickhouse.access_clauses import (
    TABLE_NAME,
    Normalize,
    existing,
    expect_end,
    read_existence,
    read_names,
    require,
    unsupported,
)
from kernel_local.clickhouse.errors import error
from kernel_local.clickhouse.state import AccessState, Grant, RowPolicy
from kernel_local.clickhouse.tokens import Cursor, Token, at_depth_zero


class Clauses:
    """The parts of CREATE or ALTER ROW POLICY, found by keywords outside brackets."""

    def __init__(self, text: str, tokens: Sequence[Token], cursor: Cursor) -> None:
        self.text, self.tokens, self.cursor = text, tokens, cursor

    def policies(self, database: str) -> list[tuple[str, str, str]]:
        """The keys after the keywords: `p ON t`, `p ON t1, t2` or `p1 ON t1, p2 ON t2`."""
        keys = []
        name = self.cursor.name()
        while True:
            if name is None or not self.cursor.accept("ON"):
                raise unsupported("a row policy without ON table")
            while True:
                keys.append(_policy_key(name, self.cursor, database))
                if not self.cursor.accept(","):
                    return keys
                following = self.tokens[self.cursor.index + 1 : self.cursor.index + 2]
                if following and following[0].is_word("ON"):
                    name = self.cursor.name()
                    break

    def changes(self, state: AccessState, principal: str, normalize: Normalize) -> dict[str, object]:
        """The fields that the clauses behind the names set."""
        changes: dict[str, object] = {}
        if self.cursor.accept("AS"):
            changes["restrictive"] = self.cursor.accept("RESTRICTIVE")
            if not changes["restrictive"]:
                self.cursor.accept("PERMISSIVE")
        self.cursor.accept("FOR", "SELECT")
        if self.cursor.accept("USING"):
            changes["condition"] = self._condition(normalize)
        if self.cursor.accept("TO"):
            changes |= self._targets(state, principal)
        expect_end(self.cursor)
        return changes

    def _condition(self, normalize: Normalize) -> str:
        start = self.cursor.index
        stop = max(
            (index for index, token in at_depth_zero(self.tokens) if index > start and token.is_word("TO")),
            default=len(self.tokens),
        )
        self.cursor.index = stop
        text = self.text[self.tokens[start].start : self.tokens[stop - 1].end]
        if text == "NONE":
            return "1"
        # Behind SELECT an expression takes the form that system.row_policies shows.
        return normalize(f"SELECT {text}").removeprefix("SELECT ")

    def _targets(self, state: AccessState, principal: str) -> dict[str, object]:
        if self.cursor.accept("ALL"):
            excepted = existing(read_names(self.cursor), state) if self.cursor.accept("EXCEPT") else ()
            return {"to_all": True, "to": (), "excepted": excepted}
        if self.cursor.accept("NONE"):
            return {"to_all": False, "to": (), "excepted": ()}
        names = [principal if name == "CURRENT_USER" else name for name in read_names(self.cursor)]
        return {"to_all": False, "to": existing(names, state), "excepted": ()}


def _policy_key(name: str, cursor: Cursor, database: str) -> tuple[str, str, str]:
    target = cursor.table()
    if target is None:
        raise unsupported("row policies for all tables of a database")
    key = name, target[0] or database, target[1]
    if not TABLE_NAME.fullmatch(key[1]) or not TABLE_NAME.fullmatch(key[2]):
        raise unsupported("row policies on tables whose name is not of letters, digits and underscores")
    return key


def create(clauses: Clauses, state: AccessState, principal: str, database: str, normalize: Normalize) -> None:
    """CREATE ROW POLICY, behind these words."""
    meaning = read_existence(clauses.cursor)
    keys = clauses.policies(database)
    _require_each(state, principal, "CREATE ROW POLICY", keys)
    changes = clauses.changes(state, principal, normalize)
    for key in keys:
        if key in state.policies:
            if meaning == "skip":
                continue
            if meaning != "replace":
                raise error(errors.ACCESS_ENTITY_ALREADY_EXISTS, f"row policy {_spell(key)} already exists")
        state.policies[key] = replace(RowPolicy(*key), **changes)  # type: ignore[arg-type]


def alter(clauses: Clauses, state: AccessState, principal: str, database: str, normalize: Normalize) -> None:
    """ALTER ROW POLICY, behind these words: only the clauses it has are changed."""
    meaning = read_existence(clauses.cursor)
    keys = clauses.policies(database)
    _require_each(state, principal, "ALTER ROW POLICY", keys)
    changes = clauses.changes(state, principal, normalize)
    for key in keys:
        if key in state.policies:
            state.policies[key] = replace(state.policies[key], **changes)  # type: ignore[arg-type]
        elif meaning != "skip":
            raise error(errors.UNKNOWN_ROW_POLICY, f"There is no row policy {_spell(key)} in user directories")


def drop(cursor: Cursor, state: AccessState, principal: str, database: str) -> None:
    """DROP ROW POLICY, behind these words."""
    meaning = read_existence(cursor)
    keys = Clauses("", cursor.tokens, cursor).policies(database)
    expect_end(cursor)
    _require_each(state, principal, "DROP ROW POLICY", keys)
    for key in keys:
        if state.policies.pop(key, None) is None and meaning != "skip":
            raise error(errors.UNKNOWN_ROW_POLICY, f"There is no row policy {_spell(key)} in user directories")


def _require_each(state: AccessState, principal: str, access: str, keys: Sequence[tuple[str, str, str]]) -> None:
    for _, database, table in keys:
        require(state, principal, Grant(access, database, table))


def _spell(key: tuple[str, str, str]) -> str:
    return f"`{key[0]} ON {key[1]}.{key[2]}`"
