"""Identifiers.

A tenant's id is a UUIDv5 of its name, so that it is the same after a cluster was lost and its
resources were applied again. Every other id is a UUIDv7 (RFC 9562): sortable by time of making.
"""

import os
import time
from uuid import UUID, uuid5

TENANT_NAMESPACE = UUID("6f0c3a0e-52f8-5d6b-9b0a-3c1f1d0a7c11")
"""The namespace of all tenant ids. It is part of the data: it must never change."""


def tenant_id(name: str) -> UUID:
    """The id of the tenant whose Kubernetes name is ``name``."""
    return uuid5(TENANT_NAMESPACE, name)


def uuid7() -> UUID:
    """A new UUIDv7: 48 bits of Unix milliseconds, 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    high, low = random >> 62 & 0xFFF, random & ((1 << 62) - 1)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low)
