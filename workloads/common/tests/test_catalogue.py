"""The catalogue: true to what the code emits, and told truly by the document."""

import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from jsonschema_rs import validator_for

from kernel_common.events import Envelope, UnfitEvent
from kernel_common.events.catalogue import CAPTURE, DOMAINS, EVENTS, check
from kernel_common.events.catalogue.asyncapi import document
from kernel_common.ids import uuid7
from kernel_operator.targets.kafka.topics import KERNEL_DOMAINS, Retention

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "asyncapi.yaml"
PUBLISHERS = ("workloads/gateway/kernel_gateway", "operator/kernel_operator", "workloads/cdc/kernel_cdc")

WHO = str(uuid7())
USER: dict[str, Any] = {"userId": WHO, "tenantId": WHO, "roles": ["Owner"]}
TENANT = {"tenantId": WHO, "name": "acme", "displayName": "Acme", "tier": "client", "parentId": None}
CREDITED = {
    "transactionId": WHO,
    "walletId": WHO,
    "userId": WHO,
    "amount": 5,
    "currency": "EUR",
    "balanceAfter": {"available": 5, "pending": 0, "frozen": 0},
}


@pytest.mark.parametrize("folder", PUBLISHERS)
def test_every_type_that_the_code_names_is_in_the_catalogue(folder: str) -> None:
    literal = re.compile(rf"""f?b?["']((?:{"|".join(DOMAINS)})(?:\.[a-z_]+){{2}})["']""")
    found = {
        name for file in (ROOT / folder).rglob("*.py") for name in literal.findall(file.read_text(encoding="utf-8"))
    }
    permissions = {name for name in found if name.startswith(("files.", "billing.", "audit."))}
    assert found - permissions, "nothing found: does the search still fit the code?"
    assert found - permissions <= EVENTS.keys() | CAPTURE.keys()


def test_types_and_topics_are_those_of_the_domains() -> None:
    """The operator makes the topics, and has the default retention of each."""
    assert set(DOMAINS) == set(KERNEL_DOMAINS)
    for domain in DOMAINS.values():
        topic = Retention().kernel_topic(domain.name)
        assert (topic.name, topic.retention_hours) == (domain.topic, domain.retention_hours)
    for name, event in EVENTS.items():
        assert Envelope(type=name, source="x", tenant_id=WHO).topic == event.domain.topic


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("auth.user.created", USER),
        ("auth.user.created", {**USER, "email": "a@b.example", "by": WHO, "actorId": WHO}),
        ("auth.role.changed", {"userId": WHO, "oldRoles": [], "newRoles": ["Owner"]}),
        (
            "auth.role.changed",
            {"roleId": WHO, "name": "Agent", "change": "deleted", "oldPermissions": ["a.b.c"], "newPermissions": []},
        ),
        ("auth.tenant.updated", {**TENANT, "changed": ["limits"]}),
        ("money.wallet.credited", CREDITED),
        ("crm.contact.created", {"anything": [1]}),
    ],
)
def test_what_fits(kind: str, data: dict[str, Any]) -> None:
    check(kind, "1.0.0", data)


@pytest.mark.parametrize(
    ("kind", "data", "field"),
    [
        ("auth.user.created", {"userId": WHO, "tenantId": WHO}, "data.roles"),
        ("auth.user.created", {**USER, "userId": "ada"}, "data.userId"),
        ("auth.user.created", {**USER, "user_id": WHO}, "data.user_id"),
        ("auth.user.created", {**USER, "password": "secret"}, "data.password"),
        ("auth.role.changed", {"userId": WHO, "oldRoles": [], "newRoles": [1]}, "data.newRoles.0"),
        ("auth.role.changed", {"roleId": WHO, "name": "x"}, "data.change"),
        ("money.wallet.credited", {**CREDITED, "amount": 0}, "data.amount"),
        ("money.wallet.credited", {**CREDITED, "amount": "5"}, "data.amount"),
        ("money.wallet.credited", {**CREDITED, "balanceAfter": {"available": -1}}, "data.balanceAfter.available"),
        ("auth.user.forgotten", {}, "type"),
        ("billing.plan.changed", {}, "type"),
        ("data.record.changed", {}, "type"),
    ],
)
def test_what_does_not_fit_names_its_field(kind: str, data: dict[str, Any], field: str) -> None:
    with pytest.raises(UnfitEvent) as caught:
        check(kind, "1.0.0", data)
    assert (caught.value.type, caught.value.field) == (kind, field)
    assert str(caught.value).startswith(f"{kind}: {field}: ")
    assert "secret" not in str(caught.value)


def test_another_version_than_the_catalogues_does_not_fit() -> None:
    with pytest.raises(UnfitEvent, match=r"schemaVersion: it is 1\.0\.0"):
        check("auth.mfa.enabled", "1.1.0", {"userId": WHO})


def test_the_document_is_the_catalogues() -> None:
    written = yaml.safe_load(DOCUMENT.read_text(encoding="utf-8"))
    assert written == document(), "python -m kernel_common.events.catalogue > docs/asyncapi.yaml"
    assert set(written["components"]["messages"]) == {*EVENTS, *CAPTURE, "module.event"}


def test_every_reference_of_the_document_leads_somewhere() -> None:
    whole = document()

    def references(part: Any) -> list[str]:
        if isinstance(part, list):
            return [found for inner in part for found in references(inner)]
        if not isinstance(part, dict):
            return []
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [found for inner in part.values() for found in references(inner)]

    found = set(references(whole))
    assert found
    for reference in found:
        place: Any = whole
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
        assert isinstance(place, dict)


def validator(name: str) -> Any:
    whole = document()
    return validator_for({**whole["components"]["messages"][name]["payload"], "components": whole["components"]})


def test_an_event_is_as_the_document_says_and_a_newer_one_is_too() -> None:
    event = Envelope(type="money.wallet.credited", source="x", tenant_id=WHO, data=CREDITED)
    wire = event.model_dump(mode="json", by_alias=True)
    says = validator(event.type)
    assert says.is_valid(wire)
    assert says.is_valid({**wire, "data": {**CREDITED, "addedLater": 1}}), "readers ignore what they don't know"
    assert not says.is_valid({**wire, "data": {**CREDITED, "amount": "5"}})
    assert not says.is_valid({**wire, "type": "money.wallet.debited"})
    assert not says.is_valid({name: value for name, value in wire.items() if name != "tenantId"})


def test_a_change_is_as_the_document_says() -> None:
    changed = {
        "op": "u",
        "module": "crm",
        "model": "contacts",
        "tenantId": str(uuid4()),
        "recordId": WHO,
        "lsn": 26738688,
        "committedAt": "2026-11-24T14:05:09.123456Z",
        "row": {"email": "ada@acme.example", "deleted_at": None},
    }
    says = validator("data.record.changed")
    assert says.is_valid(changed)
    assert not says.is_valid({**changed, "op": "w"})
