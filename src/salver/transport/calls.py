"""Handling of ids, trace context and headers that HTTP and gRPC share."""

import itertools
import secrets
from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec

from salver.encoding.forms import NO_FORMS, Forms
from salver.kernel.serving.decoding import Decoders
from salver.lazy import lazy_imports
from salver.transport.budget import Budget
from salver.transport.parting import Parting
from salver.transport.ports import HeaderInterest
from salver.transport.restrict import Guard
from salver.transport.watch import StreamingPeers
from salver.words.messages import Call
from salver.words.releases import trait

with lazy_imports():
    from salver.transport.forward import Forwarding
    from salver.words import traceparent as w3c


_SHORT = 200  # characters up to which a name is kept as it is


class HeaderRules(msgspec.Struct, frozen=True):
    """Rules about headers: secrets for restricted calls, and headers that become parameters; None = none."""

    guard: Guard | None = None
    forwarding: Forwarding | None = None


class NoHeaders:
    """Interest in no header at all."""

    headers: Mapping[bytes, str] = MappingProxyType({})


class RequestContext(msgspec.Struct, frozen=True):
    """Settings and collaborators shared by all requests of a server.

    Attributes:
        clock: Monotonic seconds.
        new_id: Makes hexadecimal ids of 16 digits (request and span ids).
        tenant_header: Header that names the tenant, in lower case; empty = no tenants.
        server_name: Name of the server in its metadata.
        began: Unix seconds of the server's start.
        http, grpc: The operator's rules about the headers of each protocol.
        max_message: Most bytes of a gRPC message.
        compression: Level for inference replies over gRPC, 1 to 9; 0 = no compression.
        interest: Request headers that a feature needs.
        decoders: Decode large bodies in other processes; None = decode in place.
        budget: Memory for the bodies of all requests; None = the default.
        tritons_words: Use Triton's error texts.
        streaming: Connections with open streams.
        parting: Whether HTTP/1.1 callers are told to close.
        forms: Converts requests of other protocols for models that take forms.
    """

    clock: Callable[[], float]
    new_id: Callable[[], str]
    tenant_header: bytes = b"x-tenant"
    server_name: str = "salver"
    http: HeaderRules = HeaderRules()
    grpc: HeaderRules = HeaderRules()
    max_message: int = 64 << 20
    compression: int = 0
    interest: HeaderInterest = NoHeaders()
    decoders: Decoders | None = None
    budget: Budget | None = None
    tritons_words: bool = False
    streaming: StreamingPeers = msgspec.field(default_factory=StreamingPeers)
    parting: Parting = msgspec.field(default_factory=Parting)
    forms: Forms = NO_FORMS
    began: int = 0

    def unusual(self, headers: frozenset[bytes]) -> frozenset[bytes]:
        """Return the headers together with the tenant's, if there is one."""
        if self.tenant_header:
            return headers | {self.tenant_header}
        return headers


def id_maker() -> Callable[[], str]:
    """Return a maker of ids of 16 hexadecimal digits, which are unique in this process."""
    # From a random number on: ids of several servers, or of one that was restarted, must differ.
    numbers = itertools.count(secrets.randbits(63))
    return lambda: f"{next(numbers):016x}"


def printable(value: bytes) -> str:
    """Return a header's value; empty if long or not printable ASCII, so that it cannot forge log lines."""
    text = value.decode("latin-1")
    if len(text) <= 256 and text.isascii() and text.isprintable():
        return text
    return ""


def join_trace(call: Call, header: bytes, new_id: Callable[[], str]) -> None:
    """Make the call a span of the trace that its ``traceparent`` header names, if it is a valid one."""
    parent = w3c.parse(printable(header))
    if parent is not None:
        call.traceparent = w3c.format(w3c.child(parent, new_id()))
        # The caller's span, for those who show whose child this call is.
        call.origin = parent.span_id


def take_traits(call: Call, headers: Mapping[bytes, bytes], wanted: Mapping[bytes, str]) -> None:
    """Copy the wanted headers into the traits of a call.

    Values are UTF-8, or else Latin-1, which keeps different values different.

    Args:
        wanted: Lower-case header names, each with the name of its trait.
    """
    found: dict[str, str] = {}
    for name, source in wanted.items():
        if value := headers.get(name):
            try:
                text = value.decode().strip()
            except UnicodeDecodeError:
                text = value.decode("latin-1").strip()
            # Long values are shortened to a digest: traits are kept with every event.
            if text:
                found[source] = text if len(text) < _SHORT else trait(text)
    if found:
        # What the request itself says of a trait wins over its header.
        call.traits = found if call.traits is None else {**found, **call.traits}


class RefusedCopies:
    """Requests of one caller that are refused like a first one.

    Args:
        new_id: Makes ids of requests.
        count: Records so many of them.
    """

    __slots__ = ("_copies", "_count", "_new_id")

    def __init__(self, new_id: Callable[[], str], count: Callable[[int], None]) -> None:
        self._count = count
        self._copies = 0
        self._new_id = new_id

    def new_id(self) -> str:
        """See :class:`~salver.words.messages.Alike`."""
        self._copies += 1
        return self._new_id()

    def close(self) -> int:
        """See :class:`~salver.words.messages.Closable`."""
        if self._copies:
            self._count(self._copies)
        return self._copies
