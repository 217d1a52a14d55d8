"""What the routes of the login take and give."""

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, SecretStr, Strict, model_validator

from kernel_gateway.api.models import Answer, Body, Email, Id, Line
from kernel_gateway.login.links import SELECT_TENANT
from kernel_gateway.login.password import MAX_LENGTH, MIN_LENGTH
from kernel_gateway.login.selection import Choice
from kernel_gateway.login.sessions import Membership, Pair, iso

NewPassword = Annotated[SecretStr, Strict(), Field(min_length=MIN_LENGTH, max_length=MAX_LENGTH)]
Password = Annotated[SecretStr, Strict(), Field(min_length=1, max_length=MAX_LENGTH)]
Code = Annotated[str, Field(min_length=6, max_length=40, examples=["123456"])]
Token = Annotated[str, Field(min_length=20, max_length=200, pattern="^[A-Za-z0-9_.-]+$")]
TenantName = Annotated[
    str, Field(min_length=1, max_length=40, pattern="^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", examples=["acme"])
]


class NewTenantBody(Body):
    """``name`` is for ever: it can't be changed, and nobody gets it again."""

    name: TenantName
    display_name: Annotated[Line, Field(min_length=1, max_length=100, examples=["Acme Inc"])]


class RegisterBody(Body):
    email: Email
    password: NewPassword
    display_name: Annotated[Line, Field(min_length=1, max_length=100, examples=["Ada Lovelace"])]
    tenant: NewTenantBody


class LoginBody(Body):
    """``tenantId`` chooses the tenant at once; ``mfaCode`` is a code of the second factor, or a recovery code."""

    email: Email
    password: Password
    tenant_id: Id | None = None
    mfa_code: Code | None = None


class SelectTenantBody(Body):
    """One of ``tenantId`` and ``tenant``, which makes a new one for who has none."""

    session_token: Token
    tenant_id: Id | None = None
    tenant: NewTenantBody | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.tenant_id is None) == (self.tenant is None):
            raise ValueError("give either tenantId or tenant")
        return self


class RefreshBody(Body):
    """For clients without cookies."""

    refresh_token: Token | None = None


class TokenBody(Body):
    token: Token


class RequestResetBody(Body):
    email: Email


class ResetPasswordBody(Body):
    token: Token
    new_password: NewPassword


class ChangePasswordBody(Body):
    password: Password
    new_password: NewPassword


class PasswordBody(Body):
    password: Password


class CodeBody(Body):
    code: Code


class DisableMfaBody(Body):
    password: Password
    code: Code


class TokenPair(Answer):
    """The access token is for ``Authorization: Bearer``. ``refreshToken`` is there for ``X-Client: native`` alone;
    browsers get it as a cookie."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - the name of a scheme
    expires_in: int
    expires_at: str
    refresh_token: str | None = None

    @classmethod
    def of(cls, pair: Pair, refresh_token: str | None) -> Self:
        return cls(
            access_token=pair.access_token,
            expires_in=pair.expires - pair.issued,
            expires_at=iso(pair.expires),
            refresh_token=refresh_token,
        )


class TenantAnswer(Answer):
    id: UUID
    name: str
    display_name: str
    tier: str

    @classmethod
    def of(cls, membership: Membership) -> Self:
        return cls(
            id=membership.tenant,
            name=membership.name,
            display_name=membership.display_name,
            tier=membership.tier,
        )


class TenantChoice(Answer):
    """The password was right, and the tenant is to be chosen, or made where ``tenants`` is empty."""

    session_token: str
    expires_in: int
    tenants: list[TenantAnswer]

    @classmethod
    def of(cls, choice: Choice) -> Self:
        return cls(
            session_token=choice.session_token,
            expires_in=int(SELECT_TENANT.total_seconds()),
            tenants=[TenantAnswer.of(membership) for membership in choice.tenants],
        )


class Accepted(Answer):
    status: Literal["accepted"] = "accepted"


class Me(Answer):
    """``actorId``: the user who impersonates this one. ``permissions`` may hold ``{module}.*`` and ``*``."""

    id: UUID
    email: str
    display_name: str
    email_verified: bool
    mfa_enabled: bool
    platform_owner: bool
    tenant: TenantAnswer
    roles: list[str]
    permissions: list[str]
    actor_id: UUID | None = None


class MfaEnrolment(Answer):
    """Shown once. ``otpauthUrl`` is what a QR code for an authenticator app holds."""

    secret: str
    otpauth_url: str
    recovery_codes: list[str]
