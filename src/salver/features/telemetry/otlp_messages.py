"""Messages of the OpenTelemetry protocol.

The bodies of OTLP over HTTP in binary form (opentelemetry-proto 1.x, signal ``traces``), and the collector's
answer. It knows no socket, and not what a span is about.

Pure.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final, Literal

import msgspec
from google.protobuf.message import DecodeError

from salver.encoding import protobuf

Value = str | int | float | bool
Attributes = Sequence[tuple[str, Value]]
CONTENT_TYPE: Final = "application/x-protobuf"


class Span(msgspec.Struct, frozen=True, gc=False):
    """A span of a trace.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 of them.
        parent_id: Id of the parent span; empty = root of the trace.
        start, end: Nanoseconds since the Unix epoch.
        events: Events with their times in the same unit.
        error: Error text; empty = success.
    """

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    start: int
    end: int
    kind: Literal["SERVER", "INTERNAL"] = "INTERNAL"
    attributes: tuple[tuple[str, Value], ...] = ()
    events: tuple[tuple[str, int], ...] = ()
    error: str = ""


@cache
def _classes() -> dict[str, Any]:
    return protobuf.build(__package__)


def encode(spans: Iterable[Span], resource: Attributes, scope: tuple[str, str]) -> bytes:
    """Return an ``ExportTraceServiceRequest``.

    Args:
        resource: Attributes of the source of the spans, such as ``service.name``.
        scope: Name and version of the instrumentation.
    """
    made = _classes()
    whole = made["ResourceSpans"](resource=made["Resource"](attributes=_pairs(resource)))
    group = whole.scope_spans.add(scope=made["Scope"](name=scope[0], version=scope[1]))
    for span in spans:
        message = group.spans.add(
            trace_id=bytes.fromhex(span.trace_id),
            span_id=bytes.fromhex(span.span_id),
            parent_span_id=bytes.fromhex(span.parent_id),
            name=span.name,
            kind=span.kind,
            start_time_unix_nano=span.start,
            end_time_unix_nano=span.end,
            attributes=_pairs(span.attributes),
            events=[made["Moment"](time_unix_nano=ns, name=name) for name, ns in span.events],
            flags=1,  # sampled
        )
        if span.error:
            message.status.code = 2
            message.status.message = span.error
    body: bytes = made["ExportTraceServiceRequest"](resource_spans=[whole]).SerializeToString()
    return body


def rejected(body: bytes) -> tuple[int, str]:
    """Return how many spans a collector rejected, and why; (0, "") = none."""
    try:
        partial = _classes()["ExportTraceServiceResponse"].FromString(body).partial_success
    except DecodeError:  # some collectors answer with JSON
        return 0, ""
    return partial.rejected_spans, partial.error_message


def _pairs(attributes: Attributes) -> list[Any]:
    made = _classes()
    return [made["KeyValue"](key=key, value=made["AnyValue"](**{_slot(v): v})) for key, v in attributes]


def _slot(value: Value) -> str:
    kinds = {bool: "bool_value", int: "int_value", float: "double_value"}
    return kinds.get(type(value), "string_value")
