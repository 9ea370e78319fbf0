from collections.abc import Sequence

import numpy as np
import pytest
from fake_present import FakePresent
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from salver.features.telemetry.metrics import KEEP_GONE, Metrics
from salver.stats.histogram import DURATION_BOUNDS
from salver.words.events import BatchRan, Event, Served, StateChanged, StepRan
from salver.words.messages import Insight, ModelId, State, Timing, VersionStatus

FRAUD = ModelId("fraud", "7")
LABELS = {"model": "fraud", "version": "7"}


def served(latency: float = 0.01, **changes: object) -> Served:
    fields: dict[str, object] = {
        "model": "fraud",
        "version": "7",
        "protocol": "oip-http",
        "outcome": "ok",
        "latency": latency,
        "timing": Timing(queue=0.002, formation=0.001, inference=0.004, batch_rows=8),
        "rows": 2,
    }
    return Served(**(fields | changes))  # type: ignore[arg-type]


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    page, _ = metrics.render()
    return {
        (s.name, frozenset(s.labels.items())): s.value
        for family in parse_text(page.decode())
        for s in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, frozenset(labels.items())]


def test_requests_are_counted_by_model_version_protocol_and_outcome() -> None:
    metrics = Metrics(FakePresent(FRAUD))
    metrics.observe([served(), served(), served(protocol="oip-grpc"), served(outcome="overloaded")])
    metrics.observe([served()])
    name = "salver_requests_total"
    assert value(metrics, name, **LABELS, protocol="oip-http", outcome="ok") == 3
    assert value(metrics, name, **LABELS, protocol="oip-grpc", outcome="ok") == 1
    assert value(metrics, name, **LABELS, protocol="oip-http", outcome="overloaded") == 1
    assert value(metrics, "salver_request_duration_seconds_count", **LABELS, protocol="oip-http") == 4


def test_the_phases_add_up_to_the_duration() -> None:
    metrics = Metrics(FakePresent(FRAUD))
    metrics.observe([served(0.01 + i / 1000) for i in range(100)])
    sums = {
        phase: value(metrics, "salver_request_phase_seconds_sum", **LABELS, phase=phase)
        for phase in ("queue", "formation", "inference", "rest")
    }
    assert sums["queue"] == pytest.approx(0.2)
    assert sums["inference"] == pytest.approx(0.4)
    total = value(metrics, "salver_request_duration_seconds_sum", **LABELS, protocol="oip-http")
    assert sum(sums.values()) == pytest.approx(total)


def test_a_clock_that_disagrees_never_makes_a_negative_rest() -> None:
    metrics = Metrics(FakePresent(FRAUD))
    metrics.observe([served(0.001)])
    assert value(metrics, "salver_request_phase_seconds_sum", **LABELS, phase="rest") == 0


def test_batches_by_reason_with_their_rows() -> None:
    metrics = Metrics(FakePresent(FRAUD))
    run = BatchRan("fraud", "7", 8, 3, 0.004, 0.0, 0.0, "drain")
    metrics.observe([run, run, BatchRan("fraud", "7", 64, 9, 0.004, 0.0, 0.0, "full", ok=False)])
    assert value(metrics, "salver_batches_total", **LABELS, reason="drain", outcome="ok") == 2
    assert value(metrics, "salver_batches_total", **LABELS, reason="full", outcome="failed") == 1
    assert value(metrics, "salver_inference_rows_total", **LABELS) == 80
    assert value(metrics, "salver_batch_rows_bucket", **LABELS, le="8.0") == 2
    assert value(metrics, "salver_batch_rows_count", **LABELS) == 3


def test_refusals_by_reason_and_no_word_that_is_not_in_the_list() -> None:
    metrics = Metrics(FakePresent(FRAUD))
    metrics.observe([served(outcome="overloaded", why=why) for why in ("limit", "limit", "queue_full")])
    metrics.observe([served(outcome="model_failed", why="output")])  # no refusal
    metrics.observe([served(outcome="deadline_exceeded", why=f"made up {i}") for i in range(50)])
    metrics.observe([served(outcome="model_failed")])
    name = "salver_refused_requests_total"
    assert value(metrics, name, **LABELS, reason="limit") == 2
    assert value(metrics, name, **LABELS, reason="queue_full") == 1
    assert value(metrics, name, **LABELS, reason="_unknown") == 50
    assert sum(found == name for found, _ in samples(metrics)) == 3


