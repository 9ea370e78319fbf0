"""Access check for operations that change something, in every protocol.

Without keys, reading is open to every caller that reaches a port, and inference at a port that only this
machine can reach, or if the operator allows it. A change needs the bearer token, if one is configured;
otherwise it must come through a port that only this machine can reach. Pages of other origins cannot change
anything, neither by a form nor by a fetch. A local port refuses requests for any other host name, which
prevents DNS rebinding. The operations themselves are declared elsewhere.
"""

import contextlib
import hashlib
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Literal, Protocol
from urllib.parse import unquote, urlsplit

import msgspec

from salver.encoding.bodies import media_type
from salver.transport.calls import printable
from salver.transport.exchange import Prompt
from salver.transport.restrict import Guard, Right
from salver.words.errors import (
    Forbidden,
    InvalidInput,
    OutOfScope,
    QuotaUnsettled,
    SalverError,
    Unauthenticated,
    Unidentified,
)
from salver.words.messages import Charge, Grant

#: Who may change something at a port: every caller, those with the token, or nobody.
Changing = Literal["open", "token", "refused"]
#: Groups of operations that operators may restrict by a header.
Group = Literal["metadata", "statistics", "model-repository"]
_LEAST_LETTERS: Final = 16
_MOST_LETTERS: Final = 128
#: Accepted values of the header ``host`` that are remembered.
_MOST_HOSTS: Final = 64
#: Characters that belong to parts of a URL other than host and port.
_ODD_LETTERS: Final = frozenset("@/?#\\")
#: Names the caller where no token does; non-ASCII characters are percent-encoded.
ACTOR: Final = b"x-salver-actor"
#: A token with this role alone may post outcomes and change nothing else; meant for applications.
OUTCOMES: Final = "outcomes"


class ApiConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Permission for operations that change something, in every protocol.

    Attributes:
        token_file: File with the token that changes need; empty = no token, and changes are refused at ports
            that other machines can reach.
        allows_remote: Allow changes at those ports without a token.
        hosts: Names besides ``localhost`` that a local port accepts in the header ``host``, for example those
            of a reverse proxy.
        allows_anonymous: Allow inference at those ports without a key, as ``allows_remote`` does as well.
    """

    token_file: str = ""
    allows_remote: bool = False
    hosts: tuple[str, ...] = ()
    allows_anonymous: bool = False

    @property
    def is_open(self) -> bool:
        """Whether callers from other machines may run models without a key."""
        return self.allows_anonymous or self.allows_remote

    def digest(self) -> bytes:
        """Return the digest of the token; empty without a token.

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
        # A short token can be guessed, and one with odd letters is cut differently by clients.
        if len(token) < _LEAST_LETTERS or not token.isascii() or not token.isprintable() or " " in token:
            raise InvalidInput(
                f"{self.token_file} holds no token: one line of {_LEAST_LETTERS} or more letters and digits",
                field="--api-token-file",
                fix="Make one: openssl rand -hex 32",
            )
        # Only a digest stays in memory: dumps and logs cannot show the token.
        return hashlib.sha256(token.encode()).digest()


class Caller(msgspec.Struct, frozen=True):
    """Caller of an operation.

    Attributes:
        name: ``api:NAME`` if the caller named itself, unproven; else the owner of the registry's token.
        roles: Roles of the token.
    """

    name: str
    roles: frozenset[str] = frozenset()


def check_role(caller: Caller, role: str, operation: str) -> None:
    """Check that an authenticated caller has the role for an operation.

    Args:
        role: Restricted role that suffices for the operation; empty = none does.

    Raises:
        Forbidden: the token is restricted to something else.
    """
    if caller.roles == {OUTCOMES} and role != OUTCOMES:
        raise Forbidden(
            f"the token of {caller.name} posts outcomes and does nothing else, such as {operation}",
            field="authorization",
            fix="Use a token with another role: salver registry token list.",
        )


#: Returns the owner of a registry token. Raises Unauthenticated if the token is unknown.
ReadToken = Callable[[str], Awaitable[Caller]]


#: Headers of a request in their order, with names in lower case.
RawHeaders = Iterable[tuple[bytes, bytes]]


async def begun(grant: Grant, model: str) -> Charge | SalverError | None:
    """Count a request that begins to run a model, once it is known whether it is refused.

    See :meth:`~salver.words.messages.Grant.begin`.
    """
    while isinstance(found := grant.begin(model), QuotaUnsettled):
        await found.settled
    return found


