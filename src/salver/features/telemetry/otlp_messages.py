"""How do spans travel to an OpenTelemetry collector?

The bodies of OTLP over HTTP in their binary form (opentelemetry-proto 1.x, signal ``traces``), and what the
collector answers. It knows no socket, and not what a span is about.

Pure.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Final, Literal

import msgspec
from google.protobuf.message import DecodeError

from salver.encoding.protobuf import Table, build

Value = str | int | float | bool
Attributes = Sequence[tuple[str, Value]]
CONTENT_TYPE: Final = "application/x-protobuf"
#: Names and numbers follow opentelemetry-proto (Apache-2.0); those fields that are used here.
_TABLE: Final = Table(
    "salver.otlp",
    {
        "ExportTraceServiceRequest": "repeated ResourceSpans resource_spans = 1",
        "ExportTraceServiceResponse": "PartialSuccess partial_success = 1",
        "PartialSuccess": """
            int64 rejected_spans = 1
            string error_message = 2
        """,
        "ResourceSpans": """
            Resource resource = 1
            repeated ScopeSpans scope_spans = 2
        """,
        "Resource": "repeated KeyValue attributes = 1",
        "ScopeSpans": """
            Scope scope = 1
            repeated Span spans = 2
        """,
        "Scope": """
            string name = 1
            string version = 2
        """,
        "KeyValue": """
            string key = 1
            AnyValue value = 2
        """,
        "AnyValue": """
            oneof value string string_value = 1
            oneof value bool bool_value = 2
            oneof value int64 int_value = 3
            oneof value double double_value = 4
        """,
        "Span": """
            bytes trace_id = 1
            bytes span_id = 2
            bytes parent_span_id = 4
            string name = 5
            Kind kind = 6
            fixed64 start_time_unix_nano = 7
            fixed64 end_time_unix_nano = 8
            repeated KeyValue attributes = 9
            repeated Moment events = 11
            Status status = 15
            fixed32 flags = 16
        """,
        "Moment": """
            fixed64 time_unix_nano = 1
            string name = 2
        """,
        "Status": """
            string message = 2
            StatusCode code = 3
        """,
    },
    {"Kind": "UNSPECIFIED INTERNAL SERVER", "StatusCode": "UNSET OK ERROR"},
)


class Span(msgspec.Struct, frozen=True, gc=False):
    """One piece of work in a trace.

    Attributes:
        trace_id: 32 hexadecimal digits.
        span_id: 16 of them.
        parent_id: Of the span that it is part of; empty = the trace begins here.
        start, end: Nanoseconds of the Unix epoch.
        events: What happened when, in the same unit.
        error: Why it failed; empty = it did not.
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
    return build(_TABLE)


def encode(spans: Iterable[Span], resource: Attributes, scope: tuple[str, str]) -> bytes:
    """An ``ExportTraceServiceRequest``.

    Args:
        resource: Whose spans they are, ``service.name`` above all.
        scope: Name and version of what made them.
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
    """How many spans a collector did not take, and why, by its answer; (0, "") if it took all."""
    try:
        partial = _classes()["ExportTraceServiceResponse"].FromString(body).partial_success
    except DecodeError:  # some answer JSON
        return 0, ""
    return partial.rejected_spans, partial.error_message


def _pairs(attributes: Attributes) -> list[Any]:
    made = _classes()
    return [made["KeyValue"](key=key, value=made["AnyValue"](**{_slot(v): v})) for key, v in attributes]


def _slot(value: Value) -> str:
    kinds = {bool: "bool_value", int: "int_value", float: "double_value"}
    return kinds.get(type(value), "string_value")
