"""The certificate that browsers on this machine meet: for localhost, signed by a little authority of its own.

The authority is kept for ten years, so that trusting it once is enough; the certificate is made anew when it has less
than a month left, or when the authority is another one.
"""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kernel_local.certificate_files import begin, save, usage

AUTHORITY, NAME = "ca", "tls"
_NAMES = (
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    x509.IPAddress(ipaddress.ip_address("::1")),
)
_LIFE, _AUTHORITY_LIFE = datetime.timedelta(days=397), datetime.timedelta(days=3650)
_RENEW = datetime.timedelta(days=30)
Key = ec.EllipticCurvePrivateKey


def make(folder: Path, *, now: datetime.datetime | None = None) -> None:
    """Puts ``ca.crt``, ``ca.key``, ``tls.crt`` and ``tls.key`` (PEM, mode 0600) into ``folder`` where they are missing,
    broken or near their end. Raises OSError."""
    now = now or datetime.datetime.now(datetime.UTC)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = _load(folder, AUTHORITY, now)
    if authority is None:
        authority = _authority(now)
        save(folder, AUTHORITY, *authority)
    current = _load(folder, NAME, now)
    if current is None or not _signed(current[1], authority[1]):
        save(folder, NAME, *_certificate(authority, now))


def _load(folder: Path, name: str, now: datetime.datetime) -> tuple[Key, x509.Certificate] | None:
    """The pair, if it belongs together and will do for a while."""
    try:
        key = serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), None)
        certificate = x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())
    except (FileNotFoundError, ValueError, TypeError):
        return None
    fresh = certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - _RENEW
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key() or not fresh:
        return None
    return key, certificate


def _signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _authority(now: datetime.datetime) -> tuple[Key, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "platform-kernel embedded gateway")])
    certificate = (
        begin(name, name, key.public_key(), _AUTHORITY_LIFE, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(authority=True), critical=True)
        # Whoever trusts this authority trusts it for this machine alone.
        .add_extension(
            x509.NameConstraints([x509.DNSName("localhost"), *map(_network, _NAMES[1:])], None), critical=True
        )
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def _network(name: x509.GeneralName) -> x509.IPAddress:
    return x509.IPAddress(ipaddress.ip_network(name.value))


def _certificate(authority: tuple[Key, x509.Certificate], now: datetime.datetime) -> tuple[Key, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = (
        begin(subject, authority[1].subject, key.public_key(), _LIFE, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_NAMES), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority[0].public_key()), critical=False)
        .sign(authority[0], hashes.SHA256())
    )
    return key, certificate
