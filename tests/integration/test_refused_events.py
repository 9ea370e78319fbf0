"""One event of many refused requests counts as one event of each."""

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from fake_present import FakePresent

from salver.dialects.tensorflow.metrics import TensorFlowMetrics, TensorFlowMetricsConfig
from salver.dialects.triton.statistics import Statistics
from salver.features.telemetry.eventlog import EventLog
from salver.features.telemetry.explain import Explanations
from salver.features.telemetry.metrics import Metrics
from salver.kernel.serving.bus import Bus
from salver.words.events import Event, Refused, Served
from salver.words.messages import ModelId, Timing

MODEL = ModelId("fraud", "7")
SERVED = Served("fraud", "7", "oip-http", "ok", 0.002, Timing(0.001, 0.0, 0.001, 1), 1)
LIKE = Served("fraud", "7", "oip-http", "overloaded", 0.0, Timing(), why="objective")
REFUSED = Refused(LIKE, ["a", "b", "c"])


def page(observer: Any) -> object:
    return re.sub(r"(?m)^process_.*$", "", observer.render()[0].decode())


def families(observer: Any) -> object:
    return [str(family) for family in observer.collect()]


OBSERVERS: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [
    (lambda: Metrics(FakePresent(MODEL)), page),  # type: ignore[arg-type]
    (lambda: Explanations(lambda: 1.0, FakePresent(MODEL)), lambda told: told.model("fraud", "7")),  # type: ignore[arg-type]
    (lambda: Statistics(wall=lambda: 1.0), lambda counts: counts.snapshot()),
    (lambda: TensorFlowMetrics(TensorFlowMetricsConfig("all")), families),
]


@pytest.mark.parametrize(("make", "shown"), OBSERVERS, ids=["metrics", "explain", "statistics", "tensorflow"])
def test_observers_count_many_as_they_count_each(
    make: Callable[[], Any], shown: Callable[[Any], object]
) -> None:
    together, apart, without = make(), make(), make()
    together.observe([SERVED, REFUSED])
    apart.observe([SERVED, *REFUSED.each()])
    without.observe([SERVED])
    assert together.takes_refused
    assert shown(together) == shown(apart) != shown(without)


def test_the_access_log_has_a_line_for_each(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "salver.access"):
        EventLog("errors").observe([SERVED, REFUSED])
        EventLog("off").observe([REFUSED])
    assert [record.msg["request_id"] for record in caplog.records] == ["a", "b", "c"]  # type: ignore[index]


class Observer:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def observe(self, events: Any) -> None:
        self.events += events


async def test_observers_that_do_not_know_it_get_each() -> None:
    knowing, other = Observer(), Observer()
    knowing.takes_refused = True  # type: ignore[attr-defined]
    bus = Bus((knowing, other))
    bus.emit(SERVED)
    bus.emit(REFUSED)
    bus.flush()
    assert knowing.events == [SERVED, REFUSED]
    assert other.events == [SERVED, *REFUSED.each()]
    assert [event.request_id for event in other.events[1:]] == ["a", "b", "c"]  # type: ignore[union-attr]
