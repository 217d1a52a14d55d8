"""The trace that a request belongs to: W3C Trace Context."""

import re
import secrets

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")

_REQUEST_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")


def trace_id(traceparent: str | None) -> str:
    """The trace's id (32 hexadecimal digits) in a header ``traceparent``; empty when it holds none."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    return found[1] if found else ""


def new_trace_id(request_id: str = "") -> str:
    """The id of a new trace: the request's own, when that is a UUID, so that either is found by the other."""
    name = request_id.replace("-", "").lower()
    return name if _REQUEST_ID.fullmatch(name) else secrets.token_hex(16)


def traceparent(trace: str) -> str:
    """The header ``traceparent`` of the first span of ``trace``; it is sampled."""
    return f"00-{trace}-{secrets.token_hex(7)}01-01"
