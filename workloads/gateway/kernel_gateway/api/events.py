"""The gateway's domain events."""

from uuid import UUID

from pydantic import JsonValue

from kernel_common.events import Envelope
from kernel_gateway.api import trace

SOURCE = "kernel-gateway"


def event(type: str, tenant: UUID, /, **data: JsonValue) -> Envelope:
    """An event of ``tenant``, with the trace of the request that is served. ``data`` is named as it goes out."""
    return Envelope(type=type, source=SOURCE, tenant_id=tenant, trace_id=trace.current.get() or None, data=dict(data))
