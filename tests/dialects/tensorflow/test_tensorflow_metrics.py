"""Names, labels and buckets that TensorFlow Serving's dashboards read."""

import itertools
import math
from typing import Any

import pytest
from fake_present import FakePresent
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from salver.dialects.tensorflow.metrics import (
    EXAMPLE_BOUNDS,
    LATENCY_BOUNDS,
    STATUS,
    TensorFlowMetrics,
    TensorFlowMetricsConfig,
    with_colons,
)
from salver.features.telemetry.metrics import Metrics
from salver.words.errors import Code
from salver.words.events import BatchRan, Lineage, Replayed, Served
from salver.words.messages import ModelId, Timing

RAN = Timing(queue=0.001, formation=0.002, inference=0.005, batch_rows=4)


def served(
    outcome: str = "ok", protocol: str = "tfs-http", api: str = "Predict", rows: int = 3, model: str = "m"
):
    timing = RAN if outcome == "ok" else Timing()
    return Served(model, "1", protocol, outcome, 0.0205, timing, rows, api=api)


def page(*events: object, **config: Any) -> dict[tuple[str, ...], float]:
    counts = TensorFlowMetrics(TensorFlowMetricsConfig(**{"requests": "all", **config}))
    metrics = Metrics(FakePresent())
    metrics.join(counts)
    counts.observe(events)
    text, _ = metrics.render()
    assert b"# TYPE :tensorflow:serving:request_count counter" in text
    found = {}
    for line in text.decode().splitlines():
        if line.startswith(":tensorflow"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found


@pytest.mark.clause("TF-M1", "TF-M5")
def test_requests_by_status_api_and_entry_point() -> None:
    found = page(
        served(),
        served(),
        served("not_found"),
        served(protocol="tfs-grpc", api="Classify"),
        served(protocol="inner"),
    )
    assert found[':tensorflow:serving:request_count{model_name="m",status="OK"}'] == 3
    assert found[':tensorflow:serving:request_count{model_name="m",status="NOT_FOUND"}'] == 1
    name = ':tensorflow:serving:request_latency_count{{API="{}",entrypoint="{}",model_name="m"}}'
    assert found[name.format("Predict", "REST")] == 3
    assert found[name.format("Classify", "GRPC")] == 1
    run = ':tensorflow:serving:runtime_latency_sum{API="Predict",model_name="m",runtime="TF1"}'
    assert found[run] == pytest.approx(10_000)
    assert found[':tensorflow:serving:request_example_count_total{model="m"}'] == 3, "of classify alone"
    assert found[':tensorflow:serving:request_example_counts_bucket{le="4",model="m"}'] == 1


@pytest.mark.clause("TF-M1")
def test_requests_by_other_interfaces_count_where_that_is_asked_for() -> None:
    name = ':tensorflow:serving:request_count{model_name="m",status="OK"}'
    others = [served(protocol="oip-http", api=""), served(protocol="oip-grpc", api="")]
    assert page(served(), *others)[name] == 3
    assert page(served(), *others, requests="own")[name] == 1
    assert name not in page(*others, requests="own")


def test_openmetrics_calls_samples_as_their_families() -> None:
    counts = TensorFlowMetrics(TensorFlowMetricsConfig(has_batches=True))
    counts.observe([served(), BatchRan("m", "1", 3, 2, 0.005, 0, 0, "time", padding=1)])
    metrics = Metrics(FakePresent())
    metrics.add_rewrite(with_colons)
    metrics.join(counts)
    page, _ = metrics.render("application/openmetrics-text")
    families = {family.name: family for family in parse_openmetrics(page.decode())}
    latency = families[":tensorflow:serving:request_latency"]
    assert latency.type == "histogram"
    assert len(latency.samples) == 36
    assert families[":tensorflow:serving:batching_session:wrapped_run_count"].samples[0].value == 1


@pytest.mark.clause("TF-M4")
def test_buckets() -> None:
    assert len(LATENCY_BOUNDS) == 33
    assert LATENCY_BOUNDS[:3] == (10, 18, pytest.approx(32.4))
    assert all(math.isclose(b / a, 1.8) for a, b in itertools.pairwise(LATENCY_BOUNDS))
    assert list(EXAMPLE_BOUNDS) == [2.0**n for n in range(15)]
    found = page(served())
    bounds = [name for name in found if name.startswith(":tensorflow:serving:request_latency_bucket")]
    assert len(bounds) == 34, "one more, without bound"
    at = (
        ':tensorflow:serving:request_latency_bucket{{API="Predict",entrypoint="REST",le="{}",model_name="m"}}'
    )
    assert found[at.format("11568.3")] == 0
    assert found[at.format("20823")] == 1
    assert found[at.format("+Inf")] == 1


@pytest.mark.clause("TF-M2")
def test_batches() -> None:
    ran = BatchRan("m", "1", 3, 2, 0.005, 0, 0, "time", padding=1)
    found = page(served(), ran, has_batches=True, thread_pool_name="pool")
    prefix = ":tensorflow:serving:batching_session:"
    assert found[prefix + "wrapped_run_count"] == 1
    assert found[prefix + 'queuing_latency_sum{thread_pool_name="pool"}'] == pytest.approx(3000)
    assert found[prefix + 'padding_size_sum{execution_batch_size="4"}'] == 1
    assert found[prefix + "input_batch_size_sum"] == 3
    assert found[prefix + "processed_batch_size_sum"] == 4
    assert not any("batching_session" in name for name in page(served(), ran))


@pytest.mark.clause("TF-M1")
def test_every_outcome_has_a_status() -> None:
    assert set(STATUS) == {"ok", *map(str, Code)}
    for outcome, status in STATUS.items():
        assert (
            page(served(outcome))[f':tensorflow:serving:request_count{{model_name="m",status="{status}"}}']
            == 1
        )


def test_names_of_callers_do_not_become_labels_without_end() -> None:
    counts = TensorFlowMetrics(TensorFlowMetricsConfig())
    counts.observe([served("not_found", model="")])
    counts.observe([served(model=f"m{n}") for n in range(3000)])
    families = {family.name: family for family in counts.collect()}
    labels = {sample.labels["model_name"] for sample in families[":tensorflow:serving:request_count"].samples}
    assert len(labels) == 1024
    assert "m2999" in labels
    assert "_unknown" not in labels


def test_the_page_without_them_has_none() -> None:
    text, _ = Metrics(FakePresent()).render()
    assert b"tensorflow" not in text
    assert list(text_string_to_metric_families(text.decode()))


@pytest.mark.clause("TF-M1")
def test_warm_up_records_by_path_and_status() -> None:
    id = ModelId("m", "1")
    found = page(
        Replayed(id, "/m/1", 4, 0.5),
        Replayed(id, "/m/1", 2, 0.25),
        Replayed(id, "/m/2", 1, 1.0, Code.INVALID_INPUT),
    )
    name = ':tensorflow:serving:model_warmup_latency_{}{{model_path="{}",status="{}"}}'
    assert found[name.format("count", "/m/1", "OK")] == 2
    assert found[name.format("sum", "/m/1", "OK")] == pytest.approx(750_000)
    assert found[name.format("count", "/m/2", "INVALID_ARGUMENT")] == 1
    assert found[':tensorflow:serving:model_warmup_records_read{model_path="/m/1"}'] == 6


@pytest.mark.clause("TF-L10")
def test_ids_in_ml_metadata() -> None:
    found = page(Lineage(ModelId("m", "00000123"), "5a7b"))
    labels = 'mlmd_uuid="5a7b",model_name="m",version="00000123"'
    assert found[f":tensorflow:serving:mlmd_map{{{labels}}}"] == 1
    assert not any("warmup" in name for name in found)
