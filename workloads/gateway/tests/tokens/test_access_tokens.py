"""Access tokens: exactly one form is taken, whatever is tried."""

import base64
import hashlib
import hmac
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel_gateway import metrics
from kernel_gateway.tokens.bearer import bearer
from kernel_gateway.tokens.holder import KeyHolder
from kernel_gateway.tokens.keyring import LEEWAY, SigningKey, rotate
from kernel_gateway.tokens.memory import TokenMemory
from kernel_gateway.tokens.tokens import AUDIENCE, MAX_LENGTH, Claims, TokenRefused, issue, verify

ISSUER = "https://gateway.example"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@pytest.fixture
def keys(tmp_path: Path) -> KeyHolder:
    rotate(tmp_path, time.time() - 1000)
    return KeyHolder(tmp_path)


@pytest.fixture
def claims() -> Claims:
    now = int(time.time())
    return Claims(uuid4(), uuid4(), ("Member", "Head of sales"), now, now + 900, uuid4())


@pytest.fixture
def signer(keys: KeyHolder) -> SigningKey:
    return keys.signer(time.time())


@pytest.fixture
def token(claims: Claims, signer: SigningKey) -> str:
    return issue(claims, signer, ISSUER)


def refused(token: str, keys: KeyHolder, now: float | None = None) -> str:
    with pytest.raises(TokenRefused) as caught:
        verify(token, keys, ISSUER, time.time() if now is None else now)
    assert caught.value.status == 401
    assert len(token) < 40 or token not in caught.value.detail
    return caught.value.slug


def packed(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def payload(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    loaded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return loaded


def signed(header: dict[str, Any], body: dict[str, Any], signer: SigningKey) -> str:
    """By the right key, whatever the header says."""
    text = f"{packed(header)}.{packed(body)}"
    signature = jwt.get_algorithm_by_name("ES256").sign(text.encode(), signer.private)
    return f"{text}.{packed(signature)}"


def test_what_is_issued_is_read_again(claims: Claims, keys: KeyHolder, signer: SigningKey) -> None:
    for told in (claims, replace(claims, actor=uuid4()), replace(claims, roles=())):
        assert verify(issue(told, signer, ISSUER), keys, ISSUER, time.time()) == told


def test_another_implementation_reads_it(claims: Claims, token: str, keys: KeyHolder) -> None:
    """PyJWT, with the published keys alone."""
    published = jwt.PyJWKSet.from_dict(keys.ring.jwks())
    key = published[jwt.get_unverified_header(token)["kid"]]
    read = jwt.decode(token, key, algorithms=["ES256"], audience=AUDIENCE, issuer=ISSUER)
    assert (read["sub"], read["tenantId"]) == (str(claims.user), str(claims.tenant))
    assert set(read) == {"iss", "aud", "sub", "tenantId", "roles", "iat", "exp", "jti"}, "and nothing personal"
    assert len(token) < 700


def test_what_another_implementation_signs_is_read(
    claims: Claims, token: str, keys: KeyHolder, signer: SigningKey
) -> None:
    theirs = jwt.encode(payload(token), signer.private, algorithm="ES256", headers={"kid": signer.kid})
    assert verify(theirs, keys, ISSUER, time.time()) == claims


def test_expiry_and_leeway(claims: Claims, token: str, keys: KeyHolder) -> None:
    assert verify(token, keys, ISSUER, claims.expires + LEEWAY - 1) == claims
    assert refused(token, keys, claims.expires + LEEWAY) == "token-expired"
    assert verify(token, keys, ISSUER, claims.issued - LEEWAY) == claims
    assert refused(token, keys, claims.issued - LEEWAY - 1) == "unauthenticated"


def test_a_signature_by_the_public_key_as_a_secret(token: str, keys: KeyHolder, signer: SigningKey) -> None:
    """The confusion of algorithms: HS256, keyed with what everybody can read."""
    public = signer.private.public_key()
    for encoding in (serialization.Encoding.PEM, serialization.Encoding.DER):
        secret = public.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
        text = f"{packed({'alg': 'HS256', 'kid': signer.kid, 'typ': 'JWT'})}.{token.split('.')[1]}"
        forged = hmac.new(secret, text.encode(), hashlib.sha256).digest()
        assert refused(f"{text}.{packed(forged)}", keys) == "unauthenticated"


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "HS256", "ES384", "ES512", "RS256", "", None, 5])
def test_other_algorithms(token: str, keys: KeyHolder, signer: SigningKey, algorithm: object) -> None:
    header = {"alg": algorithm, "kid": signer.kid, "typ": "JWT"}
    body = token.split(".")[1]
    assert refused(f"{packed(header)}.{body}.", keys) == "unauthenticated"
    assert refused(f"{packed(header)}.{body}", keys) == "unauthenticated"
    assert refused(signed(header, payload(token), signer), keys) == "unauthenticated"


