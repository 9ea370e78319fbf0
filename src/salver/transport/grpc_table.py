"""Tables of gRPC methods, one for each dialect, as the transport takes them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec

from salver.encoding.bodies import GrpcStatus
from salver.transport.doors import Receive
from salver.words.errors import SalverError
from salver.words.messages import Call

Reply = bytes | GrpcStatus
Method = Callable[[bytes, Call], Awaitable[Reply]]
#: Answers through a callback; returns what gives the request up, or None if its method is to be called.
PostMethod = Callable[[bytes, Call, Callable[[Reply | None, Any], None]], Callable[[], None] | None]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class OpenCalls(Protocol):
    """A method with many requests or responses, and the calls of it that are open."""

    @property
    def read(self) -> Callable[..., Any]:
        """What reads one request; it carries the mark of ``effects.py``."""
        ...

    async def handle(self, headers: Mapping[bytes, bytes], call: Call, receive: Receive, send: Send) -> None:
        """Answer one call, from its headers to its trailers."""
        ...

    def stop(self) -> None:
        """End every call, as soon as the method allows."""
        ...


class GrpcTable(msgspec.Struct, frozen=True):
    """The gRPC methods of one dialect, or of a part of one. Keys are paths, ``/package.Service/Method``.

    Attributes:
        protocol: Label of the metrics.
        fault: How a call ends with an error.
        methods: Methods of one request and one reply.
        streams: Methods of many.
        posts: Those of ``methods`` that answer small requests without a task.
        inferring: Methods that keep their deadlines themselves.
        services: Names for which the health service answers.
        max_message: Most bytes of a request; 0 = as of all services.
        check: Checks that a caller may ask. Raises SalverError.
        messages: Returns the message classes, for reflection; None = they are not shown.
        types: Names of requests and responses that do not follow from the method's.
        many_requests, many_responses: Methods that have them, for reflection.
    """

    protocol: str
    fault: Callable[[SalverError], GrpcStatus]
    methods: Mapping[str, Method]
    streams: Mapping[str, OpenCalls] = {}
    posts: Mapping[str, PostMethod] = {}
    inferring: frozenset[str] = frozenset()
    services: tuple[str, ...] = ()
    max_message: int = 0
    check: Callable[[str, Mapping[bytes, bytes]], None] | None = None
    messages: Callable[[], Mapping[str, Any]] | None = None
    types: Mapping[str, tuple[str, str]] = {}
    many_requests: frozenset[str] = frozenset()
    many_responses: frozenset[str] = frozenset()
