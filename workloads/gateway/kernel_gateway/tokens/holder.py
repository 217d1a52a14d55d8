"""The key ring of this process, as it is now.

The directory is read again at intervals, and when a token names a key that is not known (it may be new), but not more
often than every ten seconds: anybody can make up names. A directory that turned bad changes nothing but one thing: keys
whose files are gone are gone.
"""

import asyncio
import logging
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from kernel_gateway.tokens.keyring import KeyRing, KeysError, SigningKey

REREAD_INTERVAL = 30.0
UNKNOWN_INTERVAL = 10.0

log = logging.getLogger(__name__)


class KeyHolder:
    """Raises KeysError when the directory can't be used at the start."""

    def __init__(self, directory: Path, ring: KeyRing | None = None) -> None:
        self._directory = directory
        self.ring = ring or KeyRing.load(directory)
        self._read_for_unknown = -UNKNOWN_INTERVAL

    @classmethod
    def waiting(cls, directory: Path) -> "KeyHolder":
        """A holder that starts with no key and takes what ``directory`` holds later."""
        return cls(directory, KeyRing({}))

    def signer(self, now: float) -> SigningKey:
        return self.ring.signer(now)

    def verifier(self, kid: str) -> EllipticCurvePublicKey | None:
        """The key of that name. One that is not known may cost a look at the directory (a few small files)."""
        key = self.ring.verifier(kid)
        if key is None and time.monotonic() - self._read_for_unknown >= UNKNOWN_INTERVAL:
            self._read_for_unknown = time.monotonic()
            self.reread()
            key = self.ring.verifier(kid)
        return key

    def reread(self) -> None:
        """Takes the keys as they are on disk now; what is wrong with them is logged."""
        try:
            self.ring = KeyRing.load(self._directory, self.ring)
        except KeysError as error:
            log.error("the signing keys: %s", error)
            try:
                self.ring = self.ring.without_removed(self._directory)
            except KeysError:
                return  # not even a list of them: nobody removed anything, the disk is away

    async def keep_fresh(self) -> None:
        """Reads the directory again every ``REREAD_INTERVAL`` seconds, until cancelled."""
        while True:
            await asyncio.sleep(REREAD_INTERVAL)
            self.reread()
