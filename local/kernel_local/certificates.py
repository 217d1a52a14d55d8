"""The control plane's own authority and the certificates it signs: made once for a data directory, for 127.0.0.1 only.

EC keys (P-256), made in milliseconds. Each component gets a key of its own; the files are ``NAME.crt`` and ``NAME.key``
(mode 0600). ``sa.key`` and ``sa.pub`` sign and verify service account tokens and belong to no certificate.
"""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kernel_local import files
from kernel_local.certificate_files import begin, private, save, usage

_YEARS_10 = datetime.timedelta(days=3650)
_USERS = {
    "admin": ("kernel-admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", "system:kube-controller-manager"),
    "etcd-client": ("kube-apiserver", "kube-apiserver"),
}
_SERVERS = ("apiserver", "etcd")
_ADDRESSES = (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("10.0.0.1"))
_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


def make(folder: Path) -> None:
    """Fills ``folder``, unless a finished set is there. The last file written marks it finished."""
    if (folder / "sa.pub").exists():
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "platform-kernel embedded cluster")])
    root = (
        begin(issuer, issuer, authority.public_key(), _YEARS_10)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(authority=True), critical=True)
        .sign(authority, hashes.SHA256())
    )
    save(folder, "ca", authority, root)
    signer = _Signer(folder, issuer, authority)
    for name, (user, group) in _USERS.items():
        subject = [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, group),
            x509.NameAttribute(NameOID.COMMON_NAME, user),
        ]
        signer.issue(name, subject, [ExtendedKeyUsageOID.CLIENT_AUTH])
    for name in _SERVERS:
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        # etcd's own gateway and its peers present the server's certificate as clients.
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        signer.issue(name, subject, uses)
    tokens = ec.generate_private_key(ec.SECP256R1())
    files.write(folder / "sa.key", private(tokens))
    public = tokens.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    files.write(folder / "sa.pub", public)


@dataclass(frozen=True)
class _Signer:
    folder: Path
    issuer: x509.Name
    authority: ec.EllipticCurvePrivateKey

    def issue(self, name: str, subject: list[x509.NameAttribute[str]], uses: list[x509.ObjectIdentifier]) -> None:
        key, parent = ec.generate_private_key(ec.SECP256R1()), self.authority.public_key()
        certificate = (
            begin(x509.Name(subject), self.issuer, key.public_key(), _YEARS_10)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(parent), critical=False)
        )
        if ExtendedKeyUsageOID.SERVER_AUTH in uses:
            names = x509.SubjectAlternativeName([*map(x509.DNSName, _NAMES), *map(x509.IPAddress, _ADDRESSES)])
            certificate = certificate.add_extension(names, critical=False)
        save(self.folder, name, key, certificate.sign(self.authority, hashes.SHA256()))
