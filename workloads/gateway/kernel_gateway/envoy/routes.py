"""The route table as Envoy's route configuration (RDS).

A request is matched in two steps, so that its cost does not grow with the number of modules: the longest prefix in a
tree picks a module, then the module's own routes are tried in order:

1. the rules, literal segments before ``{name}``: each route carries its rule as metadata, from which the decision
   request's header is made, so what was matched and what is decided can't differ;
2. the paths of the rules with any other method: 405 with Allow;
3. anything else under the prefix: 404.

Only routes that name no module's rule (the kernel's own, and answers of Envoy itself) switch the decision off. Limits
of bodies and the upstream's name are metadata for the breaker's script.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from kernel_gateway.access import Rule
from kernel_gateway.envoy.table import (
    ANALYTICS,
    API_NAMES,
    DATA,
    DEFAULT_MAX_BODY,
    NOTIFY,
    SOCKET_NAME,
    ModuleRoutes,
    PathRule,
)
from kernel_gateway.envoy.typed import Document, extension, typed

NAME = "kernel"
API = "kernel_api"
BREAKER, AUTHORIZATION, CORS = "kernel.breaker", "kernel.decision", "envoy.filters.http.cors"
"""Names of filters in the listener."""
CLIENT_HEADER, CLIENT_ADDRESS = "x-kernel-client", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"
"""What the decision and the API are told of where a request comes from."""
METADATA = "kernel"
"""The namespace of a route's metadata: ``rule`` and ``module``."""

REQUEST_SECONDS = 60.0
"""From the end of the request to the head of the answer; what streams after that is bounded by silence."""
IDLE_SECONDS = 300.0

_EXACT = ("/live", "/ready", "/health", "/health/live", "/health/ready", "/.well-known/jwks.json")
_API_PREFIXES = tuple(f"{base}/{name}" for base in ("/api/v1", "/v1") for name in API_NAMES)
_SOCKET = f"/api/v1/{SOCKET_NAME}"
UNDECIDED = (*_EXACT, *_API_PREFIXES, _SOCKET)
"""Prefixes of the paths that lead somewhere without a decision."""
DECIDED = "x-kernel-decided"
"""On a refusal by the decision, so that the breaker does not take it for the service's; clients don't see it."""
_ALLOWED_METHODS = "GET, HEAD, POST, PATCH, DELETE"
_ALLOWED_HEADERS = "authorization, content-type, idempotency-key, if-match, traceparent, tracestate, x-request-id"
_EXPOSED_HEADERS = (
    "ratelimit, ratelimit-policy, x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset, retry-after, "
    "x-request-id, etag"
)


def route_configuration(
    modules: Iterable[ModuleRoutes],
    origins: Sequence[str] = (),
    *,
    https_only: bool = False,
    request_seconds: float = REQUEST_SECONDS,
) -> Document:
    """The whole route configuration; ``origins`` are those whose pages may call. ``https_only``: browsers are told
    never to use plain HTTP with this host again (not for localhost, where other servers live)."""
    by_slug = {module.slug: module for module in modules}
    lists: dict[str, list[Document]] = {path: [_kernel(path, exact=True)] for path in _EXACT}
    for prefix in _API_PREFIXES:
        lists[prefix] = [_kernel(prefix, exact=False)]
    lists[_SOCKET] = _socket(by_slug.get(NOTIFY))
    for module in sorted(by_slug.values(), key=lambda module: module.slug):
        if module.prefix:
            lists[module.prefix] = [*lists.get(module.prefix, ()), *_module(module, request_seconds)]
        if module.analytics and (data := by_slug.get(DATA)):
            about = _analytics(module, data)
            lists[about.prefix] = _module(about, request_seconds)
    if origins:
        lists = {prefix: [_preflight(), *routes] for prefix, routes in lists.items()}
    host: Document = {"name": NAME, "domains": ["*"], "matcher": _tree(lists)}
    if origins:
        host["typed_per_filter_config"] = {CORS: _cors(origins)}
    return {
        "name": NAME,
        "virtual_hosts": [host],
        "response_headers_to_add": [
            *([_header("strict-transport-security", "max-age=31536000")] if https_only else []),
            _header("x-content-type-options", "nosniff", keep=True),
            _header("x-frame-options", "DENY", keep=True),
            _header("referrer-policy", "no-referrer", keep=True),
        ],
        "response_headers_to_remove": ["x-envoy-overloaded", "server"],
        "max_direct_response_body_size_bytes": 4096,
    }