def test_the_delay_to_the_start_of_the_run() -> None:
    metrics = Metrics(FakePresent(FRAUD))
    metrics.observe([served() for _ in range(60)])
    name = "salver_queue_delay_seconds"
    assert value(metrics, f"{name}_sum", **LABELS) == pytest.approx(60 * 0.003)
    assert value(metrics, f"{name}_bucket", **LABELS, le="0.005") == 60


def test_only_tenants_of_the_configuration_become_labels() -> None:
    metrics = Metrics(FakePresent(FRAUD))
    metrics.observe([served(tenant="acme"), served(tenant="acme", outcome="overloaded"), served()])
    metrics.observe([served(tenant=f"made up {i}") for i in range(100)])
    name = "salver_tenant_requests_total"
    assert value(metrics, name, **LABELS, tenant="acme", outcome="ok") == 1
    assert value(metrics, name, **LABELS, tenant="acme", outcome="overloaded") == 1
    assert value(metrics, name, **LABELS, tenant="_unknown", outcome="ok") == 100
    assert sum(found == name for found, _ in samples(metrics)) == 3


def test_what_an_engine_knows_of_its_load() -> None:
    present = FakePresent(FRAUD)
    metrics = Metrics(present)
    assert value(metrics, "salver_instances", **LABELS) == 2
    assert not any(name == "salver_load_ratio" for name, _ in samples(metrics))
    present.insight = Insight(0.75, 0.001, 0.004, 0.1, "half-floor", 40)
    assert value(metrics, "salver_load_ratio", **LABELS) == 0.75
    assert value(metrics, "salver_batch_law_row_seconds", **LABELS) == 0.001
    assert value(metrics, "salver_batch_law_run_seconds", **LABELS) == 0.004
    assert value(metrics, "salver_objective_reserve_seconds", **LABELS) == 0.1
    assert value(metrics, "salver_batching_rule", **LABELS, rule="half-floor") == 1
    assert value(metrics, "salver_queue_limit", **LABELS) == 40
    present.insight = Insight(0.5)
    there = {name for name, _ in samples(metrics)}
    assert "salver_load_ratio" in there
    assert not {"salver_batch_law_run_seconds", "salver_batching_rule", "salver_queue_limit"} & there


def test_steps_of_a_step_wise_model() -> None:
    metrics = Metrics(FakePresent(FRAUD))
    metrics.observe([StepRan("fraud", "7", 4, 1, 3, 16, 0.01, 0.0)])
    metrics.observe([StepRan("fraud", "7", 4, 0, 4, 0, 0.01, 0.02)])
    metrics.observe([StepRan("fraud", "7", 1, 0, 0, 0, 0.0, 0.0, ok=False)])
    assert value(metrics, "salver_steps_total", **LABELS, outcome="ok") == 2
    assert value(metrics, "salver_steps_total", **LABELS, outcome="failed") == 1
    assert value(metrics, "salver_step_tokens_total", **LABELS, kind="answer") == 7
    assert value(metrics, "salver_step_tokens_total", **LABELS, kind="prompt") == 16
    assert value(metrics, "salver_step_sequences_bucket", **LABELS, le="4.0") == 3
    assert value(metrics, "salver_step_gap_seconds_count", **LABELS) == 1


def test_the_present_is_asked_at_the_scrape() -> None:
    present = FakePresent(FRAUD)
    metrics = Metrics(present)
    assert value(metrics, "salver_queue_depth", **LABELS) == 3
    assert value(metrics, "salver_running_batches", **LABELS) == 1
    assert value(metrics, "salver_loaded_bytes", **LABELS) == 1000
    assert value(metrics, "salver_model_state", **LABELS, state="READY") == 1
    assert value(metrics, "salver_model_state", **LABELS, state="FAILED") == 0
    present.dropped = 5
    assert value(metrics, "salver_events_dropped_total") == 5
    present.versions = []
    assert not any(name == "salver_queue_depth" for name, _ in samples(metrics))


def test_versions_that_lie_unused_in_the_repository_have_no_series() -> None:
    class Crowded(FakePresent):
        def statuses(self) -> Sequence[VersionStatus]:
            return [VersionStatus(ModelId("fraud", str(n)), State.NEW) for n in range(1000)]

    assert not any("version" in dict(labels) for _, labels in samples(Metrics(Crowded())))


def test_the_process_is_described() -> None:
    names = {name for name, _ in samples(Metrics(FakePresent()))}
    assert {"process_start_time_seconds", "process_resident_memory_bytes", "process_open_fds"} <= names