class CallerKeys(Protocol):
    """Keys of callers, where a server has them (features/access)."""

    @property
    def is_open(self) -> bool:
        """Nobody has made a key yet, so that requests need none."""
        ...

    def admit(
        self, headers: RawHeaders, right: Right, model: str = "", *, is_later: bool, is_trial: bool = False
    ) -> Grant | None:
        """Check the key of a request, before its body is read.

        Args:
            model: Model that the request names; empty = it is about all models.
            is_later: The body names the model, which the result checks.
            is_trial: The caller is not told yet: limits are not asked, and a refusal is not recorded.

        Returns:
            Check of the model's name, and the caller's limits; None = nothing is left to be checked.

        Raises:
            Unidentified: there is no valid key.
            InvalidInput: several keys name several callers.
            OutOfScope: the key does not have the right, or not for this model.
            RateLimited: the key is at one of its limits.
        """
        ...

    def lasting(self, prompt: Prompt, headers: RawHeaders) -> Prompt:
        """Return a prompt that answers as long as the key of these headers is valid."""
        ...

    def caller(self, headers: RawHeaders) -> Caller | None:
        """Return the owner of the key of a request; None = the server's token, or no key."""
        ...

    def own(self, headers: RawHeaders) -> object:
        """Return the valid key of a request, for its caller to see what it may do; None = it has none."""
        ...


class AccessRules(msgspec.Struct, frozen=True):
    """Access rules of one port.

    Attributes:
        allows_remote, hosts, allows_anonymous: See :class:`ApiConfig`.
        origins: Origins whose pages may change something; ``*`` = every origin.
        closed: Paths of gRPC methods that the port does not offer.
        has_own_keys: Keys of a dialect's own decide about changes, where the caller has none of the server's.
    """

    allows_remote: bool = False
    hosts: tuple[str, ...] = ()
    origins: frozenset[str] = frozenset()
    closed: frozenset[str] = frozenset()
    allows_anonymous: bool = True
    has_own_keys: bool = False


_AS_USUAL: Final = AccessRules()


class NoInference:
    """Refusal of inference, at a port that other machines reach, as long as there are no keys.

    Args:
        keys: Keys that the server may get while it runs; None = it gets none.
    """

    def __init__(self, host: str, keys: CallerKeys | None) -> None:
        self._host = host
        self._keys = keys
        self._how = "Start with --keys-file FILE" if keys is None else "Make a key (salver keys create)"

    @property
    def is_open(self) -> bool:
        """See :class:`CallerKeys`."""
        return self._keys is None or self._keys.is_open

    def admit(
        self, headers: RawHeaders, right: Right, model: str = "", *, is_later: bool, is_trial: bool = False
    ) -> Grant | None:
        """See :class:`CallerKeys`. Raises OutOfScope: the request is to run a model."""
        if self._keys is not None and not self._keys.is_open:
            return self._keys.admit(headers, right, model, is_later=is_later, is_trial=is_trial)
        if right == "infer":
            raise OutOfScope(
                f"there are no keys, and other machines reach {self._host}: inference is refused",
                fix=f"{self._how}, or start with --allow-anonymous to answer every caller.",
            )
        return None

    def lasting(self, prompt: Prompt, headers: RawHeaders) -> Prompt:
        """See :class:`CallerKeys`."""
        return prompt if self._keys is None else self._keys.lasting(prompt, headers)

    def caller(self, headers: RawHeaders) -> Caller | None:
        """See :class:`CallerKeys`."""
        return None if self._keys is None else self._keys.caller(headers)

    def own(self, headers: RawHeaders) -> object:
        """See :class:`CallerKeys`."""
        return None if self._keys is None else self._keys.own(headers)