def _tree(lists: Mapping[str, Sequence[Document]]) -> Document:
    """Longest prefix of the path first; what lies below it is the list's business."""
    return {
        "matcher_tree": {
            "input": extension(
                "request-headers", "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=":path"
            ),
            "prefix_match_map": {
                "map": {
                    prefix: {"action": extension("route", "envoy.config.route.v3.RouteList", routes=list(routes))}
                    for prefix, routes in sorted(lists.items())
                }
            },
        }
    }


def _kernel(path: str, *, exact: bool) -> Document:
    """To the gateway's own API, which decides by itself."""
    return {
        "name": f"kernel {path}",
        "match": {"path": path} if exact else {"path_separated_prefix": path},
        "route": {"cluster": API, **_patience(REQUEST_SECONDS)},
        "request_headers_to_add": [_header(CLIENT_HEADER, CLIENT_ADDRESS)],
        "metadata": {"filter_metadata": {BREAKER: {"max_body": DEFAULT_MAX_BODY}}},
        "request_body_buffer_limit": DEFAULT_MAX_BODY,
        "typed_per_filter_config": {AUTHORIZATION: _undecided()},
    }


def _socket(notify: ModuleRoutes | None) -> list[Document]:
    """The browsers' WebSocket: notify authenticates by the first frame."""
    if notify is None:
        return [_answer({"path": _SOCKET}, 404, "notifications are not installed")]
    return [
        {
            "name": "notify socket",
            "match": {"path": _SOCKET},
            "route": {"cluster": notify.upstream, **_patience(REQUEST_SECONDS)},
            "request_headers_to_remove": ["authorization", "cookie"],
            "metadata": _metadata(notify, None),
            "request_body_buffer_limit": notify.max_body,
            "typed_per_filter_config": {AUTHORIZATION: _undecided()},
        }
    ]


def _analytics(module: ModuleRoutes, data: ModuleRoutes) -> ModuleRoutes:
    """What leads to the service of analytics for ``module``: a rule a model, which demands that the module is active
    and that the caller may read the model. So the service itself has no rights to look up."""
    rules = (PathRule(("GET",), f"/{m}", f"{module.slug}.{m}.read", module.slug) for m in module.analytics)
    return replace(data, prefix=f"{ANALYTICS}/{module.slug}", rules=tuple(rules))


def _module(module: ModuleRoutes, request_seconds: float) -> list[Document]:
    rules = sorted(module.rules, key=lambda rule: [segment.startswith("{") for segment in rule.path.split("/")])
    patterns = {rule.path: pattern(module.prefix, rule.path) for rule in rules}
    routes = [_rule(module, rule, request_seconds) for rule in rules]
    for path in patterns:
        allowed = {m for rule in rules for m in rule.methods if rule.path == path or _covers(rule.path, path)}
        answer = _answer(_path(module.prefix, path), 405, "the path takes other methods, see Allow")
        answer["response_headers_to_add"] = [_header("allow", ", ".join(sorted(allowed)))]
        routes.append(answer)
    beyond = {"path_separated_prefix": module.prefix}
    routes.append(_answer(beyond, 404, f"no rule of the module {module.slug} names this path"))
    return routes


