"""Gauges of the current state.

Metric families from engines and lifecycle at the time of a scrape. Pure: it counts nothing.
"""

from collections.abc import Sequence

from salver.kernel.serving.present import ABSENT, Load
from salver.lazy import lazy_imports
from salver.words.messages import ModelId, State, VersionStatus

with lazy_imports():
    from prometheus_client import Metric
    from prometheus_client.core import GaugeMetricFamily


_SHOWN = tuple(state for state in State if state not in ABSENT)


def of_engines(loads: Sequence[Load]) -> list[Metric]:
    """Return the load of each engine, and its measurements of the model."""
    queued = _gauge("queue_depth", "Requests waiting for a batch.")
    running = _gauge("running_batches", "Batches that run now.")
    slots = _gauge("instances", "Batches that may run at the same time.")
    load_ratio = _gauge("load_ratio", "Rows that come, over those that full batches allow.")
    row = _gauge("batch_law_row_seconds", "What a row adds to a run, as learned.")
    run = _gauge("batch_law_run_seconds", "What a run takes whatever its rows, as learned.")
    reserve = _gauge("objective_reserve_seconds", "Kept free before the objective, as learned.")
    rule = _gauge("batching_rule", "1 for the rule that turns the queue into batches now.", "rule")
    limit = _gauge("queue_limit", "Requests that may wait now, where that is adapted.")
    sequences = _gauge("sequences", "Sequences that have a slot, or wait for one.", "place")
    for load in loads:
        pair = _labels(load.id)
        queued.add_metric(pair, load.queued)
        running.add_metric(pair, load.running)
        if load.slots:
            slots.add_metric(pair, load.slots)
        insight = load.insight
        if insight is None:
            continue
        load_ratio.add_metric(pair, insight.load)
        if insight.a or insight.t0:
            row.add_metric(pair, insight.a)
            run.add_metric(pair, insight.t0)
            reserve.add_metric(pair, insight.reserve)
        if insight.rule:
            rule.add_metric([*pair, insight.rule], 1)
        if insight.limit:
            limit.add_metric(pair, insight.limit)
        if insight.sequences >= 0:
            sequences.add_metric([*pair, "slot"], insight.sequences)
            sequences.add_metric([*pair, "backlog"], insight.backlog)
    return [queued, running, slots, load_ratio, row, run, reserve, rule, limit, sequences]


def of_server(loads: Sequence[Load]) -> list[Metric]:
    """Return the totals that the endpoint picker of an InferencePool reads: it takes one series of each."""
    waiting = sum(load.queued for load in loads)
    running = sum(max(0, load.requests - load.queued) for load in loads)
    full = [load.running / load.most_sequences for load in loads if load.most_sequences]
    return [
        GaugeMetricFamily("salver_requests_waiting", "Requests waiting, of all models.", waiting),
        GaugeMetricFamily("salver_requests_running", "Requests under way, of all models.", running),
        GaugeMetricFamily(
            "salver_kv_cache_utilization",
            "Share of the places for sequences that are taken, of the fullest model that answers by tokens.",
            max(full, default=0.0),
        ),
    ]


def of_versions(statuses: Sequence[VersionStatus]) -> list[Metric]:
    """Return size and state of each version that is loaded or loading."""
    loaded = _gauge("loaded_bytes", "Bytes that a loaded version takes.")
    states = _gauge("model_state", "1 for the state that a version is in, else 0.", "state")
    for status in statuses:
        if status.state in ABSENT:
            continue
        loaded.add_metric(_labels(status.id), status.bytes)
        for state in _SHOWN:
            states.add_metric([*_labels(status.id), state.value], float(state is status.state))
    return [loaded, states]


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"salver_{name}", text, labels=["model", "version", *labels])


def _labels(id: ModelId) -> list[str]:
    return [id.name, id.version]
