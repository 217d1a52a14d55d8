"""What the systems should hold, as plain values.

Resources are turned into these values (``plan.py``), targets turn them into changes
(``targets/``). Neither side knows the other: a target never sees a Kubernetes object, and a
resource never names a table. Everything here is frozen and built of frozen parts, so it can be
compared, hashed and logged. None of it holds a secret.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID


class Tier(StrEnum):
    OWNER = "owner"
    PARTNER = "partner"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """Rates are per minute unless named otherwise; amounts are minor units of the currency."""

    requests_per_minute: int = 1000
    admin_requests_per_minute: int = 5000
    burst: int = 200
    max_connections: int = 1000
    messages_per_second: int = 200
    max_open_holds_per_wallet: int = 100
    max_amount: int = 10_000_000


@dataclass(frozen=True, slots=True)
class TenantState:
    """A tenant that should exist.

    ``ancestors`` runs from the parent to the root and leaves the tenant itself out.
    ``suspended`` is the tenant's own switch; ``blocked`` is what the switch and those of its
    ancestors come to. ``uid`` is the Kubernetes object's. ``adopt`` is the id that the
    ``platform-kernel.io/adopt`` annotation names, when there is one.
    """

    id: UUID
    name: str
    uid: str
    display_name: str
    tier: Tier
    owner_email: str
    ancestors: tuple[UUID, ...] = ()
    suspended: bool = False
    blocked: bool = False
    limits: TenantLimits = TenantLimits()
    adopt: UUID | None = None

    @property
    def parent_id(self) -> UUID | None:
        return self.ancestors[0] if self.ancestors else None


@dataclass(frozen=True, slots=True)
class NewOwner:
    """Who is to own a tenant. With ``password_hash`` the account is to be made, without it must be there already."""

    tenant: UUID
    email: str
    password_hash: str | None = field(default=None, repr=False)


class ColumnType(StrEnum):
    TEXT = "text"
    INTEGER = "integer"
    BIGINT = "bigint"
    DECIMAL = "decimal"
    FLOAT = "float"
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMP = "timestamp"
    UUID = "uuid"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: ColumnType
    required: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """A table of a module. ``analytics``: its rows are captured and queried in ClickHouse."""

    name: str
    columns: tuple[Column, ...]
    analytics: bool = False
    retention_days: int | None = None


@dataclass(frozen=True, slots=True)
class RouteRule:
    """``permission`` is None for a public path."""

    methods: tuple[str, ...]
    path: str
    permission: str | None


@dataclass(frozen=True, slots=True)
class Route:
    prefix: str
    service: str
    port: int
    rules: tuple[RouteRule, ...] = ()
    max_body_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Migration:
    """``name`` is the file's, and gives the order; ``sql`` is its text."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class ModuleState:
    """A module that should be installed for ``tenants`` (ids of existing, living tenants).

    ``active``: it serves its tenants; a disabled module keeps its data and has no rights.
    """

    slug: str
    module_name: str
    namespace: str
    name: str
    uid: str
    version: str
    models: tuple[Model, ...] = ()
    migrations: tuple[Migration, ...] = ()
    permissions: tuple[str, ...] = ()
    publishes: tuple[str, ...] = ()
    subscribes: tuple[str, ...] = ()
    partitions: int = 12
    retention_hours: int = 168
    route: Route | None = None
    health_path: str | None = None
    notification_channels: tuple[str, ...] = ()
    tenants: frozenset[UUID] = frozenset()
    active: bool = True

    @property
    def schema(self) -> str:
        """The PostgreSQL schema, and the login of the module's service."""
        return f"module_{self.slug}"

    @property
    def topic(self) -> str:
        return f"platform.{self.slug}.events"

    def analytics_table(self, model: Model) -> str:
        return f"module_{self.slug}__{model.name}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The object can't be had as it is written; nothing was changed.

    ``reason`` is CamelCase for the condition; ``message`` names the field and the fix. It is not
    tried again until the object, or what it depends on, changes.
    """

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a target did for one object.

    ``changes`` has one short clause a change ("created topic platform.crm.events"); it is empty
    when everything was already there.
    """

    changes: Sequence[str] = ()
    refusal: Refusal | None = None


class Unavailable(Exception):
    """A system can't be reached or can't answer now; the same work is tried again later.

    ``system`` is its name for the condition's reason (PostgreSQL, Kafka, ClickHouse, Valkey);
    ``message`` never holds an address with a password in it.
    """

    def __init__(self, system: str, message: str) -> None:
        super().__init__(f"{system}: {message}")
        self.system = system
        self.message = message
