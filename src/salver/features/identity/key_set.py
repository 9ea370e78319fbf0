"""Public keys of an issuer, as JWKS (RFC 7517) has them, and where they come from."""

import asyncio
import http.client
import ipaddress
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import jwt

from salver.features.identity.rules import Issuer
from salver.stores.sources.connecting import HttpCall
from salver.words.errors import InvalidInput

_MOST_BYTES: Final = 256 << 10
_MOST_KEYS: Final = 64
_MOST_KID: Final = 128
_FETCH_S: Final = 5.0
#: Algorithms of a key by its type and curve.
_OF_TYPE: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("RSA", ""): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("OKP", "Ed448"): ("EdDSA",),
}
#: Fields that only private and shared keys have.
_SECRET: Final = frozenset(("d", "k", "p", "q", "dp", "dq", "qi", "oth"))
#: Cryptography's public keys by the key's id and the algorithm.
KeySet = Mapping[tuple[str, str], Any]
_REFRESH_S: Final = 300.0
#: Seconds between two fetches for a key that is not known.
_PAUSE_S: Final = 30.0
#: Seconds for which keys are used that cannot be fetched again.
_STALE_S: Final = 24 * 3600.0


def parse(data: bytes, allowed: tuple[str, ...]) -> KeySet:
    """Return the usable keys of a JWKS, by id and algorithm.

    Args:
        allowed: Algorithms that the operator accepts.

    Raises:
        InvalidInput: it is none, or has no usable key, or too many.
    """
    try:
        listed = json.loads(data)["keys"]
        found = [each for each in listed if isinstance(each, dict)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidInput("this is no set of keys (JWKS)") from error
    if len(found) > _MOST_KEYS:
        raise InvalidInput(f"there are more than {_MOST_KEYS} keys")
    keys: dict[tuple[str, str], Any] = {}
    for each in found:
        kid = each.get("kid", "")
        if not isinstance(kid, str) or len(kid) > _MOST_KID or each.get("use", "sig") != "sig":
            continue
        for algorithm in _algorithms(each):
            if algorithm in allowed and (key := _public_key(each, algorithm)) is not None:
                keys[kid, algorithm] = key
    if not keys:
        raise InvalidInput(f"there is no public key for {', '.join(allowed)}")
    return keys


def _algorithms(key: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the algorithms that a key is for; a private or shared one is for none."""
    kind, curve = str(key.get("kty")), str(key.get("crv", ""))
    of_type = _OF_TYPE.get((kind, "" if kind == "RSA" else curve), ())
    if not _SECRET.isdisjoint(key):
        return ()
    named = key.get("alg")
    return tuple(each for each in of_type if named in (None, each))


def _public_key(key: Mapping[str, Any], algorithm: str) -> Any:
    """Return the key for cryptography; None = it is malformed or too short."""
    try:
        checker = jwt.get_algorithm_by_name(algorithm)
        found = checker.from_jwk(dict(key))
        is_short = checker.check_key_length(found) is not None
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if is_short:
        return None
    return found


class KeySource:
    """Keys of one issuer: those of a URL are fetched again at intervals and for a key that is not known.

    A file is read again when it changes.

    What cannot be fetched, or is no set of keys, leaves the keys as they are, for a day.

    Args:
        folder: Folder to which file names are relative.
        ticks: Monotonic seconds.
        fetch: Returns the content of a URL.
    """

    def __init__(
        self,
        issuer: Issuer,
        folder: Path,
        ticks: Callable[[], float] = time.monotonic,
        fetch: Callable[[str, str], Awaitable[bytes]] | None = None,
    ) -> None:
        self.issuer = issuer
        self.keys: KeySet = {}
        self._fetch = fetch or fetched
        self._ticks = ticks
        self._is_url = "://" in issuer.jwks
        self._path = folder / issuer.jwks
        self._ca = str(folder / issuer.ca) if issuer.ca else ""
        if self._is_url:
            check_url(issuer.jwks)
        self._asked = self._got = float("-inf")  # when it was asked, and when its keys were good
        self._is_wanted = False
        self._seen: object = None

    def __repr__(self) -> str:
        return f"<KeySource of {len(self.keys)} keys of {self.issuer.issuer}>"

    @property
    def age_s(self) -> float:
        """Seconds since the keys were read; inf = never."""
        return self._ticks() - self._got

    def find(self, kid: str, algorithm: str) -> Any:
        """Return a key; None = it is not known, and is fetched soon."""
        keys = self.keys
        key = keys.get((kid, algorithm))
        if key is None and not kid:  # a token without an id means the only key
            of_algorithm = [each for (_, known), each in keys.items() if known == algorithm]
            key = of_algorithm[0] if len(of_algorithm) == 1 else None
        if key is None:
            self._is_wanted = True
        return key

    async def look(self) -> bool:
        """Fetch the keys if it is time; return whether they have changed.

        Raises:
            InvalidInput, OSError: they could not be fetched or are wrong, and stay as they are.
        """
        if not await self._is_due():
            return False
        try:
            data = await self._data()
            keys = parse(data, self.issuer.algorithms)
        except BaseException:
            self._is_wanted = True  # again after the pause
            if self.keys and self._ticks() - self._got > _STALE_S:
                self.keys = {}
            raise
        self._got = self._ticks()
        before, self.keys = self.keys, keys
        return not _are_equal(before, keys)

    async def _is_due(self) -> bool:
        if not self._is_url:
            before, self._seen = self._seen, await asyncio.to_thread(_state, self._path)
            if self._seen != before or not self.keys:
                return True
            self._got = self._ticks()
            return False
        now = self._ticks()
        if now - self._asked < (_PAUSE_S if self._is_wanted else _REFRESH_S):
            return False
        self._asked, self._is_wanted = now, False
        return True

    async def _data(self) -> bytes:
        if self._is_url:
            return await self._fetch(self.issuer.jwks, self._ca)
        return await asyncio.to_thread(read, self._path)


def _are_equal(before: KeySet, after: KeySet) -> bool:
    return before.keys() == after.keys() and all(before[name] == after[name] for name in before)


def _state(path: Path) -> object:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def read(path: Path) -> bytes:
    """Return the content of a file of keys. Raises OSError, InvalidInput."""
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise InvalidInput(f"{path} has more than {_MOST_BYTES} bytes")
    return data


def check_url(url: str) -> SplitResult:
    """Return the parts of the URL of a set of keys.

    Raises:
        InvalidInput: it is not https, nor http to this machine, or malformed.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise InvalidInput("jwks is no URL", field="jwks") from error  # it may hold a password
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and _is_here(host))
    if not host or not is_safe or parts.username is not None:
        raise InvalidInput(
            f"keys of issuers come by https and without a password, not by {parts.scheme!r} from {host!r}",
            field="jwks",
        )
    return parts


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def fetched(url: str, ca: str) -> bytes:
    """Return the content of a URL, in five seconds altogether and of 256 KiB at most. Follows no redirect.

    Args:
        ca: PEM file of trusted authorities; empty = those of the system.

    Raises:
        InvalidInput: the answer is no content.
        OSError: the host cannot be reached in time.
    """
    host = check_url(url).hostname
    line = HttpCall(_FETCH_S, ssl.create_default_context(cafile=ca) if ca else None)

    def ask() -> bytes:
        with line.ask(url, {"accept": "application/json"}) as answer:
            if answer.status != 200:
                raise InvalidInput(f"{host} answers {answer.status}")
            body = answer.read(_MOST_BYTES + 1)
            if len(body) > _MOST_BYTES or answer.length:  # what is left of the length that was announced
                raise InvalidInput(f"{host} sends less than it says, or more than {_MOST_BYTES} bytes")
            return body

    try:
        async with asyncio.timeout(_FETCH_S):  # one limit for name, handshake, head and body
            return await asyncio.to_thread(ask)
    except http.client.HTTPException as error:
        raise InvalidInput(f"{host} does not speak HTTP: {type(error).__name__}") from error
    finally:
        line.cut()
