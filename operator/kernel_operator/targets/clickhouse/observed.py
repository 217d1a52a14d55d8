"""What is there in the analytics database: tables, views, policies, as rows of the system tables tell it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_COMMENT = re.compile(r"module (\w+), model (\w+)")


@dataclass(frozen=True, slots=True)
class Policy:
    name: str
    filter: str
    restrictive: bool
    to_all: bool
    to: tuple[str, ...]
    exempt: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Observed:
    """A table or view that is there; ``policies`` may be there without one."""

    engine: str = ""
    engine_full: str = ""
    sorting_key: str = ""
    as_select: str = ""
    sql_security: str = ""
    comment: str = ""
    columns: tuple[tuple[str, str], ...] = ()
    policies: tuple[Policy, ...] = ()

    @property
    def owner(self) -> tuple[str, str] | None:
        """The module and the model that the table was made for."""
        found = _COMMENT.fullmatch(self.comment)
        return (found[1], found[2]) if found else None


def observed_tables(
    tables: Iterable[Mapping[str, Any]], columns: Iterable[Mapping[str, Any]], policies: Iterable[Mapping[str, Any]]
) -> dict[str, Observed]:
    """By name, from the rows of ``observe_tables``, ``observe_columns`` and ``observe_policies``."""
    by_table: dict[str, list[tuple[str, str]]] = {}
    for row in columns:
        by_table.setdefault(row["table"], []).append((row["name"], row["type"]))
    held: dict[str, list[Policy]] = {}
    for row in policies:
        policy = Policy(
            name=row["short_name"],
            filter=row["select_filter"] or "",
            restrictive=bool(row["is_restrictive"]),
            to_all=bool(row["apply_to_all"]),
            to=tuple(sorted(row["apply_to_list"])),
            exempt=tuple(sorted(row["apply_to_except"])),
        )
        held.setdefault(row["table"], []).append(policy)
    rows = {row["name"]: row for row in tables}
    return {
        name: Observed(
            **{key: value for key, value in rows.get(name, {}).items() if key != "name"},
            columns=tuple(by_table.get(name, ())),
            policies=tuple(held.get(name, ())),
        )
        for name in {**rows, **held}
    }
