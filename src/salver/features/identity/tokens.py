"""JSON Web Tokens (RFC 7519) of configured issuers, checked by PyJWT.

Checks of signatures that fail are limited, as each takes 0.1 ms. Callers who had a good token before have
checks of their own beyond that limit, so that a flood of forged tokens does not keep them from a new one.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import jwt

from salver.features.access.gcra import Cell, Rate
from salver.features.identity.key_set import KeySource
from salver.features.identity.rules import Issuer
from salver.words.errors import RateLimited

_LOG: Final = logging.getLogger("salver.access")
_MOST_BYTES: Final = 8 << 10
_FORM: Final = re.compile(rb"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
_MOST_KID: Final = 128
#: Seconds by which clocks may differ.
LEEWAY_S: Final = 30.0
_REQUIRED: Final = ("exp", "iss", "aud", "sub")
_OPTIONS: Final[Any] = {"require": [*_REQUIRED], "enforce_minimum_key_length": True}
_UNCHECKED: Final[Any] = {"verify_signature": False}
#: Checks that may fail: of all tokens together, and of those of one caller who is known.
_FAILURES: Final = Rate(count=200, seconds=1, burst=200)
_FAILURES_OF_ONE: Final = Rate(count=1, seconds=1, burst=5)
#: Most callers who are known.
_MOST_KNOWN: Final = 1024


class Tokens:
    """Check of tokens.

    Args:
        now: Returns Unix seconds.
        ticks: Returns monotonic nanoseconds.
    """

    def __init__(
        self,
        sources: Sequence[KeySource],
        now: Callable[[], float] = time.time,
        ticks: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._sources = {source.issuer.issuer: source for source in sources}
        self._now = now
        self._ticks = ticks
        self._failures = Cell(_FAILURES)
        self._known: dict[tuple[str, str], Cell] = {}

    def __repr__(self) -> str:
        return f"<Tokens of {', '.join(self._sources)}>"

    def claims(self, token: bytes) -> Mapping[str, Any] | None:
        """Return the claims of a token; None = it is not valid.

        What costs little is checked first, so that only tokens that look right cost a check of the signature.

        Raises:
            RateLimited: too many signatures were wrong just now.
        """
        if len(token) > _MOST_BYTES or not _FORM.fullmatch(token):
            return None
        try:
            text = token.decode("ascii")
            looked = jwt.decode_complete(text, options=_UNCHECKED)
            header, said = looked["header"], looked["payload"]
            source, algorithm, kid = self._sources.get(said["iss"]), header["alg"], header.get("kid", "")
            if source is None or algorithm not in source.issuer.algorithms or not isinstance(kid, str):
                return None
            if len(kid) > _MOST_KID or not float(said["exp"]) + LEEWAY_S > self._now():
                return None
            key = source.find(kid, algorithm)
            if key is None:
                return None
            found = self._verified(text, source.issuer, key, algorithm, said.get("sub"))
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            _LOG.debug("a token is refused: %s", type(error).__name__)  # never what stands in it
            return None
        return found if isinstance(found["sub"], str) and found["sub"] else None

    def _verified(self, text: str, issuer: Issuer, key: Any, algorithm: str, sub: object) -> dict[str, Any]:
        """Return the claims of a token whose signature is right.

        Raises:
            PyJWTError, RateLimited: it is not, or too many were not.
        """
        who, failures, now = (issuer.issuer, str(sub)), self._failures, self._ticks()
        if failures.wait(now):
            failures = self._known.get(who, failures)
        if wait := failures.wait(now):
            text = "too many tokens could not be verified just now"
            raise RateLimited(text, fix="Send it again.", retry_after=wait / 1e9)
        before = failures.free_at
        failures.take(now)
        # The algorithm is the operator's and the key's, never only the token's.
        found: dict[str, Any] = jwt.decode(
            text,
            key,
            algorithms=[algorithm],
            audience=issuer.audiences,
            issuer=issuer.issuer,
            leeway=LEEWAY_S,
            options=_OPTIONS,
        )
        failures.free_at = before  # only failures count
        self._known[who] = self._known.pop(who, Cell(_FAILURES_OF_ONE))  # the latest stands last
        if len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        return found
