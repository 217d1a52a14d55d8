"""What is really there of one module, as ``sql/observe_module.sql`` tells it."""

import json
from typing import Any, Literal

import asyncpg
from pydantic import BaseModel, ConfigDict

from kernel_operator.targets.postgres.publications import CAPTURED
from kernel_operator.targets.postgres.session import query


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Column(_Part):
    type: str
    required: bool
    default: str | None = None


class Policy(_Part):
    permissive: bool
    command: str
    roles: list[str]
    using: str | None
    check: str | None


class Trigger(_Part):
    function: str
    kind: int
    enabled: str
    condition: bool
    columns: str


class Owned(_Part):
    """``grants`` are written ``role=PRIVILEGE``, with a ``*`` behind those that may be passed on."""

    owner: str
    grants: list[str]
    owner_grants: list[str]
    """What an owner has by default."""


class Table(Owned):
    row_security: bool
    forced: bool
    identity: str
    may_hold_rows: bool = False
    column_grantees: list[str]
    columns: dict[str, Column]
    keys: list[str]
    """``p:`` or ``u:`` and the columns."""
    policies: dict[str, Policy]
    triggers: dict[str, Trigger]
    published: Literal["whole", "part"] | None


class Membership(_Part):
    role: str
    grantor: str
    plain: bool = False
    """Inherits, may neither SET ROLE nor pass on."""


class Login(_Part):
    attributes: dict[str, bool]
    connection_limit: int
    expires: bool
    settings: list[str]
    managed: bool
    """The operator may alter it."""
    memberships: list[Membership]
    members: list[Membership]


class Observed(_Part):
    module: dict[str, Any] | None
    models: dict[str, dict[str, Any]]
    rights: dict[str, str]
    """What the login may publish: type to source."""
    namespace: Owned | None
    login: Login | None
    tables: dict[str, Table]
    template: Table


async def observe(connection: asyncpg.Connection, slug: str, schema: str) -> Observed:
    """One question, however many tables the module has."""
    found = json.loads(await connection.fetchval(query("observe_module"), slug, schema, CAPTURED))
    found["namespace"] = found.pop("schema")
    return Observed.model_validate(found)
