"""Queries to handlers, read from HTTP requests. Pure but for new ids."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from salver.dialects.torchserve.bodies import is_large, query_of
from salver.dialects.torchserve.paths import PathMatch
from salver.dialects.torchserve.predict import HandlerQuery, Prediction
from salver.dialects.torchserve.rules import TorchServeRules
from salver.kernel.serving.standing import CLASS_HEADER, PRIORITY_HEADER, from_headers
from salver.transport.calls import RequestContext, join_trace, take_traits
from salver.words.messages import Call

_UNUSUAL: Final = frozenset((b"traceparent", CLASS_HEADER, PRIORITY_HEADER))


class Target(msgspec.Struct, frozen=True, gc=False):
    """Model and codec of a path, computed once.

    Attributes:
        headers: Headers for the handler besides those of the call.
        is_shared: Whether the route belongs to another protocol, too, for models that are no handlers.
    """

    match: PathMatch
    codec: Prediction
    headers: Mapping[str, str]
    is_shared: bool = False


class CallHeaders(msgspec.Struct, frozen=True, gc=False):
    """Headers of a request, as far as they matter.

    Attributes:
        lower: All headers, with names in lower case.
        shown: Headers for the handler: names as they were sent, and those of the path.
        sequence: Sequence of the request (:class:`salver.dialects.torchserve.predict.HandlerQuery`).
        is_unusual: Whether there are headers for the call: trace, priority, tenant.
    """

    lower: Mapping[bytes, bytes]
    shown: Mapping[str, str]
    content_type: str
    sequence: tuple[str, bool, bool] | None
    is_unusual: bool


class QueryReader:
    """Reader of queries to handlers."""

    def __init__(self, context: RequestContext, rules: TorchServeRules) -> None:
        self._context = context
        self._unusual = context.unusual(_UNUSUAL)
        self._sequence = [name.lower().encode("latin-1") for name in rules.sequence_headers]

    def query(
        self, target: Target, headers: CallHeaders, body: bytes, place: tuple[bytes, bytes], call: Call
    ) -> HandlerQuery:
        """Return the query to a handler, and complete its call.

        Args:
            place: Query string and path.

        Raises:
            NamedFault: the query string is not percent-encoded correctly.
        """
        if headers.is_unusual:
            if b"traceparent" in headers.lower:
                join_trace(call, headers.lower[b"traceparent"], self._context.new_id)
            call.standing = from_headers(headers.lower, self._context.tenant_header)
        if wanted := self._context.interest.headers:
            take_traits(call, headers.lower, wanted)
        call.is_large = is_large(body, headers.content_type)
        fields: Sequence[tuple[str, str]] = ()
        if place[0] and target.match.takes_query:
            fields = query_of(*place)
        return HandlerQuery(
            body, headers.content_type, headers.shown, fields, call.request_id, headers.sequence
        )

    def headers(self, spelled: Iterable[tuple[bytes, bytes]], target: Target) -> CallHeaders:
        """Return the headers of a request."""
        lower = {name.lower(): value for name, value in spelled}
        shown = {name.decode("latin-1"): value.decode("latin-1") for name, value in spelled}
        sequence = None
        if self._sequence[0] in lower:  # TS-R17
            id, start, end = [lower.get(name, b"").decode("latin-1") for name in self._sequence]
            sequence = id, start.lower() == "true", end.lower() == "true"
        return CallHeaders(
            lower,
            {**shown, **target.headers},
            lower.get(b"content-type", b"").decode("latin-1"),
            sequence,
            not self._unusual.isdisjoint(lower),
        )
