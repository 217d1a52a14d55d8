"""The one listener: TLS, what a request must look like, and the filters it passes, in order.

The trace, CORS, the local token bucket, the decision, the breaker, the router. The listener never changes while Envoy
runs, so a change of routes touches neither connections nor the breaker's memory.
"""

from kernel_gateway.access import IDENTITY_HEADERS, RULE_HEADER
from kernel_gateway.envoy import routes, scripts
from kernel_gateway.envoy.clusters import DECISION
from kernel_gateway.envoy.replies import LOGGED_TRACE, TRACE_HEADER, local_replies
from kernel_gateway.envoy.settings import EnvoySettings
from kernel_gateway.envoy.typed import Document, extension, typed

CERTIFICATE = "kernel_tls"
"""The name of the certificate among Envoy's secrets."""
DECISION_SECONDS = 2

_STRIPPED_PREFIXES = ("x-kernel-", "x-envoy-")
_STRIPPED = (
    *(name for name in IDENTITY_HEADERS if not name.startswith("x-kernel-")),
    TRACE_HEADER,
    "forwarded",
    "x-real-ip",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    # Frameworks that obey these would see another method or path than the one that was decided on.
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-original-method",
    "x-rewrite-url",
)
_HOPS = ("x-forwarded-for", "x-forwarded-proto")
"""Nobody in front of us may set these unless a proxy is expected there; Envoy makes them anew."""
_TO_SERVICE = ("x-user-id", "x-tenant-id", "x-user-roles", "x-actor-id", "traceparent", TRACE_HEADER)
_TO_CLIENT = ("ratelimit", "ratelimit-policy", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")
_WITH_REFUSAL = ("content-type", "retry-after", "www-authenticate", TRACE_HEADER, routes.DECIDED)
_HTTP = "envoy.extensions.filters.http"


def listener(settings: EnvoySettings) -> Document:
    """The HTTPS listener of the bootstrap."""
    return {
        "name": "https",
        "address": _address(settings.gateway_https_host, settings.gateway_https_port),
        "per_connection_buffer_limit_bytes": 1_048_576,
        "listener_filters": [
            extension("tls_inspector", "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector")
        ],
        "listener_filters_timeout": "10s",
        "filter_chains": [
            {
                "transport_socket": _tls(settings),
                "transport_socket_connect_timeout": "10s",
                "filters": [extension("http", _MANAGER, **_manager(settings))],
            }
        ],
    }


_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def _tls(settings: EnvoySettings) -> Document:
    return extension(
        "tls",
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        common_tls_context={
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificate_sds_secret_configs": [
                {"name": CERTIFICATE, "sds_config": file_source(settings, "sds.json")}
            ],
        },
    )


def _manager(settings: EnvoySettings) -> Document:
    return {
        "stat_prefix": "https",
        "codec_type": "AUTO",
        "rds": {"route_config_name": routes.NAME, "config_source": file_source(settings, "rds.json")},
        "http_filters": [
            _last_of_all(),
            _where_traced_here(_lua("kernel.trace", scripts.trace())),
            extension(routes.CORS, f"{_HTTP}.cors.v3.Cors"),
            _token_bucket(settings.local_rate_per_sec),
            _decision(settings.gateway_decision_port),
            _lua(routes.BREAKER, scripts.breaker(settings)),
            extension("envoy.filters.http.router", f"{_HTTP}.router.v3.Router"),
        ],
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "local_reply_config": local_replies(),
        "access_log": [_access_log(settings)],
        # The path that is matched, decided on and sent on is one and the same, without dot segments or double slashes.
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "common_http_protocol_options": {
            "idle_timeout": "120s",
            "headers_with_underscores_action": "REJECT_REQUEST",
            "max_headers_count": 100,
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 128,
            "initial_stream_window_size": 262_144,
            "initial_connection_window_size": 1_048_576,
        },
        "max_request_headers_kb": 32,
        "request_headers_timeout": "10s",
        "stream_idle_timeout": f"{routes.IDLE_SECONDS}s",
        "delayed_close_timeout": "1s",
        "use_remote_address": True,
        "xff_num_trusted_hops": settings.gateway_trusted_hops,
        "internal_address_config": {"unix_sockets": False},
        "early_header_mutation_extensions": [
            extension(
                "strip",
                "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                mutations=[
                    *({"remove": name} for name in (*_STRIPPED, *([] if settings.gateway_trusted_hops else _HOPS))),
                    *({"remove_on_match": {"key_matcher": {"prefix": prefix}}} for prefix in _STRIPPED_PREFIXES),
                ],
            )
        ],
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "request_id_extension": {
            "typed_config": typed(
                "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
                pack_trace_reason=False,
                use_request_id_for_trace_sampling=False,
            )
        },
        "server_header_transformation": "PASS_THROUGH",
        "stream_error_on_invalid_http_message": False,
    }


def _last_of_all() -> Document:
    """The first filter, so the last that sees an answer: takes off what the breaker reads and clients should not."""
    needless = ({"remove": name} for name in ("x-envoy-upstream-service-time", routes.DECIDED))
    return extension(
        "kernel.clean",
        f"{_HTTP}.header_mutation.v3.HeaderMutation",
        mutations={"response_mutations": list(needless)},
    )


