"""The routes of the login. They read what came, call, and shape the answer."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request, Response, status

from kernel_gateway.api.dependencies import Caller, Themself, TheServices, client_address, public
from kernel_gateway.api.openapi import errors
from kernel_gateway.login import account, bodies, carrier, grace, mfa, profile, registration, selection, signin
from kernel_gateway.login.registration import NewTenant, NewUser
from kernel_gateway.login.selection import Choice
from kernel_gateway.login.sessions import Client, Pair

router = APIRouter(prefix="/auth", tags=["login"])
jwks_router = APIRouter(tags=["login"])

_NATIVE = {
    "parameters": [
        {
            "name": carrier.CLIENT,
            "in": "header",
            "required": False,
            "description": "`native`: the refresh token comes in the body, and no cookie is set",
            "schema": {"type": "string"},
        }
    ]
}
_PUBLIC: dict[str, Any] = {"dependencies": [Depends(public)]}
_SIGNS_IN: dict[str, Any] = {**_PUBLIC, "openapi_extra": _NATIVE, "response_model_exclude_none": True}
_DONE = status.HTTP_204_NO_CONTENT


def _client(request: Request) -> Client:
    return Client(client_address(request), request.headers.get("user-agent", ""))


def _pair(request: Request, response: Response, services: TheServices, pair: Pair) -> bodies.TokenPair:
    return bodies.TokenPair.of(pair, carrier.hand_over(request, response, services, pair))


@router.post(
    "/register",
    operation_id="register",
    summary="A user, a tenant of theirs, and the first session",
    status_code=status.HTTP_201_CREATED,
    responses=errors(400, 403, 409),
    **_SIGNS_IN,
)
async def register(
    body: bodies.RegisterBody, request: Request, response: Response, services: TheServices
) -> bodies.TokenPair:
    user = NewUser(body.email, body.display_name, body.password.get_secret_value())
    tenant = NewTenant(body.tenant.name, body.tenant.display_name)
    pair = await registration.register(services, user, tenant, _client(request))
    return _pair(request, response, services, pair)


@router.post(
    "/login",
    operation_id="login",
    summary="A session, or the choice of a tenant",
    responses=errors(400, 401, 403),
    **_SIGNS_IN,
)
async def login(
    body: bodies.LoginBody, request: Request, response: Response, services: TheServices
) -> bodies.TokenPair | bodies.TenantChoice:
    credentials = signin.Credentials(body.email, body.password.get_secret_value(), body.tenant_id, body.mfa_code)
    outcome = await signin.log_in(services, credentials, _client(request))
    if isinstance(outcome, Choice):
        response.headers["Cache-Control"] = "no-store"
        return bodies.TenantChoice.of(outcome)
    return _pair(request, response, services, outcome)


@router.post(
    "/select-tenant",
    operation_id="selectTenant",
    summary="The session for the tenant that was chosen, or made",
    responses=errors(400, 401, 403, 409),
    **_SIGNS_IN,
)
async def select_tenant(
    body: bodies.SelectTenantBody, request: Request, response: Response, services: TheServices
) -> bodies.TokenPair:
    client = _client(request)
    if body.tenant is not None:
        new = NewTenant(body.tenant.name, body.tenant.display_name)
        pair = await registration.register_tenant(services, body.session_token, new, client)
    else:
        assert body.tenant_id is not None
        pair = await selection.select(services, body.session_token, body.tenant_id, client)
    return _pair(request, response, services, pair)


@router.post(
    "/refresh",
    operation_id="refresh",
    summary="The next pair of the session",
    description="With the cookie, or `refreshToken` in the body. The same token is given the same pair again for ten "
    "seconds after its first use, and is revoked afterwards.",
    responses=errors(400, 401, 403),
    **_SIGNS_IN,
)
async def refresh(
    request: Request,
    response: Response,
    services: TheServices,
    body: Annotated[bodies.RefreshBody | None, Body()] = None,
) -> bodies.TokenPair:
    token = carrier.presented(request, services, body.refresh_token if body else None)
    return _pair(request, response, services, await grace.refresh(services, token))


@router.post(
    "/logout",
    operation_id="logout",
    summary="Ends the session that the refresh token belongs to",
    status_code=_DONE,
    responses=errors(400, 401, 403),
    **_PUBLIC,
)
async def logout(
    request: Request,
    response: Response,
    services: TheServices,
    body: Annotated[bodies.RefreshBody | None, Body()] = None,
) -> None:
    await grace.end(services, carrier.presented(request, services, body.refresh_token if body else None))
    carrier.forget(response)


@router.get("/me", operation_id="me", summary="Who is logged in, and what they may", responses=errors(400, 401, 403))
async def me(identity: Caller, services: TheServices) -> bodies.Me:
    return await profile.of(services, identity)


@router.post(
    "/request-verify-email",
    operation_id="requestVerifyEmail",
    summary="Mails a link to verify the address; three an hour",
    status_code=status.HTTP_202_ACCEPTED,
    responses=errors(400, 401, 403),
)
async def request_verify_email(identity: Themself, services: TheServices) -> bodies.Accepted:
    await account.request_verification(services, identity.user)
    return bodies.Accepted()


@router.post(
    "/verify-email",
    operation_id="verifyEmail",
    summary="The address is the user's",
    status_code=_DONE,
    responses=errors(400, 401),
    **_PUBLIC,
)
async def verify_email(body: bodies.TokenBody, services: TheServices) -> None:
    await account.verify_email(services, body.token)


@router.post(
    "/request-reset",
    operation_id="requestReset",
    summary="Mails a link to choose a new password",
    description="The answer is the same whether or not the address has an account.",
    status_code=status.HTTP_202_ACCEPTED,
    responses=errors(400),
    **_PUBLIC,
)
async def request_reset(body: bodies.RequestResetBody, services: TheServices) -> bodies.Accepted:
    # Not waited for: neither the answer nor its time tells whether there is an account.
    services.background.put("a request for a reset", lambda: account.request_reset(services, body.email))
    return bodies.Accepted()


@router.post(
    "/reset-password",
    operation_id="resetPassword",
    summary="Sets a new password and ends all sessions",
    status_code=_DONE,
    responses=errors(400, 401),
    **_PUBLIC,
)
async def reset_password(body: bodies.ResetPasswordBody, services: TheServices) -> None:
    await account.reset_password(services, body.token, body.new_password.get_secret_value())


@router.post(
    "/change-password",
    operation_id="changePassword",
    summary="Sets a new password and ends all sessions, this one too",
    status_code=_DONE,
    responses=errors(400, 401, 403),
)
async def change_password(
    body: bodies.ChangePasswordBody, identity: Themself, request: Request, response: Response, services: TheServices
) -> None:
    old, new = body.password.get_secret_value(), body.new_password.get_secret_value()
    await account.change_password(services, identity.user, old, new, client_address(request))
    carrier.forget(response)


@router.post(
    "/mfa/enable",
    operation_id="enableMfa",
    summary="A secret and recovery codes, in force once a code was verified",
    responses=errors(400, 401, 403, 409),
)
async def enable_mfa(
    body: bodies.PasswordBody, identity: Themself, request: Request, response: Response, services: TheServices
) -> bodies.MfaEnrolment:
    made = await mfa.begin(services, identity.user, body.password.get_secret_value(), client_address(request))
    response.headers["Cache-Control"] = "no-store"
    return bodies.MfaEnrolment(secret=made.secret, otpauth_url=made.url, recovery_codes=list(made.recovery_codes))


@router.post(
    "/mfa/verify",
    operation_id="verifyMfa",
    summary="Puts the second factor in force",
    status_code=_DONE,
    responses=errors(400, 401, 403, 409),
)
async def verify_mfa(body: bodies.CodeBody, identity: Themself, request: Request, services: TheServices) -> None:
    await mfa.enable(services, identity, body.code, client_address(request))


@router.post(
    "/mfa/disable",
    operation_id="disableMfa",
    summary="Takes the second factor away",
    status_code=_DONE,
    responses=errors(400, 401, 403, 409),
)
async def disable_mfa(body: bodies.DisableMfaBody, identity: Themself, request: Request, services: TheServices) -> None:
    await mfa.disable(services, identity, body.password.get_secret_value(), body.code, client_address(request))


@jwks_router.get("/.well-known/jwks.json", operation_id="jwks", summary="The keys that verify access tokens")
async def jwks(response: Response, services: TheServices) -> dict[str, list[dict[str, str]]]:
    # A new key signs only after a minute: whoever asks twice a minute knows it in time.
    response.headers["Cache-Control"] = "public, max-age=30"
    return services.keys.ring.jwks()
