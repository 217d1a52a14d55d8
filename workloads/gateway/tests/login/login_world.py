"""What tests of the login do again and again."""

import json
from typing import Any
from uuid import UUID

import asyncpg
from gateway_api import Client, Person, Reply


async def logged_in(client: Client, person: Person, **more: Any) -> Reply:
    """A login that must succeed, as a client without cookies."""
    body = {"email": person.email, "password": person.password, **more}
    reply = await client("POST", "auth/login", body, X_Client="native")
    assert reply.status == 200, reply.json
    return reply


async def refreshed(client: Client, token: str) -> Reply:
    return await client("POST", "auth/refresh", {"refreshToken": token}, X_Client="native")


async def events(admin: asyncpg.Connection, tenant: UUID, type: str) -> list[dict[str, Any]]:
    """The data of the events of ``tenant`` that wait to be published."""
    rows = await admin.fetch(
        "SELECT envelope FROM kernel.outbox WHERE tenant_id = $1 AND type = $2 ORDER BY created_at", tenant, type
    )
    return [json.loads(row["envelope"])["data"] for row in rows]
