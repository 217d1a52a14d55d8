"""The gateway's certificate in the embedded platform: kept while it is good, made anew when it is not."""

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from kernel_local import edge_certificate

NOW = datetime.datetime.now(datetime.UTC)


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def changed(before: dict[str, bytes], folder: Path) -> set[str]:
    return {name for name, content in held(folder).items() if before.get(name) != content}


def test_it_is_for_this_machine_and_signed_by_an_authority_that_is_for_nothing_else(tmp_path: Path) -> None:
    edge_certificate.make(tmp_path)
    certificate = x509.load_pem_x509_certificate((tmp_path / "tls.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    authority = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())
    certificate.verify_directly_issued_by(authority)
    assert authority.extensions.get_extension_for_class(x509.NameConstraints).critical
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.iterdir())
    context = ssl.create_default_context(cafile=tmp_path / "ca.crt")
    context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")


def test_it_is_kept_while_it_is_good(tmp_path: Path) -> None:
    edge_certificate.make(tmp_path)
    before = held(tmp_path)
    edge_certificate.make(tmp_path)
    edge_certificate.make(tmp_path, now=NOW + datetime.timedelta(days=360))
    assert changed(before, tmp_path) == set()


def test_near_its_end_it_is_renewed_under_the_same_authority(tmp_path: Path) -> None:
    edge_certificate.make(tmp_path)
    before = held(tmp_path)
    edge_certificate.make(tmp_path, now=NOW + datetime.timedelta(days=370))
    assert changed(before, tmp_path) == {"tls.crt", "tls.key"}
    edge_certificate.make(tmp_path, now=NOW + datetime.timedelta(days=3640))
    assert changed(before, tmp_path) == {"tls.crt", "tls.key", "ca.crt", "ca.key"}


@pytest.mark.parametrize("name", ["tls.crt", "tls.key", "ca.crt", "ca.key"])
@pytest.mark.parametrize("harm", ["missing", "empty", "another's"])
def test_a_broken_pair_is_made_anew(tmp_path: Path, name: str, harm: str) -> None:
    folder, stranger = tmp_path / "ours", tmp_path / "another"
    edge_certificate.make(folder)
    edge_certificate.make(stranger)
    if harm == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(b"" if harm == "empty" else (stranger / name).read_bytes())
    edge_certificate.make(folder)
    certificate, authority = (
        x509.load_pem_x509_certificate((folder / f"{which}.crt").read_bytes()) for which in ("tls", "ca")
    )
    certificate.verify_directly_issued_by(authority)
    key = serialization.load_pem_private_key((folder / "tls.key").read_bytes(), None)
    assert key.public_key() == certificate.public_key()
