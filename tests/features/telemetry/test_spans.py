"""Spans of requests: which there are, how they are encoded, and how they reach a collector."""

import asyncio
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from salver.features.telemetry.otlp import SpanConfig, SpanExport
from salver.features.telemetry.otlp_messages import Span, encode, rejected
from salver.features.telemetry.spans import spans_of
from salver.words.errors import InvalidInput
from salver.words.events import BatchRan, Served
from salver.words.messages import Timing

TRACE, OWN, CALLER = "ab" * 16, "cd" * 8, "ef" * 8
TIMING = Timing(queue=1.0, inference=2.0, batch_rows=4, reason="full", arrived=10.5, ended=14.5, split=0.5)
URL = "http://127.0.0.1:4318/v1/traces"


def context(span: str = OWN, flags: int = 1) -> str:
    return f"00-{TRACE}-{span}-{flags:02x}"


def served(
    traceparent: str = "", *, outcome: str = "ok", timing: Timing = TIMING, parent: str = "", origin: str = ""
) -> Served:
    return Served(
        "m", "3", "oip-http", outcome, 5.0, timing, 2, "rid", traceparent, 0, "", "t", 10.0, parent, origin
    )


def ids() -> Iterator[str]:
    return iter(f"{n:016x}" for n in range(1, 1000))


def spans(event: Served, offset: int = 0) -> list[Span]:
    return spans_of(event, offset, ids().__next__)


@pytest.mark.clause("TR-O1")
def test_a_request_and_its_phases() -> None:
    own, *phases = spans(served(context()), 1_000_000_000_000)
    assert (own.trace_id, own.span_id, own.parent_id, own.kind) == (TRACE, OWN, "", "SERVER")
    assert (own.name, own.error) == ("InferRequest", "")
    assert (own.start, own.end) == (1010 * 10**9, 1015 * 10**9)
    assert [name for name, _ in own.events] == [
        "REQUEST_START",
        "QUEUE_START",
        "COMPUTE_START",
        "COMPUTE_INPUT_END",
        "COMPUTE_OUTPUT_START",
        "COMPUTE_END",
        "REQUEST_END",
    ]
    assert dict(own.attributes) == {
        "triton.model_name": "m",
        "triton.model_version": 3,
        "triton.request_id": "rid",
        "salver.protocol": "oip-http",
        "salver.rows": 2,
        "salver.batch_rows": 4,
        "salver.batch_reason": "full",
        "salver.tenant": "t",
    }
    assert [(s.name, s.start / 1e9 - 1000, s.end / 1e9 - 1000) for s in phases] == [
        ("queue", 10.5, 11.5),
        ("compute_input", 11.5, 12.0),
        ("compute_infer", 12.0, 14.0),
        ("compute_output", 14.0, 14.5),
    ]
    assert {s.parent_id for s in phases} == {OWN}
    assert len({s.span_id for s in (own, *phases)}) == 5


@pytest.mark.clause("TR-O1")
def test_a_callers_trace_goes_on() -> None:
    own, *_ = spans(served(context(), origin=CALLER))
    assert (own.trace_id, own.parent_id, own.kind) == (TRACE, CALLER, "SERVER")


@pytest.mark.clause("TR-O1")
def test_what_is_asked_in_the_service_of_a_request_is_part_of_it() -> None:
    own, *phases = spans(served(parent=context()))
    assert (own.trace_id, own.parent_id, own.kind, own.name) == (TRACE, OWN, "INTERNAL", "m")
    assert own.span_id not in ("", OWN)
    assert {s.parent_id for s in phases} == {own.span_id}
    nested, *_ = spans(served(context(CALLER), parent=context()))
    assert (nested.span_id, nested.parent_id) == (CALLER, OWN)


@pytest.mark.clause("TR-O1")
@pytest.mark.parametrize(
    "event",
    [
        served(),
        served(context(flags=0)),
        served(parent=context(flags=0)),
        served("nonsense"),
        served(parent="nonsense"),
    ],
)
def test_traces_that_nobody_records_have_no_spans(event: Served) -> None:
    assert spans(event) == []


@pytest.mark.clause("TR-O1")
def test_a_request_that_failed_says_so_and_has_no_phases() -> None:
    (own,) = spans(served(context(), outcome="invalid_input", timing=Timing()))
    assert own.error == "invalid_input"
    assert ("error.type", "invalid_input") in own.attributes


@pytest.mark.clause("TR-F8")
@given(
    name=st.text(max_size=20),
    value=st.one_of(st.text(max_size=20), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats()),
    times=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
)
def test_opentelemetrys_own_messages_read_what_is_sent(
    name: str, value: str | bool | int | float, times: tuple[int, int]
) -> None:
    span = Span(
        TRACE, OWN, CALLER, name, *times, "SERVER", (("k", value),), (("e", times[0]),), error="overloaded"
    )
    body = encode([span, Span(TRACE, CALLER, "", "root", *times)], [("service.name", "s")], ("salver", "1"))
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    assert [(a.key, a.value.string_value) for a in resource.resource.attributes] == [("service.name", "s")]
    (scope,) = resource.scope_spans
    assert (scope.scope.name, scope.scope.version) == ("salver", "1")
    first, second = scope.spans
    assert (first.trace_id.hex(), first.span_id.hex(), first.parent_span_id.hex()) == (TRACE, OWN, CALLER)
    assert (first.name, first.start_time_unix_nano, first.end_time_unix_nano) == (name, *times)
    assert (first.kind, second.kind) == (first.SPAN_KIND_SERVER, first.SPAN_KIND_INTERNAL)
    (attribute,) = first.attributes
    kind = attribute.value.WhichOneof("value")
    assert kind == {str: "string", bool: "bool", int: "int", float: "double"}[type(value)] + "_value"
    assert repr(getattr(attribute.value, kind)) == repr(value)
    assert [(e.name, e.time_unix_nano) for e in first.events] == [("e", times[0])]
    assert (first.status.code, first.status.message) == (first.status.STATUS_CODE_ERROR, "overloaded")
    assert second.status.code == second.status.STATUS_CODE_UNSET
    assert second.parent_span_id == b""


