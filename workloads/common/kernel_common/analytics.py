"""How a tenant's ClickHouse user is named, and the password it has.

Nothing is stored: whoever holds the master key (the operator, which makes the users, and the analytics
workload, which reads as them) can work the password out, and nobody else can.
"""

import hmac
from base64 import urlsafe_b64encode
from uuid import UUID

USER_PREFIX = "tenant_"
"""Row policies cut the tenant's id out of the user's name after these seven characters."""

_DOMAIN = b"clickhouse:"


def tenant_user(tenant_id: UUID) -> str:
    """The ClickHouse user that sees the rows of ``tenant_id`` and no other."""
    return f"{USER_PREFIX}{tenant_id}"


def tenant_password(master_key: bytes, tenant_id: UUID, generation: int = 1) -> str:
    """The password of ``tenant_user``: 43 characters of URL-safe base64, 256 bits.

    ``generation`` (1 to 2**32 - 1) grows when a password has to change. Raises ValueError for a master
    key under 32 bytes, or a generation outside the range.
    """
    if len(master_key) < 32:
        raise ValueError("the master key has less than 32 bytes")
    if not 1 <= generation < 1 << 32:
        raise ValueError("the generation must be between 1 and 2**32 - 1")
    digest = hmac.digest(master_key, _DOMAIN + tenant_id.bytes + generation.to_bytes(4, "big"), "sha256")
    return urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
