"""Signing keys on disk: which one signs, which ones verify, and what a rotation adds and removes."""

import json
import logging
import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kernel_gateway.tokens import holder as holder_module
from kernel_gateway.tokens.holder import KeyHolder
from kernel_gateway.tokens.keyring import LEEWAY, SETTLE, KeyRing, KeysError, rotate

NOW = 1_800_000_000


def made(directory: Path, *times: float) -> list[str]:
    """Keys of these ages, none of which a rotation has removed."""
    return [rotate(directory, at, lifetime=10**9) for at in times]


def pem(private: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_a_key_is_one_private_file(tmp_path: Path) -> None:
    kid = rotate(tmp_path, NOW)
    assert [path.name for path in tmp_path.iterdir()] == [f"{kid}.pem"]
    assert (tmp_path / f"{kid}.pem").stat().st_mode & 0o777 == 0o600
    assert kid.startswith(f"{NOW}-")


def test_the_newest_settled_key_signs(tmp_path: Path) -> None:
    old, new = made(tmp_path, NOW - 1000, NOW)
    ring = KeyRing.load(tmp_path)
    assert ring.signer(NOW).kid == old
    assert ring.signer(NOW + SETTLE - 1).kid == old
    assert ring.signer(NOW + SETTLE).kid == new
    assert ring.kids() == (old, new)
    assert ring.verifier(old) is not None
    assert ring.verifier(new) is not None
    assert ring.verifier("1-00000000") is None


def test_the_oldest_signs_when_none_has_settled(tmp_path: Path) -> None:
    first, _ = made(tmp_path, NOW, NOW + 10)
    assert KeyRing.load(tmp_path).signer(NOW + 20).kid == first


def test_a_rotation_keeps_a_key_until_its_last_token_has_run_out(tmp_path: Path) -> None:
    first, second = made(tmp_path, NOW, NOW + 1000)
    superseded = NOW + 1000 + SETTLE
    third = rotate(tmp_path, superseded + 900 + LEEWAY, lifetime=900)
    assert KeyRing.load(tmp_path).kids() == (first, second, third)
    fourth = rotate(tmp_path, superseded + 900 + LEEWAY + 1, lifetime=900)
    assert KeyRing.load(tmp_path).kids() == (second, third, fourth)


def test_tokens_live_through_rotations(tmp_path: Path) -> None:
    """Rotated every minute for an hour: whatever was signed within the last 15 minutes is verified."""
    rotate(tmp_path, NOW)
    signed: list[tuple[int, str]] = []
    for at in range(NOW, NOW + 3600, 60):
        ring = KeyRing.load(tmp_path)
        signed.append((at, ring.signer(at).kid))
        assert all(ring.verifier(kid) for when, kid in signed if at <= when + 900 + LEEWAY)
        rotate(tmp_path, at, lifetime=900)
    assert len(KeyRing.load(tmp_path).kids()) < 25


def test_the_public_keys_can_be_used_by_others(tmp_path: Path) -> None:
    made(tmp_path, NOW, NOW + 1)
    ring = KeyRing.load(tmp_path)
    published = json.loads(json.dumps(ring.jwks()))
    assert [key["kid"] for key in published["keys"]] == list(ring.kids())
    for key in published["keys"]:
        assert set(key) == {"kty", "crv", "alg", "use", "kid", "x", "y"}, "nothing private"
        assert jwt.PyJWK(key).key == ring.verifier(key["kid"])


def test_what_cannot_be_used_is_named_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="keys rotate"):
        KeyRing.load(tmp_path)
    with pytest.raises(KeysError, match="GATEWAY_KEYS_DIRECTORY"):
        KeyRing.load(tmp_path / "none")
    with pytest.raises(KeysError, match="can't be written"):
        rotate(tmp_path / "none", NOW)
    kid = rotate(tmp_path, NOW)
    (tmp_path / f"{kid}.pem").chmod(0o644)
    with pytest.raises(KeysError, match="chmod"):
        KeyRing.load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        pem(ec.generate_private_key(ec.SECP384R1())),
        pem(rsa.generate_private_key(65537, 2048)),
    ],
)
def test_a_file_that_is_no_key_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    rotate(tmp_path, NOW)
    path = tmp_path / "1700000000-00000000.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeysError, match=r"1700000000-00000000\.pem") as caught:
        KeyRing.load(tmp_path)
    assert "BEGIN" not in str(caught.value)


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    kid = rotate(tmp_path, NOW)
    for name in ("readme.txt", ".1-00000000.tmp", "x-00000000.pem", "..data"):
        (tmp_path / name).write_text("x")
    assert KeyRing.load(tmp_path).kids() == (kid,)


def test_a_holder_sees_new_keys_and_loses_removed_ones(tmp_path: Path) -> None:
    old, kept = made(tmp_path, NOW, NOW + 1)
    holder = KeyHolder(tmp_path)
    before = holder.verifier(kept)
    (tmp_path / f"{old}.pem").unlink()
    (new,) = made(tmp_path, NOW + 2)
    holder.reread()
    assert holder.ring.kids() == (kept, new)
    assert holder.verifier(kept) is before, "what did not change stays the same key"


def test_a_holder_may_wait_for_its_first_key(tmp_path: Path) -> None:
    holder = KeyHolder.waiting(tmp_path)
    with pytest.raises(KeysError, match="keys rotate"):
        holder.signer(NOW)
    kid = rotate(tmp_path, NOW)
    holder.reread()
    assert holder.signer(NOW).kid == kid


def test_an_unknown_key_is_looked_for_but_not_for_every_invented_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotate(tmp_path, NOW)
    holder = KeyHolder(tmp_path)
    (new,) = made(tmp_path, NOW + 1)
    assert holder.verifier(new) is not None, "at once"
    (newer,) = made(tmp_path, NOW + 2)
    assert holder.verifier(newer) is None, "not again so soon"
    monkeypatch.setattr(holder_module, "UNKNOWN_INTERVAL", 0.0)
    assert holder.verifier(newer) is not None


def test_a_directory_that_turned_bad_takes_only_what_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old, new = made(tmp_path, NOW, NOW + 1)
    holder = KeyHolder(tmp_path)
    bad = tmp_path / "1700000000-00000000.pem"
    bad.write_text("half a key")
    bad.chmod(0o600)
    (tmp_path / f"{old}.pem").unlink()
    with caplog.at_level(logging.ERROR):
        holder.reread()
    assert bad.name in caplog.text
    assert holder.ring.kids() == (new,)
    tmp_path.rename(tmp_path.with_name("away"))
    holder.reread()
    assert holder.ring.kids() == (new,), "the disk is away; nobody removed a key"
    tmp_path.with_name("away").rename(tmp_path)
    bad.unlink()
    (tmp_path / f"{new}.pem").unlink()
    holder.reread()
    assert holder.ring.kids() == ()
    with pytest.raises(KeysError, match="keys rotate"):
        holder.signer(time.time())
