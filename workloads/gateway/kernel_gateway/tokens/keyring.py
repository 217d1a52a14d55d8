"""The ES256 keys that sign and verify access tokens, as files in one directory.

A key is ``{unix seconds of its making}-{8 hex}.pem`` (PKCS#8); the name without its end is its ``kid``. Every replica
reads the same directory, at intervals, so a key signs only when it is older than ``SETTLE``: by then everyone can
verify it. An older key stays until the last token that it signed has run out. Which key signs follows from the names
and the time alone, so replicas agree without speaking to each other.
"""

import base64
import itertools
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)

SETTLE = 60.0
"""Seconds that a new key waits before it signs: twice the interval at which replicas read the directory."""
LEEWAY = 30
"""Seconds that clocks may differ."""

_NAME = re.compile(r"(?P<made>[0-9]{1,12})-[0-9a-f]{8}")
_OTHERS = 0o007


class KeysError(Exception):
    """The directory can't be used; the message names the file and the fix, never what is in it."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    kid: str
    private: EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class _Key:
    made: int
    signing: SigningKey
    public: EllipticCurvePublicKey
    pem: bytes = field(repr=False)


class KeyRing:
    """The keys of one reading of the directory; never changes."""

    def __init__(self, keys: Mapping[str, _Key]) -> None:
        self._keys = dict(sorted(keys.items(), key=lambda item: (item[1].made, item[0])))
        self._public = {kid: key.public for kid, key in self._keys.items()}

    @classmethod
    def load(cls, directory: Path, known: "KeyRing | None" = None) -> "KeyRing":
        """Reads ``directory``; a key whose file is as it was in ``known`` stays the same object. Raises KeysError when
        there is no key, when one can't be read, or when anybody on the machine may read one."""
        before = known._keys if known else {}
        keys = {path.stem: _read(path, before.get(path.stem)) for path in _files(directory)}
        if not keys:
            raise KeysError(f"{directory} holds no key: run 'kernel-gateway keys rotate'")
        return cls(keys)

    def without_removed(self, directory: Path) -> "KeyRing":
        """The keys of this ring whose files are still there. Raises KeysError when ``directory`` can't be listed."""
        there = {path.stem for path in _files(directory)}
        return KeyRing({kid: key for kid, key in self._keys.items() if kid in there})

    def signer(self, now: float) -> SigningKey:
        """The newest key that has settled at ``now`` (unix seconds), or the oldest when none has. Raises KeysError."""
        if not self._keys:
            raise KeysError("no signing key is left: run 'kernel-gateway keys rotate'")
        keys = list(self._keys.values())
        settled = [key for key in keys if key.made <= now - SETTLE]
        return (settled[-1] if settled else keys[0]).signing

    def verifier(self, kid: str) -> EllipticCurvePublicKey | None:
        return self._public.get(kid)

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public keys as a JSON Web Key Set (RFC 7517)."""
        return {"keys": [_jwk(kid, key) for kid, key in self._public.items()]}

    def kids(self) -> tuple[str, ...]:
        """Oldest first."""
        return tuple(self._keys)


def rotate(directory: Path, now: float, lifetime: int = 900) -> str:
    """Writes a new key, removes those whose last token (``lifetime`` seconds) has run out at ``now``; returns the new
    ``kid``. The new file appears whole or not at all. Raises KeysError when ``directory`` can't be written."""
    private = generate_private_key(SECP256R1())
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    kid = f"{int(now)}-{secrets.token_hex(4)}"
    unfinished = directory / f".{kid}.tmp"
    try:
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "wb") as file:  # noqa: PTH123 - a descriptor, so that the mode is right from the start
            file.write(pem)
            file.flush()
            os.fsync(handle)
        unfinished.rename(directory / f"{kid}.pem")
        paths = _files(directory)
        # A key stopped signing when its successor settled.
        for path, successor in itertools.pairwise(paths):
            if now > _made(successor) + SETTLE + lifetime + LEEWAY:
                path.unlink(missing_ok=True)
        _sync(directory)
    except OSError as error:
        raise KeysError(f"{directory}: a key can't be written ({os.strerror(error.errno or 0)})") from None
    return kid


def _files(directory: Path) -> list[Path]:
    """Oldest first. Other files (a Secret's own links, unfinished keys) are passed over."""
    try:
        found = [path for path in directory.iterdir() if path.suffix == ".pem" and _NAME.fullmatch(path.stem)]
    except OSError as error:
        raise KeysError(
            f"{directory} can't be read ({os.strerror(error.errno or 0)}): set GATEWAY_KEYS_DIRECTORY"
        ) from None
    return sorted(found, key=lambda path: (_made(path), path.stem))


def _made(path: Path) -> int:
    return int(path.stem.partition("-")[0])


def _read(path: Path, known: _Key | None) -> _Key:
    try:
        if path.stat().st_mode & _OTHERS:
            raise KeysError(f"{path}: everybody may read it: chmod o= it")
        pem = path.read_bytes()
    except OSError as error:
        raise KeysError(f"{path} can't be read ({os.strerror(error.errno or 0)})") from None
    if known is not None and known.pem == pem:
        return known
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeysError(f"{path} is no unencrypted PKCS#8 key: remove it") from None
    if not isinstance(private, EllipticCurvePrivateKey) or not isinstance(private.curve, SECP256R1):
        raise KeysError(f"{path} is no P-256 key: remove it")
    return _Key(_made(path), SigningKey(path.stem, private), private.public_key(), pem)


def _jwk(kid: str, key: EllipticCurvePublicKey) -> dict[str, str]:
    numbers = key.public_numbers()
    x, y = (base64.urlsafe_b64encode(n.to_bytes(32, "big")).rstrip(b"=").decode() for n in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid, "x": x, "y": y}


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
