"""What do the Prometheus metrics say?

:class:`Metrics` counts events in plain dictionaries and asks for the present state only when
somebody scrapes. It has a registry of its own; nothing is global. It knows no HTTP: whoever
serves ``/metrics`` hands it the ``Accept`` header.

Labels are bounded: a model or version becomes a label only once the lifecycle knows it; what
callers merely name counts as ``_unknown``. Series of unloaded versions are kept for the last
:data:`KEEP_GONE` of them, then forgotten.
"""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from salver.events import BatchRan, Event, Served
from salver.messages import ModelId, State
from salver.stats.histogram import DURATION_BOUNDS, ROW_BOUNDS, Histogram
from salver.telemetry.ports import Present

#: Unloaded versions whose series are still shown.
KEEP_GONE = 32
UNKNOWN = "_unknown"
_PHASES = ("queue", "formation", "inference", "rest")
#: Not loaded and not on its way: a repository may hold thousands of such versions.
_ABSENT = (State.NEW, State.GONE)
_SHOWN = tuple(state for state in State if state not in _ABSENT)
_Pair = tuple[str, str]


class _Version:
    """The numbers of one (model, version)."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()  # (protocol, outcome)
        self.durations: dict[str, Histogram] = {}  # by protocol
        self.phases = {phase: Histogram(DURATION_BOUNDS) for phase in _PHASES}
        self.batch_rows = Histogram(ROW_BOUNDS)
        self.batches: Counter[tuple[str, str]] = Counter()  # (reason, outcome)

    def served(self, protocol: str, outcome: str, events: list[Served]) -> None:
        """Count requests of one protocol and outcome."""
        self.requests[protocol, outcome] += len(events)
        durations = self.durations.get(protocol)
        if durations is None:
            durations = self.durations[protocol] = Histogram(DURATION_BOUNDS)
        latencies = [e.latency for e in events]
        durations.add_all(latencies)
        if outcome != "ok":
            return
        timings = [e.timing for e in events]
        queue = [t.queue for t in timings]
        formation = [t.formation for t in timings]
        inference = [t.inference for t in timings]
        self.phases["queue"].add_all(queue)
        self.phases["formation"].add_all(formation)
        self.phases["inference"].add_all(inference)
        parts = zip(latencies, queue, formation, inference, strict=True)
        self.phases["rest"].add_all([max(0.0, all_ - q - f - i) for all_, q, f, i in parts])

    def ran(self, events: list[BatchRan]) -> None:
        """Count runs of the model."""
        self.batch_rows.add_all([e.rows for e in events])
        self.batches.update([(e.reason, "ok" if e.ok else "failed") for e in events])


class Metrics(Collector):
    """Counts events; renders them, and the present state, for Prometheus."""

    def __init__(self, present: Present) -> None:
        self._present = present
        self._versions: dict[_Pair, _Version] = {}
        self._known: set[_Pair] = set()
        self._gone: dict[_Pair, None] = {}  # insertion order: the oldest first
        self._lock = threading.Lock()  # a scrape may come from another thread
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def __repr__(self) -> str:
        return f"<Metrics of {len(self._versions)} versions>"

    def observe(self, events: Sequence[Event]) -> None:
        """Count a batch of events."""
        served: dict[tuple[str, str, str, str], list[Served]] = {}
        ran: dict[_Pair, list[BatchRan]] = {}
        has_changed = False
        for event in events:
            if type(event) is Served:
                key = (event.model, event.version, event.protocol, event.outcome)
                if key in served:
                    served[key].append(event)
                else:
                    served[key] = [event]
            elif type(event) is BatchRan:
                ran.setdefault((event.model, event.version), []).append(event)
            else:
                has_changed = True
        with self._lock:
            if has_changed or any(key[:2] not in self._versions for key in (*served, *ran)):
                self._note_present()
            for (model, version, protocol, outcome), requests in served.items():
                self._of(model, version).served(protocol, outcome, requests)
            for (model, version), runs in ran.items():
                self._of(model, version).ran(runs)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The page and its content type: OpenMetrics if ``accept`` asks for it, else text."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        """All metric families; called by the registry."""
        with self._lock:
            families = [*self._request_families(), *self._batch_families()]
        yield from families
        yield from self._present_families()

    def _note_present(self) -> None:
        """Which names may be labels, by the lifecycle's own list: an event may be lost."""
        statuses = self._present.statuses()
        present = {(s.id.name, s.id.version) for s in statuses if s.state not in _ABSENT}
        for pair in sorted(self._known - present):
            self._gone[pair] = None
        self._known = present
        for pair in present:
            self._gone.pop(pair, None)
        while len(self._gone) > KEEP_GONE:
            oldest = next(iter(self._gone))
            del self._gone[oldest]
            self._versions.pop(oldest, None)

    def _of(self, model: str, version: str) -> _Version:
        pair = (model, version)
        if (found := self._versions.get(pair)) is not None:
            return found
        if pair not in self._known and pair not in self._gone:
            if all(name != model for name, _ in (*self._known, *self._gone)):
                pair = (UNKNOWN, "")
            else:
                pair = (model, version and UNKNOWN)
        return self._versions.setdefault(pair, _Version())

    def _request_families(self) -> list[Metric]:
        labels = ["model", "version"]
        requests = CounterMetricFamily(
            "salver_requests", "Requests answered, by outcome.", labels=[*labels, "protocol", "outcome"]
        )
        durations = HistogramMetricFamily(
            "salver_request_duration_seconds",
            "From the first byte read to the answer being ready.",
            labels=[*labels, "protocol"],
        )
        phases = HistogramMetricFamily(
            "salver_request_phase_seconds",
            "Where the time of successful requests went; the phases add up to the duration.",
            labels=[*labels, "phase"],
        )
        for pair, version in self._versions.items():
            for key, count in version.requests.items():
                requests.add_metric([*pair, *key], count)
            for protocol, histogram in version.durations.items():
                _add(durations, [*pair, protocol], histogram)
            if version.phases["rest"].count:
                for phase, histogram in version.phases.items():
                    _add(phases, [*pair, phase], histogram)
        return [requests, durations, phases]

    def _batch_families(self) -> list[Metric]:
        labels = ["model", "version"]
        rows = HistogramMetricFamily("salver_batch_rows", "Rows in one run of the model.", labels=labels)
        batches = CounterMetricFamily(
            "salver_batches",
            "Runs of the model, by what closed the batch and by whether it ran.",
            labels=[*labels, "reason", "outcome"],
        )
        inferred = CounterMetricFamily(
            "salver_inference_rows", "Rows that the model was run on.", labels=labels
        )
        for pair, version in self._versions.items():
            if not version.batches:
                continue
            _add(rows, list(pair), version.batch_rows)
            inferred.add_metric(pair, version.batch_rows.sum)
            for key, count in version.batches.items():
                batches.add_metric([*pair, *key], count)
        return [rows, batches, inferred]

    def _present_families(self) -> list[Metric]:
        labels = ["model", "version"]
        queued = GaugeMetricFamily("salver_queue_depth", "Requests waiting for a batch.", labels=labels)
        running = GaugeMetricFamily("salver_running_batches", "Batches that run now.", labels=labels)
        for load in self._present.loads():
            queued.add_metric(_labels(load.id), load.queued)
            running.add_metric(_labels(load.id), load.running)
        loaded = GaugeMetricFamily("salver_loaded_bytes", "Bytes that a loaded version takes.", labels=labels)
        states = GaugeMetricFamily(
            "salver_model_state", "1 for the state that a version is in, else 0.", labels=[*labels, "state"]
        )
        for status in self._present.statuses():
            if status.state in _ABSENT:
                continue
            loaded.add_metric(_labels(status.id), status.bytes)
            for state in _SHOWN:
                states.add_metric([*_labels(status.id), state.value], float(state is status.state))
        dropped = CounterMetricFamily(
            "salver_events_dropped",
            "Events that slow observers missed; while it grows, the counters are too low.",
            value=self._present.dropped_events(),
        )
        return [queued, running, loaded, states, dropped]


def _labels(id: ModelId) -> list[str]:
    return [id.name, id.version]


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    bounds = [*(repr(bound) for bound in histogram.bounds), "+Inf"]
    counts = histogram.cumulative()
    family.add_metric(labels, buckets=list(zip(bounds, counts, strict=True)), sum_value=histogram.sum)
