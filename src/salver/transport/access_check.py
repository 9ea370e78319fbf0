"""The one check of who may change something through a port, in every protocol.

Whoever reaches a port may look and ask models. A change needs the bearer token where there is one; where
there is none it has to come through a port that only this machine reaches. Pages of other origins change
nothing, be it by a form or by a fetch, and a port of this machine answers nobody who asks for another one's
name (DNS rebinding). It knows no operation.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

import msgspec

from salver.transport.calls import printable
from salver.transport.restrict import Guard
from salver.words.errors import Forbidden, InvalidInput, Unauthenticated

#: Who may change something at a port: anybody there, whoever knows the token, nobody.
Changing = Literal["open", "token", "refused"]
#: Groups of operations that operators may restrict by a header.
Group = Literal["metadata", "statistics", "model-repository"]
_LEAST_LETTERS: Final = 16
_MOST_LETTERS: Final = 128
#: Values of the header ``host`` that are remembered as good ones.
_MOST_HOSTS: Final = 64
#: Of other parts of an address than a host and its port.
_ODD_LETTERS: Final = frozenset("@/?#\\")
#: Says who asks, where no token does; other letters than ASCII's percent-encoded.
ACTOR: Final = b"x-salver-actor"
#: A token that has this role and no other posts outcomes, and changes nothing else: for applications.
OUTCOMES: Final = "outcomes"


class ApiConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may change something, in every protocol.

    Attributes:
        token_file: Holds the token that changes need; empty = none does, and they are refused at ports that
            other machines reach.
        allows_remote: Where there is no token, changes are not refused there, either.
        hosts: Names besides ``localhost`` by which callers may ask a port that only this machine reaches, as
            where a proxy hands them on.
    """

    token_file: str = ""
    allows_remote: bool = False
    hosts: tuple[str, ...] = ()

    def digest(self) -> bytes:
        """Of the token; empty = there is none.

        Raises:
            InvalidInput: the file cannot be read, or its token is short or not printable ASCII.
        """
        if not self.token_file:
            return b""
        try:
            token = Path(self.token_file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(
                f"the token in {self.token_file} cannot be read: {error}", field="--api-token-file"
            ) from error
        if len(token) < _LEAST_LETTERS or not token.isascii() or not token.isprintable() or " " in token:
            raise InvalidInput(
                f"{self.token_file} holds no token: one line of {_LEAST_LETTERS} or more letters and digits",
                field="--api-token-file",
                fix="Make one: openssl rand -hex 32",
            )
        return hashlib.sha256(token.encode()).digest()


class Caller(msgspec.Struct, frozen=True):
    """Who wishes a change.

    Attributes:
        name: ``api:NAME`` where it says so itself; proven by a token of the registry's otherwise.
        roles: That the token has.
    """

    name: str
    roles: frozenset[str] = frozenset()


def check_role(caller: Caller, role: str, operation: str) -> None:
    """Check that a caller who has proven who it is may do that.

    Args:
        role: That is enough for the operation; empty = none is.

    Raises:
        Forbidden: its token is for something else alone.
    """
    if caller.roles == {OUTCOMES} and role != OUTCOMES:
        raise Forbidden(
            f"the token of {caller.name} posts outcomes and does nothing else, such as {operation}",
            field="authorization",
            fix="Use somebody's whose roles are others: salver registry token list.",
        )


#: Whose token of the registry's it is. Raises Unauthenticated: nobody's.
ReadToken = Callable[[str], Awaitable[Caller]]


class AccessRules(msgspec.Struct, frozen=True):
    """What differs at a port.

    Attributes:
        allows_remote, hosts: See :class:`ApiConfig`.
        origins: Pages of these origins may change something; ``*`` = of every one.
        closed: Paths of gRPC methods that the port does not have.
    """

    allows_remote: bool = False
    hosts: tuple[str, ...] = ()
    origins: frozenset[str] = frozenset()
    closed: frozenset[str] = frozenset()


_AS_USUAL: Final = AccessRules()


class Access:
    """What may be done through one port.

    Args:
        host: On which it listens; empty = a UNIX socket.
        digest: Of the server's token; empty = there is none.
        guard: The operator's restrictions by header, for the management interface; None = there are none.
        read_token: Knows the registry's tokens; None = there is no registry.

    Attributes:
        is_local: Only this machine reaches it.
        changing: Who may change something through it.
        checks_hosts: The header ``host`` is looked at.
        known_hosts: Values of it that are good, as far as they have been looked at.
        closed: Paths of gRPC methods that change something and that the port does not have.
    """

    def __init__(
        self,
        host: str,
        digest: bytes = b"",
        guard: Guard | None = None,
        read_token: ReadToken | None = None,
        rules: AccessRules = _AS_USUAL,
    ) -> None:
        self._host = host
        self.is_local = not host or is_loopback(host)
        self._digest = digest
        self._guard = guard
        self._read_token = read_token
        self._rules = rules
        self.closed = rules.closed
        self._names = frozenset(_plain(name) for name in rules.hosts)
        self.checks_hosts = bool(host) and self.is_local
        self.known_hosts: set[bytes] = set()
        is_open = self.is_local or rules.allows_remote
        self.changing: Changing = "open" if is_open and not digest else "refused"
        if digest or (read_token and not self.is_local):
            self.changing = "token"

    def __repr__(self) -> str:
        return f"<Access at {self._host or 'a socket'}: {self.changing}>"

    def check(self, headers: Mapping[bytes, bytes], group: Group, *, changes: bool) -> None:
        """Check that anybody may do that with the management interface, from there.

        Raises:
            Forbidden, InvalidInput: nobody may.
        """
        self.check_host(headers)
        if self._guard is not None:
            self._guard.check("model-repository" if changes else group, headers)
        if changes:
            _check_json(headers)
            self._check_origin(headers)

    def check_host(self, headers: Mapping[bytes, bytes]) -> None:
        """Check that the caller meant this machine. A page whose name points to it did not.

        Raises:
            Forbidden: it did not.
        """
        sent = headers.get(b"host")
        if not self.checks_hosts or sent is None or sent in self.known_hosts:
            return  # no browser leaves the header out
        host = printable(sent)
        if not self._is_named(host):
            raise Forbidden(
                f"this port is this machine's own, and was asked as {host!r}",
                field="host",
                fix="Ask it as localhost, or start the server with --allowed-host NAME.",
            )
        if len(self.known_hosts) >= _MOST_HOSTS:
            self.known_hosts.clear()
        self.known_hosts.add(sent)

    def knows_host(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether :meth:`check_host` has let it pass already."""
        return not self.checks_hosts or headers.get(b"host") in self.known_hosts

    async def permit(self, headers: Mapping[bytes, bytes], operation: str) -> Caller:
        """Check that the caller may change something.

        Args:
            operation: What it asks for, as errors name it.

        Raises:
            Forbidden: nobody may, from there.
            Unauthenticated: it does not prove that it may.
        """
        self.check_host(headers)
        self._check_origin(headers)
        caller = await self.caller(headers)
        check_role(caller, "", operation)
        return caller

    def _check_origin(self, headers: Mapping[bytes, bytes]) -> None:
        """Check that no page of another origin asks; only browsers send these headers."""
        sent = headers.get(b"origin")
        origin = printable(sent or b"")
        if sent is not None and not self._rules.origins.isdisjoint(("*", origin.lower())):
            return
        host = printable(headers.get(b"host", b"")).lower()
        is_foreign = sent is not None and _netloc(origin) != host
        if is_foreign or headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            raise Forbidden(
                f"pages of {origin or 'another origin'} may not change anything here", field="origin"
            )
        if sent is not None and self.changing == "open" and self._host and not self._is_named(host):
            raise Forbidden(
                f"pages of {origin} may not change anything here without a token: its name may be anybody's",
                field="origin",
                fix="Start with --api-token-file FILE, or with --allowed-host NAME.",
            )

    def _is_named(self, host: str) -> bool:
        """Whether nobody can have made that name point here who should not."""
        name = _hostname(host)
        return name == "localhost" or _is_address(name) or name in self._names

    async def caller(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Who wishes a change.

        Raises:
            Unauthenticated: it does not prove that it may.
            Forbidden: nobody may.
        """
        said = _unquoted(printable(headers.get(ACTOR, b""))).strip()
        unproven = Caller(f"api:{said}"[:_MOST_LETTERS] if said else "api")
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and (self._digest or self._read_token is not None):
            return await self._known(token.strip(), unproven)
        match self.changing:
            case "open":
                return unproven
            case "token":
                raise Unauthenticated(
                    "a change needs a token", field="authorization", fix="Send authorization: Bearer TOKEN."
                )
            case _:
                raise Forbidden(
                    f"there is no token, and other machines reach {self._host}: nobody may change anything",
                    fix="Start with --api-token-file FILE, or with --host 127.0.0.1; "
                    "--allow-remote-control lets everybody who comes.",
                )

    async def _known(self, token: bytes, unproven: Caller) -> Caller:
        if self._digest and hmac.compare_digest(hashlib.sha256(token).digest(), self._digest):
            return unproven
        if self._read_token is not None:
            return await self._read_token(printable(token))
        raise Unauthenticated(
            "that is not the token", field="authorization", fix="It stands in the --api-token-file."
        )


def _unquoted(name: str) -> str:
    """Of letters that no header carries, such as Zo%C3%AB; as it is where it is no such text."""
    try:
        text = unquote(name, errors="strict")
    except UnicodeDecodeError:
        return name
    return text if text.isprintable() else name


def _check_json(headers: Mapping[bytes, bytes]) -> None:
    """Forms send no JSON, and pages of other origins cannot without a permission that nobody gives."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        raise InvalidInput(
            f"a change comes as application/json, not as {printable(kind) or 'nothing'}", field="content-type"
        )


def _netloc(origin: str) -> str:
    """Host and port; empty = that is no origin."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _hostname(host: str) -> str:
    """Without its port; empty = it is no name, or what one reader takes for another's."""
    if not _ODD_LETTERS.isdisjoint(host):
        return ""
    try:
        return _plain(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return ""


def _plain(host: str) -> str:
    return host.lower().rstrip(".")


def _is_address(host: str) -> bool:
    """A number, which no name server can make point here."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether a name is this machine's, by which no other one is reached.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


#: A port that only this machine reaches, such as a UNIX socket.
LOCAL: Final = Access("")
