"""Clauses that access statements share."""

import re
from collections.abc import Callable, Sequence

from kernel_local.clickhouse import errors
from kernel_local.clickhouse.errors import error
from kernel_local.clickhouse.state import ADMINISTRATOR, AccessState, Grant
from kernel_local.clickhouse.tokens import Cursor

# Names become elements of users.xml: what XML or the configuration's dots would change is refused.
_USER_NAME = re.compile(r"[A-Za-z_][\w-]{0,127}", re.A)
TABLE_NAME = re.compile(r"[A-Za-z_]\w{0,127}", re.A)

Normalize = Callable[[str], str]


def unsupported(what: str) -> errors.ClickHouseError:
    """The error for what this server does not do."""
    return error(errors.NOT_IMPLEMENTED, f"The development ClickHouse server does not support {what}")


def expect_end(cursor: Cursor) -> None:
    """Refuses a clause that nobody has read."""
    if cursor.peek is not None:
        raise unsupported(f"the clause that begins with {cursor.peek.text[:40]!r} here")


def read_names(cursor: Cursor) -> list[str]:
    """User names (or column names), separated by commas."""
    names = []
    while True:
        name = cursor.name()
        if name is None or not _USER_NAME.fullmatch(name):
            raise error(
                errors.BAD_ARGUMENTS,
                "A user name must begin with a letter and hold only letters, digits, underscores and hyphens",
            )
        names.append(name)
        if not cursor.accept(","):
            return names


def read_existence(cursor: Cursor) -> str:
    """`skip` for IF [NOT] EXISTS, `replace` for OR REPLACE, else nothing."""
    for words, meaning in (
        (("IF", "NOT", "EXISTS"), "skip"),
        (("IF", "EXISTS"), "skip"),
        (("OR", "REPLACE"), "replace"),
    ):
        if cursor.accept(*words):
            return meaning
    return ""


def existing(names: Sequence[str], state: AccessState) -> tuple[str, ...]:
    """The names without repeats, all of which must be users."""
    for name in names:
        if name not in state.users and name != ADMINISTRATOR:
            raise error(errors.UNKNOWN_ROLE, f"There is no role `{name}` in user directories")
    return tuple(dict.fromkeys(names))


def missing_grant(principal: str, wanted: Grant, option: str = "") -> errors.ClickHouseError:
    """The error of a principal who was not granted this."""
    where = wanted.named or f"{wanted.database or '*'}.{wanted.table or '*'}"
    return errors.denied(
        principal, f"To execute this query, it's necessary to have the grant {wanted.access} ON {where}{option}."
    )


def require(state: AccessState, principal: str, wanted: Grant) -> None:
    """Refuses a principal who was not granted this."""
    if not state.holds(principal, wanted):
        raise missing_grant(principal, wanted)
