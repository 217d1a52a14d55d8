"""Passwords as PostgreSQL stores them, computed here: the plain text never reaches the server or its log."""

import base64
import hashlib
import hmac
import os

_ITERATIONS = 4096
"""PostgreSQL's own default. The passwords are random, so more would only slow each login down."""


def verifier(password: str, salt: bytes | None = None) -> str:
    """The SCRAM-SHA-256 verifier of ``password`` (RFC 5803), for ``ALTER ROLE ... PASSWORD``.

    Raises ValueError unless the password is printable ASCII: other text would need normalising
    (SASLprep), which generated passwords never do.
    """
    if not password or not password.isascii() or not password.isprintable():
        raise ValueError("a login's password must be printable ASCII and not empty")
    salt = salt or os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${_ITERATIONS}:{encoded[0]}${encoded[1]}:{encoded[2]}"


def fingerprint(password: str) -> str:
    """Tells two passwords apart without holding either; only for random ones, which can't be guessed."""
    return hashlib.sha256(password.encode()).hexdigest()
