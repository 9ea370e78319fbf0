"""Metrics in lines of text, as handlers write them and as log files have them (TS-A9, TS-B14)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.torchserve.metric_lines import Frame, HandlerMetric, parse


@pytest.mark.clause("TS-A9")
def test_a_line_of_a_handler() -> None:
    line = "[METRICS]GoldCalls.Count:2|#ModelName:m,Level:Model|#type:COUNTER|#hostname:h,1795690352,r-1"
    dimensions = (("ModelName", "m"), ("Level", "Model"))
    assert parse(line) == HandlerMetric("GoldCalls", "Count", 2.0, dimensions, "counter", "h", "r-1")
    assert parse(line.removeprefix("[METRICS]")) == parse(line)


@pytest.mark.clause("TS-A9")
@pytest.mark.parametrize(
    "line, written",
    [
        ("A.ms:0.5|#|#hostname:h,1", HandlerMetric("A", "ms", 0.5, (), None, "h")),
        (
            "A.ms:-1e-05|#a:b|#type:GAUGE|#hostname:h,1",
            HandlerMetric("A", "ms", -1e-5, (("a", "b"),), "gauge", "h"),
        ),
        (
            "A.ms:1|#a:b,c,d:e:f|#type:X|#hostname:h,1",
            HandlerMetric("A", "ms", 1.0, (("a", "b"),), None, "h"),
        ),
    ],
)
def test_forms_of_lines(line: str, written: HandlerMetric) -> None:
    assert parse(line) == written


@pytest.mark.clause("TS-A9")
@pytest.mark.parametrize(
    "line", ["", "hello", "A.ms:x|#|#hostname:h,1", "A.ms:1,2|#|#hostname:h,1", "A.ms:1|#a:b"]
)
def test_other_lines_are_no_metrics(line: str) -> None:
    assert parse(line) is None


@pytest.mark.clause("TS-A9")
@given(st.text(max_size=300))
def test_any_text_is_read_or_not(line: str) -> None:
    written = parse(line)
    assert written is None or written.name


@pytest.mark.clause("TS-A9")
@given(st.text("[METRICS]a.:1|#,\n-e", max_size=5000))
def test_hostile_lines_end_soon(line: str) -> None:
    parse(line)


@pytest.mark.clause("TS-B14")
def test_a_line_of_a_log() -> None:
    frame = Frame.of("PredictionTime", "ms", [("ModelName", "m"), ("Level", "Model")], "vm")
    said = "PredictionTime.ms:1.43|#ModelName:m,Level:Model|#hostname:vm"
    assert frame.lines([1.43], 1795690819.5, "r-1") == [f"{said},requestID:r-1,timestamp:1795690819"]
    assert frame.lines([1.43, 2.0], 1795690819.5)[0] == f"{said},timestamp:1795690819"
