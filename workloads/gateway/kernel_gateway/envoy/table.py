"""The route table as the operator writes it: one JSON text a module, read strictly.

An entry that says something unexpected is refused whole, so that one bad module can't make a document that Envoy
refuses for all of them.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

DEFAULT_MAX_BODY = 1_048_576
DATA = "data"
"""The slug that no module has: the service that answers analytics, in the table's place for it."""
DATA_ADDRESS = ("kernel-data", 8080)
"""Its Service, beside the gateway's own; GATEWAY_UPSTREAM_OVERRIDES names another under ``data``."""
ANALYTICS = "/api/v1/analytics"
NOTIFY = "notify"
"""The module that holds the browsers' WebSockets."""
API_NAMES = ("auth", "events", "invitations", "members", "permissions", "roles")
"""First parts of a path, after /api/v1/ and /v1/, that the gateway's own API serves, whatever the table says."""
SOCKET_NAME = "ws"
"""/api/v1/ws, the browsers' WebSocket."""

_SLUG = re.compile(r"[a-z][a-z0-9_]{0,62}")


class EntryError(Exception):
    """An entry of the table can't be used; the message says which field and why."""


@dataclass(frozen=True, slots=True)
class PathRule:
    """``path`` comes after the module's prefix, ``/`` is the prefix itself; ``{name}`` in it is one segment.
    ``permission`` is None where anybody may call. ``module``: whose it is, where it is another's than the routes."""

    methods: tuple[str, ...]
    path: str
    permission: str | None
    module: str | None = None


@dataclass(frozen=True, slots=True)
class ModuleRoutes:
    """Where a module's requests go. ``max_body`` is in bytes. ``analytics`` are models that the service of analytics
    answers for. A module without a service has an empty ``prefix``, no rules, and perhaps analytics."""

    slug: str
    prefix: str
    host: str
    port: int
    rules: tuple[PathRule, ...]
    max_body: int = DEFAULT_MAX_BODY
    analytics: tuple[str, ...] = ()

    @property
    def upstream(self) -> str:
        """The name of its cluster in Envoy."""
        return f"module_{self.slug}"


Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\z", strict=True)]


class _Entry(BaseModel):
    """Fields that we don't know are for others."""

    model_config = ConfigDict(extra="ignore", strict=True)


class _Rule(_Entry):
    methods: list[Literal["GET", "HEAD", "POST", "PATCH", "DELETE"]] = Field(min_length=1, max_length=5)
    path: Annotated[
        str,
        StringConstraints(max_length=200, pattern=r"^(/|(/([A-Za-z0-9_~-][A-Za-z0-9._~-]*|[{][a-z][a-z0-9_]*[}]))+)\z"),
    ]
    permission: Annotated[str, StringConstraints(max_length=128, pattern=r"^[a-z][a-z0-9_.-]*(\.\*)?\z")] | None


Models = Annotated[
    list[Annotated[str, StringConstraints(max_length=40, pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*\z")]],
    Field(default_factory=list, max_length=100),
]


class _Bare(_Entry):
    """Of a module without a service."""

    prefix: None
    analytics: Models


class _Route(_Entry):
    prefix: Annotated[str, StringConstraints(max_length=128, pattern=r"^/api/v1(/[a-z0-9]([a-z0-9_-]*[a-z0-9])?)+\z")]
    namespace: Label
    service: Label
    port: int = Field(ge=1, le=65535)
    rules: list[_Rule] = Field(min_length=1, max_length=100)
    max_body: int | None = Field(None, alias="maxBodyBytes", ge=1, le=10_485_760)
    analytics: Models


def parse(slug: str, text: str, override: str | None = None) -> ModuleRoutes:
    """One entry. ``override`` (host:port) replaces the Service, for development. Raises EntryError."""
    if not _SLUG.fullmatch(slug) or slug == DATA:
        raise EntryError("the slug is not one")
    try:
        with suppress(ValidationError):
            return ModuleRoutes(slug, "", "", 0, (), analytics=tuple(_Bare.model_validate_json(text).analytics))
        route = _Route.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        raise EntryError(f"{'.'.join(map(str, first['loc'])) or 'entry'}: {first['msg']}") from None
    if (name := route.prefix.split("/")[3]) in (*API_NAMES, SOCKET_NAME, ANALYTICS.rpartition("/")[2]) and (
        name,
        slug,
    ) != (
        SOCKET_NAME,
        NOTIFY,
    ):
        raise EntryError(f"prefix: /api/v1/{name} is the kernel's own")
    host, port = (f"{route.service}.{route.namespace}.svc", route.port) if override is None else _address(override)
    rules = tuple(PathRule(tuple(rule.methods), rule.path, rule.permission) for rule in route.rules)
    analytics = tuple(route.analytics)
    return ModuleRoutes(slug, route.prefix, host, port, rules, route.max_body or DEFAULT_MAX_BODY, analytics)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise EntryError("GATEWAY_UPSTREAM_OVERRIDES: must be host:port")
    return host, int(port)


@dataclass(frozen=True, slots=True)
class Reading:
    """A table as far as it could be understood, and why the rest was not, by slug. ``texts`` are the entries in use."""

    modules: Mapping[str, ModuleRoutes]
    texts: Mapping[str, str]
    refused: Mapping[str, str]


def read(entries: Mapping[str, str], before: Mapping[str, str], overrides: Mapping[str, str]) -> Reading:
    """``entries`` by slug; a module whose entry can't be used keeps the one of ``before``, if that can. Of two modules
    with one prefix the one that had it keeps it, else the first by name."""
    modules: dict[str, ModuleRoutes] = {}
    texts: dict[str, str] = {}
    refused: dict[str, str] = {}
    holders: dict[str, str] = {}
    for slug in sorted(entries, key=lambda slug: (slug not in before, slug)):
        for text in (entries[slug], before.get(slug)):
            if text is None:
                continue
            try:
                routes = parse(slug, text, overrides.get(slug))
                if routes.prefix and (other := holders.setdefault(routes.prefix, slug)) != slug:
                    raise EntryError(f"prefix: {routes.prefix} is routed to {other}")
            except EntryError as error:
                refused.setdefault(slug, str(error))
                continue
            modules[slug], texts[slug] = routes, text
            break
    if any(module.analytics for module in modules.values()):
        try:
            host, port = _address(overrides[DATA]) if DATA in overrides else DATA_ADDRESS
            modules[DATA] = ModuleRoutes(DATA, ANALYTICS, host, port, ())
        except EntryError as error:
            refused[DATA] = str(error)
    return Reading(modules, texts, refused)
