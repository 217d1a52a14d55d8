"""The trace of the request that is served."""

import secrets
from contextvars import ContextVar

from kernel_common.traces import trace_id

current: ContextVar[str] = ContextVar("trace_id", default="")
"""32 hex digits while a request is served, else empty."""


def of(traceparent: str) -> str:
    """The trace that a ``traceparent`` header names, or a new one when it names none."""
    return trace_id(traceparent) or secrets.token_hex(16)
