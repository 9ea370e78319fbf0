"""Keys by their hashes, and the decision about a request."""

import functools
from collections.abc import Callable
from typing import Final

from salver.features.access.credentials import credentials
from salver.features.access.key_format import digest_of
from salver.features.access.limits import Limits
from salver.features.access.scopes import ModelScope, Scopes
from salver.kernel.serving.standing import from_headers
from salver.transport.access_check import Caller, RawHeaders
from salver.transport.exchange import Exchange, Prompt
from salver.transport.restrict import Right
from salver.words.errors import InvalidInput, SalverError, Unidentified
from salver.words.messages import ANYBODY, Grant, Standing

_FOREVER: Final = float("inf")
_HOW: Final = "Send it as authorization: Bearer KEY, or as x-api-key."


class Key:
    """A key that a server accepts. All that refer to it see at once that it is revoked.

    Args:
        id: Id of the key, which rotation keeps.
        name: Name of the caller; empty = the server's token, whose callers name themselves.
        until: Unix seconds at which it expires.
        limits: Its limits, which it shares with the key that it replaces; None = none.
        granted: Best standing of its requests; None = any.

    Attributes:
        is_alive: It is not revoked, nor replaced by one of other rights.
    """

    __slots__ = ("granted", "id", "is_alive", "limits", "name", "scopes", "until")

    def __init__(
        self,
        id: str,
        name: str,
        scopes: Scopes,
        until: float = _FOREVER,
        limits: Limits | None = None,
        granted: Standing | None = ANYBODY,
    ) -> None:
        self.id = id
        self.name = name
        self.scopes = scopes
        self.until = until
        self.limits = limits
        self.granted = granted
        self.is_alive = True

    def __repr__(self) -> str:
        return f"<Key {self.id} {self.scopes!r}>"

    def is_like(self, other: "Key") -> bool:
        """Return whether another key has the same id, rights, limits, standing and end."""
        mine = (self.id, self.name, self.scopes.texts, self.until, self.granted)
        is_like = mine == (other.id, other.name, other.scopes.texts, other.until, other.granted)
        return is_like and self.has_limits_of(other)

    def has_limits_of(self, other: "Key") -> bool:
        """Return whether another key has the same limits."""
        if self.limits is None or other.limits is None:
            return self.limits is other.limits
        return self.limits.rules == other.limits.rules


class KeyGrant:
    """Rights, limits and standing of a key for models.

    Args:
        ticks: Returns monotonic nanoseconds.
        standing, granted, checks: See :class:`~salver.words.messages.Grant`.
    """

    __slots__ = ("_limits", "_scope", "_ticks", "checks", "granted", "standing")

    def __init__(
        self,
        scope: ModelScope,
        limits: Limits | None,
        ticks: Callable[[], int],
        standing: Standing,
        granted: Standing | None,
        *,
        checks: bool,
    ) -> None:
        self._scope = scope
        self._limits = limits
        self._ticks = ticks
        self.standing = standing
        self.granted = granted
        self.checks = checks

    def check(self, model: str) -> None:
        """See :class:`~salver.words.messages.Grant`. Raises OutOfScope."""
        self._scope.check(model)

    def refusal(self, model: str) -> SalverError | None:
        """See :class:`~salver.words.messages.Grant`."""
        if not self._scope.is_allowed(model):
            return self._scope.refusal(model)
        return None if self._limits is None else self._limits.refusal(self._ticks())

    def enter(self) -> None:
        """See :class:`~salver.words.messages.Grant`."""
        if self._limits is not None:
            self._limits.enter(self._ticks())

    def leave(self) -> None:
        """See :class:`~salver.words.messages.Grant`."""
        if self._limits is not None:
            self._limits.leave()


class KeyTable:
    """All keys of one server.

    Args:
        now: Returns Unix seconds.
        ticks: Returns monotonic nanoseconds.
        tenant_header: Header that names the tenant, in lower case; empty = none.
    """

    def __init__(self, now: Callable[[], float], ticks: Callable[[], int], tenant_header: bytes) -> None:
        self._now = now
        self._ticks = ticks
        self._tenant_header = tenant_header
        self._keys: dict[bytes, Key] = {}
        #: The last headers that were admitted, by identity, with their key.
        self._last: tuple[RawHeaders, Key | None] = ((), None)

    def __repr__(self) -> str:
        return f"<KeyTable of {len(self._keys)} hashes>"

    def replace(self, keys: dict[bytes, Key]) -> None:
        """Replace all keys, by digest; a key that is gone or differs ends at once.

        What a key has used of its limits stays with its id, so that a rotation gives no second budget.
        """
        before = self._keys
        used = {key.id: key for key in before.values()}
        for key in keys.values():
            if key.id in used and key.has_limits_of(used[key.id]):
                key.limits = used[key.id].limits
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
        self._last = headers, key
        if right == "known":
            return None
        scope = key.scopes.of(right)
        limits, granted = (key.limits, key.granted) if right == "infer" else (None, None)
        if not is_later:
            scope.check(model)
        if limits is not None and (refusal := limits.refusal(self._ticks())) is not None:
            raise refusal
        checks = limits is not None or (is_later and not scope.has_all)
        if granted is None and not checks:
            return None
        standing = ANYBODY
        if granted is not None:
            standing = from_headers(dict(headers), self._tenant_header, granted)
        return KeyGrant(scope, limits, self._ticks, standing, granted, checks=checks)

    def lasting(self, prompt: Prompt, headers: RawHeaders) -> Prompt:
        """See :class:`~salver.transport.access_check.CallerKeys`."""
        last, key = self._last
        if last is not headers or key is None:  # fronts ask about the headers that were just admitted
            key = self._identify(headers)
        return functools.partial(_while_valid, prompt, key, self._now)

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
