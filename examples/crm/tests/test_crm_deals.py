"""Deals over HTTP."""

from typing import Any
from uuid import uuid4

from aiohttp import ClientSession
from test_crm_contacts import add


async def test_a_deal_keeps_its_values(a: ClientSession, b: ClientSession) -> None:
    contact = (await add(a))["id"]
    deal = {
        "contactId": contact,
        "title": "Chairs",
        "amount": "1200.500000",
        "closedAt": "2026-03-01T10:00:00Z",
        "details": {"colour": "red", "parts": [1, {"n": None}]},
    }
    key = {"Idempotency-Key": str(uuid4())}
    async with a.post("deals", json=deal, headers=key) as answer:
        made: dict[str, Any] = await answer.json()
    assert answer.status == 201
    assert {name: made[name] for name in deal} == deal
    async with a.post("deals", json=deal, headers=key) as answer:
        assert (answer.status, await answer.json()) == (201, made), "a deal that is sent again is the same deal"
    async with a.get("deals") as answer:
        assert made in (await answer.json())["data"]
    async with b.get("deals") as answer:
        assert made["id"] not in {deal["id"] for deal in (await answer.json())["data"]}


async def test_a_deal_needs_a_contact_of_the_tenant(a: ClientSession, b: ClientSession) -> None:
    theirs = (await add(b))["id"]
    async with a.post("deals", json={"contactId": theirs, "title": "Chairs"}) as answer:
        assert answer.status == 400
        assert (await answer.json())["errors"][0]["field"] == "contactId"


async def test_values_that_the_database_cant_hold_are_refused(a: ClientSession) -> None:
    contact = (await add(a))["id"]
    for field, value in (
        ("amount", "1e30"),
        ("amount", "0.0000001"),
        ("amount", "NaN"),
        ("closedAt", "0001-01-01T00:00:00+14:00"),
        ("closedAt", "9999-12-31T23:00:00-14:00"),
        ("closedAt", "2026-03-01T10:00:00"),
        ("details", {"a": "\u0000"}),
        ("details", {"a": float("nan")}),
        ("details", {"a": "x" * 10_000}),
    ):
        async with a.post("deals", json={"contactId": contact, "title": "x", field: value}) as answer:
            assert answer.status == 400, (field, value)
            assert [e["field"] for e in (await answer.json())["errors"]] == [field]
