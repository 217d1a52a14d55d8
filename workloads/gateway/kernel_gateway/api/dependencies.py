"""Who may call a route. The decision is the one that Envoy asks for other routes, taken in this process."""

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from kernel_gateway.access import Identity, Refused, Rule
from kernel_gateway.api.problems import ProblemError, refused
from kernel_gateway.api.services import Services, services

CLIENT_HEADER = "x-kernel-client"
"""The client's address as Envoy saw it; Envoy strips a client's own."""

_in_openapi = HTTPBearer(auto_error=False, bearerFormat="JWT", scheme_name="accessToken")
"""Says in the OpenAPI document what the routes need; the decision itself reads the header."""


def client_address(request: Request) -> str:
    """The IP address that the request came from."""
    told = request.headers.get(CLIENT_HEADER, "") or (request.client.host if request.client else "")
    try:
        return str(ipaddress.ip_address(told))
    except ValueError:
        return "0.0.0.0"  # noqa: S104 - a UNIX socket: one budget for all who come through it


def requires(permission: str | None = None) -> Callable[..., Awaitable[Identity]]:
    """A dependency: the Identity of whoever calls, who must hold ``permission`` (None: be logged in).

    Raises ProblemError with the decision's refusal. Whatever the answer becomes, it tells the rate limit.
    """
    rule = Rule(permission=permission)

    async def decided(
        request: Request,
        services: Annotated[Services, Depends(services)],
        _: Annotated[object, Depends(_in_openapi)],
    ) -> Identity:
        identity = await _decide(rule, request, services)
        assert identity is not None, "a rule that is not public gives an identity"
        return identity

    return decided


async def public(request: Request, services: Annotated[Services, Depends(services)]) -> None:
    """A dependency for routes that need no token: limited by the client's address."""
    await _decide(Rule(public=True), request, services)


async def themself(identity: Annotated[Identity, Depends(requires())]) -> Identity:
    """The user in person: nobody who impersonates them may change how they log in. Raises ProblemError."""
    if identity.actor is not None:
        raise ProblemError(403, "forbidden", "this can't be done while impersonating: the user has to do it")
    return identity


async def _decide(rule: Rule, request: Request, services: Services) -> Identity | None:
    # On a public route a token means nothing: an expired one must not stop a login.
    tokens = [] if rule.public else request.headers.getlist("authorization")
    verdict = await services.decider.decide(rule, tokens, client_address(request))
    if isinstance(verdict, Refused):
        raise refused(verdict)
    request.state.identity, request.state.limit = verdict.identity, verdict.headers
    return verdict.identity


Caller = Annotated[Identity, Depends(requires())]
Themself = Annotated[Identity, Depends(themself)]
TheServices = Annotated[Services, Depends(services)]
