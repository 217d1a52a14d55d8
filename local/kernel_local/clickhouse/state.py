"""What access statements have made: users, grants, row policies; kept in one JSON file, replaced atomically.

Passwords are kept as SHA-256 hashes, as ClickHouse keeps them. The file is readable by its owner only.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

ADMINISTRATOR = "default"


@dataclass(frozen=True, order=True)
class Grant:
    """One privilege of one user.

    Empty `database` means `*.*`, empty `table` means `database.*`. A privilege on something that is no table (users,
    table engines) has `named`: a name, a prefix ending in `*`, or `*`; on tables it is empty.
    """

    access: str
    database: str = ""
    table: str = ""
    columns: tuple[str, ...] = ()
    grant_option: bool = False
    named: str = ""

    def covers(self, other: "Grant") -> bool:
        """Whether it gives all that `other` gives, the grant option aside."""
        groups = {other.access, "ALL"}
        if re.fullmatch(r"(CREATE|ALTER|DROP) (USER|ROW POLICY)", other.access):
            groups.add("ACCESS MANAGEMENT")
        if self.access not in groups:
            return False
        if self.named.endswith("*"):
            return other.named.startswith(self.named[:-1])
        return (
            (not self.named or self.named == other.named)
            and self.database in ("", other.database)
            and self.table in ("", other.table)
            and (not self.columns or (bool(other.columns) and set(other.columns) <= set(self.columns)))
        )


@dataclass(frozen=True)
class RowPolicy:
    """A row policy; `condition` is the text behind USING as the engine formats it."""

    name: str
    database: str
    table: str
    condition: str = "1"
    restrictive: bool = False
    to_all: bool = False
    to: tuple[str, ...] = ()
    excepted: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it unique: name, database, table."""
        return self.name, self.database, self.table

    def applies_to(self, user: str) -> bool:
        """Whether the policy names this user, users made later included."""
        return user not in self.excepted if self.to_all else user in self.to

    def without(self, user: str) -> "RowPolicy":
        """The policy after that user is gone: a new user of the same name is another user."""
        kept = {name: tuple(one for one in getattr(self, name) if one != user) for name in ("to", "excepted")}
        return RowPolicy(**{**asdict(self), **kept})


@dataclass(frozen=True)
class Rights:
    """Grants, and the keys of the policies that apply, sorted."""

    grants: frozenset[Grant]
    applying: tuple[tuple[str, str, str], ...]

    @property
    def engine_user(self) -> str:
        """The name of the engine's user that has these rights."""
        content = repr((sorted(self.grants), self.applying))
        return f"rights_{hashlib.sha256(content.encode()).hexdigest()[:24]}"


@dataclass
class AccessState:
    """All access entities. `users` maps a name to the hex SHA-256 of its password."""

    users: dict[str, str] = field(default_factory=dict)
    grants: dict[str, frozenset[Grant]] = field(default_factory=dict)
    policies: dict[tuple[str, str, str], RowPolicy] = field(default_factory=dict)

    def holds(self, user: str, wanted: Grant, *, with_option: bool = False) -> bool:
        """Whether a user was granted this (the administrator was granted all)."""
        if user == ADMINISTRATOR:
            return True
        held = self.grants.get(user, frozenset())
        return any(one.covers(wanted) and (one.grant_option or not with_option) for one in held)

    def copy(self) -> "AccessState":
        """A copy that can be changed; the values are immutable."""
        return AccessState(dict(self.users), dict(self.grants), dict(self.policies))

    def rights(self, user: str) -> "Rights":
        """What a user may read: two users with equal rights differ for the engine in `currentUser()` alone."""
        applying = sorted(one.key for one in self.policies.values() if one.applies_to(user))
        return Rights(self.grants.get(user, frozenset()), tuple(applying))

    def all_rights(self) -> set["Rights"]:
        """The different rights that there are among the users."""
        named = {name for policy in self.policies.values() for name in (*policy.to, *policy.excepted)}
        everyone = tuple(sorted(one.key for one in self.policies.values() if one.to_all))
        nothing: frozenset[Grant] = frozenset()
        # Most users are named by no policy: for them only their grants differ, and few of those do.
        grants = {self.grants.get(user, nothing) for user in self.users if user not in named}
        return {Rights(one, everyone) for one in grants} | {self.rights(user) for user in named & self.users.keys()}

    def condition(self, rights: "Rights", database: str, table: str) -> str | None:
        """The filter that rights give on a table, or None where the table has no policy.

        As ClickHouse combines them with `users_without_row_policies_can_read_rows = false`: permissive policies by
        OR, restrictive ones by AND; a user whom no permissive policy names reads nothing.
        """
        here = [one for one in self.policies.values() if (one.database, one.table) == (database, table)]
        if not here:
            return None
        mine = [one for one in here if one.key in rights.applying]
        allowed = " OR ".join(f"({one.condition})" for one in mine if not one.restrictive) or "0"
        return " AND ".join([f"({allowed})", *(f"({one.condition})" for one in mine if one.restrictive)])

    def guarded_tables(self) -> Iterator[tuple[str, str]]:
        """Each (database, table) that has a policy, once."""
        yield from sorted({(one.database, one.table) for one in self.policies.values()})


def load(path: Path) -> AccessState:
    """Reads the file; an absent one is an empty state.

    Raises:
        ValueError: the file is not what `save` writes.
    """
    if not path.exists():
        return AccessState()
    try:
        content = json.loads(path.read_text())
        policies = [
            RowPolicy(**{**one, "to": tuple(one["to"]), "excepted": tuple(one["excepted"])})
            for one in content["policies"]
        ]
        return AccessState(
            users=content["users"],
            grants={
                user: frozenset(Grant(**{**one, "columns": tuple(one["columns"])}) for one in grants)
                for user, grants in content["grants"].items()
            },
            policies={one.key: one for one in policies},
        )
    except (KeyError, TypeError, AttributeError, ValueError) as failure:
        raise ValueError(
            f"{path}: not an access file of this server; restore it or start with a new folder"
        ) from failure


def save(state: AccessState, path: Path) -> None:
    """Writes the state so that a crash leaves either the old file or the new one, on disk when it returns."""
    as_dict = lru_cache(asdict)  # thousands of tenants have the same grants
    content = {
        "users": state.users,
        "grants": {user: [as_dict(one) for one in sorted(grants)] for user, grants in state.grants.items()},
        "policies": [asdict(one) for one in state.policies.values()],
    }
    write_atomically(path, json.dumps(content).encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file (mode 0600): temporary file, fsync, rename, fsync of the folder."""
    temporary = path.with_name(path.name + ".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
