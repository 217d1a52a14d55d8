"""Contacts over HTTP, as the gateway asks for its users."""

import asyncio
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
from aiohttp import ClientSession
from crm_world import Crm

from kernel_local.testing import PostgresServer


async def add(client: ClientSession, **fields: Any) -> dict[str, Any]:
    async with client.post("contacts", json={"email": "eve@x.example"} | fields) as answer:
        assert answer.status == 201, await answer.text()
        made: dict[str, Any] = await answer.json()
        return made


async def all_contacts(client: ClientSession, limit: int) -> list[dict[str, Any]]:
    """Every page in turn."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        query = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
        async with client.get("contacts", params=query) as answer:
            assert answer.status == 200
            page = await answer.json()
        assert len(page["data"]) <= limit
        assert page["meta"]["hasMore"] == (page["meta"]["cursor"] is not None)
        found += page["data"]
        cursor = page["meta"]["cursor"]
        if cursor is None:
            return found


async def test_a_contact_is_added_read_and_changed(a: ClientSession) -> None:
    made = await add(a, fullName="Eve", score=3)
    async with a.get(f"contacts/{made['id']}") as answer:
        assert (answer.status, await answer.json()) == (200, made)
    async with a.patch(f"contacts/{made['id']}", json={"fullName": None, "score": 4}) as answer:
        changed = await answer.json()
    assert answer.status == 200
    assert (changed["email"], changed["fullName"], changed["score"]) == ("eve@x.example", None, 4)
    assert changed["updatedAt"] > made["updatedAt"]


async def test_another_tenant_neither_sees_nor_changes_it(a: ClientSession, b: ClientSession) -> None:
    made = await add(a)
    async with b.get(f"contacts/{made['id']}") as answer:
        assert answer.status == 404
    async with b.patch(f"contacts/{made['id']}", json={"score": 1}) as answer:
        assert answer.status == 404
        assert answer.content_type == "application/problem+json"
    assert made["id"] not in {contact["id"] for contact in await all_contacts(b, 100)}
    async with a.get(f"contacts/{made['id']}") as answer:
        assert await answer.json() == made


async def test_pages_hold_each_contact_once_although_some_come_meanwhile(a: ClientSession) -> None:
    mine = [(await add(a))["id"] for _ in range(5)]
    async with a.get("contacts", params={"limit": "2"}) as answer:
        first = await answer.json()
    assert first["meta"]["hasMore"] is True
    late = (await add(a))["id"]
    found = [contact["id"] for contact in await all_contacts(a, 2)]
    assert len(found) == len(set(found))
    assert {*mine, late} <= set(found)


async def test_a_repeated_request_makes_nothing_new(a: ClientSession, b: ClientSession) -> None:
    key = {"Idempotency-Key": str(uuid4())}

    async def post(client: ClientSession, email: str) -> tuple[int, dict[str, Any]]:
        async with client.post("contacts", json={"email": email}, headers=key) as answer:
            return answer.status, await answer.json()

    answers = await asyncio.gather(*(post(a, "once@x.example") for _ in range(10)))
    assert {status for status, _ in answers} == {201}
    assert len({made["id"] for _, made in answers}) == 1
    status, problem = await post(a, "other@x.example")
    assert (status, problem["type"].rpartition("/")[2]) == (409, "conflict")
    status, theirs = await post(b, "once@x.example")
    assert status == 201
    assert theirs["id"] != answers[0][1]["id"], "a key is one tenant's"
    assert sum(contact["email"] == "once@x.example" for contact in await all_contacts(a, 100)) == 1


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        ({}, "email", "REQUIRED"),
        ({"email": ""}, "email", "TOO_SHORT"),
        ({"email": "x" * 501}, "email", "TOO_LONG"),
        ({"email": "a\u0000b"}, "email", "INVALID_FORMAT"),
        ({"email": "a\ud800b"}, "email", "INVALID_FORMAT"),
        ({"email": "x", "score": 2**31}, "score", "INVALID_FORMAT"),
        ({"email": "x", "tenantId": "x"}, "tenantId", "UNKNOWN_FIELD"),
    ],
)
async def test_what_is_wrong_is_named(a: ClientSession, body: dict[str, Any], field: str, code: str) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with a.post("contacts", json=body, headers={"traceparent": trace}) as answer:
        problem = await answer.json(content_type="application/problem+json")
    assert answer.status == problem["status"] == 400
    assert [(e["field"], e["code"]) for e in problem["errors"]] == [(field, code)]
    assert problem["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert problem["instance"] == "/api/v1/crm/contacts"


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "101"}, {"cursor": "x"}, {"cursor": "!" * 22}])
async def test_a_wrong_page_is_refused(a: ClientSession, query: dict[str, str]) -> None:
    async with a.get("contacts", params=query) as answer:
        assert answer.status == 400
        assert (await answer.json())["errors"][0]["field"] == next(iter(query))


async def test_who_comes_past_the_gateway_is_nobody(address: str) -> None:
    async with aiohttp.ClientSession(address) as session:
        for headers in ({}, {"X-Tenant-ID": "x", "X-User-ID": "y"}):
            async with session.get("/api/v1/crm/contacts", headers=headers) as answer:
                assert answer.status == 401
                assert (await answer.json())["type"].endswith("/unauthenticated")
        async with session.get("/api/v1/crm/nothing") as answer:
            assert (answer.status, (await answer.json())["type"].rpartition("/")[2]) == (404, "not-found")
        async with session.delete("/api/v1/crm/contacts") as answer:
            assert (answer.status, answer.content_type) == (405, "application/problem+json")


async def test_a_new_contact_is_announced_once(a: ClientSession, crm: Crm, postgres: PostgresServer) -> None:
    """The event is written with the contact: a repeated request makes neither again."""
    key = {"Idempotency-Key": str(uuid4())}
    for _ in range(2):
        async with a.post("contacts", json={"email": "once@x.example"}, headers=key) as answer:
            assert answer.status == 201, await answer.text()
            made = await answer.json()
    admin = await asyncpg.connect(postgres.url("postgres", urlsplit(postgres.admin_url).password or ""))
    try:
        rows = await admin.fetch(
            "SELECT topic, tenant_id FROM kernel.outbox WHERE envelope->'data'->>'contactId' = $1", made["id"]
        )
    finally:
        await admin.close()
    assert [tuple(row) for row in rows] == [("platform.crm.events", crm.a)]
