"""One-time passwords by time: RFC 6238 with SHA-1, six digits and steps of 30 seconds, as every app knows them."""

import base64
import hmac
import struct
from urllib.parse import quote, urlencode

STEP = 30
DIGITS = 6
SECRET_BYTES = 20
SLACK = 1
"""Steps that a clock may be off, either way."""


def code(secret: bytes, step: int) -> str:
    """The code of one step (unix seconds // STEP)."""
    digest = hmac.digest(secret, struct.pack(">Q", step), "sha1")
    at = digest[-1] & 0xF
    number = struct.unpack(">I", digest[at : at + 4])[0] & 0x7FFF_FFFF
    return f"{number % 10**DIGITS:0{DIGITS}}"


def step_of(secret: bytes, presented: str, now: float) -> int | None:
    """The step near ``now`` (unix seconds) whose code ``presented`` is; None when it is none's. All are compared, so
    that the time it takes says nothing."""
    present = int(now) // STEP
    found = None
    for step in range(max(present - SLACK, 0), present + SLACK + 1):
        if hmac.compare_digest(code(secret, step).encode(), presented.encode()):
            found = step
    return found


def text(secret: bytes) -> str:
    """The secret as people type it: base32."""
    return base64.b32encode(secret).decode().rstrip("=")


def url(secret: bytes, issuer: str, account: str) -> str:
    """What a QR code for an authenticator app holds."""
    label = quote(f"{issuer}:{account}", safe="")
    return f"otpauth://totp/{label}?{urlencode({'secret': text(secret), 'issuer': issuer, 'digits': DIGITS})}"