@pytest.mark.parametrize(
    "more",
    [
        {"jwk": {"kty": "EC"}},
        {"jku": "https://evil.example/jwks"},
        {"x5u": "https://evil.example/key"},
        {"x5c": []},
        {"crit": ["exp"]},
        {"b64": False},
        {"cty": "JWT"},
        {"zip": "DEF"},
    ],
)
def test_headers_that_would_choose_the_key_or_the_reading(
    token: str, keys: KeyHolder, signer: SigningKey, more: dict[str, Any]
) -> None:
    header = {"alg": "ES256", "kid": signer.kid, "typ": "JWT", **more}
    assert refused(signed(header, payload(token), signer), keys) == "unauthenticated"


def test_a_foreign_key(token: str, keys: KeyHolder, signer: SigningKey) -> None:
    foreign = SigningKey(signer.kid, ec.generate_private_key(ec.SECP256R1()))
    header = {"alg": "ES256", "kid": signer.kid, "typ": "JWT"}
    assert refused(signed(header, payload(token), foreign), keys) == "unauthenticated"
    public = foreign.private.public_key().public_numbers()
    brought = {
        "kty": "EC",
        "crv": "P-256",
        "x": packed(public.x.to_bytes(32, "big")),
        "y": packed(public.y.to_bytes(32, "big")),
    }
    assert refused(signed({**header, "jwk": brought}, payload(token), foreign), keys) == "unauthenticated"


@pytest.mark.parametrize("kid", ["1-00000000", "../../etc/passwd", "", None, 7, ["x"], {"a": 1}])
def test_a_key_that_is_not_there(token: str, keys: KeyHolder, signer: SigningKey, kid: object) -> None:
    assert (
        refused(signed({"alg": "ES256", "kid": kid, "typ": "JWT"}, payload(token), signer), keys) == "unauthenticated"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "https://other.example"},
        {"iss": None},
        {"aud": "other"},
        {"aud": [AUDIENCE, "other"]},
        {"aud": None},
        {"sub": "nobody"},
        {"sub": 5},
        {"tenantId": None},
        {"roles": "Owner"},
        {"roles": [1]},
        {"exp": None},
        {"exp": "9999999999"},
        {"exp": True},
        {"exp": 1e300},
        {"iat": None},
        {"jti": ""},
        {"act": "somebody"},
        {"act": {}},
    ],
)
def test_claims_that_are_missing_or_wrong(
    token: str, keys: KeyHolder, signer: SigningKey, change: dict[str, Any]
) -> None:
    header = {"alg": "ES256", "kid": signer.kid, "typ": "JWT"}
    assert verify(signed(header, payload(token), signer), keys, ISSUER, time.time())
    assert refused(signed(header, payload(token) | change, signer), keys) == "unauthenticated"
    (name,) = change
    without = {key: value for key, value in payload(token).items() if key != name}
    if name != "act":
        assert refused(signed(header, without, signer), keys) == "unauthenticated"


def test_an_oversized_token(claims: Claims, keys: KeyHolder, signer: SigningKey) -> None:
    large = issue(replace(claims, roles=("x" * 100,) * 70), signer, ISSUER)
    assert len(large) > MAX_LENGTH
    assert refused(large, keys) == "unauthenticated"


def test_every_other_last_character_is_another_text(token: str, keys: KeyHolder) -> None:
    """The last character of a signature has four bits that decoders ignore: fifteen texts would be one signature."""
    for part in range(3):
        parts = token.split(".")
        end = parts[part][-1]
        for other in ALPHABET:
            parts[part] = parts[part][:-1] + other
            if other != end:
                assert refused(".".join(parts), keys) == "unauthenticated"


@pytest.mark.parametrize("stray", ["=", "==", " ", "\n", "\t", "+", "/", ".", "A", "AAAA", "\x00", "é", "%20"])
def test_strays(token: str, keys: KeyHolder, stray: str) -> None:
    header, body, signature = token.split(".")
    middle = len(signature) // 2
    for text in (
        f"{token}{stray}",
        f"{stray}{token}",
        f"{header}{stray}.{body}.{signature}",
        f"{header}.{body}{stray}.{signature}",
        f"{header}.{body}.{signature[:middle]}{stray}{signature[middle:]}",
    ):
        assert refused(text, keys) == "unauthenticated"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_\-]{0,60}(\.[A-Za-z0-9_\-]{0,60}){0,4}", fullmatch=True))
def test_anything_at_all_is_refused_in_order(keys: KeyHolder, text: str) -> None:
    assert refused(text, keys) == "unauthenticated"


@pytest.mark.parametrize(
    "part", [b"[]", b"null", b"7", b"{", b"\xff\xfe", b"[" * 5000, b'{"alg":"ES256"', b'{"alg":NaN}', b""]
)
def test_parts_that_are_no_objects(token: str, keys: KeyHolder, signer: SigningKey, part: bytes) -> None:
    header, body, signature = token.split(".")
    assert refused(f"{packed(part)}.{body}.{signature}", keys) == "unauthenticated"
    text = f"{header}.{packed(part)}"
    proper = packed(jwt.get_algorithm_by_name("ES256").sign(text.encode(), signer.private))
    assert refused(f"{text}.{proper}", keys) == "unauthenticated"


