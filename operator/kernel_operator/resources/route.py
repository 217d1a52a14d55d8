"""Where the gateway sends a module's requests, and what each needs."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from kernel_operator.resources.invalid import broken
from kernel_operator.resources.reserved import KERNEL_PREFIXES
from kernel_operator.resources.spec import UNIQUE, SpecPart, first_repeated
from kernel_operator.resources.text import WHOLE, Boolean, matching

METHODS = ("GET", "HEAD", "POST", "PATCH", "DELETE")


def _known(method: str) -> str:
    if method == "PUT":
        raise broken("PUT is not allowed on this platform, use PATCH to change a record")
    if method not in METHODS:
        raise broken("must be GET, HEAD, POST, PATCH or DELETE")
    return method


Method = Annotated[str, Field(max_length=16), AfterValidator(_known)]


class RouteRule(SpecPart):
    """``path`` comes after the route's prefix; ``{name}`` in it stands for one segment."""

    methods: Annotated[tuple[Method, ...], Field(min_length=1, max_length=5), UNIQUE]
    path: Annotated[
        str,
        Field(max_length=200),
        matching(
            r"/|(/([A-Za-z0-9_~-][A-Za-z0-9._~-]*|[{][a-z][a-z0-9_]*[}]))+",
            "path must begin with a single slash and hold plain names or {name}, without a slash at the end, "
            "such as /contacts/{id}",
        ),
    ]
    permission: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    public: Boolean = False

    @model_validator(mode="after")
    def _permission_or_public(self) -> Self:
        if (self.permission is not None) == self.public:
            raise broken("a rule needs a permission, or public: true for a path that anybody may call, not both")
        return self


class RouteService(SpecPart):
    """A Service in the module's namespace."""

    name: Annotated[
        str,
        Field(min_length=1, max_length=63),
        matching(
            r"[a-z]([a-z0-9-]*[a-z0-9])?",
            "must be the name of a Service, lower-case letters, digits and '-', such as crm",
        ),
    ]
    port: Annotated[int, Field(ge=1, le=65535), WHOLE]


class Route(SpecPart):
    prefix: Annotated[
        str,
        Field(max_length=128),
        matching(
            r"/api/v1(/[a-z0-9]([a-z0-9_-]*[a-z0-9])?)+",
            "prefix must be /api/v1/ and lower-case names between single slashes, without a slash at the end, "
            "such as /api/v1/crm",
        ),
    ]
    service: RouteService
    max_body_bytes: Annotated[int, Field(ge=1, le=10_485_760), WHOLE] | None = None
    rules: Annotated[tuple[RouteRule, ...], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _rules_differ(self) -> Self:
        if first_repeated((method, rule.path) for rule in self.rules for method in rule.methods) is not None:
            raise broken("two rules name the same method and path, remove one", ".rules")
        return self

    @property
    def is_kernel_prefix(self) -> bool:
        return self.prefix.split("/")[3] in KERNEL_PREFIXES
