"""Spans of a request (TR-O1).

One for the request itself, a child of its caller's or of the request that caused it, and one for each of its
phases. Pure: names of phases and times are Triton's if it has them.
"""

from collections.abc import Callable
from typing import Final

from salver.features.telemetry.otlp_messages import Span, Value
from salver.words import traceparent as w3c
from salver.words.events import Served, moments

REQUEST: Final = "InferRequest"
#: Phase -> the times at which it begins and ends.
_PHASES: Final = {
    "queue": ("QUEUE_START", "COMPUTE_START"),
    "compute_input": ("COMPUTE_START", "COMPUTE_INPUT_END"),
    "compute_infer": ("COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START"),
    "compute_output": ("COMPUTE_OUTPUT_START", "COMPUTE_END"),
}


def spans_of(event: Served, offset: int, new_id: Callable[[], str]) -> list[Span]:
    """Return the spans of a request, its own first; empty if its trace is not recorded.

    Args:
        offset: Nanoseconds from the server's monotonic clock to the Unix epoch.
        new_id: Returns a new span id.
    """
    context, parent_id = _place(event, new_id)
    if context is None or not context.is_sampled:
        return []
    at = {name: ns + offset for name, ns in moments(event).items()}
    own = Span(
        context.trace_id,
        context.span_id,
        parent_id,
        event.model if event.parent else REQUEST,
        at["REQUEST_START"],
        at["REQUEST_END"],
        kind="INTERNAL" if event.parent else "SERVER",
        attributes=_attributes(event),
        events=tuple(at.items()),
        error="" if event.outcome == "ok" else event.outcome,
    )
    return [own] + [
        Span(context.trace_id, new_id(), context.span_id, name, at[begin], at[end])
        for name, (begin, end) in _PHASES.items()
        if begin in at
    ]


def _place(event: Served, new_id: Callable[[], str]) -> tuple[w3c.TraceContext | None, str]:
    """Return its own context, and the parent span."""
    own = w3c.parse(event.traceparent)
    if not event.parent:
        return own, event.origin
    parent = w3c.parse(event.parent)
    if parent is None:
        return None, ""
    return own or w3c.child(parent, new_id()), parent.span_id


def _attributes(event: Served) -> tuple[tuple[str, Value], ...]:
    found: list[tuple[str, Value]] = [
        ("triton.model_name", event.model),
        ("triton.model_version", int(event.version) if event.version.isdecimal() else event.version),
        ("salver.protocol", event.protocol),
        ("salver.rows", event.rows),
    ]
    if event.timing.batch_rows:
        found += [
            ("salver.batch_rows", event.timing.batch_rows),
            ("salver.batch_reason", event.timing.reason),
        ]
    if event.request_id:
        found.append(("triton.request_id", event.request_id))
    if event.tenant:
        found.append(("salver.tenant", event.tenant))
    if event.outcome != "ok":
        found.append(("error.type", event.outcome))
    return tuple(found)
