"""Keys by their hashes, and the decision about a request."""

import functools
from collections.abc import Callable
from typing import Final

from salver.features.access.credentials import credentials
from salver.features.access.key_format import digest_of
from salver.features.access.scopes import Scopes
from salver.transport.access_check import Caller, RawHeaders
from salver.transport.exchange import Exchange, Prompt
from salver.transport.restrict import Right
from salver.words.errors import InvalidInput, Unidentified
from salver.words.messages import Grant

_FOREVER: Final = float("inf")
_HOW: Final = "Send it as authorization: Bearer KEY, or as x-api-key."


class Key:
    """A key that a server accepts. All that refer to it see at once that it is revoked.

    Args:
        id: Id of the key, which rotation keeps.
        name: Name of the caller; empty = the server's token, whose callers name themselves.
        until: Unix seconds at which it expires.

    Attributes:
        is_alive: It is not revoked, nor replaced by one of other rights.
    """

    __slots__ = ("id", "is_alive", "name", "scopes", "until")

    def __init__(self, id: str, name: str, scopes: Scopes, until: float = _FOREVER) -> None:
        self.id = id
        self.name = name
        self.scopes = scopes
        self.until = until
        self.is_alive = True

    def __repr__(self) -> str:
        return f"<Key {self.id} {self.scopes!r}>"

    def is_like(self, other: "Key") -> bool:
        """Return whether another key has the same id, rights and end."""
        mine = (self.id, self.name, self.scopes.texts, self.until)
        return mine == (other.id, other.name, other.scopes.texts, other.until)


class KeyTable:
    """All keys of one server.

    Args:
        now: Returns Unix seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._keys: dict[bytes, Key] = {}

    def __repr__(self) -> str:
        return f"<KeyTable of {len(self._keys)} hashes>"

    def replace(self, keys: dict[bytes, Key]) -> None:
        """Replace all keys, by digest; a key that is gone or differs ends at once."""
        before = self._keys
        for digest, key in before.items():
            new = keys.get(digest)
            if new is not None and key.is_like(new):
                keys[digest] = key
            else:
                key.is_alive = False
        self._keys = keys

    def admit(self, headers: RawHeaders, right: Right, model: str = "", *, is_later: bool) -> Grant | None:
        """See :class:`~salver.transport.access_check.CallerKeys`."""
        if right == "open":
            return None
        key = self._identify(headers)
        if right == "known":
            return None
        grant = key.scopes.grant(right)
        if grant.has_all:
            return None
        if is_later:
            return grant
        grant.check(model)
        return None

    def lasting(self, prompt: Prompt, headers: RawHeaders) -> Prompt:
        """See :class:`~salver.transport.access_check.CallerKeys`."""
        return functools.partial(_while_valid, prompt, self._identify(headers), self._now)

    def caller(self, headers: RawHeaders) -> Caller | None:
        """See :class:`~salver.transport.access_check.CallerKeys`."""
        try:
            key = self._identify(headers)
        except (Unidentified, InvalidInput):
            return None
        return Caller(f"key:{key.name}") if key.name else None

    def _identify(self, headers: RawHeaders) -> Key:
        """Return the one key that the headers carry.

        Raises:
            Unidentified: there is none that is valid.
            InvalidInput: there are several of different callers.
        """
        texts = credentials(headers)
        if not texts:
            raise Unidentified("a request needs a key", fix=_HOW)
        keys = [self._keys.get(digest_of(text)) if text else None for text in texts]
        first = keys[0]
        if any(key is None or first is None or key.id != first.id for key in keys[1:]):
            raise InvalidInput(
                "the request has several keys, of different callers or not all valid", fix="Send one."
            )
        if first is None or not first.is_alive or first.until <= self._now():
            # One text for all of them: what is wrong with a key concerns its owner only.
            raise Unidentified("the key is not valid", fix="Ask for a new one.", has_credential=True)
        return first


def _while_valid(prompt: Prompt, key: Key, now: Callable[[], float], exchange: Exchange) -> bool:
    """Answer with the prompt of a request, unless its key has ended since its head was first seen."""
    if key.is_alive and now() < key.until:
        return prompt(exchange)
    exchange.head.notes.clear()
    return False
