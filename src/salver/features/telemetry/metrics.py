"""Prometheus metrics.

:class:`Metrics` counts events in plain dictionaries and collects the current state only at a scrape. It has a
registry of its own; nothing is global. It knows no HTTP: the caller passes the ``Accept`` header.

Labels are bounded: a model or version becomes a label only once the lifecycle knows it, a tenant only if the
model's configuration names it; other names from callers count as ``_unknown``. Series of unloaded versions
are kept for the last :data:`KEEP_GONE` of them.
"""

import functools
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

from salver.kernel.serving.present import ABSENT, Present
from salver.lazy import is_made, lazily, lazy_imports
from salver.stats.histogram import DURATION_BOUNDS, ROW_BOUNDS, Histogram
from salver.words.errors import NO_REFUSAL, Refusal
from salver.words.events import Answered, BatchRan, Event, Refused, Served, StepRan
from salver.words.messages import State

with lazy_imports():
    from prometheus_client import CollectorRegistry, Metric, ProcessCollector
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector

    from salver.features.telemetry.gauges import of_engines, of_server, of_versions
    from salver.features.telemetry.own_metrics import OwnMetrics
    from salver.features.telemetry.ports import MetricsView, VersionCounts


#: Number of unloaded versions whose series are still shown.
KEEP_GONE = 32
UNKNOWN = "_unknown"
_PHASES = ("queue", "formation", "inference", "rest")
_REASONS = frozenset(get_args(Refusal))
_NOBODY: frozenset[str] = frozenset()
_Pair = tuple[str, str]


class _Version:
    """Counts of one (model, version)."""

    def __init__(self, views: Sequence[VersionCounts]) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()  # (protocol, outcome)
        self.durations: dict[str, Histogram] = {}  # by protocol
        self.phases = {phase: Histogram(DURATION_BOUNDS) for phase in _PHASES}
        self.delays = Histogram(DURATION_BOUNDS)
        self.refused: Counter[str] = Counter()
        self.tenants: Counter[tuple[str, str]] = Counter()  # (tenant, outcome)
        self.batch_rows = Histogram(ROW_BOUNDS)
        self.batches: Counter[tuple[str, str]] = Counter()  # (reason, outcome)
        self.steps: Counter[str] = Counter()  # by outcome
        self.tokens = {"prompt": 0, "answer": 0}
        self.sequences = Histogram(ROW_BOUNDS)
        self.gaps = Histogram(DURATION_BOUNDS)
        self.views = views

    def served(
        self, protocol: str, outcome: str, events: list[Served], known_tenants: frozenset[str]
    ) -> None:
        """Count requests of one protocol and outcome."""
        if named := [e.tenant for e in events if e.tenant]:
            self.tenants.update([(t if t in known_tenants else UNKNOWN, outcome) for t in named])
        self.requests[protocol, outcome] += len(events)
        durations = self.durations.get(protocol)
        if durations is None:
            durations = self.durations[protocol] = Histogram(DURATION_BOUNDS)
        latencies = [e.latency for e in events]
        durations.add_all(latencies)
        for view in self.views:
            view.served(outcome, events)
        if outcome != "ok":
            whys = [e.why for e in events if e.why not in NO_REFUSAL]
            self.refused.update([why if why in _REASONS else UNKNOWN for why in whys])
            return
        timings = [e.timing for e in events]
        queue = [t.queue for t in timings]
        formation = [t.formation for t in timings]
        inference = [t.inference for t in timings]
        delays = [q + f for q, f in zip(queue, formation, strict=True)]
        self.delays.add_all(delays)
        self.phases["queue"].add_all(queue)
        self.phases["formation"].add_all(formation)
        self.phases["inference"].add_all(inference)
        parts = zip(latencies, queue, formation, inference, strict=True)
        self.phases["rest"].add_all([max(0.0, all_ - q - f - i) for all_, q, f, i in parts])

    def ran(self, events: list[BatchRan]) -> None:
        """Count runs of the model."""
        self.batch_rows.add_all([e.rows for e in events])
        self.batches.update([(e.reason, "ok" if e.ok else "failed") for e in events])
        for view in self.views:
            view.ran(events)

    def stepped(self, events: list[StepRan]) -> None:
        """Count steps of a step-wise model."""
        self.steps.update(["ok" if e.ok else "failed" for e in events])
        self.sequences.add_all([e.sequences for e in events])
        self.gaps.add_all([e.gap for e in events if e.gap])
        self.tokens["prompt"] += sum([e.prompt_tokens for e in events])
        self.tokens["answer"] += sum([e.tokens for e in events])


