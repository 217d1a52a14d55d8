"""KernelModule: a module of the product."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from kernel_operator.resources.invalid import InvalidResource, broken
from kernel_operator.resources.models import DataApi
from kernel_operator.resources.reserved import KERNEL_SCOPE, KERNEL_SLUGS, RESERVED_SLUGS
from kernel_operator.resources.resource import Metadata, Resource, read_spec
from kernel_operator.resources.route import Route
from kernel_operator.resources.selection import TenantSelection
from kernel_operator.resources.spec import UNIQUE, SpecPart
from kernel_operator.resources.text import (
    VERSION,
    VERSION_RANGE,
    WHOLE,
    Boolean,
    EventType,
    Permission,
    matching,
)

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def slug_of(module_name: str) -> str:
    """The slug of a module name: ``crm`` for ``@acme/crm``, ``road_map`` for ``@acme/road-map``."""
    return module_name.partition("/")[2].replace("-", "_").replace(".", "_")


def _free_slug(module_name: str) -> str:
    slug = slug_of(module_name)
    if len(slug) > 40:
        raise broken("the part of moduleName after '/' must be at most 40 characters, shorten it")
    if slug in RESERVED_SLUGS:
        raise broken("the part of moduleName after '/' is reserved by the platform, choose another name")
    if slug in KERNEL_SLUGS and not module_name.startswith(KERNEL_SCOPE):
        raise broken("billing, files, flags, money and notify belong to the kernel, choose another name after '/'")
    return module_name


class Events(SpecPart):
    publishes: Annotated[tuple[EventType, ...], Field(max_length=100), UNIQUE] = ()
    subscribes: Annotated[tuple[EventType, ...], Field(max_length=100), UNIQUE] = ()
    partitions: Annotated[int, Field(ge=1, le=64), WHOLE] = 12
    retention_hours: Annotated[int, Field(ge=1, le=8760), WHOLE] = 168


class ConfigMapRef(SpecPart):
    """A ConfigMap in the module's namespace."""

    name: Annotated[
        str,
        Field(min_length=1, max_length=253),
        matching(
            r"[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*",
            "must be the name of a ConfigMap, such as crm-migrations",
        ),
    ]


class Migrations(SpecPart):
    """Exactly one is set."""

    config_map_ref: ConfigMapRef | None = None
    inline: Annotated[str, Field(min_length=1, max_length=65536)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.config_map_ref is None) == (self.inline is None):
            raise broken("migrations needs exactly one of configMapRef and inline, remove the other")
        return self


class HealthCheck(SpecPart):
    path: Annotated[
        str,
        Field(max_length=200),
        matching(
            r"/|(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+",
            "path must begin with a single slash, without a slash at the end or a query, such as /live",
        ),
    ]


Channel = Annotated[
    str,
    Field(min_length=1, max_length=64),
    matching(
        r"[a-z]([a-z0-9-]*[a-z0-9])?",
        "must be lower-case letters, digits and '-', beginning with a letter, such as crm-alerts",
    ),
]


class ModuleSpec(SpecPart):
    module_name: Annotated[
        str,
        Field(min_length=4, max_length=80),
        matching(
            r"@[a-z0-9]([a-z0-9-]*[a-z0-9])?/[a-z][a-z0-9]*([._-][a-z0-9]+)*",
            "moduleName must be @scope/name in lower case, the name beginning with a letter and with single "
            "'-', '_' or '.' between its parts, such as @acme/crm",
        ),
        AfterValidator(_free_slug),
    ]
    version: Annotated[
        str,
        Field(max_length=32),
        matching(VERSION, "version must be X.Y.Z in numbers without leading zeros or suffixes, such as 1.4.0"),
    ]
    kernel_version: (
        Annotated[
            str,
            Field(min_length=1, max_length=64),
            matching(
                VERSION_RANGE,
                'kernelVersion must be comparators (>=, <=, >, <, =) separated by one space, such as ">=0.1 <1"',
            ),
        ]
        | None
    ) = None
    enabled: Boolean = True
    deletion_policy: Literal["Retain", "Delete"] = "Retain"
    tenants: TenantSelection
    permissions: Annotated[tuple[Permission, ...], Field(max_length=200), UNIQUE] = ()
    events: Events = Events()
    data_api: DataApi = DataApi()
    migrations: Migrations | None = None
    route: Route | None = None
    health_check: HealthCheck | None = None
    notification_channels: Annotated[tuple[Channel, ...], Field(max_length=20), UNIQUE] = ()

    @property
    def slug(self) -> str:
        return slug_of(self.module_name)

    @model_validator(mode="after")
    def _names_begin_with_slug(self) -> Self:
        start = f"{self.slug}."
        for permission in self.permissions:
            if not permission.startswith(start):
                message = f"must begin with the slug of the module, rename it to {start}{{resource}}.{{action}}"
                raise broken(f"permission {permission} {message}", ".permissions")
        for event in self.events.publishes:
            if not event.startswith(start):
                message = f"is not this module's to publish, rename it to {start}{{entity}}.{{verb}}"
                raise broken(f"event {event} {message}", ".events.publishes")
        return self

    @model_validator(mode="after")
    def _route_is_its_own(self) -> Self:
        if self.route is None:
            if self.health_check is not None:
                raise broken(
                    "healthCheck needs a service to ask, set spec.route or remove spec.healthCheck", ".healthCheck"
                )
            return self
        if self.route.is_kernel_prefix and not self.module_name.startswith(KERNEL_SCOPE):
            raise broken(
                "this prefix belongs to the kernel, choose one of your own such as /api/v1/ and the module's name",
                ".route.prefix",
            )
        declared = {*self.permissions, f"{self.slug}.*", None}
        for rule in self.route.rules:
            if rule.permission not in declared:
                message = f"is not declared, add it to spec.permissions or use {self.slug}.*"
                raise broken(f"permission {rule.permission} {message}", ".route.rules")
        return self


@dataclass(frozen=True)
class KernelModule(Resource):
    spec: ModuleSpec

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Reads a whole object as the API server gives it. Raises InvalidResource."""
        metadata = Metadata.read(body)
        if len(metadata.name) > 63 or not _NAME.fullmatch(metadata.name):
            raise InvalidResource(
                "metadata.name",
                "must be at most 63 lower-case letters, digits and '-', and begin and end with a letter or digit",
            )
        return cls(metadata=metadata, status=dict(body.get("status") or {}), spec=read_spec(ModuleSpec, body))

    @property
    def slug(self) -> str:
        return self.spec.slug
