"""What HTTP and gRPC have in common for every call: ids, trace context, headers."""

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


_SHORT = 200  # characters: so much is a name as it stands


class HeaderRules(msgspec.Struct, frozen=True):
    """Which calls need a secret, and which headers become parameters; None = nothing to look at."""

    guard: Guard | None = None
    forwarding: Forwarding | None = None


class NoHeaders:
    """Interest of nobody in any header."""

    headers: Mapping[bytes, str] = MappingProxyType({})


class RequestContext(msgspec.Struct, frozen=True):
    """What every request of the server is received with.

    Attributes:
        clock: Monotonic seconds.
        new_id: Fresh hexadecimal ids of 16 digits (request and span ids).
        tenant_header: Names the tenant, in lower case; empty = none does.
        server_name: What the server calls itself.
        http, grpc: What the owner's rules say of the headers of each protocol.
        max_message: Most bytes of a message over gRPC.
        compression: How hard answers to inference over gRPC are compressed, 1 to 9; 0 = not.
        interest: Headers of requests that somebody needs.
        decoders: Decode large bodies; None = as small ones.
        budget: Memory for the bodies of all requests; None = as much as is usual.
        tritons_words: Errors are told in Triton's words.
        streaming: Connections with open streams.
        parting: Says when callers of HTTP/1.1 are told to close.
        forms: How callers of other protocols ask models that take forms.
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

    def unusual(self, headers: frozenset[bytes]) -> frozenset[bytes]:
        """Those headers that ask for a closer look, and the tenant's."""
        return headers | {self.tenant_header} if self.tenant_header else headers


def id_maker() -> Callable[[], str]:
    """Makes ids of 16 hexadecimal digits: unique in this process, unlikely to meet another's."""
    numbers = itertools.count(secrets.randbits(63))
    return lambda: f"{next(numbers):016x}"


def printable(value: bytes) -> str:
    """A header's value; empty if it is long or not printable ASCII, so that no log line can be forged."""
    text = value.decode("latin-1")
    return text if len(text) <= 256 and text.isascii() and text.isprintable() else ""


def join_trace(call: Call, header: bytes, new_id: Callable[[], str]) -> None:
    """Make the call a span of the trace that its ``traceparent`` header names, if it is a valid one."""
    parent = w3c.parse(printable(header))
    if parent is not None:
        call.traceparent = w3c.format(w3c.child(parent, new_id()))
        call.origin = parent.span_id


def take_traits(call: Call, headers: Mapping[bytes, bytes], wanted: Mapping[bytes, str]) -> None:
    """Note what of the headers somebody wants to know: UTF-8, or else Latin-1, in which names that differ
    stay different.

    Args:
        wanted: Lower-case names, with the source that each is.
    """
    found: dict[str, str] = {}
    for name, source in wanted.items():
        if value := headers.get(name):
            try:
                text = value.decode().strip()
            except UnicodeDecodeError:
                text = value.decode("latin-1").strip()
            if text:
                found[source] = text if len(text) < _SHORT else trait(text)
    if found:
        call.traits = found if call.traits is None else {**found, **call.traits}
