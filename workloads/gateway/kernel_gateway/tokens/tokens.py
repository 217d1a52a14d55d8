"""Access tokens: JSON Web Tokens of exactly one form.

We are the only issuer and the only reader, so nothing is negotiated: the header holds ``alg`` ES256, ``typ`` and a
``kid`` that we have, and nothing else. No other algorithm, no key that the token brings along (``jwk``, ``jku``,
``x5u``), no ``crit``. Base64url is read strictly: the common decoders skip stray characters and ignore the unused bits
of the last one, so that many texts would be one signature.
"""

import base64
import json
import re
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from kernel_gateway.tokens.keyring import LEEWAY, SigningKey

AUDIENCE = "platform-kernel"
MAX_LENGTH = 8192
"""Characters of a token."""

_HALF = 32
"""Bytes of each of the two numbers of a P-256 signature."""
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
_SCHEME = ECDSA(SHA256())


class TokenRefused(Exception):
    """``slug`` names the problem, ``detail`` is fit to show."""

    def __init__(self, slug: str, detail: str, status: int = 401) -> None:
        super().__init__(detail)
        self.slug, self.detail, self.status = slug, detail, status


class Verifiers(Protocol):
    """A key ring, or whoever holds one."""

    def verifier(self, kid: str) -> EllipticCurvePublicKey | None: ...


@dataclass(frozen=True, slots=True)
class Claims:
    """``issued`` and ``expires`` are unix seconds. ``actor`` impersonates ``user``."""

    user: UUID
    tenant: UUID
    roles: tuple[str, ...]
    issued: int
    expires: int
    id: UUID
    actor: UUID | None = None


def issue(claims: Claims, signer: SigningKey, issuer: str) -> str:
    """The token that says ``claims``, signed."""
    payload: dict[str, Any] = {
        "iss": issuer,
        "aud": AUDIENCE,
        "sub": str(claims.user),
        "tenantId": str(claims.tenant),
        "roles": list(claims.roles),
        "iat": claims.issued,
        "exp": claims.expires,
        "jti": str(claims.id),
    }
    if claims.actor is not None:
        payload["act"] = {"sub": str(claims.actor)}
    signed = f"{_packed({'alg': 'ES256', 'kid': signer.kid, 'typ': 'JWT'})}.{_packed(payload)}"
    r, s = decode_dss_signature(signer.private.sign(signed.encode(), _SCHEME))
    return f"{signed}.{_encode(r.to_bytes(_HALF, 'big') + s.to_bytes(_HALF, 'big'))}"


def verify(token: str, keys: Verifiers, issuer: str, now: float) -> Claims:
    """What ``token`` says, if one of ``keys`` signed it for us and it holds at ``now`` (unix seconds, give or take
    ``LEEWAY``). Raises TokenRefused: ``token-expired``, or ``unauthenticated`` for every other reason."""
    return verified(token, keys, issuer, now)[0]


def verified(token: str, keys: Verifiers, issuer: str, now: float) -> tuple[Claims, str]:
    """The same, with the ``kid`` of the key that signed it."""
    if len(token) > MAX_LENGTH:
        raise _refused(f"the token is longer than {MAX_LENGTH} characters")
    parts = token.split(".")
    if len(parts) != 3:
        raise _refused("the token is no signed JSON Web Token")
    header, signature = _object(parts[0]), _bytes(parts[2])
    kid = header.get("kid")
    if set(header) != {"alg", "kid", "typ"} or header["alg"] != "ES256" or header["typ"] != "JWT":
        raise _refused("the token's header must be alg ES256, typ JWT and a kid, and nothing else")
    key = keys.verifier(kid) if isinstance(kid, str) else None
    if key is None:
        raise _refused("the token was signed with a key that is not known here")
    if len(signature) != 2 * _HALF:
        raise _refused("the token's signature has the wrong length")
    r, s = int.from_bytes(signature[:_HALF], "big"), int.from_bytes(signature[_HALF:], "big")
    try:
        key.verify(encode_dss_signature(r, s), f"{parts[0]}.{parts[1]}".encode(), _SCHEME)
    except InvalidSignature:
        raise _refused("the token's signature is wrong") from None
    claims = _claims(_object(parts[1]), issuer)
    if now >= claims.expires + LEEWAY:
        raise TokenRefused("token-expired", "the token has expired: refresh it")
    if claims.issued > now + LEEWAY:
        raise _refused("the token was issued in the future")
    assert isinstance(kid, str)
    return claims, kid


def _claims(payload: dict[str, Any], issuer: str) -> Claims:
    if payload.get("iss") != issuer or payload.get("aud") != AUDIENCE:
        raise _refused("the token was issued by or for somebody else")
    roles, issued, expires = payload.get("roles"), payload.get("iat"), payload.get("exp")
    acting = payload.get("act")
    if not (
        isinstance(roles, list)
        and all(isinstance(role, str) for role in roles)
        and type(issued) is int
        and type(expires) is int
        and (acting is None or isinstance(acting, dict))
    ):
        raise _refused("the token lacks a claim")
    try:
        return Claims(
            user=UUID(payload["sub"]),
            tenant=UUID(payload["tenantId"]),
            roles=tuple(roles),
            issued=issued,
            expires=expires,
            id=UUID(payload["jti"]),
            actor=UUID(acting["sub"]) if acting is not None else None,
        )
    except (KeyError, ValueError, AttributeError, TypeError):
        raise _refused("the token lacks a claim") from None


def _object(part: str) -> dict[str, Any]:
    try:
        value = json.loads(_bytes(part))
    except (ValueError, RecursionError):
        raise _refused("the token is not readable") from None
    if not isinstance(value, dict):
        raise _refused("the token is not readable")
    return value


def _bytes(part: str) -> bytes:
    """Strictly: the one text that encodes these bytes, and no other."""
    if _BASE64URL.fullmatch(part) and len(part) % 4 != 1:
        data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        if _encode(data) == part:
            return data
    raise _refused("the token is not strict base64url")


def _packed(value: dict[str, Any]) -> str:
    return _encode(json.dumps(value, separators=(",", ":")).encode())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _refused(detail: str) -> TokenRefused:
    return TokenRefused("unauthenticated", detail)
