"""An issuer of JWTs with its keys, for tests."""

import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

ISSUER = "https://login.example.org/"
AUDIENCE = "salver"


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


#: Keys by algorithm; made once, as those of RSA take their time.
KEYS: dict[str, Any] = {
    "RS256": rsa_key(),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
OTHER_RSA = rsa_key()


def public_jwk(key: Any, algorithm: str, kid: str, **more: Any) -> dict[str, Any]:
    found = get_default_algorithms()[algorithm].to_jwk(key.public_key(), as_dict=True)
    return {**found, "kid": kid, "use": "sig", **more}


def jwks(*keys: dict[str, Any]) -> bytes:
    """A set of keys; without an argument, those of :data:`KEYS`, each with its algorithm as its id."""
    return json.dumps(
        {"keys": keys or [public_jwk(key, name, name, alg=name) for name, key in KEYS.items()]}
    ).encode()


def claims(**more: Any) -> dict[str, Any]:
    now = int(time.time())
    return {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": now + 600, "iat": now, **more}


def token(
    algorithm: str = "RS256", key: Any = None, headers: dict[str, Any] | None = None, **more: Any
) -> str:
    """A token, by default a good one; a claim that is None is left out."""
    said = {name: value for name, value in claims(**more).items() if value is not None}
    headers = {"kid": algorithm, **(headers or {})}
    return jwt.encode(said, key or KEYS[algorithm], algorithm, headers=headers)
