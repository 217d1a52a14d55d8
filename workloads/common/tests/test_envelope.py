"""The envelope: what is accepted, and how it looks on the wire."""

import json
import math
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kernel_common.events import MAX_BYTES, Envelope
from kernel_common.events.catalogue import EVENTS
from kernel_common.ids import uuid7

TENANT = UUID("0190f5fe-7c00-7000-8000-000000000001")


def event(**fields: Any) -> Envelope:
    return Envelope(**({"type": "crm.contact.created", "source": "crm", "tenant_id": TENANT} | fields))


def test_the_form_on_the_wire() -> None:
    identity = uuid7()
    made = event(id=identity, timestamp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), trace_id="abc", data={"nameOf": 1})
    assert json.loads(made.to_json()) == {
        "id": str(identity),
        "type": "crm.contact.created",
        "source": "crm",
        "tenantId": str(TENANT),
        "schemaVersion": "1.0.0",
        "timestamp": "2026-01-02T03:04:05Z",
        "traceId": "abc",
        "data": {"nameOf": 1},
    }


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_characters="\x00", codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab\\u0", max_size=7), inner, max_size=3),
    max_leaves=10,
)


@given(data=st.dictionaries(st.text("abc", max_size=3), JSON, max_size=4))
def test_what_is_written_is_read_again(data: dict[str, Any]) -> None:
    made = event(data=data)
    assert Envelope.model_validate_json(made.to_json()) == made


BAD: dict[str, dict[str, Any]] = {
    "two parts": {"type": "crm.created"},
    "four parts": {"type": "crm.a.b.c"},
    "upper case": {"type": "crm.Contact.created"},
    "hyphen": {"type": "crm.contact-x.created"},
    "line end": {"type": "crm.contact.created\n"},
    "long type": {"type": "crm." + "a" * 200 + ".b"},
    "id of another version": {"id": uuid4()},
    "no source": {"source": ""},
    "no version": {"schema_version": "1.0"},
    "time without zone": {"timestamp": datetime(2026, 1, 1)},
    "trace with a space": {"trace_id": "a b"},
    "unknown field": {"payload": {}},
    "not a number": {"data": {"a": math.nan}},
    "infinite": {"data": {"a": [math.inf]}},
    "zero character": {"data": {"a": "x\x00"}},
    "zero character in a name": {"data": {"\x00": 1}},
    "zero character behind a backslash": {"data": {"a": "\\\x00"}},
    "lone surrogate": {"data": {"a": "\ud800"}},
    "too large": {"data": {"a": "x" * MAX_BYTES}},
    "long key": {"type": "auth.user.created", "data": {"userId": "u" * 401}},
    "no JSON": {"data": {"a": object()}},
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        event(**BAD[name])
    assert "input_value" not in str(caught.value), "an error must not repeat the data"


def test_the_letters_of_an_escaped_zero_are_no_zero() -> None:
    assert event(data={"a": "\\u0000"}).data == {"a": "\\u0000"}


def test_the_limit_counts_the_whole_envelope_in_bytes() -> None:
    room = MAX_BYTES - len(event(trace_id=None, data={"a": ""}).to_json().encode())
    largest = event(data={"a": "x" * (room - 20)})
    assert len(largest.to_json().encode()) <= MAX_BYTES
    with pytest.raises(ValidationError, match="at most"):
        event(data={"a": "ü" * (room // 2 + 20)})


@pytest.mark.parametrize(
    ("kind", "data", "key"),
    [
        ("auth.user.created", {"userId": "u1"}, "u1"),
        ("module.registry.activated", {"moduleId": "crm"}, "crm"),
        ("money.wallet.credited", {"walletId": "w", "userId": "u"}, "w"),
        ("data.contact.changed", {"recordId": "r"}, "r"),
        ("files.file.stored", {"fileId": "f"}, "f"),
        ("notify.notification.sent", {"userId": "u"}, "u"),
        ("audit.entry.written", {"entityId": "e"}, "e"),
        ("billing.plan.changed", {"userId": "u"}, str(TENANT)),
        ("auth.tenant.created", {"tenantId": "t"}, str(TENANT)),
        ("crm.contact.created", {"id": "x"}, str(TENANT)),
        ("money.wallet.credited", {"walletId": ""}, str(TENANT)),
    ],
)
def test_topic_and_key(kind: str, data: dict[str, Any], key: str) -> None:
    made = event(type=kind, data=data)
    assert made.topic == f"platform.{kind.partition('.')[0]}.events"
    assert made.key == key


def test_the_schema_version_is_the_catalogues_unless_it_is_given() -> None:
    assert event().schema_version == "1.0.0"
    assert event(schema_version="2.1.0").schema_version == "2.1.0"
    for known in EVENTS.values():
        assert event(type=known.name).schema_version == known.version
