"""What may be granted in a tenant, and the rule that nobody grants what they don't hold themselves.

A permission is ``{module}.{resource}.{action}`` (the system's have two parts), or ``{module}.*`` for all of a module,
also those that it gets later. ``*`` is the Owner's alone and can't be put into a role.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from uuid import UUID

import asyncpg

SYSTEM = tuple(
    f"{group}.{action}"
    for group, actions in {
        "tenants": "list create update block delete",
        "modules": "list install configure uninstall",
        "users": "list create update delete impersonate",
        "roles": "list create update delete assign",
        "audit": "read export delete",
        "billing": "view change export",
        "settings": "read update",
        "events": "read seek dlq.read dlq.retry dlq.resolve",
    }.items()
    for action in actions.split()
)
"""The kernel's own. ``system.*`` and ``platform.*`` are not a tenant's to give."""

OWNER, ADMIN, MEMBER = (UUID(f"00000000-0000-7000-8000-00000000000{n}") for n in (1, 2, 3))
"""The ids of the built-in roles, the same in every tenant."""

EVERYTHING = "*"


def covers(held: Collection[str], permission: str) -> bool:
    """Whether whoever holds ``held`` may all that ``permission`` says."""
    return permission in held or EVERYTHING in held or f"{permission.partition('.')[0]}.*" in held


@dataclass(frozen=True, slots=True)
class Catalogue:
    """``modules``: slugs of the tenant's active modules; ``declared``: their permissions."""

    modules: tuple[str, ...]
    declared: tuple[str, ...]

    @classmethod
    async def read(cls, transaction: asyncpg.Connection, modules: Iterable[str]) -> "Catalogue":
        """That of the transaction's tenant, whose active ``modules`` are known already."""
        declared = await transaction.fetch("SELECT p FROM auth.known_permissions() AS p")
        return cls(tuple(modules), tuple(row["p"] for row in declared))

    def grantable(self) -> list[str]:
        """All that a role may hold, the system's first."""
        return [*SYSTEM, *sorted({*self.declared, *(f"{slug}.*" for slug in self.modules)})]

    def of_role(self, role: UUID, written: Collection[str]) -> list[str]:
        """What the role lets its members do. ``written`` is what its row holds; the built-in roles' rights follow from
        the active modules, as ``auth.effective_rights`` has them."""
        if role == OWNER:
            return [EVERYTHING]
        if role == ADMIN:
            groups = {permission.partition(".")[0] for permission in SYSTEM}
            return sorted({f"{group}.*" for group in groups} | {f"{slug}.*" for slug in self.modules})
        if role == MEMBER:
            return [p for p in self.declared if p.count(".") >= 2 and p.endswith(".read")]
        return list(written)
