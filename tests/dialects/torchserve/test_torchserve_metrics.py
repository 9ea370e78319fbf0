"""TorchServe's metrics: on the page, or as lines of its logs (TS-B13, TS-B14, TS-C7, TS-A9)."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from fake_present import FakePresent
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from salver.dialects.torchserve import metrics as torchserve_metrics
from salver.dialects.torchserve.metrics import TorchServeMetrics, TorchServeMetricsConfig
from salver.dialects.torchserve.metrics_yaml import USUAL, MetricsYaml, Spec
from salver.dialects.torchserve.view import read_machine
from salver.features.telemetry.metrics import Metrics
from salver.words.events import Answered, Served, WorkerReady
from salver.words.messages import ModelId, Timing

ID = ModelId("m", "1.0")
TIMING = Timing(queue=0.001, formation=0.003, inference=0.005, batch_rows=1)
LINE = "[METRICS]{}.{}:{}|#ModelName:m,Level:Model|#type:{}|#hostname:vm,1795690352,r"


def served(outcome: str = "ok", model: str = "m", asked: str = "", protocol: str = "ts-http") -> Served:
    timing = TIMING if outcome == "ok" else Timing()
    return Served(model, "1.0", protocol, outcome, 0.0115, timing, 1, asked=asked)


def answered(status: int) -> Answered:
    return Answered("127.0.0.1:5", "GET", "/ping", "HTTP/1.1", status, 17.0, 0.1)


class Counting:
    """Metrics of one configuration, with their page and their lines."""

    def __init__(self, **config: Any) -> None:
        self.lines: list[tuple[str, bool]] = []
        found = TorchServeMetricsConfig(**{"mode": "prometheus", **config})
        self.counts = TorchServeMetrics(found, "vm", self.take, lambda: 17.9)
        self.metrics = Metrics(FakePresent())
        self.metrics.join(self.counts)

    def take(self, lines: Sequence[str], is_models: bool) -> None:
        self.lines += [(line, is_models) for line in lines]

    def page(self) -> dict[tuple[str, ...], float]:
        """Samples by name and the values of their labels, in the order of the alphabet."""
        text, _ = self.metrics.render()
        plain = re.sub(r"^# TYPE .*\n", "", text.decode(), flags=re.MULTILINE)
        return {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(plain)
            for sample in family.samples
            if not sample.name.startswith(("salver_", "nv_", "process_"))
            and (sample.value or not sample.name.startswith("Requests"))
        }


@pytest.mark.clause("TS-B13")
def test_requests_by_the_classes_of_their_statuses() -> None:
    counting = Counting()
    counting.counts.observe([answered(200), answered(204), answered(404), answered(503), answered(100)])
    assert counting.page() == {
        ("Requests2XX", "Host", "vm"): 2,
        ("Requests4XX", "Host", "vm"): 1,
        ("Requests5XX", "Host", "vm"): 1,
    }


def test_answers_alone_are_no_reason_to_look_at_every_model() -> None:
    class Unasked(FakePresent):
        def statuses(self) -> Any:
            pytest.fail("it looks")

    Metrics(Unasked()).observe([answered(200), answered(404)])


@pytest.mark.clause("TS-B13")
def test_inference_by_model_and_the_version_that_was_asked() -> None:
    counting = Counting()
    counting.counts.observe([served(), served(), served(asked="1.0"), served("model_failed")])
    assert counting.page() == {
        ("ts_inference_requests_total", "default", "m", "vm"): 3,
        ("ts_inference_requests_total", "1.0", "m", "vm"): 1,
        ("ts_inference_latency_microseconds", "default", "m", "vm"): 23000,
        ("ts_inference_latency_microseconds", "1.0", "m", "vm"): 11500,
        ("ts_queue_latency_microseconds", "default", "m", "vm"): 8000,
        ("ts_queue_latency_microseconds", "1.0", "m", "vm"): 4000,
        ("QueueTime", "Host", "vm"): 4,
        ("WorkerThreadTime", "Host", "vm"): 2,
    }


@pytest.mark.clause("TS-B13")
def test_what_models_ask_each_other_and_what_nobody_knows_is_not_counted() -> None:
    counting = Counting()
    counting.counts.observe([served(protocol="inner"), served("not_found", model="")])
    assert counting.page() == {}


@pytest.mark.clause("TS-B13")
def test_workers_and_the_machine() -> None:
    counting = Counting()
    counting.counts.observe([WorkerReady(ID, 9001, 1.2345)])
    counting.counts.machine({"CPUUtilization": 12.5, "Unheard": 1.0})
    assert counting.page() == {
        ("WorkerLoadTime", "Host", "W-9001-m_1.0", "vm"): 1234,
        ("CPUUtilization", "Host", "vm"): 12.5,
    }


@pytest.mark.clause("TS-B13")
def test_what_is_read_of_the_machine_has_torchserves_names() -> None:
    pytest.importorskip("psutil")
    readings = read_machine()
    assert set(readings) <= {spec.name for spec in USUAL.server}
    assert len(readings) == 7
    assert all(value >= 0 for value in readings.values())


@pytest.mark.clause("TS-B13")
def test_statuses_are_there_from_the_start() -> None:
    text, _ = Counting().metrics.render()
    for name in ("Requests2XX", "Requests4XX", "Requests5XX"):
        assert f'{name}{{Hostname="vm",Level="Host"}} 0.0'.encode() in text
    assert Counting(mode="log").lines == []


@pytest.mark.clause("TS-B13")
def test_families_are_told_before_there_is_a_number() -> None:
    text, content_type = Counting().metrics.render()
    assert b"# HELP HandlerTime Torchserve prometheus gauge metric with unit: ms\n" in text
    assert b"# TYPE ts_inference_requests_total counter\n" in text
    assert content_type.startswith("text/plain")


def test_the_page_is_readable_in_both_forms() -> None:
    counting = Counting(detects=True)
    counting.counts.observe([served(), answered(200)])
    counting.counts.add_lines(ID, 9000, [LINE.format("Own", "ms", 1, "HISTOGRAM")])
    text, _ = counting.metrics.render("application/openmetrics-text; version=1.0.0")
    names = {family.name for family in parse_openmetrics(text.decode())}
    assert {"Requests2XX", "QueueTime", "Own", "salver_events_dropped"} <= names


@pytest.mark.clause("TS-A9")
def test_metrics_of_models_that_the_file_has() -> None:
    counting = Counting()
    lines = [LINE.format("PredictionTime", "ms", value, "GAUGE") for value in (1.5, 0.25)]
    counting.counts.add_lines(ID, 9000, lines)
    assert counting.page() == {("PredictionTime", "Model", "m", "vm"): 0.25}


@pytest.mark.clause("TS-A9")
def test_others_count_only_when_they_are_detected() -> None:
    lines = [LINE.format("Calls", "Count", 2, "COUNTER")] * 2 + [LINE.format("Took", "ms", 0.3, "HISTOGRAM")]
    counting = Counting()
    counting.counts.add_lines(ID, 9000, lines)
    assert counting.page() == {}
    counting = Counting(detects=True)
    counting.counts.add_lines(ID, 9000, lines)
    page = counting.page()
    assert page["Calls", "Model", "m", "vm"] == 4
    assert page["Took_bucket", *sorted(("Model", "m", "vm", "0.25"))] == 0
    assert page["Took_bucket", *sorted(("Model", "m", "vm", "0.5"))] == 1
    assert page["Took_count", "Model", "m", "vm"] == 1


@pytest.mark.clause("TS-A9")
@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        LINE.format("Calls", "Count", -1, "COUNTER"),
        LINE.format("salver_mine", "ms", 1, "GAUGE"),
        LINE.format("Requests2XX", "ms", 1, "GAUGE"),
        LINE.format("a b", "ms", 1, "GAUGE"),
        LINE.format("A", "ms", 1, "SUMMARY"),
        "A.ms:1|#a b:c|#type:GAUGE|#hostname:h,1",
        "A.ms:1|#a:b,a:c|#type:GAUGE|#hostname:h,1",
        "A.ms:1|#Hostname:b|#type:GAUGE|#hostname:h,1",
        "PredictionTime.ms:1|#a:b|#type:GAUGE|#hostname:h,1",
    ],
)
def test_what_cannot_be_shown_costs_nothing_else(line: str) -> None:
    counting = Counting(detects=True)
    counting.counts.add_lines(ID, 9000, [line, LINE.format("Good", "ms", 1, "GAUGE")])
    assert counting.page() == {("Good", "Model", "m", "vm"): 1}


@pytest.mark.clause("TS-A9")
def test_series_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchserve_metrics, "MOST_SERIES", 3)
    monkeypatch.setattr(torchserve_metrics, "MOST_DETECTED", 2)
    counting = Counting(detects=True)
    lines = [f"A.ms:1|#a:{n}|#type:{kind}|#hostname:h,1" for n in range(9) for kind in ("GAUGE",)]
    lines += [f"B{n}.ms:1|#|#type:GAUGE|#hostname:h,1" for n in range(9)]
    counting.counts.add_lines(ID, 9000, lines)
    assert sorted(key[0] for key in counting.page()) == ["A", "A", "A", "B0"]


@pytest.mark.clause("TS-B14")
def test_in_the_mode_log_changes_are_lines_and_the_page_has_none() -> None:
    counting = Counting(mode="log")
    counting.counts.observe([served(asked="1.0"), answered(404)])
    counting.counts.add_lines(ID, 9000, [LINE.format("PredictionTime", "ms", 1.43, "GAUGE")])
    assert counting.page() == {}
    host = "|#Level:Host|#hostname:vm,timestamp:17"
    model = "|#model_name:m,model_version:1.0|#hostname:vm,timestamp:17"
    assert counting.lines == [
        (f"ts_inference_requests_total.Count:1.0{model}", False),
        (f"ts_inference_latency_microseconds.Microseconds:11500.0{model}", False),
        (f"ts_queue_latency_microseconds.Microseconds:4000.0{model}", False),
        (f"QueueTime.Milliseconds:4.0{host}", False),
        (f"WorkerThreadTime.Milliseconds:2.0{host}", False),
        (f"Requests4XX.Count:1.0{host}", False),
        ("PredictionTime.ms:1.43|#ModelName:m,Level:Model|#hostname:vm,requestID:r,timestamp:17", True),
    ]


@pytest.mark.clause("TS-B14")
def test_each_request_of_many_has_its_lines() -> None:
    counting = Counting(mode="log")
    counting.counts.observe([served(), answered(200), served("model_failed"), answered(500), served()])
    names = [line.partition(".")[0] for line, _ in counting.lines]
    of_two = ("ts_inference_latency_microseconds", "ts_queue_latency_microseconds", "QueueTime")
    assert Counter(names) == {
        "ts_inference_requests_total": 3,
        **dict.fromkeys((*of_two, "WorkerThreadTime"), 2),
        "Requests2XX": 1,
        "Requests5XX": 1,
    }


@pytest.mark.clause("TS-B14")
def test_a_version_that_a_caller_makes_up_breaks_no_line() -> None:
    counting = Counting(mode="log")
    counting.counts.observe([served("not_found", asked="1\n2026 - forged\x1b[31m")])
    assert [line for line, _ in counting.lines] == [
        "ts_inference_requests_total.Count:1.0|#model_name:m,model_version:1\\n2026 - forged\\x1b[31m"
        "|#hostname:vm,timestamp:17"
    ]


@pytest.mark.clause("TS-B14")
def test_in_the_mode_legacy_three_stand_on_the_page() -> None:
    counting = Counting(mode="legacy")
    counting.counts.observe([served()])
    assert {key[0] for key in counting.page()} == torchserve_metrics.LEGACY
    assert [line.partition(".")[0] for line, _ in counting.lines] == ["QueueTime", "WorkerThreadTime"]


@pytest.mark.clause("TS-B14")
def test_in_the_mode_prometheus_there_are_no_lines() -> None:
    counting = Counting()
    counting.counts.observe([served(), answered(200)])
    counting.counts.add_lines(ID, 9000, [LINE.format("PredictionTime", "ms", 1, "GAUGE")])
    assert counting.lines == []


@pytest.mark.clause("TS-C7")
def test_the_file_says_which_there_are_and_with_which_labels() -> None:
    specs = (
        Spec("Requests2XX", "counter", "Count", ("Where", "Host")),
        Spec("QueueTime", "gauge", "ms", ("Hostname",)),
    )
    counting = Counting(metrics=MetricsYaml(specs, ()))
    counting.counts.observe([answered(200), answered(404), served()])
    assert counting.page() == {("Requests2XX", "Host", "vm"): 1}
