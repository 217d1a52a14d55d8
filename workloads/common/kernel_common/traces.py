"""The trace that a request belongs to: W3C Trace Context."""

import re

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


def trace_id(traceparent: str | None) -> str:
    """The trace's id (32 hexadecimal digits) in a header ``traceparent``; empty when it holds none."""
    found = _TRACEPARENT.fullmatch(traceparent or "")
    return found[1] if found else ""
