"""Tokens that were verified already, so that a signature is checked once a token and not once a request.

A signature costs as much as the rest of a decision. The memory's key is the text of the token, whole: a text that
differs in one character is another token and is verified like any other. What is remembered holds while the token does
and while the very key that verified it is in the ring, which is looked at each time: a key that is removed stops its
tokens at once. The oldest go first when the memory is full; all tokens live equally long, so those are the nearest to
their end.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from kernel_gateway import metrics
from kernel_gateway.tokens.holder import KeyHolder
from kernel_gateway.tokens.keyring import LEEWAY
from kernel_gateway.tokens.tokens import Claims, verified

CAPACITY = 20_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Remembered(Generic[T]):
    value: T
    ends: float
    kid: str
    key: EllipticCurvePublicKey


class TokenMemory(Generic[T]):
    """``make`` turns the claims of a token into what the caller needs of them, once a token."""

    def __init__(self, keys: KeyHolder, issuer: str, make: Callable[[Claims], T], capacity: int = CAPACITY) -> None:
        self._keys, self._issuer, self._make, self._capacity = keys, issuer, make, capacity
        self._known: dict[str, _Remembered[T]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def get(self, token: str) -> T:
        """What ``make`` made of ``token``. Raises TokenRefused."""
        now = time.time()
        known = self._known.get(token)
        if known is not None:
            if now < known.ends and self._keys.ring.verifier(known.kid) is known.key:
                metrics.remembered_hits.inc()
                return known.value
            del self._known[token]
        metrics.remembered_misses.inc()
        claims, kid = verified(token, self._keys, self._issuer, now)
        key = self._keys.ring.verifier(kid)
        value = self._make(claims)
        if key is not None:
            if len(self._known) >= self._capacity:
                del self._known[next(iter(self._known))]
            self._known[token] = _Remembered(value, claims.expires + LEEWAY, kid, key)
        return value
