"""Attacks on JWTs, and tokens that are good."""

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from issuing import AUDIENCE, ISSUER, KEYS, OTHER_RSA, claims, jwks, public_jwk, rsa_key, token

from salver.features.access.credentials import UNUSABLE, credentials
from salver.features.identity.key_set import KeySource, parse
from salver.features.identity.rules import Issuer
from salver.features.identity.tokens import Tokens
from salver.words.errors import InvalidInput, RateLimited

ALGORITHMS = ("RS256", "ES256", "EdDSA")


@pytest.fixture
async def tokens(tmp_path: Path) -> Tokens:
    return await of(tmp_path)


async def of(folder: Path, data: bytes = b"", **more: Any) -> Tokens:
    return Tokens([await source_of(folder, data, **more)])


async def source_of(folder: Path, data: bytes = b"", **more: Any) -> KeySource:
    (folder / "jwks.json").write_bytes(data or jwks())
    settings = {"algorithms": ALGORITHMS, **more}
    source = KeySource(Issuer(ISSUER, AUDIENCE, jwks="jwks.json", **settings), folder)
    assert await source.look()
    return source


def encoded(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_hand(header: dict[str, Any], said: dict[str, Any], secret: bytes = b"") -> str:
    """A token that no library would make."""
    text = f"{encoded(header)}.{encoded(said)}"
    signature = hmac.new(secret, text.encode(), hashlib.sha256).digest() if secret else b""
    return f"{text}.{encoded(signature)}"


def is_accepted(tokens: Tokens, text: str) -> bool:
    return tokens.claims(text.encode()) is not None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_good_token(tokens: Tokens, algorithm: str) -> None:
    found = tokens.claims(token(algorithm, groups=["ml"]).encode())
    assert found is not None
    assert (found["sub"], found["groups"]) == ("ann", ["ml"])
    assert is_accepted(tokens, token(algorithm, aud=["other", AUDIENCE]))


@pytest.mark.parametrize("name", ["none", "None", "nOnE", "NONE", ""])
def test_a_token_without_a_signature(tokens: Tokens, name: str) -> None:
    assert not is_accepted(tokens, by_hand({"alg": name, "typ": "JWT", "kid": "RS256"}, claims()))
    good = token()
    assert not is_accepted(tokens, good.rpartition(".")[0] + ".")
    assert not is_accepted(tokens, good.rpartition(".")[0])


async def test_a_public_key_is_no_shared_secret(tokens: Tokens, tmp_path: Path) -> None:
    """Algorithm confusion: a token is signed with HMAC and what everybody knows as the secret."""
    public = KEYS["RS256"].public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    jwk = json.dumps(public_jwk(KEYS["RS256"], "RS256", "RS256")).encode()
    for secret in (pem, pem.strip(), der, jwk, jwks()):
        for kid in ("RS256", "", "HS256"):
            assert not is_accepted(tokens, by_hand({"alg": "HS256", "kid": kid}, claims(), secret))
    # nor does a set of keys that holds a shared one
    shared = {"kty": "oct", "k": encoded(b"s" * 32), "kid": "s", "alg": "HS256"}
    mixed = await of(tmp_path, jwks(shared, public_jwk(KEYS["RS256"], "RS256", "RS256")))
    assert not is_accepted(mixed, by_hand({"alg": "HS256", "kid": "s"}, claims(), b"s" * 32))
    assert is_accepted(mixed, token())


async def test_an_algorithm_must_be_the_keys_and_the_operators(tokens: Tokens, tmp_path: Path) -> None:
    for wrong in ("RS384", "PS256"):  # a key with ``alg`` is for that one
        assert not is_accepted(tokens, resigned(wrong))
    few = await of(tmp_path, algorithms=("ES256",))
    assert is_accepted(few, token("ES256"))
    assert not is_accepted(few, token("RS256"))
    assert not is_accepted(tokens, token("ES256", headers={"kid": "RS256"}))


def resigned(algorithm: str) -> str:
    return jwt.encode(claims(), KEYS["RS256"], algorithm, headers={"kid": "RS256"})


def test_keys_that_a_token_brings_are_not_used(tokens: Tokens) -> None:
    own = public_jwk(OTHER_RSA, "RS256", "RS256")
    for header in (
        {"jwk": own},
        {"jku": "https://evil.example.org/jwks.json"},
        {"x5u": "https://evil.example.org/cert.pem"},
        {"x5c": [encoded(b"certificate")]},
        {"crit": ["exp"], "exp": 1},
        {"b64": False, "crit": ["b64"]},
    ):
        assert not is_accepted(tokens, token(key=OTHER_RSA, headers=header)), header
    assert is_accepted(tokens, token(headers={"jku": "https://evil.example.org/jwks.json"})), "it is not read"


@pytest.mark.parametrize(
    "kid",
    [
        "../../dev/null",
        "/etc/passwd",
        "' OR 1=1 --",
        "RS256\x00",
        "rs256",
        "k" * (1 << 12),
        1,
        ["RS256"],
        {},
        True,
    ],
)
def test_an_id_of_a_key_is_only_looked_up(tokens: Tokens, kid: object) -> None:
    header = {"alg": "RS256", "kid": kid}
    body = f"{encoded(header)}.{token().split('.')[1]}"
    good = jwt.encode(claims(), KEYS["RS256"], "RS256", headers={"kid": str(kid)[:100]})
    assert not is_accepted(tokens, f"{body}.{good.rpartition('.')[2]}")
    assert not is_accepted(tokens, good) or kid == "RS256"


@pytest.mark.parametrize(
    "wrong",
    [
        {"exp": int(time.time()) - 60},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": float("nan")},
        {"exp": 10**400},
        {"exp": [int(time.time()) + 60]},
        {"nbf": int(time.time()) + 3600},
        {"nbf": "now"},
        {"iat": int(time.time()) + 3600},
        {"aud": "other"},
        {"aud": "salve"},
        {"aud": "salver2"},
        {"aud": []},
        {"aud": None},
        {"aud": {"salver": 1}},
        {"iss": "https://evil.example.org/"},
        {"iss": ISSUER.rstrip("/")},
        {"iss": [ISSUER]},
        {"iss": None},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
    ],
    ids=str,
)
def test_claims_that_make_a_token_invalid(tokens: Tokens, wrong: dict[str, Any]) -> None:
    # encoded by hand, as a library refuses to make some of them; the signature is right
    said = {name: value for name, value in claims(**wrong).items() if value is not None}
    text = jwt.api_jws.encode(json.dumps(said).encode(), KEYS["RS256"], "RS256", headers={"kid": "RS256"})
    assert not is_accepted(tokens, text)


def test_clocks_may_differ_a_little(tokens: Tokens) -> None:
    now = int(time.time())
    assert is_accepted(tokens, token(exp=now - 10, nbf=now + 10, iat=now + 10))


def test_a_token_that_was_altered(tokens: Tokens) -> None:
    head, body, signature = token().split(".")
    other = encoded(claims(sub="bob"))
    first = "A" if signature[0] != "A" else "B"
    for text in (
        f"{head}.{other}.{signature}",
        f"{head}.{body}.{first}{signature[1:]}",
        f"{head}.{body}.{signature}==",
        f"{head}.{body}.{signature}.{signature}",
        f"{body}.{head}.{signature}",
        f"{head}..{signature}",
        "..",
        "a.b.c",
        f"{head}.{body}.{encoded(b'0' * 256)}",
    ):
        assert not is_accepted(tokens, text), text
    assert not is_accepted(tokens, token(key=OTHER_RSA))


def test_a_huge_or_deep_token(tokens: Tokens) -> None:
    assert not is_accepted(tokens, token(padding="x" * 9000))
    assert credentials([(b"authorization", b"Bearer " + token(padding="x" * 9000).encode())]) == {UNUSABLE}
    deep = f"{encoded({'alg': 'RS256', 'kid': 'RS256'})}.{encoded(b'[' * 3000)}.{encoded(b'x')}"
    assert not is_accepted(tokens, deep)
    assert is_accepted(tokens, token(padding="x" * 4000))


async def test_keys_that_are_short_private_or_for_something_else(tmp_path: Path) -> None:
    short = rsa_key(1024)
    with pytest.raises(InvalidInput, match="no public key"):
        parse(jwks(public_jwk(short, "RS256", "short")), ("RS256",))
    private = {**public_jwk(OTHER_RSA, "RS256", "private"), "d": "AQAB"}
    with pytest.raises(InvalidInput, match="no public key"):
        parse(jwks(private), ("RS256",))
    with pytest.raises(InvalidInput, match="no public key"):
        parse(jwks({**public_jwk(OTHER_RSA, "RS256", "e"), "use": "enc"}), ("RS256",))
    with pytest.raises(InvalidInput, match="more than 64"):
        parse(jwks(*[public_jwk(OTHER_RSA, "RS256", str(n)) for n in range(65)]), ("RS256",))


async def test_a_token_without_an_id_of_its_key(tmp_path: Path) -> None:
    one = await of(tmp_path, jwks(public_jwk(KEYS["RS256"], "RS256", "a")))
    bare = jwt.encode(claims(), KEYS["RS256"], "RS256")
    assert is_accepted(one, bare)
    two = await of(tmp_path, jwks(*[public_jwk(KEYS["RS256"], "RS256", kid) for kid in ("a", "b")]))
    assert not is_accepted(two, bare), "it could be either"


async def test_forged_tokens_cost_bounded_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = 0
    tokens = Tokens([await source_of(tmp_path)], ticks=lambda: ticks)
    checks = count_checks(monkeypatch)
    known = token("EdDSA", sub="bob")
    assert is_accepted(tokens, known)
    checks.clear()
    kind = {"alg": "EdDSA", "kid": "EdDSA"}
    mine = [outcome(tokens, by_hand(kind, claims(sub="bob", n=-n), b"f")) for n in range(20)]
    assert mine == ["wrong"] * 20, "without a flood nobody is limited"
    outcomes = [outcome(tokens, by_hand(kind, claims(sub=f"s{n}"), b"forged")) for n in range(3000)]
    assert len(checks) == 200 and outcomes == ["wrong"] * 180 + ["limited"] * 2820
    # who had a good token before gets a new one, also while others claim to be this caller
    renewed = [token("EdDSA", sub="bob", jti=str(n)) for n in range(50)]
    assert [outcome(tokens, each) for each in renewed] == ["accepted"] * 50
    assert [outcome(tokens, by_hand(kind, claims(sub="bob", n=n), b"f")) for n in range(9)] == [
        *["wrong"] * 5,
        *["limited"] * 4,
    ]
    assert outcome(tokens, token("EdDSA", sub="new")) == "limited"
    assert outcome(tokens, "no.token.text") == "wrong", "what costs little is told"
    ticks = 10**9
    assert outcome(tokens, token("EdDSA", sub="new")) == outcome(tokens, known) == "accepted"
    checks.clear()
    again = [outcome(tokens, by_hand(kind, claims(sub=f"t{n}"), b"forged")) for n in range(3000)]
    assert len(checks) == again.count("wrong") == 200


async def test_the_callers_who_are_known_are_bounded(tmp_path: Path) -> None:
    tokens = Tokens([await source_of(tmp_path)], ticks=lambda: 0)
    for number in range(1100):
        assert is_accepted(tokens, token("EdDSA", sub=f"s{number}"))
    assert len(tokens._known) == 1024 and list(tokens._known)[-1] == (ISSUER, "s1099")


def count_checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the tokens whose signatures are checked from now on."""
    checks: list[str] = []
    decode = jwt.decode

    def counted(text: str, *given: Any, **more: Any) -> Any:
        checks.append(text)
        return decode(text, *given, **more)

    monkeypatch.setattr(jwt, "decode", counted)
    return checks


def outcome(tokens: Tokens, text: str) -> str:
    try:
        return "accepted" if is_accepted(tokens, text) else "wrong"
    except RateLimited as error:
        assert 0 < error.retry_after <= 1
        return "limited"