def _where_traced_here(trace: Document) -> Document:
    """``trace``, for requests that bring a trace and those that the decision never sees. A script costs more than all
    else that happens to a request here, and most bring none: for them the decision makes one with its answer."""
    brought = [
        _predicate(name, {"safe_regex": {"google_re2": {}, "regex": ".*"}}) for name in ("traceparent", "tracestate")
    ]
    undecided = [_predicate(":path", {"prefix": prefix}) for prefix in routes.UNDECIDED]
    needless = {"not_matcher": {"or_matcher": {"predicate": [*brought, *undecided]}}}
    skip = extension("skip", "envoy.extensions.filters.common.matcher.action.v3.SkipFilter")
    return extension(
        trace["name"],
        "envoy.extensions.common.matching.v3.ExtensionWithMatcher",
        extension_config=trace,
        xds_matcher={"matcher_list": {"matchers": [{"predicate": needless, "on_match": {"action": skip}}]}},
    )


def _predicate(header: str, value: Document) -> Document:
    input_ = extension("header", "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=header)
    return {"single_predicate": {"input": input_, "value_match": value}}


def _lua(name: str, text: str) -> Document:
    return extension(name, f"{_HTTP}.lua.v3.Lua", default_source_code={"inline_string": text})


def _token_bucket(per_second: int) -> Document:
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return extension(
        "envoy.filters.http.local_ratelimit",
        f"{_HTTP}.local_ratelimit.v3.LocalRateLimit",
        stat_prefix="local",
        token_bucket={"max_tokens": per_second, "tokens_per_fill": per_second, "fill_interval": "1s"},
        filter_enabled=always,
        filter_enforced=always,
        response_headers_to_add=[{"header": {"key": "retry-after", "value": "1"}}],
    )


def _decision(port: int) -> Document:
    """The question to the gateway: method and path as they go upstream, the token, and what Envoy itself knows: the
    rule that matched, and the client's address."""
    facts = {
        RULE_HEADER: f"%METADATA(ROUTE:{routes.METADATA}:rule)%",
        routes.CLIENT_HEADER: routes.CLIENT_ADDRESS,
    }
    return extension(
        routes.AUTHORIZATION,
        f"{_HTTP}.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        stat_prefix="decision",
        failure_mode_allow=False,
        status_on_error={"code": "ServiceUnavailable"},
        validate_mutations=True,
        clear_route_cache=False,
        allowed_headers={"patterns": [{"exact": name} for name in ("authorization", "traceparent", "x-request-id")]},
        http_service={
            "server_uri": {
                "uri": f"http://127.0.0.1:{port}",
                "cluster": DECISION,
                "timeout": f"{DECISION_SECONDS}s",
            },
            "authorization_request": {
                "headers_to_add": [{"key": name, "value": value} for name, value in facts.items()]
            },
            "authorization_response": {
                "allowed_upstream_headers": {"patterns": [{"exact": name} for name in _TO_SERVICE]},
                "allowed_client_headers": {"patterns": [{"exact": n} for n in (*_TO_CLIENT, *_WITH_REFUSAL)]},
                "allowed_client_headers_on_success": {"patterns": [{"exact": name} for name in _TO_CLIENT]},
            },
        },
    )


def _access_log(settings: EnvoySettings) -> Document:
    """One line of JSON a request: no query, no token, no cookie."""
    fields = {
        "ts": "%START_TIME%",
        "method": "%REQ(:METHOD)%",
        "path": "%PATH(NQ)%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "duration_ms": "%DURATION%",
        "bytes_in": "%BYTES_RECEIVED%",
        "bytes_out": "%BYTES_SENT%",
        "protocol": "%PROTOCOL%",
        "client": routes.CLIENT_ADDRESS,
        "tenant": "%REQ(X-TENANT-ID)%",
        "user": "%REQ(X-USER-ID)%",
        "trace_id": LOGGED_TRACE,
        "request_id": "%REQ(X-REQUEST-ID)%",
        "upstream": "%UPSTREAM_CLUSTER%",
        "rule": f"%METADATA(ROUTE:{routes.METADATA}:rule)%",
    }
    format_ = {"json_format": fields}
    if settings.gateway_access_log == "stdout":
        kind = "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"
        return extension("envoy.access_loggers.stdout", kind, log_format=format_)
    kind = "envoy.extensions.access_loggers.file.v3.FileAccessLog"
    return extension("envoy.access_loggers.file", kind, path=str(settings.gateway_access_log), log_format=format_)


def file_source(settings: EnvoySettings, name: str) -> Document:
    """A document that Envoy reads again whenever a new one is moved to its place."""
    folder = settings.gateway_envoy_directory
    return {
        "path_config_source": {"path": str(folder / name), "watched_directory": {"path": str(folder)}},
        "resource_api_version": "V3",
        "initial_fetch_timeout": "5s",
    }


def _address(host: str, port: int) -> Document:
    return {"socket_address": {"address": host, "port_value": port}}