class Access:
    """Access checks of one port.

    Args:
        host: Address on which the port listens; empty = a UNIX socket.
        digest: Digest of the server's token; empty = no token.
        guard: The operator's restrictions by header, for the management interface; None = no restrictions.
        read_token: Looks up the registry's tokens; None = no registry.
        keys: Keys that every request needs; None = requests that change nothing need none.

    Attributes:
        is_local: Only this machine can reach the port.
        refuses_inference: Nobody may run a model through it, unless a key is made.
        checks_hosts: The header ``host`` is checked.
        known_hosts: Values of the header that have passed the check.
        closed: Paths of gRPC methods that change something and that the port does not offer.
    """

    def __init__(
        self,
        host: str,
        digest: bytes = b"",
        guard: Guard | None = None,
        read_token: ReadToken | None = None,
        rules: AccessRules = _AS_USUAL,
        keys: CallerKeys | None = None,
    ) -> None:
        self._host = host
        self.is_local = not host or is_loopback(host)
        self._digest = digest
        self._guard = guard
        self._read_token = read_token
        self._rules = rules
        has_keys = keys is not None and not keys.is_open
        self.refuses_inference = not (has_keys or self.is_local or rules.allows_anonymous)
        self.keys = NoInference(host, keys) if self.refuses_inference else keys
        self.closed = rules.closed
        self._names = frozenset(_plain(name) for name in rules.hosts)
        # A page in a browser on this machine can reach local ports; others are reachable anyway.
        self.checks_hosts = bool(host) and self.is_local
        self.known_hosts: set[bytes] = set()
        is_open = self.is_local or rules.allows_remote
        self._changing: Changing = "open" if is_open and not digest else "refused"
        if digest or (read_token and not self.is_local):
            self._changing = "token"

    def __repr__(self) -> str:
        return f"<Access at {self._host or 'a socket'}: {self.changing}>"

    @property
    def changing(self) -> Changing:
        """Return the rule for changes through the port."""
        is_usual = self.keys is None or self.keys.is_open or self._rules.has_own_keys
        return self._changing if is_usual else "token"

    def check(self, headers: Mapping[bytes, bytes], group: Group, *, changes: bool) -> None:
        """Check the headers of a request to the management interface.

        Raises:
            Forbidden, InvalidInput: no caller may send such a request.
        """
        self.check_host(headers)
        if self._guard is not None:
            self._guard.check("model-repository" if changes else group, headers)
        if changes:
            _check_json(headers)
            self._check_origin(headers)

    def check_host(self, headers: Mapping[bytes, bytes]) -> None:
        """Check the header ``host`` of a local port, against DNS rebinding.

        Raises:
            Forbidden: the name is not one of this machine's.
        """
        sent = headers.get(b"host")
        if not self.checks_hosts or sent is None or sent in self.known_hosts:
            return  # every browser sends the header
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
        """Return whether the header ``host`` has passed :meth:`check_host` before."""
        return not self.checks_hosts or headers.get(b"host") in self.known_hosts

    async def admit(
        self, raw: RawHeaders, right: Right, model: str, *, is_later: bool = False
    ) -> Grant | None:
        """Check the key of a request to the management interface; a token of the registry's is as good.

        Args:
            is_later: The answer leaves out models, by the result.

        Raises:
            Unidentified, InvalidInput, OutOfScope: see :class:`CallerKeys`.
        """
        if self.keys is None:
            return None
        try:
            return self.keys.admit(raw, right, model, is_later=is_later, is_trial=True)
        except Unidentified:
            scheme, _, token = dict(raw).get(b"authorization", b"").partition(b" ")
            if self._read_token is not None and scheme.lower() == b"bearer":
                with contextlib.suppress(Unauthenticated):
                    await self._read_token(printable(token.strip()))
                    return None
        except SalverError:
            pass
        return self.keys.admit(raw, right, model, is_later=is_later)  # is refused, and recorded

    def own(self, raw: RawHeaders) -> object:
        """Return the key of a request; None = it has none, or the server has no keys."""
        return None if self.keys is None else self.keys.own(raw)

    async def permit(self, headers: Mapping[bytes, bytes], operation: str) -> Caller:
        """Check that the caller may change something.

        Args:
            operation: Name of the operation in error texts.

        Raises:
            Forbidden: this port allows no changes.
            Unauthenticated: the token is missing or wrong.
        """
        self.check_host(headers)
        self._check_origin(headers)
        caller = await self.caller(headers)
        check_role(caller, "", operation)
        return caller

    def _check_origin(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuse requests of pages of other origins; only browsers send these headers."""
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
                f"pages of {origin} may change nothing here without a token: an attacker may own that name",
                field="origin",
                fix="Start with --api-token-file FILE, or with --allowed-host NAME.",
            )

    def _is_named(self, host: str) -> bool:
        """Return whether a name cannot have been pointed here by an attacker's name server."""
        name = _hostname(host)
        return name == "localhost" or _is_address(name) or name in self._names

    async def caller(self, headers: Mapping[bytes, bytes]) -> Caller:
        """Return the caller of a change.

        Raises:
            Unauthenticated: the token is missing or wrong.
            Forbidden: this port allows no changes.
        """
        if self.keys is not None and (known := self.keys.caller(headers.items())) is not None:
            return known
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
                    f"there is no token, and other machines reach {self._host}: changes are refused",
                    fix="Start with --api-token-file FILE, or with --host 127.0.0.1; "
                    "--allow-remote-control allows every caller.",
                )

    async def _known(self, token: bytes, unproven: Caller) -> Caller:
        if self._digest and hmac.compare_digest(hashlib.sha256(token).digest(), self._digest):
            return unproven
        if self._read_token is not None:
            return await self._read_token(printable(token))
        raise Unauthenticated(
            "that is not the token", field="authorization", fix="It is in the --api-token-file."
        )


def _unquoted(name: str) -> str:
    """Decode percent-encoding, as in Zo%C3%AB; return the name unchanged if it is not valid UTF-8."""
    try:
        text = unquote(name, errors="strict")
    except UnicodeDecodeError:
        return name
    if text.isprintable():
        return text
    return name


def _check_json(headers: Mapping[bytes, bytes]) -> None:
    """Require JSON, which forms cannot send and pages of other origins only after a preflight."""
    kind = media_type(headers)
    if kind != b"application/json":
        raise InvalidInput(
            f"a change comes as application/json, not as {printable(kind) or 'nothing'}", field="content-type"
        )


def _netloc(origin: str) -> str:
    """Return host and port of an origin; empty if it is malformed."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _hostname(host: str) -> str:
    """Return a host without its port; empty if it is malformed or parsers might disagree about it."""
    if not _ODD_LETTERS.isdisjoint(host):
        return ""
    try:
        return _plain(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return ""


def _plain(host: str) -> str:
    return host.lower().rstrip(".")


def _is_address(host: str) -> bool:
    """Return whether a host is a literal IP address, which DNS cannot rebind."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Return whether a name always means this machine.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.2", "::1", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


#: Access of a port that only this machine can reach, such as a UNIX socket.
LOCAL: Final = Access("")
