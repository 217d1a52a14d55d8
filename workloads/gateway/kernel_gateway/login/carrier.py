"""How a refresh token travels.

To browsers in a cookie that scripts can't read and other sites can't cause to be sent (``HttpOnly; Secure;
SameSite=Strict``); to clients that say ``X-Client: native``, which keep no cookies, in the body. The cookie goes to
``/api/v1/auth`` alone, so clients of the older base path ``/v1`` send theirs in the body.

``SameSite`` knows sites, not origins: a page of another subdomain could still make a browser send the cookie. So a
request with the cookie must come from an origin of ours, as the browser itself says.
"""

from typing import Final

from fastapi import Request, Response

from kernel_gateway.api.problems import ProblemError
from kernel_gateway.api.services import Services
from kernel_gateway.login.sessions import Pair

COOKIE: Final = "pk_refresh"
PATH: Final = "/api/v1/auth"
CLIENT: Final = "x-client"
NATIVE: Final = "native"


def presented(request: Request, services: Services, in_body: str | None) -> str:
    """The refresh token of ``request``; one in the body wins. Raises ProblemError: 401 when there is none, 403 when
    the cookie comes from a foreign page."""
    if in_body is not None:
        return in_body
    token = request.cookies.get(COOKIE)
    if not token:
        raise ProblemError(401, "unauthenticated", f"the cookie {COOKIE} or refreshToken in the body is needed: log in")
    if not _ours(request, services):
        raise ProblemError(403, "forbidden", "a page of this origin may not use the session: see GATEWAY_CORS_ORIGINS")
    return token


def hand_over(request: Request, response: Response, services: Services, pair: Pair) -> str | None:
    """The refresh token for the body of the answer; None when it goes in the cookie."""
    response.headers["Cache-Control"] = "no-store"
    if request.headers.get(CLIENT) == NATIVE:
        return pair.refresh_token
    response.set_cookie(
        COOKIE,
        pair.refresh_token,
        max_age=services.settings.jwt_refresh_ttl_sec,
        path=PATH,
        secure=True,
        httponly=True,
        samesite="strict",
    )
    return None


def forget(response: Response) -> None:
    """Has the browser drop the cookie."""
    response.delete_cookie(COOKIE, path=PATH, secure=True, httponly=True, samesite="strict")


def _ours(request: Request, services: Services) -> bool:
    """Browsers name the origin of every POST; who names none is no browser."""
    if request.headers.get("sec-fetch-site") == "same-origin":
        return True
    origin = request.headers.get("origin")
    settings = services.settings
    return origin is None or origin in (settings.gateway_public_url.rstrip("/"), *settings.gateway_cors_origins)