class Metrics:
    """Counter of events and collector of the current state.

    Attributes:
        own: The models' own series on the page.
    """

    takes_refused = True

    def __init__(self, present: Present) -> None:
        self._present = present
        self._views: list[MetricsView[Any]] = []
        self._rewrites: list[Callable[[bytes], bytes]] = []  # of pages in the OpenMetrics format
        self.own = lazily(OwnMetrics)
        self._versions: dict[_Pair, _Version] = {}
        self._known: set[_Pair] = set()
        self._tenants: dict[_Pair, frozenset[str]] = {}
        self._gone: dict[_Pair, None] = {}  # insertion order: the oldest first
        self._lock = threading.Lock()  # a scrape may run on another thread
        self._joined: list[Collector] = []

    def __repr__(self) -> str:
        return f"<Metrics of {len(self._versions)} versions>"

    @functools.cached_property
    def _registry(self) -> CollectorRegistry:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        ProcessCollector(registry=registry)
        for more in self._joined:
            registry.register(more)
        return registry

    def join(self, more: Collector) -> None:
        """Add a collector to the page."""
        self._joined.append(more)

    def add_view(self, view: MetricsView[Any]) -> None:
        """Show what is counted from now on under another server's names, too."""
        self._views.append(view)

    def add_rewrite(self, rewrite: Callable[[bytes], bytes]) -> None:
        """Change the page with this function, where it is OpenMetrics."""
        self._rewrites.append(rewrite)

    def observe(self, events: Sequence[Event]) -> None:
        """Count a batch of events."""
        served: dict[tuple[str, str, str, str], list[Served]] = {}
        ran: dict[_Pair, list[BatchRan]] = {}
        stepped: dict[_Pair, list[StepRan]] = {}
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
            elif type(event) is StepRan:
                stepped.setdefault((event.model, event.version), []).append(event)
            elif type(event) is Refused:
                like = event.like
                refused = [like] * len(event.ids)
                served.setdefault((like.model, like.version, like.protocol, like.outcome), []).extend(refused)
            elif type(event) is not Answered:  # the most frequent event, one per request
                has_changed = True
        with self._lock:
            if has_changed or any(key[:2] not in self._versions for key in (*served, *ran, *stepped)):
                self._note_present()
            for (model, version, protocol, outcome), requests in served.items():
                tenants = self._tenants.get((model, version), _NOBODY)
                self._of(model, version).served(protocol, outcome, requests, tenants)
            for (model, version), runs in ran.items():
                self._of(model, version).ran(runs)
            for (model, version), steps in stepped.items():
                self._of(model, version).stepped(steps)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the page and its content type: OpenMetrics if ``accept`` requests it, else text."""
        encode, content_type = choose_encoder(accept)
        page = encode(self._registry)
        if content_type.startswith(
            "text/plain"
        ):  # Triton's and the models' own counters, whose names OpenMetrics does not allow
            page = re.sub(rb"^(# TYPE [\w:]+) untyped$", rb"\1 counter", page, flags=re.MULTILINE)
        else:
            for rewrite in self._rewrites:
                page = rewrite(page)
        return page, content_type

    def collect(self) -> Iterator[Metric]:
        """Return all metric families; called by the registry."""
        loads, statuses = self._present.loads(), self._present.statuses()
        up = [(status.id.name, status.id.version) for status in statuses if status.state is State.READY]
        with self._lock:
            families = [*self._request_families(), *self._batch_families(), *self._step_families()]
            known = [pair for pair in dict.fromkeys([*up, *self._versions]) if pair[1] not in ("", UNKNOWN)]
            # Views show versions without a request, too, as their servers do.
            for index, view in enumerate(self._views):
                counts = {
                    pair: self._versions[pair].views[index] if pair in self._versions else view.counts(pair)
                    for pair in known
                }
                families += view.families(counts, self._present)
        yield from families
        yield from of_engines(loads)
        yield from of_server(loads)
        yield from of_versions(statuses)
        if is_made(self.own):
            yield from self.own.collect()
        losses = self._present.losses()
        yield CounterMetricFamily(
            "salver_events_dropped",
            "Events that slow observers missed; while it grows, the counters are too low.",
            value=losses.events,
        )
        yield CounterMetricFamily(
            "salver_spans_lost",
            "Spans of traces that the OpenTelemetry collector did not take.",
            value=losses.spans,
        )
        yield CounterMetricFamily(
            "salver_records_lost",
            "Requests that were to be written down with their answers and are not.",
            value=losses.records,
        )

    def _note_present(self) -> None:
        """Update the names that may be labels, from the lifecycle's list, because an event may be lost."""
        statuses = self._present.statuses()
        present = {(s.id.name, s.id.version) for s in statuses if s.state not in ABSENT}
        for pair in sorted(self._known - present):
            self._gone[pair] = None
        self._known = present
        loads = self._present.loads()
        self._tenants = {(x.id.name, x.id.version): frozenset(x.tenants) for x in loads}
        for view in self._views:
            view.note(loads)
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
        if pair not in self._known and pair not in self._gone:  # a caller's name must not become a label
            if all(name != model for name, _ in (*self._known, *self._gone)):
                pair = (UNKNOWN, "")
            else:
                pair = (model, version and UNKNOWN)
        return self._versions.setdefault(pair, _Version([view.counts(pair) for view in self._views]))

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
        delays = HistogramMetricFamily(
            "salver_queue_delay_seconds",
            "From the arrival of successful requests to the start of their run.",
            labels=labels,
        )
        refused = CounterMetricFamily(
            "salver_refused_requests",
            "Requests given up before they ran, by the bound that they met.",
            labels=[*labels, "reason"],
        )
        tenants = CounterMetricFamily(
            "salver_tenant_requests",
            "Requests that named a tenant, by those that the configuration knows.",
            labels=[*labels, "tenant", "outcome"],
        )
        for pair, version in self._versions.items():
            for key, count in version.requests.items():
                requests.add_metric([*pair, *key], count)
            for reason, count in version.refused.items():
                refused.add_metric([*pair, reason], count)
            for key, count in version.tenants.items():
                tenants.add_metric([*pair, *key], count)
            for protocol, histogram in version.durations.items():
                _add(durations, [*pair, protocol], histogram)
            if version.phases["rest"].count:
                for phase, histogram in version.phases.items():
                    _add(phases, [*pair, phase], histogram)
                _add(delays, list(pair), version.delays)
        return [requests, durations, phases, delays, refused, tenants]

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

    def _step_families(self) -> list[Metric]:
        labels = ["model", "version"]
        steps = CounterMetricFamily(
            "salver_steps", "Steps of a step-wise model, by whether they ran.", labels=[*labels, "outcome"]
        )
        tokens = CounterMetricFamily(
            "salver_step_tokens",
            "Tokens that steps read of prompts, and that they gave as answers.",
            labels=[*labels, "kind"],
        )
        sequences = HistogramMetricFamily(
            "salver_step_sequences", "Sequences that one step carried on.", labels=labels
        )
        gaps = HistogramMetricFamily(
            "salver_step_gap_seconds", "From the end of one step to the end of the next.", labels=labels
        )
        for pair, version in self._versions.items():
            if not version.steps:
                continue
            for outcome, count in version.steps.items():
                steps.add_metric([*pair, outcome], count)
            for kind, count in version.tokens.items():
                tokens.add_metric([*pair, kind], count)
            _add(sequences, list(pair), version.sequences)
            _add(gaps, list(pair), version.gaps)
        return [steps, tokens, sequences, gaps]


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    bounds = [*(repr(bound) for bound in histogram.bounds), "+Inf"]
    counts = histogram.cumulative()
    family.add_metric(labels, buckets=list(zip(bounds, counts, strict=True)), sum_value=histogram.sum)
