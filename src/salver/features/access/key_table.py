"""Keys by their hashes, and the decision about a request."""

import functools
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from salver.features.access.credentials import credentials
from salver.features.access.key_format import digest_of
from salver.features.access.limits import Limits
from salver.features.access.refusals import Refusals
from salver.features.access.scopes import Scopes
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


class KeyChange(NamedTuple):
    """Change of the keys of a server."""

    what: Literal["added", "changed", "revoked"]
    id: str
    name: str


class KeyGrant:
    """A right of a key for models, with its limits and standing.

    Args:
        ticks: Returns monotonic nanoseconds.
        standing, checks: See :class:`~salver.words.messages.Grant`.
    """

    __slots__ = (
        "_key", "_limits", "_refusals", "_right", "_scope", "_ticks", "checks", "granted", "standing",
    )  # fmt: skip

    def __init__(
        self,
        key: Key,
        right: Right,
        ticks: Callable[[], int],
        refusals: Refusals,
        standing: Standing,
        *,
        checks: bool,
    ) -> None:
        self._key = key
        self._right: Right = right
        self._scope = key.scopes.of(right)
        self._limits, self.granted = _of_runs(key, right)
        self._ticks = ticks
        self._refusals = refusals
        self.standing = standing
        self.checks = checks

    def check(self, model: str) -> None:
        """See :class:`~salver.words.messages.Grant`. Raises OutOfScope."""
        if not self._scope.is_allowed(model):
            raise self._recorded(self._scope.refusal(model), model)

    def refusal(self, model: str, *, is_trial: bool = False) -> SalverError | None:
        """See :class:`~salver.words.messages.Grant`."""
        refusal: SalverError | None = None
        if not self._scope.is_allowed(model):
            refusal = self._scope.refusal(model)
        elif self._limits is not None:
            refusal = self._limits.refusal(self._ticks())
        if refusal is None or is_trial:
            return refusal
        return self._recorded(refusal, model)

    def _recorded(self, refusal: SalverError, model: str) -> SalverError:
        self._refusals.record(refusal, self._key.id, self._right, model)
        return refusal

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

    Attributes:
        refusals: Record of what was refused.
    """

    def __init__(self, now: Callable[[], float], ticks: Callable[[], int], tenant_header: bytes) -> None:
        self._now = now
        self._ticks = ticks
        self._tenant_header = tenant_header
        self.refusals = Refusals(ticks)
        self._keys: dict[bytes, Key] = {}
        #: The last headers that were admitted, by identity, with their key.
        self._last: tuple[RawHeaders, Key | None] = ((), None)

    def __repr__(self) -> str:
        return f"<KeyTable of {len(self._keys)} hashes>"

    def replace(self, keys: dict[bytes, Key]) -> list[KeyChange]:
        """Replace all keys, by digest; a key that is gone or differs ends at once.

        What a key has used of its limits stays with its id, so that a rotation gives no second budget.

        Returns:
            What has changed, in the order of the ids.
        """
        before = self._keys
        used = {key.id: key for key in before.values()}
        changed = {key.id for digest, key in keys.items() if digest not in before}
        for key in keys.values():
            if key.id in used and key.has_limits_of(used[key.id]):
                key.limits = used[key.id].limits
        for digest, key in before.items():
            new = keys.get(digest)
            if new is not None and key.is_like(new):
                keys[digest] = key
            else:
                key.is_alive = False
                changed.add(key.id)
        self._keys = keys
        present = {key.id: key for key in keys.values()}
        return [_change(id, used.get(id), present.get(id)) for id in sorted(changed)]

    def admit(
        self, headers: RawHeaders, right: Right, model: str = "", *, is_later: bool, is_trial: bool = False
    ) -> Grant | None:
        """See :class:`~salver.transport.access_check.CallerKeys`."""
        if right == "open":
            return None
        key: Key | None = None
        try:
            key = self._find(headers)
            key = self._valid(key)
            self._last = headers, key
            if right == "known":
                return None
            checks = self._check(key, right, model, is_later=is_later)
        except SalverError as error:
            if not is_trial:
                self.refusals.record(error, key.id if key else "", right, model)
            raise
        granted = _of_runs(key, right)[1]
        if granted is None and not checks:
            return None
        standing = ANYBODY
        if granted is not None:
            standing = from_headers(dict(headers), self._tenant_header, granted)
        return KeyGrant(key, right, self._ticks, self.refusals, standing, checks=checks)

    def _check(self, key: Key, right: Right, model: str, *, is_later: bool) -> bool:
        """Check a right of a key; return whether there is more to be checked.

        Raises:
            OutOfScope: the key does not have it for the model.
            RateLimited: the key is at one of its limits.
        """
        scope = key.scopes.of(right)
        if not is_later:
            scope.check(model)
        limits = _of_runs(key, right)[0]
        if limits is None:
            return is_later and not scope.has_all
        if (refusal := limits.refusal(self._ticks())) is not None:
            raise refusal
        return True

    def lasting(self, prompt: Prompt, headers: RawHeaders) -> Prompt:
        """See :class:`~salver.transport.access_check.CallerKeys`."""
        last, key = self._last
        if last is not headers or key is None:  # fronts ask about the headers that were just admitted
            key = self._valid(self._find(headers))
        return functools.partial(_while_valid, prompt, key, self._now)

    def caller(self, headers: RawHeaders) -> Caller | None:
        """See :class:`~salver.transport.access_check.CallerKeys`."""
        key = self.own(headers)
        return Caller(f"key:{key.name}") if key is not None and key.name else None

    def own(self, headers: RawHeaders) -> Key | None:
        """See :class:`~salver.transport.access_check.CallerKeys`."""
        try:
            return self._valid(self._find(headers))
        except (Unidentified, InvalidInput):
            return None

    def _find(self, headers: RawHeaders) -> Key | None:
        """Return the one key that the headers carry; None = it is unknown.

        Raises:
            Unidentified: there is none.
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
        return first

    def _valid(self, key: Key | None) -> Key:
        """Return a key that is valid. Raises Unidentified."""
        if key is None or not key.is_alive or key.until <= self._now():
            # One text for all of them: what is wrong with a key concerns its owner only.
            raise Unidentified("the key is not valid", fix="Ask for a new one.", has_credential=True)
        return key


def _of_runs(key: Key, right: Right) -> tuple[Limits | None, Standing | None]:
    """Return the limits and the standing of a key, which requests to run a model have and no others."""
    if right == "infer":
        return key.limits, key.granted
    return None, None


def _change(id: str, before: Key | None, after: Key | None) -> KeyChange:
    if after is None:
        return KeyChange("revoked", id, before.name if before else "")
    return KeyChange("changed" if before else "added", id, after.name)


def _while_valid(prompt: Prompt, key: Key, now: Callable[[], float], exchange: Exchange) -> bool:
    """Answer with the prompt of a request, unless its key has ended since its head was first seen."""
    if key.is_alive and now() < key.until:
        return prompt(exchange)
    exchange.head.notes.clear()
    return False
