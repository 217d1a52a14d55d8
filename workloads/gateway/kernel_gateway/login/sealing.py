"""Small secrets at rest: AES-256-GCM under a key derived from another secret, bound to what it is for.

``context`` is part of the derivation and of what is authenticated, so a sealed text that is moved to another row, or
used for another purpose, does not open.
"""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE = 12


class SealBroken(Exception):
    """Sealed with another key, for another context, or changed since."""


def seal(secret: bytes, context: bytes, content: bytes) -> bytes:
    """``content``, readable only for who has ``secret`` (at least 32 bytes of entropy) and knows ``context``."""
    nonce = os.urandom(_NONCE)
    return nonce + _cipher(secret, context).encrypt(nonce, content, context)


def unseal(secret: bytes, context: bytes, sealed: bytes) -> bytes:
    """What was sealed. Raises SealBroken."""
    try:
        return _cipher(secret, context).decrypt(sealed[:_NONCE], sealed[_NONCE:], context)
    except (InvalidTag, ValueError):
        raise SealBroken("a sealed value does not open") from None


def _cipher(secret: bytes, context: bytes) -> AESGCM:
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"platform-kernel gateway\0" + context).derive(secret)
    return AESGCM(key)
