"""What Envoy answers by itself, as problem documents.

The first mapper that fits is used. The decision's own answer is a problem document already and goes through as it is;
what our routes and the breaker answer becomes the document's detail; everything else gets a fixed text, because Envoy's
own words name addresses inside.
"""

import json

from kernel_common.problems import MEDIA_TYPE, Problem
from kernel_gateway.envoy.routes import DECIDED
from kernel_gateway.envoy.typed import Document, extension

_OURS = {404: "not-found", 405: "method-not-allowed", 413: "payload-too-large", 503: "service-unavailable"}
"""Statuses that routes and the breaker answer with."""
_FIXED = {
    400: ("validation-error", "the request is not one that HTTP allows, or its path is ambiguous"),
    403: ("forbidden", "the connection can't be upgraded to this protocol"),
    404: ("not-found", "nothing is routed at this path"),
    408: ("request-timeout", "the request did not arrive in time"),
    413: ("payload-too-large", "the body is larger than this path allows"),
    426: ("upgrade-required", "this version of HTTP is not spoken here"),
    429: ("rate-limit-exceeded", "too many requests at once, try again in a second"),
    431: ("request-headers-too-large", "the headers are too large or too many"),
    502: ("service-unavailable", "the service did not answer, try again"),
    503: ("service-unavailable", "the service can't be reached now, try again"),
    504: ("gateway-timeout", "the service took too long to answer"),
}
TRACE_HEADER = "x-trace-id"
_UNTRACED = {"operators": [{"command": "REQ", "param": TRACE_HEADER, "max_length": 36}, {"command": "UNIQUE_ID"}]}
"""A request that was refused before it could be traced gets an id all the same."""
LOGGED_TRACE = (
    "%COALESCE("
    + json.dumps({"operators": [{"command": name, "param": TRACE_HEADER} for name in ("REQ", "RESP")]})
    + ")%"
)
"""For the access log: the trace, or that id."""


def local_replies() -> Document:
    """HCM's ``local_reply_config``."""
    return {
        "mappers": [
            {
                "filter": _details("ext_authz_denied"),
                "body_format_override": {
                    "text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"},
                    "content_type": MEDIA_TYPE,
                },
            },
            _undecided(),
            *(_ours(status, slug) for status, slug in _OURS.items()),
            *(_fixed(status, slug, detail) for status, (slug, detail) in _FIXED.items()),
        ],
        "body_format": _body("internal-error", 500, "the gateway could not handle the request"),
    }


def _ours(status: int, slug: str) -> Document:
    reasons = _details("direct_response", "lua_response")
    return _mapper({"and_filter": {"filters": [_status(status), reasons]}}, slug, status, "%LOCAL_REPLY_BODY%")


def _undecided() -> Document:
    """The decision server gives no answer."""
    slug, detail = _FIXED[503]
    mapper = _mapper(_details("ext_authz_error"), slug, 503, detail)
    mapper["headers_to_add"] += [_header("retry-after", "1"), _header(DECIDED, "not")]
    return mapper


def _fixed(status: int, slug: str, detail: str) -> Document:
    sent = 503 if status == 502 else status
    mapper = _mapper(_status(status), slug, sent, detail)
    if sent != status:
        mapper["status_code"] = sent
    if sent == 503:
        mapper["headers_to_add"].append(_header("retry-after", "1"))
    return mapper


def _mapper(which: Document, slug: str, status: int, detail: str) -> Document:
    """The id is made once, as a header, from which body and log take it."""
    trace = _header(TRACE_HEADER, f"%COALESCE({json.dumps(_UNTRACED)})%")
    return {"filter": which, "body_format_override": _body(slug, status, detail), "headers_to_add": [trace]}


def _header(name: str, value: str) -> Document:
    return {"header": {"key": name, "value": value}, "append_action": "ADD_IF_ABSENT"}


def _body(slug: str, status: int, detail: str) -> Document:
    """The same members as ``kernel_common.problems``; Envoy fills in the path and the trace."""
    document = Problem(status, slug, detail, "%PATH(NQ)%", f"%RESP({TRACE_HEADER})%").document()
    # A request that could not even be parsed has no path, and then the member is left out.
    return {"json_format": document, "content_type": MEDIA_TYPE, "omit_empty_values": True}


def _status(status: int) -> Document:
    return {"status_code_filter": _equals(status)}


def _equals(status: int) -> Document:
    return {"comparison": {"op": "EQ", "value": {"default_value": status, "runtime_key": "kernel.no_such_key"}}}


def _details(*reasons: str) -> Document:
    """Replies for one of these reasons."""
    return {
        "extension_filter": extension(
            "envoy.access_loggers.extension_filters.cel",
            "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
            expression=f"response.code_details in {json.dumps(list(reasons))}",
        )
    }