def test_what_a_collector_did_not_take() -> None:
    partial = ExportTracePartialSuccess(rejected_spans=3, error_message="too old")
    body = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    assert rejected(body) == (3, "too old")
    assert rejected(b"") == (0, "")
    assert rejected(b'{"partialSuccess": {}}') == (0, "")


class Collector:
    """Answers each body as told; asked too often, the last answer stays."""

    def __init__(self, *answers: int | OSError) -> None:
        self.answers = list(answers)
        self.batches: list[list[str]] = []
        self.pauses: list[float] = []
        self.has_come = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def __call__(self, config: SpanConfig, body: bytes) -> tuple[int, float, bytes]:
        (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
        self.batches.append([span.name for span in resource.scope_spans[0].spans])
        self.loop.call_soon_threadsafe(self.has_come.set)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, OSError):
            raise answer
        return answer, 7.0 if answer == 503 else 0.0, b""

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


def export(collector: Collector, **config: float) -> SpanExport:
    settings = SpanConfig(URL, **{"delay_s": 60.0, **config})  # type: ignore[arg-type]
    return SpanExport(settings, ids().__next__, "1", collector, collector.sleep, lambda: 0)


@pytest.mark.clause("TR-F8")
async def test_a_full_batch_leaves_at_once_and_the_rest_at_the_end() -> None:
    collector = Collector(200)
    found = export(collector, batch=8)
    ran = BatchRan("m", "1", 1, 1, 0.1, 0.0, 0.0, "full")
    found.observe([served(context()), ran, served()])
    await asyncio.sleep(0)
    assert collector.batches == []
    found.observe([served(context())])
    await collector.has_come.wait()
    assert [len(batch) for batch in collector.batches] == [8]
    await found.close()
    assert [len(batch) for batch in collector.batches] == [8, 2]
    assert found.lost == 0


@pytest.mark.clause("TR-F8")
async def test_a_small_batch_waits_no_longer_than_the_delay() -> None:
    collector = Collector(200)
    found = export(collector, delay_s=0.01)
    found.observe([served(context())])
    await collector.has_come.wait()
    assert [len(batch) for batch in collector.batches] == [5]
    await found.close()


@pytest.mark.clause("TR-F8")
async def test_spans_beyond_the_queue_are_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    collector = Collector(200)
    found = export(collector, batch=10, queue=10)
    with caplog.at_level(logging.WARNING):
        found.observe([served(context()) for _ in range(4)])
    await found.close()
    assert collector.batches == [collector.batches[0]]
    assert found.lost == 10
    assert "spans have been dropped" in caplog.text


@pytest.mark.clause("TR-F8")
async def test_a_collector_that_is_busy_is_asked_again() -> None:
    collector = Collector(503, OSError("refused"), 429, 200)
    found = export(collector, batch=5)
    found.observe([served(context())])
    while len(collector.batches) < 4:
        await collector.has_come.wait()
        collector.has_come.clear()
    await found.close()
    assert collector.pauses == [7.0, 2.0, 4.0]
    assert found.lost == 0


@pytest.mark.clause("TR-F8")
@pytest.mark.parametrize(("answer", "asked"), [(400, 1), (503, 4), (OSError("refused"), 4)])
async def test_what_it_never_takes_is_dropped_and_counted(answer: int | OSError, asked: int) -> None:
    collector = Collector(answer)
    found = export(collector, batch=5)
    found.observe([served(context())])
    while found.lost < 5:
        await asyncio.sleep(0)
    await found.close()
    assert len(collector.batches) == asked
    found.observe([served(context())])  # it goes on
    while found.lost < 10:
        await asyncio.sleep(0)
    await found.close()


@pytest.mark.clause("TR-F8")
def test_one_in_so_many_and_no_more_than_so_many() -> None:
    def pattern(**config: int) -> str:
        found = SpanExport(SpanConfig(URL, **config), ids().__next__)  # type: ignore[arg-type]
        return "".join("x" if found.samples() else "." for _ in range(9))

    assert pattern() == "xxxxxxxxx"
    assert pattern(rate=3) == "..x..x..x"
    assert pattern(rate=3, count=2) == "..x..x..."
    assert pattern(rate=0) == "........."


def test_switched_off_it_starts_none() -> None:
    found = SpanExport(SpanConfig(URL), ids().__next__)
    found.switch(False)
    assert not found.samples()
    found.switch(True)
    assert found.samples()


@pytest.mark.parametrize(
    "wrong", [{"url": "localhost:4318"}, {"batch": 0}, {"batch": 9, "queue": 8}, {"delay_s": 0}, {"rate": -1}]
)
def test_settings_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        SpanConfig(**{"url": URL, **wrong})  # type: ignore[arg-type]
