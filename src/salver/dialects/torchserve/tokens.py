"""Keys that callers of TorchServe's ports must show.

Three keys are made when the server starts and written to a file that only its owner can read: one for
inference, one for management, and one with which the other two are renewed (TS-M8, TS-B11).
"""

import hmac
import os
import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import orjson

from salver.dialects.torchserve.faults import UNAUTHENTICATED, UNAUTHORIZED
from salver.dialects.torchserve.rules import TokenRules
from salver.words.errors import InvalidInput, Unauthenticated

Scope = Literal["inference", "management"]
SCOPES: Final[tuple[Scope, ...]] = ("inference", "management")
#: Value of the header; the scheme is case-sensitive.
_BEARER: Final = re.compile(r"Bearer\s+(\S+)\s*", re.ASCII)
_BYTES: Final = 24


class TokenKeys:
    """Keys of one server.

    Args:
        now: Returns Unix seconds.
        new_key: Returns a key that cannot be guessed.
    """

    def __init__(
        self,
        rules: TokenRules,
        now: Callable[[], float],
        new_key: Callable[[], str] = lambda: secrets.token_urlsafe(_BYTES),
    ) -> None:
        self._file = Path(rules.file)
        self._seconds = rules.minutes * 60
        self._now = now
        self._new_key = new_key
        self._owner = new_key().encode()
        self._keys: dict[Scope, tuple[bytes, float]] = {scope: self._fresh() for scope in SCOPES}

    def __repr__(self) -> str:
        return f"<TokenKeys of {self._file}>"

    def write(self) -> None:
        """Write the key file.

        Raises:
            InvalidInput: it cannot be written.
        """
        content: dict[str, dict[str, str]] = {}
        for scope in reversed(SCOPES):
            key, end = self._keys[scope]
            content[scope] = {"key": key.decode(), "expiration time": _shown(end)}
        content["API"] = {"key": self._owner.decode()}
        try:
            write_private(self._file, orjson.dumps(content, option=orjson.OPT_INDENT_2))
        except OSError as error:
            raise InvalidInput(
                f"the keys cannot be written to {self._file}: {error.strerror or error}",
                fix="Start in a writable folder, or set disable_token_authorization=true.",
            ) from error

    def allows(self, scope: Scope, authorization: str) -> bool:
        """Return whether a header allows the use of an interface now."""
        key, end = self._keys[scope]
        return _shows(key, authorization) and self._now() < end

    def check(self, authorization: str, *scopes: Scope) -> None:
        """Check that a header allows one of the interfaces. Raises Unauthenticated."""
        if not any(self.allows(scope, authorization) for scope in scopes):
            raise Unauthenticated(UNAUTHORIZED)

    def renew(self, wanted: str, authorization: str) -> None:
        """Replace the key of an interface.

        Raises:
            Unauthenticated: the header does not have the key for that, or there is no such interface.
            InvalidInput: the file cannot be written.
        """
        scope = next((scope for scope in SCOPES if scope == wanted), None)
        if scope is None or not _shows(self._owner, authorization):
            raise Unauthenticated(UNAUTHENTICATED)
        before = self._keys[scope]
        self._keys[scope] = self._fresh()
        # A key that is not in the file would lock everybody out.
        try:
            self.write()
        except InvalidInput:
            self._keys[scope] = before
            raise

    def _fresh(self) -> tuple[bytes, float]:
        return self._new_key().encode(), self._now() + self._seconds


def write_private(path: Path, content: bytes) -> None:
    """Write a file atomically, readable by its owner only. Raises OSError."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    try:
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _shows(key: bytes, authorization: str) -> bool:
    found = _BEARER.fullmatch(authorization)
    if found is None:
        return False
    return hmac.compare_digest(found[1].encode("utf-8", "replace"), key)


def _shown(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
