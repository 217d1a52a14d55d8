"""Errors as clients see them: problem documents, RFC 9457.

Clients branch on ``type``, whose last part (the slug) is stable; ``detail`` is for people and may change.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

MEDIA_TYPE = "application/problem+json"
BASE = "https://platform-kernel.io/problems/"
"""What precedes the slug in ``type``: a name, no address that must answer."""

SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457; branch on `type`",
    "required": ["type", "title", "status", "detail", "instance", "trace_id"],
    "properties": {
        "type": {"type": "string", "format": "uri", "examples": [BASE + "validation-error"]},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "trace_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "message", "code"],
                "properties": {
                    "field": {"type": "string"},
                    "message": {"type": "string"},
                    "code": {"type": "string"},
                },
            },
        },
    },
}
"""Of a problem document, for OpenAPI."""

TITLES = {
    "query-too-large": "The question takes too much",
    "validation-error": "The request is not valid",
    "unauthenticated": "Authentication is needed",
    "token-expired": "The token has expired",
    "token-revoked": "The token was revoked",
    "invalid-credentials": "The credentials are wrong",
    "mfa-required": "A code of the second factor is needed",
    "registration-closed": "Registration is closed",
    "forbidden": "The permission is missing",
    "tenant-blocked": "The tenant is blocked",
    "not-found": "There is no such thing",
    "module-not-active": "The module is not active for the tenant",
    "conflict": "It conflicts with what is there",
    "payload-too-large": "The body is too large",
    "rate-limit-exceeded": "Too many requests",
    "internal-error": "Something went wrong on our side",
    "service-unavailable": "The service can't answer now",
}
"""Titles that differ from the status's own phrase."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field: ``field`` is its path (``tenant.name``), ``code`` in capitals (``TOO_SHORT``)."""

    field: str
    message: str
    code: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem document; ``instance`` is the path that was asked for."""

    status: int
    slug: str
    detail: str
    instance: str
    trace_id: str = ""
    errors: Sequence[FieldError] = ()

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "type": BASE + self.slug,
            "title": TITLES.get(self.slug) or _phrase(self.status),
            "status": self.status,
            "detail": self.detail,
            "instance": self.instance,
            "trace_id": self.trace_id,
        }
        if self.errors:
            document["errors"] = [{"field": e.field, "message": e.message, "code": e.code} for e in self.errors]
        return document

    def body(self) -> bytes:
        return json.dumps(self.document(), separators=(",", ":"), ensure_ascii=False).encode()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
