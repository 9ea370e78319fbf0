"""JSON Web Tokens (RFC 7519) of configured issuers, checked by PyJWT."""

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import jwt

from salver.features.identity.key_set import KeySource

_LOG: Final = logging.getLogger("salver.access")
_MOST_BYTES: Final = 8 << 10
_FORM: Final = re.compile(rb"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
_MOST_KID: Final = 128
#: Seconds by which clocks may differ.
LEEWAY_S: Final = 30.0
_REQUIRED: Final = ("exp", "iss", "aud", "sub")
_OPTIONS: Final[Any] = {"require": [*_REQUIRED], "enforce_minimum_key_length": True}
_UNCHECKED: Final[Any] = {"verify_signature": False}


class Tokens:
    """Check of tokens.

    Args:
        now: Returns Unix seconds.
    """

    def __init__(self, sources: Sequence[KeySource], now: Callable[[], float] = time.time) -> None:
        self._sources = {source.issuer.issuer: source for source in sources}
        self._now = now

    def __repr__(self) -> str:
        return f"<Tokens of {', '.join(self._sources)}>"

    def claims(self, token: bytes) -> Mapping[str, Any] | None:
        """Return the claims of a token; None = it is not valid.

        What costs little is checked first, so that only tokens that look right cost a check of the signature.
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
            # The algorithm is the operator's and the key's, never only the token's.
            found: dict[str, Any] = jwt.decode(
                text,
                key,
                algorithms=[algorithm],
                audience=source.issuer.audiences,
                issuer=source.issuer.issuer,
                leeway=LEEWAY_S,
                options=_OPTIONS,
            )
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            _LOG.debug("a token is refused: %s", type(error).__name__)  # never what stands in it
            return None
        return found if isinstance(found["sub"], str) and found["sub"] else None
