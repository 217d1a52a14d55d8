"""What is asked about a request, and what is answered: the words that the parts of the gateway share.

A *rule* is what the route that a request matched demands. Envoy's router is the only one that matches paths: the rule
travels from it to the decision as text in one header, whole, so that no table has to be looked up and a change of
routes can't meet an old table. Clients can't send that header: Envoy strips it first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

RULE_HEADER = "x-kernel-rule"
USER_HEADER = "x-user-id"
TENANT_HEADER = "x-tenant-id"
ROLES_HEADER = "x-user-roles"
ACTOR_HEADER = "x-actor-id"
"""The user who impersonates the one in ``x-user-id``."""

IDENTITY_HEADERS = (USER_HEADER, TENANT_HEADER, ROLES_HEADER, ACTOR_HEADER, RULE_HEADER)
"""Set by the gateway alone; a client's copies are stripped."""

_PUBLIC, _ANY = "public", "any"


@dataclass(frozen=True, slots=True)
class Rule:
    """``module`` is a slug, or None for the kernel's own routes. ``permission`` is what the user needs, or None where
    being logged in is enough. A ``public`` rule asks for no token: it is limited by the client's address."""

    module: str | None = None
    permission: str | None = None
    public: bool = False

    def text(self) -> str:
        """The rule as the header carries it: ``{module or -} {permission | any | public}``."""
        return f"{self.module or '-'} {_PUBLIC if self.public else self.permission or _ANY}"

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """Reads what ``text`` made. Raises ValueError."""
        module, _, demand = text.partition(" ")
        if not module or not demand or " " in demand:
            raise ValueError("a rule is '{module} {permission}'")
        slug = None if module == "-" else module
        if demand == _PUBLIC:
            return cls(slug, public=True)
        return cls(slug, None if demand == _ANY else demand)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks. ``roles`` are names, from the token: they choose the rate limit and are told to the service; rights
    come from ``RightsSource`` alone. ``actor`` impersonates ``user``."""

    user: UUID
    tenant: UUID
    roles: tuple[str, ...] = ()
    actor: UUID | None = None


@dataclass(frozen=True, slots=True)
class Allowed:
    """``identity`` is None on a public route. ``headers`` go to the client: the state of its rate limit."""

    identity: Identity | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """``slug`` is the last part of the problem's type, ``detail`` says what to do; ``headers`` go to the client."""

    status: int
    slug: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)


Verdict = Allowed | Refused
