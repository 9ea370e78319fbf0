"""Tables of gRPC methods, one for each dialect."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from salver.encoding.bodies import GrpcStatus
from salver.transport.doors import Receive
from salver.words.errors import SalverError
from salver.words.messages import Call

Reply = bytes | GrpcStatus
Method = Callable[[bytes, Call], Awaitable[Reply]]
#: Answers through a callback; returns a function that cancels, or None if the method must be called instead.
PostMethod = Callable[
    [bytes | memoryview, Call, Callable[[Reply | None, Any], None]], Callable[[], None] | None
]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class OpenCalls(Protocol):
    """Streaming method, with its open calls."""

    @property
    def read(self) -> Callable[..., Any]:
        """Function that reads one request; it carries the mark of ``effects.py``."""
        ...

    async def handle(self, headers: Mapping[bytes, bytes], call: Call, receive: Receive, send: Send) -> None:
        """Answer one call, from its headers to its trailers."""
        ...

    def stop(self) -> None:
        """End every call as soon as the method allows."""
        ...


class GrpcTable(msgspec.Struct, frozen=True):
    """gRPC methods of a dialect. Keys are paths, ``/package.Service/Method``.

    Attributes:
        protocol: Label of the metrics.
        fault: Makes the status of an error.
        methods: Unary methods.
        streams: Streaming methods.
        posts: Variants of some ``methods`` that answer small requests without a task.
        targets: Of ``posts``, functions that return the beginning of a message that names the model; empty =
            it begins otherwise. Messages have their prefixes of five bytes.
        leads: By method, how many bytes of a large message precede its tensors, from size and first bytes.
        foresees: By method, functions that refuse a large message by its size and first bytes, by raising.
        names: By method that runs no model, the path of fields to the model's name in a request; empty = the
            reply leaves out the models that the caller may not read. A method that neither runs models nor is
            here concerns all of them.
        inferring: Methods that enforce their deadlines themselves.
        services: Service names that the health service knows.
        max_message: Most bytes of a request; 0 = the server's limit.
        check: Checks that a caller may call. Raises SalverError.
        messages: Returns the message classes, for reflection; None = left out of reflection.
        types: Request and response names that differ from the method's name.
        many_requests, many_responses: Methods that stream requests or responses, for reflection.
    """

    protocol: str
    fault: Callable[[SalverError], GrpcStatus]
    methods: Mapping[str, Method]
    streams: Mapping[str, OpenCalls] = {}
    posts: Mapping[str, PostMethod] = {}
    targets: Mapping[str, Callable[[bytes], bytes]] = {}
    leads: Mapping[str, Callable[[int, bytes], int]] = {}
    foresees: Mapping[str, Callable[[int, bytes, Call], None]] = {}
    names: Mapping[str, Sequence[int]] = {}
    inferring: frozenset[str] = frozenset()
    services: tuple[str, ...] = ()
    max_message: int = 0
    check: Callable[[str, Mapping[bytes, bytes]], None] | None = None
    messages: Callable[[], Mapping[str, Any]] | None = None
    types: Mapping[str, tuple[str, str]] = {}
    many_requests: frozenset[str] = frozenset()
    many_responses: frozenset[str] = frozenset()