def _rule(module: ModuleRoutes, rule: PathRule, request_seconds: float) -> Document:
    demand = Rule(rule.module or module.slug, rule.permission, public=rule.permission is None)
    return {
        "name": f"{module.slug} {'|'.join(rule.methods)} {rule.path}",
        "match": _path(module.prefix, rule.path) | {"headers": [_methods(rule.methods)]},
        "route": {"cluster": module.upstream, **_patience(request_seconds)},
        # A module learns who calls, not with what: a token would let it call the others in the user's name.
        "request_headers_to_remove": ["authorization", "cookie"],
        # Cookies of this host are the login's; a module that set one could replace a user's session.
        "response_headers_to_remove": ["set-cookie"],
        "metadata": _metadata(module, demand),
        "request_body_buffer_limit": module.max_body,
    }


def _metadata(module: ModuleRoutes, demand: Rule | None) -> Document:
    about: Document = {"module": module.slug}
    if demand is not None:
        about["rule"] = demand.text()
    return {"filter_metadata": {METADATA: about, BREAKER: {"upstream": module.upstream, "max_body": module.max_body}}}


def _patience(request_seconds: float) -> Document:
    """The head of the answer must come in time; the rest may stream as long as something moves. What never reached
    the service (a refused connection, one that was just being closed) is sent once more."""
    return {
        "timeout": "0s",
        "idle_timeout": f"{IDLE_SECONDS}s",
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,reset-before-request",
            "num_retries": 1,
            "per_try_timeout": f"{request_seconds}s",
        },
    }


def pattern(prefix: str, path: str) -> str:
    """The regular expression that a path must match whole; a segment is anything but a slash, and not empty."""
    segments = ("[^/]+" if segment.startswith("{") else re.escape(segment) for segment in path.split("/"))
    return re.escape(prefix) + ("" if path == "/" else "/".join(segments))


def _path(prefix: str, path: str) -> Document:
    if "{" in path:
        return {"safe_regex": {"regex": pattern(prefix, path)}}
    return {"path": prefix if path == "/" else prefix + path}


def _covers(template: str, path: str) -> bool:
    return "{" in template and "{" not in path and re.fullmatch(pattern("", template), path) is not None


def _methods(methods: Sequence[str]) -> Document:
    match = {"exact": methods[0]} if len(methods) == 1 else {"safe_regex": {"regex": "|".join(methods)}}
    return {"name": ":method", "string_match": match}


def _preflight() -> Document:
    """Always answered by the CORS filter, which only looks at routes that lead somewhere."""
    asks: list[Document] = [{"name": ":method", "string_match": {"exact": "OPTIONS"}}]
    asks += [{"name": name, "present_match": True} for name in ("origin", "access-control-request-method")]
    return {
        "name": "preflight",
        "match": {"prefix": "/", "headers": asks},
        "route": {"cluster": API},
        "typed_per_filter_config": {AUTHORIZATION: _undecided()},
    }


def _answer(match: Document, status: int, detail: str) -> Document:
    """Answered by Envoy itself; the detail becomes part of a problem document on its way out."""
    return {
        "match": match,
        "direct_response": {"status": status, "body": {"inline_string": detail}},
        "typed_per_filter_config": {AUTHORIZATION: _undecided()},
    }


def _undecided() -> Document:
    return typed("envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute", disabled=True)


def _cors(origins: Sequence[str]) -> Document:
    return typed(
        "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        allow_origin_string_match=[{"exact": origin} for origin in origins],
        allow_methods=_ALLOWED_METHODS,
        allow_headers=_ALLOWED_HEADERS,
        expose_headers=_EXPOSED_HEADERS,
        allow_credentials=True,
        max_age="600",
        forward_not_matching_preflights=False,
    )


def _header(name: str, value: str, *, keep: bool = False) -> Document:
    action = "ADD_IF_ABSENT" if keep else "OVERWRITE_IF_EXISTS_OR_ADD"
    return {"header": {"key": name, "value": value}, "append_action": action}
