"""A tenant's ClickHouse password: the same for whoever holds the key, and for nobody else."""

import re
from uuid import UUID

import pytest

from kernel_common.analytics import tenant_password, tenant_user

KEY = bytes(range(32))
ACME = UUID("0190f1c2-0000-5000-8000-000000000001")
GLOBEX = UUID("0190f1c2-0000-5000-8000-000000000002")


def test_it_is_the_same_every_time_and_text_that_needs_no_quoting():
    assert tenant_password(KEY, ACME) == tenant_password(KEY, ACME, 1)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", tenant_password(KEY, ACME))


def test_it_is_pinned():
    """Every user that was ever made depends on it."""
    import hashlib
    import hmac
    from base64 import urlsafe_b64encode

    message = b"clickhouse:" + ACME.bytes + b"\x00\x00\x00\x01"
    expected = urlsafe_b64encode(hmac.new(KEY, message, hashlib.sha256).digest()).decode().rstrip("=")
    assert tenant_password(KEY, ACME) == expected


def test_key_tenant_and_generation_each_change_it():
    passwords = {
        tenant_password(KEY, ACME),
        tenant_password(KEY, GLOBEX),
        tenant_password(KEY, ACME, 2),
        tenant_password(bytes(32), ACME),
    }
    assert len(passwords) == 4


@pytest.mark.parametrize(("key", "generation"), [(b"short", 1), (KEY, 0), (KEY, 1 << 32), (KEY, -1)])
def test_what_can_not_be_is_refused(key, generation):
    with pytest.raises(ValueError, match=r"master key|generation"):
        tenant_password(key, ACME, generation)


def test_the_id_starts_where_the_policies_cut():
    assert tenant_user(ACME)[7:] == str(ACME)