def test_text_by_default_and_openmetrics_when_asked_for() -> None:
    metrics = Metrics(FakePresent(FRAUD))
    metrics.observe([served(), BatchRan("fraud", "7", 8, 3, 0.004, 0.0, 0.0, "drain")])
    _, kind = metrics.render()
    assert kind.startswith("text/plain; version=0.0.4")
    page, kind = metrics.render("application/openmetrics-text; version=1.0.0,text/plain;q=0.5")
    assert kind.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family.type for family in parse_openmetrics(page.decode())}
    assert families["salver_requests"] == "counter"
    assert families["salver_request_duration_seconds"] == "histogram"


@pytest.mark.parametrize("q", [0.5, 0.95, 0.99])
def test_two_servers_histograms_add_up_to_the_true_quantile_within_one_bucket(q: float) -> None:
    random = np.random.default_rng(3)
    spread = [random.lognormal(-5, 1, 3000), random.lognormal(-4, 0.3, 1000)]
    counts = np.zeros(len(DURATION_BOUNDS) + 1)
    for latencies in spread:
        metrics = Metrics(FakePresent(FRAUD))
        metrics.observe([served(float(latency)) for latency in latencies])
        found = samples(metrics)
        for index, le in enumerate([*map(repr, DURATION_BOUNDS), "+Inf"]):
            labels = frozenset({**LABELS, "protocol": "oip-http", "le": le}.items())
            counts[index] += found["salver_request_duration_seconds_bucket", labels]
    estimated = int(np.searchsorted(counts, q * counts[-1]))
    true = float(np.quantile(np.concatenate(spread), q))
    assert abs(estimated - int(np.searchsorted(DURATION_BOUNDS, true))) <= 1


def test_names_that_callers_make_up_never_become_labels() -> None:
    metrics = Metrics(FakePresent(FRAUD))
    events: list[Event] = [served(model=f"made-up-{i}", outcome="not_found") for i in range(500)]
    events += [served(version=f"made-up-{i}", outcome="not_found") for i in range(500)]
    events += [served(version="", outcome="invalid_input")]
    metrics.observe(events)
    for name in ("fraud", "_unknown"):
        assert any(dict(labels).get("model") == name for _, labels in samples(metrics))
    assert not any("made-up" in label for _, labels in samples(metrics) for _, label in labels)
    http = {"protocol": "oip-http"}
    name = "salver_requests_total"
    assert value(metrics, name, model="_unknown", version="", **http, outcome="not_found") == 500
    assert value(metrics, name, model="fraud", version="_unknown", **http, outcome="not_found") == 500
    assert value(metrics, name, model="fraud", version="", **http, outcome="invalid_input") == 1


def test_hostile_label_text_is_escaped_for_the_parser() -> None:
    strange = ModelId('a"b\\c\nd', "1")
    metrics = Metrics(FakePresent(strange))
    metrics.observe([served(model=strange.name, version="1")])
    labels = {"model": strange.name, "version": "1", "protocol": "oip-http", "outcome": "ok"}
    assert value(metrics, "salver_requests_total", **labels) == 1


def test_an_unloaded_version_keeps_its_counts_for_a_while() -> None:
    present = FakePresent(FRAUD)
    metrics = Metrics(present)
    metrics.observe([served()])
    present.versions = []
    gone = StateChanged(FRAUD, State.UNLOADING, State.GONE)
    metrics.observe([gone, served()])
    labels = {**LABELS, "protocol": "oip-http", "outcome": "ok"}
    assert value(metrics, "salver_requests_total", **labels) == 2


def test_versions_that_come_and_go_for_ever_leave_a_bounded_page() -> None:
    present = FakePresent()
    metrics = Metrics(present)
    for number in range(5 * KEEP_GONE):
        id = ModelId("fraud", str(number))
        present.versions = [id]  # the events of its unloading were lost
        metrics.observe([StateChanged(id, State.NEW, State.LOADING), served(version=id.version)])
    shown = {dict(labels).get("version") for _, labels in samples(metrics)} - {None}
    assert len(shown) <= KEEP_GONE + 1
    assert str(5 * KEEP_GONE - 1) in shown


def test_two_instances_share_nothing() -> None:
    one, other = Metrics(FakePresent(FRAUD)), Metrics(FakePresent(FRAUD))
    one.observe([served()])
    assert not any(name == "salver_requests_total" for name, _ in samples(other))
