"""What is to be changed, and the comparison of rights, which schemas and tables have in common."""

from collections.abc import Collection, Iterator
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from kernel_operator.targets.postgres.observed import Owned
from kernel_operator.targets.postgres.session import Refused, Statement

OPERATOR = "kernel_operator"


class Change(NamedTuple):
    """``clause`` tells it to a person; an empty one belongs to the change before it."""

    clause: str
    statements: tuple[Statement, ...]


def change(clause: str, template: str, *names: str) -> Change:
    return Change(clause, (Statement.of(template, *names),))


def own(what: str, kind: str, owned: Owned, login: str, *names: str) -> Iterator[Change]:
    """Take ``what`` back when the module's login owns it. Raises Refused when somebody else does."""
    if owned.owner == OPERATOR:
        return
    if owned.owner != login:
        raise Refused(
            "NotOwned", f"{what} belongs to {owned.owner}: ALTER {kind} {'.'.join(names)} OWNER TO {OPERATOR}"
        )
    identifier = ".".join("%I" for _ in names)
    yield Change(
        f"took {what} back from {login}",
        (
            # Only who has the rights of the old owner may take a thing from it: for this one transaction.
            Statement.of(f"GRANT %I TO {OPERATOR} WITH INHERIT TRUE, SET FALSE", login),
            Statement.of(f"ALTER {kind} {identifier} OWNER TO {OPERATOR}", *names),
            Statement.of(f"REVOKE %I FROM {OPERATOR}", login),
        ),
    )


def rights(what: str, kind: str, owned: Owned, wanted: Collection[str], *names: str) -> Iterator[Change]:
    """Make the rights on a thing exactly ``wanted`` (``role=PRIVILEGE``), and what an owner has by default."""
    there = set(owned.grants)
    target = {*wanted, *(f"{OPERATOR}={_split(grant)[1]}" for grant in owned.owner_grants)}
    if owned.owner != OPERATOR:  # its rights move over with the ownership
        there = {grant for grant in there if _split(grant)[0] != owned.owner}
        there |= {grant for grant in target if _split(grant)[0] == OPERATOR}
    identifier = ".".join("%I" for _ in names)
    for role, privileges in _by_role(there - target):
        clause = f"took {privileges} on {what} from {role}"
        if role == "PUBLIC":
            yield change(clause, f"REVOKE {privileges} ON {kind} {identifier} FROM PUBLIC CASCADE", *names)
        else:
            yield change(clause, f"REVOKE {privileges} ON {kind} {identifier} FROM %I CASCADE", *names, role)
    for role, privileges in _by_role(target - there):
        clause = f"gave {role} {privileges} on {what}"
        yield change(clause, f"GRANT {privileges} ON {kind} {identifier} TO %I", *names, role)


def _by_role(grants: Collection[str]) -> list[tuple[str, str]]:
    """Each role with its privileges, joined by commas."""
    pairs = sorted(_split(grant) for grant in grants)
    return [
        (role, ", ".join(privilege.rstrip("*") for _, privilege in group))
        for role, group in groupby(pairs, key=itemgetter(0))
    ]


def _split(grant: str) -> tuple[str, str]:
    role, _, privilege = grant.rpartition("=")
    return role, privilege