@pytest.mark.parametrize("numbers", [(0, 0), (0, 1), (1, 0), (2**256 - 1, 2**256 - 1)])
def test_signatures_of_impossible_numbers(token: str, keys: KeyHolder, numbers: tuple[int, int]) -> None:
    signature = b"".join(number.to_bytes(32, "big") for number in numbers)
    assert refused(f"{token.rpartition('.')[0]}.{packed(signature)}", keys) == "unauthenticated"


# The Authorization header


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (["Bearer abc"], "abc"),
        (["bearer abc"], "abc"),
        (["BEARER   abc"], "abc"),
        (["Bearer abc", "Bearer abc"], "abc"),
        (["Bearer abc, Bearer abc"], "abc"),
        (["Bearer abc", ""], "abc"),
    ],
)
def test_one_token_is_found(values: list[str], found: str) -> None:
    assert bearer(values) == found


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ([], 401),
        ([""], 401),
        (["abc"], 401),
        (["Basic abc"], 401),
        (["Bearer abc", "Bearer abd"], 400),
        (["Bearer abc,Bearer abd"], 400),
        (["Bearer abc,abd"], 401),
        (["Bearer abc", "Basic abc"], 401),
        (["Basic abc", "Bearer abc"], 401),
    ],
)
def test_no_token_or_more_than_one(values: list[str], status: int) -> None:
    with pytest.raises(TokenRefused) as caught:
        bearer(values)
    assert caught.value.status == status
    assert "abc" not in caught.value.detail


# What is remembered


@pytest.fixture
def memory(keys: KeyHolder) -> TokenMemory[str]:
    return TokenMemory(keys, ISSUER, lambda claims: str(claims.id), capacity=10)


def counted() -> tuple[float, float]:
    return metrics.remembered_hits._value.get(), metrics.remembered_misses._value.get()


def test_a_token_is_verified_once(memory: TokenMemory[str], token: str, claims: Claims) -> None:
    hits, misses = counted()
    for _ in range(5):
        assert memory.get(token) == str(claims.id)
    assert counted() == (hits + 4, misses + 1)


def test_a_text_that_differs_in_one_character_is_never_remembered(memory: TokenMemory[str], token: str) -> None:
    memory.get(token)
    for at in range(len(token)):
        for other in ("A", "B", " ", "="):
            if token[at] != other:
                with pytest.raises(TokenRefused):
                    memory.get(token[:at] + other + token[at + 1 :])
    assert len(memory) == 1


def test_a_removed_key_stops_its_tokens_at_once(
    memory: TokenMemory[str], token: str, keys: KeyHolder, signer: SigningKey, tmp_path: Path
) -> None:
    memory.get(token)
    rotate(tmp_path, time.time())
    (tmp_path / f"{signer.kid}.pem").unlink()
    keys.reread()
    with pytest.raises(TokenRefused, match="key"):
        memory.get(token)


def test_a_key_that_was_replaced_under_its_name_stops_its_tokens_too(
    memory: TokenMemory[str], token: str, keys: KeyHolder, signer: SigningKey, tmp_path: Path
) -> None:
    memory.get(token)
    path = tmp_path / f"{signer.kid}.pem"
    path.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    keys.reread()
    with pytest.raises(TokenRefused, match="signature"):
        memory.get(token)


def test_an_expired_token_is_forgotten(memory: TokenMemory[str], claims: Claims, signer: SigningKey) -> None:
    now = int(time.time())
    # Within the leeway for between one and two seconds more.
    ends = now + 2
    token = issue(replace(claims, issued=now - 900, expires=ends - LEEWAY), signer, ISSUER)
    memory.get(token)
    assert len(memory) == 1
    deadline = time.monotonic() + 5
    with pytest.raises(TokenRefused) as caught:
        while time.monotonic() < deadline:
            memory.get(token)
            time.sleep(0.05)
    assert caught.value.slug == "token-expired"
    assert time.time() >= ends
    assert len(memory) == 0


def test_the_memory_is_bounded_and_forgets_the_oldest(
    memory: TokenMemory[str], claims: Claims, signer: SigningKey
) -> None:
    tokens = [issue(replace(claims, id=uuid4()), signer, ISSUER) for _ in range(15)]
    for token in tokens:
        memory.get(token)
    assert len(memory) == 10
    hits, misses = counted()
    for token in tokens[5:]:
        memory.get(token)
    assert counted() == (hits + 10, misses)


def test_what_is_refused_is_not_remembered(memory: TokenMemory[str], token: str) -> None:
    for _ in range(3):
        with pytest.raises(TokenRefused):
            memory.get(token[:-2] + "AA")
    assert len(memory) == 0
