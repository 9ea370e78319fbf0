"""Metrics of handlers, and the lines that reach the server (TS-A9)."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from socket import gethostname
from typing import Any

import pytest
from marfolder import form, nothing, opened, own_process, request, whole, write

from salver.words.errors import LoadFailed

LINE = re.compile(r"(\w+)\.(\w+):([\d.]+)\|#([^|]*)\|#type:(\w+)\|#hostname:([^,]+),(\d+)(?:,(.*))?")


@pytest.fixture(autouse=True)
def _own_process() -> Iterator[None]:
    with own_process():
        yield


@pytest.fixture
def metrics(tmp_path: Path) -> Any:
    return opened(write(tmp_path, "def handle(data, context):\n    return data\n"))._handler.context.metrics


def lines(model: Any, *ids: str) -> list[tuple[str, ...]]:
    """Name, unit, value, dimensions, kind and requests of each line that a run gave."""
    answers = model.reply([request(form(b"x"), id) for id in ids], nothing)
    assert not any(whole(answer).metrics for answer in answers[1:])
    return [parsed(line) for line in whole(answers[0]).metrics]


def parsed(line: str) -> tuple[str, ...]:
    found = LINE.fullmatch(line)
    assert found and found[6] == gethostname(), line
    return (*found.groups()[:5], found[8] or "")


def taken(kind: str = "") -> list[tuple[str, ...]]:
    from ts.metrics.lines import LINES

    return [parsed(line) for line in LINES.take()]


METERS = """
    from ts.metrics.dimension import Dimension
    from ts.metrics.metric_type_enum import MetricTypes

    class Meters:
        def initialize(self, context):
            self.gold = context.metrics.add_metric_to_cache(
                metric_name="GoldCounter", unit="count", dimension_names=["ModelName", "Colour"],
                metric_type=MetricTypes.COUNTER)
            context.metrics.add_counter("Started", 1)

        def handle(self, data, context):
            m = context.metrics
            m.add_counter("GoldCalls", len(data))
            m.add_time("GoldTime", 1.5)
            m.add_size("GoldSize", 4, unit="MB")
            m.add_percent("GoldShare", 25)
            m.add_metric("GoldGeneric", 3, unit="unit", dimensions=[Dimension("Kind", "any")])
            m.add_counter("Second", 1, idx=1)
            self.gold.add_or_update(2, ["meters", "yellow"])
            return ["measured"] * len(data)
