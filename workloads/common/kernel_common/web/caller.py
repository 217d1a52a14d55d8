"""Who a request is for, as the gateway says it.

A service behind the gateway believes these headers: the gateway strips a client's own and sets them from a verified
token. So a service must be reachable through the gateway alone (a NetworkPolicy, or 127.0.0.1).
"""

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Header

from kernel_common.web.problems import ProblemError

TENANT_HEADER, USER_HEADER = "x-tenant-id", "x-user-id"


@dataclass(frozen=True, slots=True)
class _Caller:
    tenant: UUID
    user: UUID


def _from_gateway(
    tenant: Annotated[str, Header(alias=TENANT_HEADER, include_in_schema=False)] = "",
    user: Annotated[str, Header(alias=USER_HEADER, include_in_schema=False)] = "",
) -> _Caller:
    try:
        return _Caller(UUID(tenant), UUID(user))
    except ValueError:
        raise ProblemError(
            401, "unauthenticated", "this service is reached through the gateway, which says who asks"
        ) from None


Caller = Annotated[_Caller, Depends(_from_gateway)]
"""A parameter of this type is the tenant and the user that the gateway has named; 401 without it."""
