"""Metrics under Triton's names: what they count, and their units (TR-M1 to TR-M6)."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from salver.dialects.triton.metrics import Host, TritonMetricsConfig, TritonView
from salver.features.telemetry.metrics import Metrics
from salver.kernel.serving.present import Load, LossCounts
from salver.words.events import BatchRan, Event, Served, StateChanged
from salver.words.messages import ModelId, State, Timing, VersionStatus

FRAUD = ModelId("fraud", "7")


class Present:
    bounds: tuple[float, ...] = (5.0, 20.0)

    def statuses(self) -> Sequence[VersionStatus]:
        return [
            VersionStatus(FRAUD, State.READY, load_seconds=1.5),
            VersionStatus(ModelId("idle", "1"), State.READY),
            VersionStatus(ModelId("broken", "1"), State.FAILED),
        ]

    def loads(self) -> Sequence[Load]:
        return [
            Load(FRAUD, queued=3, running=1, tags=(("team-a", "blue"),), first_bounds=self.bounds),
            Load(ModelId("idle", "1"), 0, 0),
        ]

    def losses(self) -> LossCounts:
        return LossCounts()

    def cache(self) -> None:
        return None


def served(outcome: str = "ok", model: str = "fraud", version: str = "7") -> Served:
    return Served(model, version, "oip-http", outcome, 0.01, Timing(queue=0.002, formation=0.001), rows=2)


EVENTS: list[Event] = [
    *(served(), served(), served("overloaded"), served("deadline_exceeded"), served("cancelled")),
    *(served("model_failed"), served("internal"), served("invalid_input"), served("not_found", "none", "")),
    served("not_found", version="9"),
    BatchRan("fraud", "7", rows=4, requests=2, duration=0.004, merge=0.0005, split=0.00025, reason="drain"),
    BatchRan("fraud", "7", 1, 1, duration=9.0, merge=9.0, split=9.0, reason="drain", ok=False),
]


def page(config: TritonMetricsConfig | None = None, accept: str = "") -> str:
    metrics = Metrics(Present())
    metrics.add_view(TritonView(config or TritonMetricsConfig()))
    metrics.observe(EVENTS)
    return metrics.render(accept)[0].decode()


def values(text: str) -> dict[str, float]:
    """Of model ``fraud``, by name and the further labels."""
    found = {}
    for family in parse_text(text):
        for sample in family.samples:
            if sample.name.startswith("nv_") and sample.labels.get("model", "fraud") == "fraud":
                more = [v for k, v in sample.labels.items() if k not in ("model", "version", "_team_a")]
                name = sample.name.removesuffix("_total")  # which this parser adds to every counter
                found[" ".join([name, *more])] = sample.value
    return found


@pytest.mark.clause("TR-M1")
def test_counts() -> None:
    found = values(page())
    assert found["nv_inference_request_success"] == 2
    assert found["nv_inference_count"] == 4
    assert found["nv_inference_exec_count"] == 1
    assert found["nv_inference_request_failure REJECTED"] == 2
    assert found["nv_inference_request_failure CANCELED"] == 1
    assert found["nv_inference_request_failure BACKEND"] == 1
    assert found["nv_inference_request_failure OTHER"] == 1
    assert found["nv_inference_pending_request_count"] == 3


@pytest.mark.clause("TR-M1")
def test_a_request_one_of_whose_responses_is_an_error_was_served() -> None:
    metrics = Metrics(Present())
    metrics.add_view(TritonView())
    metrics.observe([*EVENTS, msgspec.structs.replace(EVENTS[0], outcome="model_failed", why="response")])
    found = values(metrics.render("")[0].decode())
    assert found["nv_inference_request_success"] == 3
    assert found["nv_inference_request_failure BACKEND"] == 1


@pytest.mark.clause("TR-M2")
def test_durations_are_microseconds_summed_over_requests() -> None:
    found = values(page())
    assert found["nv_inference_request_duration_us"] == 20_000
    assert found["nv_inference_queue_duration_us"] == 6_000
    assert found["nv_inference_compute_input_duration_us"] == 1_000
    assert found["nv_inference_compute_infer_duration_us"] == 8_000
    assert found["nv_inference_compute_output_duration_us"] == 500


@pytest.mark.clause("TR-M4")
def test_summaries_come_when_asked_for() -> None:
    assert "summary_us" not in page()
    found = values(page(TritonMetricsConfig(counters=False, summaries=True, quantiles=(0.5, 0.9))))
    assert not any("duration_us" in name for name in found)
    assert found["nv_inference_request_summary_us_count"] == 2
    assert found["nv_inference_request_summary_us_sum"] == 20_000
    assert 7_000 <= found["nv_inference_request_summary_us 0.5"] <= 10_000
    assert 3_000 < found["nv_inference_compute_infer_summary_us 0.9"] <= 5_000
    assert found["nv_inference_compute_infer_summary_us_count"] == 2
    assert {"nv_inference_queue_summary_us 0.5", "nv_inference_compute_output_summary_us 0.9"} <= set(found)


def firsts(metrics: Metrics) -> dict[str, float]:
    found = {}
    for family in parse_text(metrics.render()[0].decode()):
        if family.name == "nv_inference_first_response_histogram_ms":
            assert family.type == "histogram"
            for sample in family.samples:
                assert sample.labels["model"] == "fraud"
                found[sample.name.removeprefix(family.name) + sample.labels.get("le", "")] = sample.value
    return found


@pytest.mark.clause("TR-M3")
def test_the_time_to_the_first_response_of_models_that_answer_in_pieces() -> None:
    present = Present()
    metrics = Metrics(present)
    metrics.add_view(TritonView(TritonMetricsConfig(histograms=True)))
    told = (("ok", 0.004), ("cancelled", 0.02))
    pieces = [msgspec.structs.replace(served(outcome), first=first) for outcome, first in told]
    metrics.observe([*pieces, served("not_found"), served(model="idle", version="1")])
    assert firsts(metrics) == {"_bucket5": 1, "_bucket20": 2, "_bucket+Inf": 2, "_count": 2, "_sum": 24}
    metrics.observe([msgspec.structs.replace(served(), first=7.0)])
    assert firsts(metrics)["_bucket+Inf"] == 3
    present.bounds = (1.0,)
    metrics.observe([StateChanged(FRAUD, State.WARMING, State.READY)])
    assert firsts(metrics) == {"_bucket1": 0, "_bucket+Inf": 0, "_count": 0, "_sum": 0}
    plain = Metrics(present)
    plain.add_view(TritonView())
    assert not firsts(plain)


def test_models_that_nobody_has_asked_count_from_zero_and_unknown_ones_do_not_count() -> None:
    models = {
        (s.labels["model"], s.labels["version"])
        for family in parse_text(page())
        for s in family.samples
        if s.name == "nv_inference_request_success_total"
    }
    assert models == {("fraud", "7"), ("idle", "1")}


@pytest.mark.clause("TR-M8")
def test_tags_of_the_owner_are_labels() -> None:
    lines = [x for x in page().splitlines() if x.startswith("nv_inference_") and 'model="fraud"' in x]
    assert len(lines) > 10
    assert all('_team_a="blue"' in line for line in lines)
    assert not any("_team_a" in x for x in page().splitlines() if x.startswith("salver_"))


@pytest.mark.clause("TR-M6")
def test_machine_and_loads() -> None:
    found = values(page())
    assert found["nv_model_load_duration_secs"] == 1.5
    assert found["nv_pinned_memory_pool_total_bytes"] == 0


def test_counters_have_tritons_names_in_both_formats() -> None:
    assert "# TYPE nv_inference_request_success counter\n" in page()
    families = {f.name: f.type for f in parse_openmetrics(page(accept="application/openmetrics-text"))}
    assert families["nv_inference_request_success"] == "unknown"
    assert families["salver_requests"] == "counter"


def test_the_processor_is_measured_from_one_time_to_the_next(tmp_path: Path) -> None:
    def asked(user: int, idle: int) -> dict[str, float]:
        (tmp_path / "stat").write_text(f"cpu  {user} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1\n")
        (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 400 kB\n")
        return {f.name: f.samples[0].value for f in host.families()}

    host = Host(tmp_path)
    asked(100, 100)
    found = asked(175, 125)
    assert found["nv_cpu_utilization"] == pytest.approx(0.75)
    assert (found["nv_cpu_memory_total_bytes"], found["nv_cpu_memory_used_bytes"]) == (1_024_000, 614_400)
    assert asked(175, 125)["nv_cpu_utilization"] == 0  # no time has passed
    assert "nv_cpu_utilization" not in {f.name for f in Host(tmp_path / "none").families()}
