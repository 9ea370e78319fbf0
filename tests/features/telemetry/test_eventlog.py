import logging

import pytest

from salver.features.telemetry.eventlog import EventLog
from salver.words.events import BatchRan, Event, Served, StateChanged
from salver.words.messages import ModelId, State, Timing

TRACE = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


def served(outcome: str = "ok") -> Served:
    timing = Timing(queue=0.001, formation=0.0005, inference=0.002, batch_rows=8)
    return Served("fraud", "7", "oip-http", outcome, 0.005, timing, 2, "r-1", TRACE)


class Keep(logging.Handler):
    """Takes what was logged, as dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[dict[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        assert isinstance(record.msg, dict)
        self.entries.append({"log_level": record.levelname.lower(), **record.msg})


def written(mode: str, events: list[Event]) -> list[dict[str, object]]:
    keep, root = Keep(), logging.getLogger("salver")
    before = root.level
    root.addHandler(keep)
    root.setLevel(logging.DEBUG)
    try:
        EventLog(mode).observe(events)  # type: ignore[arg-type]
    finally:
        root.removeHandler(keep)
        root.setLevel(before)
    return keep.entries


@pytest.mark.parametrize(
    ("mode", "outcomes"),
    [("off", []), ("errors", ["overloaded"]), ("all", ["ok", "overloaded"])],
)
def test_which_requests_are_logged(mode: str, outcomes: list[str]) -> None:
    run = BatchRan("fraud", "7", 8, 3, 0.002, 0.0, 0.0, "drain")
    lines = written(mode, [served(), run, served("overloaded")])
    assert [line["outcome"] for line in lines] == outcomes


def test_what_a_request_line_holds() -> None:
    (line,) = written("all", [served()])
    assert line == {
        "event": "request",
        "log_level": "info",
        "model": "fraud",
        "version": "7",
        "protocol": "oip-http",
        "outcome": "ok",
        "ms": 5.0,
        "queue_ms": 1.5,
        "inference_ms": 2.0,
        "rows": 2,
        "batch_rows": 8,
        "request_id": "r-1",
        "trace_id": "a" * 32,
    }


def test_a_refusal_says_why_and_whose_it_was() -> None:
    who = {"why": "limit", "tenant": "acme"}
    refused = Served("fraud", "7", "oip-http", "overloaded", 0.001, Timing(), 2, "r", **who)
    (line,) = written("errors", [refused])
    assert (line["why"], line["tenant"]) == ("limit", "acme")


@pytest.mark.parametrize(
    ("after", "level"),
    [(State.READY, "info"), (State.FAILED, "error"), (State.LOADING, "debug")],
)
def test_changes_of_state_are_always_logged(after: State, level: str) -> None:
    change = StateChanged(ModelId("fraud", "8"), State.LOADING, after, "no such file: model.onnx")
    (line,) = written("off", [change])
    assert line == {
        "event": f"model {after.lower()}",
        "log_level": level,
        "model": "fraud",
        "version": "8",
        "reason": "no such file: model.onnx",
    }


def test_a_failure_is_logged_once() -> None:
    change = StateChanged(ModelId("fraud", "8"), State.FAILED, State.GONE, "no such file: model.onnx")
    (line,) = written("off", [change])
    assert line == {"event": "model gone", "log_level": "info", "model": "fraud", "version": "8"}
