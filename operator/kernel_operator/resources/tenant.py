"""Tenant: one customer of the platform."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, Field, model_validator

from kernel_common.ids import tenant_id
from kernel_operator.desired import Tier
from kernel_operator.resources.invalid import InvalidResource, broken
from kernel_operator.resources.resource import Metadata, Resource, read_spec
from kernel_operator.resources.spec import SpecPart
from kernel_operator.resources.text import WHOLE, Boolean, TenantName, matching

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def _readable(value: str) -> str:
    if _UNPRINTABLE.search(value):
        raise broken("displayName can't hold control characters, line breaks or text-direction overrides, remove them")
    if value.startswith(" ") or value.endswith(" "):
        raise broken("displayName can't begin or end with a space, remove it")
    return value


Email = Annotated[
    str,
    Field(min_length=3, max_length=254),
    matching(
        r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+"
        r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?",
        "email must be an address such as ada@acme.example",
    ),
]


class Owner(SpecPart):
    email: Email


class RateLimit(SpecPart):
    """Requests a minute; ``burst`` is how many may come at once above the rate."""

    requests_per_minute: Annotated[int, Field(ge=1, le=10_000_000), WHOLE] = 1000
    admin_requests_per_minute: Annotated[int, Field(ge=1, le=10_000_000), WHOLE] = 5000
    burst: Annotated[int, Field(ge=0, le=1_000_000), WHOLE] = 200

    @model_validator(mode="after")
    def _admins_get_no_less(self) -> Self:
        if self.admin_requests_per_minute < self.requests_per_minute:
            raise broken(
                "adminRequestsPerMinute (5000 when left out) must be at least requestsPerMinute, raise it",
                ".adminRequestsPerMinute",
            )
        return self


class Notifications(SpecPart):
    max_connections: Annotated[int, Field(ge=1, le=1_000_000), WHOLE] = 1000
    messages_per_second: Annotated[int, Field(ge=1, le=1_000_000), WHOLE] = 200


class Money(SpecPart):
    """``max_amount`` is in minor units of the currency."""

    max_open_holds_per_wallet: Annotated[int, Field(ge=1, le=10_000), WHOLE] = 100
    max_amount: Annotated[int, Field(ge=1, le=1_000_000_000_000_000), WHOLE] = 10_000_000


class TenantSpec(SpecPart):
    display_name: Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_readable)]
    tier: Tier
    parent: TenantName | None = None
    owner: Owner
    rate_limit: RateLimit = RateLimit()
    notifications: Notifications = Notifications()
    money: Money = Money()
    suspended: Boolean = False
    deletion_policy: Literal["Retain", "Delete"] = "Retain"

    @model_validator(mode="after")
    def _parent_fits_tier(self) -> Self:
        if self.tier is Tier.OWNER and self.parent is not None:
            raise broken("a Tenant of tier owner is the root and has no parent, remove spec.parent", ".parent")
        if self.tier is not Tier.OWNER and self.parent is None:
            raise broken(
                "a Tenant of tier partner or client needs a parent, set spec.parent to the name of the Tenant above it",
                ".parent",
            )
        return self


@dataclass(frozen=True)
class Tenant(Resource):
    spec: TenantSpec

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Reads a whole object as the API server gives it. Raises InvalidResource."""
        metadata = Metadata.read(body)
        if len(metadata.name) > 40 or not _NAME.fullmatch(metadata.name):
            raise InvalidResource(
                "metadata.name",
                "must be at most 40 lower-case letters, digits and '-', and begin and end with a letter or digit",
            )
        spec = read_spec(TenantSpec, body)
        if spec.parent == metadata.name:
            raise InvalidResource("spec.parent", "must name another Tenant, a Tenant can't be its own parent")
        return cls(metadata=metadata, status=dict(body.get("status") or {}), spec=spec)

    @property
    def id(self) -> UUID:
        """The tenant id, which follows from the name."""
        return tenant_id(self.name)