"""


@pytest.mark.clause("TS-A9", "TS-B13")
def test_lines_recorded(tmp_path: Path) -> None:
    model = opened(write(tmp_path, METERS), "meters")
    own = "ModelName:meters,Level:Model"
    first, *others = lines(model, "a", "b")
    assert first[:5] == ("Started", "Count", "1", own, "COUNTER") and len(first[5]) == 36
    last = others.pop()
    assert others == [
        ("GoldCalls", "Count", "2", own, "COUNTER", "a,b"),
        ("GoldTime", "Milliseconds", "1.5", own, "GAUGE", "a,b"),
        ("GoldSize", "Megabytes", "4", own, "GAUGE", "a,b"),
        ("GoldShare", "Percent", "25", own, "GAUGE", "a,b"),
        ("GoldGeneric", "unit", "3", f"Kind:any,{own}", "COUNTER", "a,b"),
        ("Second", "Count", "1", own, "COUNTER", "b"),
        ("GoldCounter", "Count", "2", "ModelName:meters,Colour:yellow", "COUNTER", ""),
    ]
    assert (last[0], last[1], last[3:]) == ("PredictionTime", "Milliseconds", (own, "GAUGE", "a,b"))
    again = lines(model, "c", "d")
    assert [line[0] for line in again] == [line[0] for line in (*others, last)]


@pytest.mark.clause("TS-A9")
def test_a_run_that_failed_tells_what_was_counted_before(tmp_path: Path) -> None:
    source = """
        def handle(data, context):
            if data is not None:
                context.metrics.add_counter("Tried", 1)
                raise ValueError("no")
    """
    model = opened(write(tmp_path, source))
    assert [line[0] for line in lines(model, "a")] == ["Tried"]


@pytest.mark.clause("TS-A9")
def test_units_kinds_and_dimensions(metrics: Any) -> None:
    from ts.metrics.dimension import Dimension
    from ts.metrics.metric_type_enum import MetricTypes

    metrics.set_request_ids({0: "a", 1: "b"})
    own = [Dimension("Level", "Mine")]
    metrics.add_time("T", 2, unit="s", dimensions=own, metric_type=MetricTypes.HISTOGRAM)
    metrics.add_time("T", 3, unit="s", dimensions=own, metric_type=MetricTypes.HISTOGRAM)
    metrics.add_size("S", 2, idx=0, unit="kB")
    metrics.add_size("G", 2, idx=7, unit="GB")
    metrics.add_metric("M", 2, "requests", metric_type=MetricTypes.GAUGE)
    metrics.add_error("E", 1)
    assert taken() == [
        ("T", "Seconds", "2", "Level:Mine,ModelName:m", "HISTOGRAM", "a,b"),
        ("T", "Seconds", "3", "Level:Mine,ModelName:m", "HISTOGRAM", "a,b"),
        ("S", "Kilobytes", "2", "ModelName:m,Level:Model", "GAUGE", "a"),
        ("G", "Gigabytes", "2", "ModelName:m,Level:Model", "GAUGE", "a,b"),
        ("M", "requests", "2", "ModelName:m,Level:Model", "GAUGE", "a,b"),
        ("E", "unit", "1", "Level:Error", "COUNTER", ""),
    ]
    assert len(own) == 1, "the caller's list stays as it was"


@pytest.mark.clause("TS-A9")
def test_wrong_units_are_refused(metrics: Any) -> None:
    with pytest.raises(ValueError, match="one of \\['ms', 's'\\]"):
        metrics.add_time("T", 1, unit="h")
    with pytest.raises(ValueError, match="'MB'"):
        metrics.add_size("S", 1, unit="TB")


@pytest.mark.clause("TS-A9")
def test_what_cannot_be_counted_is_told_in_the_log(metrics: Any, caplog: Any) -> None:
    with caplog.at_level(logging.ERROR):
        metrics.add_counter("Down", -1)
        metrics.get_metric("Down").add_or_update(1, ["too few"])
    assert taken() == [] and caplog.text.count("[METRICS]Failed to update metric with name:Down") == 2


@pytest.mark.clause("TS-A9")
def test_metrics_by_name(metrics: Any) -> None:
    from ts.metrics.metric_cache_errors import MetricsCacheKeyError, MetricsCacheTypeError
    from ts.metrics.metric_type_enum import MetricTypes

    assert metrics.cache_keys() == ["gauge:HandlerTime", "gauge:PredictionTime"]
    assert metrics.get_metric("HandlerTime", MetricTypes.GAUGE).unit == "Milliseconds"
    with pytest.raises(MetricsCacheKeyError, match="doesn't exist"):
        metrics.get_metric("HandlerTime")
    for wrong in ((3, "ms", [], MetricTypes.GAUGE), ("a", 3), ("a", "ms", "b"), ("a", "ms", [], "gauge")):
        with pytest.raises(MetricsCacheTypeError):
            metrics.add_metric_to_cache(*wrong)
    made = metrics.add_metric_to_cache("Own", "ms", ["Colour"])
    assert metrics.get_metric("Own") is made
    made.add_or_update(3, ["red"])
    made.update(4, "a", [])
    assert [line[3:] for line in taken()] == [("Colour:red", "COUNTER", ""), ("", "COUNTER", "a")]


@pytest.mark.clause("TS-A9", "TS-C7")
def test_metrics_that_a_file_declares(tmp_path: Path) -> None:
    source = """
        from ts.metrics.metric_type_enum import MetricTypes

        def handle(data, context):
            if data is not None:
                context.metrics.get_metric("Latency", MetricTypes.HISTOGRAM).add_or_update(5, ["m", "x"])
                return ["ok"]
    """
    declared = tmp_path / "metrics.yaml"
    declared.write_text(
        "dimensions:\n  - &model_name 'ModelName'\nmodel_metrics:\n  histogram:\n"
        "    - {name: Latency, unit: ms, dimensions: [*model_name, Kind]}\n"
    )
    model = opened(write(tmp_path / "m", source), metrics_config=str(declared))
    assert lines(model, "a")[0] == ("Latency", "Milliseconds", "5", "ModelName:m,Kind:x", "HISTOGRAM", "")


@pytest.mark.clause("TS-C7")
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ts_metrics: {}", "model_metrics"),
        ("model_metrics: {}", "Missing `model_metrics`"),
        ("model_metrics: {dial: [{name: a}]}", "Invalid metric type"),
        ("model_metrics: {gauge: [{name: a}]}", "Key not found"),
        ("a: [", "Error parsing file"),
        (None, "Error reading file"),
    ],
)
def test_a_broken_declaration_is_refused(text: str | None, why: str, tmp_path: Path) -> None:
    declared = tmp_path / "metrics.yaml"
    if text is not None:
        declared.write_text(text)
    with pytest.raises(LoadFailed, match=why):
        opened(write(tmp_path / "m", "x = 1"), metrics_config=str(declared))


@pytest.mark.clause("TS-A9")
def test_lines_that_nobody_takes_are_not_kept_for_ever(metrics: Any) -> None:
    from ts.metrics.lines import LINES

    for _ in range(10_050):
        metrics.add_counter("Busy", 1)
    metrics.add_counter("Two\nlines", 1)
    taken = LINES.take()
    assert len(taken) == 10_000 and "\n" not in taken[-1] and LINES.take() == ()


@pytest.mark.clause("TS-A9")
def test_the_store_of_older_handlers(metrics: Any) -> None:
    from ts.metrics.dimension import Dimension
    from ts.metrics.metric_encoder import MetricEncoder
    from ts.metrics.metrics_store import MetricsStore
    from ts.service import emit_metrics

    store = MetricsStore({0: "a", 1: "b"}, "m")
    store.add_counter("C", 2, idx=1)
    store.add_time("T", 2)
    store.add_size("S", 2, unit="B", dimensions=[Dimension("Kind", "any")])
    store.add_percent("P", 2)
    store.add_metric("M", 2, "requests")
    store.add_error("E", "broken")
    with pytest.raises(ValueError, match="unit"):
        store.add_time("T", 2, unit="h")
    with pytest.raises(ValueError, match="size"):
        store.add_size("S", 2, unit="h")
    with pytest.raises(ValueError, match="list"):
        store.add_counter("C", 2, dimensions=3)
    emit_metrics(store.store)
    from ts.metrics.lines import LINES

    said = [line.split("|#hostname")[0] for line in LINES.take()]
    assert said == [
        "C.Count:2|#ModelName:m,Level:Model",
        "T.Milliseconds:2|#ModelName:m,Level:Model",
        "S.Bytes:2|#Kind:any,ModelName:m,Level:Model",
        "P.Percent:2|#ModelName:m,Level:Model",
        "M.requests:2|#ModelName:m,Level:Model",
        "E.unit:broken|#Level:Error",
    ]
    store.add_counter("C", 3, idx=1)
    store.store[0].reset()
    assert [line[2] for line in taken()] == ["3", "0"] and len(store.store) == 6
    told = json.loads(json.dumps(store.store[0], cls=MetricEncoder))
    assert told["MetricName"] == "C" and told["Dimensions"][0] == {"Name": "ModelName", "Value": "m"}
    with pytest.raises(TypeError):
        json.dumps(object(), cls=MetricEncoder)


@pytest.mark.clause("TS-A9")
@pytest.mark.parametrize(
    ("ids", "index", "request_"),
    [
        ({0: "a", 1: "b"}, 1, "b"),
        ({0: "a", 1: "b"}, None, "a,b"),
        ({}, 0, ""),
        ("a", 3, "a"),
        (None, 0, None),
    ],
)
@pytest.mark.usefixtures("metrics")  # which makes ``ts`` importable
def test_a_change_is_of_its_request_or_of_all(ids: Any, index: Any, request_: str | None) -> None:
    from ts.metrics.lines import whose

    assert whose(ids, index) == request_
