"""Callers by what others say about them: tokens, certificates and headers of proxies."""

import logging
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final

from salver.features.access.key_table import Key
from salver.features.access.limits import Limits
from salver.features.access.scopes import Scopes
from salver.features.identity.peers import (
    CERTIFICATE,
    PROXY,
    Proxies,
    claims_of_certificate,
    claims_of_headers,
)
from salver.features.identity.rules import Origin, Row, Table
from salver.features.identity.tokens import LEEWAY_S, Tokens
from salver.transport.access_check import RawHeaders

_LOG: Final = logging.getLogger("salver.access")
#: Callers that are remembered, and for how many seconds.
_MOST: Final = 4096
_FRESH_S: Final = 60.0
#: Callers whose use of limits is remembered.
_MOST_LIMITS: Final = 65_536
_MOST_LETTERS: Final = 256
_FOREVER: Final = float("inf")


class Identities:
    """Callers whom others vouch for.

    Those that were accepted are remembered for a minute at most, and not beyond their token's end. Nothing is
    remembered of those that were refused.

    Args:
        has_certificates: A row may be meant for the certificate of a client.
        now: Returns Unix seconds.
    """

    def __init__(
        self,
        tokens: Tokens,
        proxies: Proxies,
        table: Table,
        *,
        has_certificates: bool,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.proxies = proxies
        self._tokens = tokens
        self._table = table
        self._has_certificates = has_certificates
        self._now = now
        self._known: dict[Hashable, tuple[Key, float]] = {}
        self._limits: dict[str, Limits] = {}
        self._scopes: dict[tuple[str, ...], Scopes] = {}

    def __repr__(self) -> str:
        return f"<Identities, {len(self._known)} known>"

    def by_token(self, digest: bytes, token: bytes) -> Key | None:
        """See :class:`~salver.features.access.key_table.Identities`."""
        if (key := self._remembered(digest)) is not None:
            return key
        claims = self._tokens.claims(token)
        if claims is None:
            return None
        until = float(claims["exp"]) + LEEWAY_S
        return self._accepted(digest, "jwt", f"jwt:{claims['sub']}@{claims['iss']}", claims, until)

    def by_peer(self, headers: RawHeaders) -> list[Key]:
        """See :class:`~salver.features.access.key_table.Identities`."""
        found = []
        for name, value in headers:
            key: Key | None = None
            if name == CERTIFICATE and self._has_certificates:
                key = self._remembered(value) or self._by_certificate(value)
            elif name == PROXY:
                key = self._by_proxy(value, headers)
            if key is not None:
                found.append(key)
        return found

    def forget(self) -> None:
        """Ask again who each caller is, also on connections and streams that are open."""
        for key, _ in self._known.values():
            key.is_alive = False
        self._known.clear()

    def inherit(self, before: "Identities") -> None:
        """Take over what callers have used of their limits, from before a change of the file."""
        self._limits = before._limits
        before.forget()

    def _by_certificate(self, der: bytes) -> Key | None:
        claims = claims_of_certificate(der)
        if claims is None:
            return None
        who = claims["sub"]
        return self._accepted(der, "certificate", f"certificate:{who}", claims, claims["not_after"])

    def _by_proxy(self, address: bytes, headers: RawHeaders) -> Key | None:
        names = self.proxies.find(address.decode())
        claims = None if names is None else claims_of_headers(headers, names)
        if claims is None:
            return None
        kind = tuple((name, str(value)) for name, value in claims.items())
        return self._remembered(kind) or self._accepted(
            kind, "proxy", f"proxy:{claims['sub']}", claims, _FOREVER
        )

    def _remembered(self, kind: Hashable) -> Key | None:
        known = self._known.get(kind)
        if known is None:
            return None
        key, fresh_until = known
        if fresh_until > self._now():
            return key
        del self._known[kind]
        return None

    def _accepted(
        self, kind: Hashable, source: Origin, id: str, claims: Mapping[str, Any], until: float
    ) -> Key | None:
        """Return the key of a caller by the table, and remember it; None = no row is meant for it."""
        person = self._table.find(source, claims)
        if person is None or len(id) > _MOST_LETTERS or not id.isascii() or not id.isprintable():
            _LOG.debug("no row of the table of identities is meant for a caller by %s", source)
            return None
        row = person.row
        key = Key(id, person.name, self._scopes_of(row), until, self._limits_of(id, row), person.standing)
        if len(self._known) >= _MOST:
            del self._known[next(iter(self._known))]
        self._known[kind] = key, min(until, self._now() + _FRESH_S)
        return key

    def _scopes_of(self, row: Row) -> Scopes:
        found = self._scopes.get(row.scopes)
        if found is None:
            found = self._scopes[row.scopes] = Scopes(row.scopes)
        return found

    def _limits_of(self, id: str, row: Row) -> Limits | None:
        """Return the limits of a caller, which all of its tokens share."""
        if row.limits is None:
            return None
        limits = self._limits.get(id)
        if limits is None or limits.rules != row.limits:
            if len(self._limits) >= _MOST_LIMITS:
                del self._limits[next(iter(self._limits))]
            limits = self._limits[id] = Limits(row.limits)
        return limits
