"""Metrics under TorchServe's names (TS-B13, TS-B14, TS-C7, TS-A9).

Counted from the same events as Salver's own, from lines that handlers write, and from readings of the
machine. ``metrics.yaml`` declares the metrics; the mode decides whether they are on the page or lines of a
log. Knows no registry, page or file.
"""

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Literal

import msgspec

from salver.dialects.torchserve.metric_lines import Frame, HandlerMetric, parse
from salver.dialects.torchserve.metrics_yaml import HOSTNAME, USUAL, MetricsYaml, Spec
from salver.encoding.escaping import escape
from salver.encoding.exposition import COUNTER
from salver.lazy import lazy_imports
from salver.stats.histogram import Histogram
from salver.words.events import Answered, Event, Served, WorkerReady
from salver.words.messages import ModelId

with lazy_imports():
    from prometheus_client import Metric


_LOG: Final = logging.getLogger("salver.metrics")
Mode = Literal["log", "prometheus", "legacy"]
#: Metrics on the page in mode ``legacy``; all others are lines.
LEGACY: Final = frozenset(
    {"ts_inference_requests_total", "ts_inference_latency_microseconds", "ts_queue_latency_microseconds"}
)
#: Maximum number of series of a metric, and of metrics that are not in the file.
MOST_SERIES: Final = 10_000
MOST_DETECTED: Final = 1_000
_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_OURS: Final = re.compile(
    r"(salver|process|nv_(inference|cpu|gpu|cache|model|pinned|energy))_.*|:tensorflow:.*"
)
_CLASSES: Final = ("Requests2XX", "Requests4XX", "Requests5XX")
_INNER: Final = "inner"  # requests between models
_HOST: Final = "Host"
_DEFAULT: Final = "default"

#: Takes lines for the log of models' metrics (True) or of the server's (False); the latter are printable.
Sink = Callable[[Sequence[str], bool], None]


class TorchServeMetricsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Metrics with TorchServe's names.

    Attributes:
        mode: ``prometheus``: on the page; ``log``: each change is a line; ``legacy``: three on the page, the
            others as lines.
        detects: Whether models' metrics are counted without being in the file.
        machine_s: Seconds between readings of the machine; 0 = none.
    """

    mode: Mode = "log"
    metrics: MetricsYaml = USUAL
    detects: bool = False
    machine_s: float = 60.0


class _Family:
    """Values of one metric."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.values: dict[tuple[str, ...], float] = {}
        self.histograms: dict[tuple[str, ...], Histogram] = {}

    def update(self, labels: tuple[str, ...], values: Sequence[float]) -> None:
        if self.spec.kind == "histogram":
            if labels in self.histograms or len(self.histograms) < MOST_SERIES:
                self.histograms.setdefault(labels, Histogram(_BOUNDS)).add_all(values)
        elif labels in self.values or len(self.values) < MOST_SERIES:
            if self.spec.kind == "counter":
                self.values[labels] = self.values.get(labels, 0.0) + sum(values)
            else:
                self.values[labels] = values[-1]

    def metric(self) -> Metric:
        spec, kind = self.spec, str(self.spec.kind)
        if kind == "counter":
            kind = COUNTER
        found = Metric(spec.name, f"Torchserve prometheus {spec.kind} metric with unit: {spec.unit}", kind)
        for labels, value in self.values.items():
            found.add_sample(spec.name, dict(zip(spec.dimensions, labels, strict=True)), value)
        for labels, histogram in self.histograms.items():
            named = dict(zip(spec.dimensions, labels, strict=True))
            bounds = [*map(repr, histogram.bounds), "+Inf"]
            for bound, count in zip(bounds, histogram.cumulative(), strict=True):
                found.add_sample(f"{spec.name}_bucket", {**named, "le": bound}, count)
            found.add_sample(f"{spec.name}_count", named, histogram.count)
            found.add_sample(f"{spec.name}_sum", named, histogram.sum)
        return found


class TorchServeMetrics:
    """Counter of events (an observer) and of lines that handlers write.

    Args:
        host: Name of this machine, a label of nearly all metrics.
        sink: Takes the lines of mode ``log``; None = they are dropped.
        clock: Unix time.
    """

    def __init__(
        self,
        config: TorchServeMetricsConfig,
        host: str,
        sink: Sink | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._host = host
        self._sink = sink
        self._clock = clock
        self._server = {spec.name: _Family(spec) for spec in config.metrics.server}
        self._models = {spec.name: _Family(spec) for spec in config.metrics.models}
        self._detected = 0
        self._frames: dict[tuple[str, tuple[str, ...]], Frame] = {}
        self._complaints: set[str] = set()
        for name in _CLASSES:  # present from the start, so that rates include the first request
            if self._shows(name):
                self._of_server(name, [0.0], (_HOST,))
        self._lock = threading.Lock()  # a scrape may come from another thread

    def __repr__(self) -> str:
        count = len(self._server) + len(self._models)
        return f"<TorchServeMetrics, {count} in the mode {self._config.mode}>"

    def observe(self, events: Sequence[Event]) -> None:
        """Count a batch of events."""
        served: dict[tuple[str, str], list[Served]] = {}
        statuses: list[int] = []
        with self._lock:
            for event in events:
                if type(event) is Served:
                    if event.model and event.protocol != _INNER:  # a known model, asked from outside
                        served.setdefault((event.model, event.asked or _DEFAULT), []).append(event)
                elif type(event) is Answered:
                    statuses.append(event.status // 100)
                elif type(event) is WorkerReady:
                    worker = f"W-{event.worker}-{event.id.name}_{event.id.version}"
                    self._of_server("WorkerLoadTime", [_milliseconds(event.seconds)], (worker, _HOST))
            # In bulk, so that each family is looked up once for a batch.
            for labels, requests in served.items():
                self._served(labels, requests)
            for kind, count in Counter(statuses).items():
                if (name := f"Requests{kind}XX") in _CLASSES:
                    self._of_server(name, [1.0] * count, (_HOST,))

    def add_lines(self, id: ModelId, worker: int, lines: Sequence[str]) -> None:
        """Count the lines that a handler's metrics have written."""
        with self._lock:
            for line in lines:
                metric = parse(line)
                if metric is None:
                    self._complain(f"{id}: this is no metric: {line[:200]!r}", str(id))
                else:
                    self._of_model(id, metric)

    def machine(self, readings: Mapping[str, float]) -> None:
        """Take readings of the machine, by metric name."""
        with self._lock:
            for name, value in readings.items():
                self._of_server(name, [float(value)], (_HOST,))

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of the page."""
        with self._lock:
            families = (*self._server.values(), *self._models.values())
            yield from [family.metric() for family in families if self._shows(family.spec.name)]

    def _served(self, labels: tuple[str, str], events: Sequence[Served]) -> None:
        self._of_server("ts_inference_requests_total", [1.0] * len(events), labels)
        good = [event for event in events if event.outcome == "ok"]
        if not good:
            return
        latencies = [event.latency for event in good]
        timings = [event.timing for event in good]
        waits = [timing.queue + timing.formation for timing in timings]
        rests = [
            _milliseconds(max(0.0, latency - waited - timing.inference))
            for latency, waited, timing in zip(latencies, waits, timings, strict=True)
        ]
        micros = [round(latency * 1e6, 3) for latency in latencies]
        self._of_server("ts_inference_latency_microseconds", micros, labels)
        self._of_server("ts_queue_latency_microseconds", [round(wait * 1e6, 3) for wait in waits], labels)
        self._of_server("QueueTime", [_milliseconds(wait) for wait in waits], (_HOST,))
        self._of_server("WorkerThreadTime", rests, (_HOST,))

    def _of_server(self, name: str, values: Sequence[float], labels: tuple[str, ...]) -> None:
        family = self._server.get(name)
        if family is None:
            return
        labels = (*labels, self._host)
        if len(labels) != len(family.spec.dimensions):
            self._complain(f"{name} has {len(labels)} dimensions, not {len(family.spec.dimensions)}", name)
        elif self._shows(family.spec.name):
            family.update(labels, values)
        elif self._sink is not None:
            self._sink(self._frame(family.spec, labels).lines(values, self._clock()), False)

    def _of_model(self, id: ModelId, metric: HandlerMetric) -> None:
        name = metric.name
        family = self._models.get(name) or self._detect(metric)
        if family is None:
            return
        labels = (*[value for _, value in metric.dimensions], metric.host)
        if len(labels) != len(family.spec.dimensions):
            self._complain(f"{id}: metric {name} has other dimensions than {family.spec.dimensions}", name)
        elif family.spec.kind == "counter" and metric.value < 0:
            self._complain(f"{id}: counter {name} cannot decrease", name)
        elif self._shows(name):
            family.update(labels, [metric.value])
        elif self._sink is not None:
            frame = self._frame(family.spec, labels)
            self._sink(frame.lines([metric.value], self._clock(), metric.request), True)

    def _detect(self, metric: HandlerMetric) -> _Family | None:
        """Return a new family for a metric that the file does not declare, if that is allowed."""
        name, dimensions = metric.name, (*[label for label, _ in metric.dimensions], HOSTNAME)
        if not self._config.detects or metric.kind is None or self._detected >= MOST_DETECTED:
            return None
        is_valid = _NAME.fullmatch(name) and all(map(_LABEL.fullmatch, dimensions))
        is_free = name not in self._server and not _OURS.fullmatch(name)
        if not is_valid or not is_free or len(set(dimensions)) < len(dimensions):
            self._complain(f"metric {name} cannot be shown under its name and labels", name)
            return None
        self._detected += 1
        return self._models.setdefault(name, _Family(Spec(name, metric.kind, metric.unit, dimensions)))

    def _shows(self, name: str) -> bool:
        return self._config.mode == "prometheus" or (self._config.mode == "legacy" and name in LEGACY)

    def _frame(self, spec: Spec, labels: tuple[str, ...]) -> Frame:
        frame = self._frames.get((spec.name, labels))
        if frame is None:
            named = [(name, escape(label)) for name, label in zip(spec.dimensions, labels, strict=True)]
            frame = Frame.of(spec.name, escape(spec.unit), named[:-1], named[-1][1])
            if len(self._frames) < MOST_SERIES:
                self._frames[spec.name, labels] = frame
        return frame

    def _complain(self, text: str, about: str) -> None:
        if about not in self._complaints and len(self._complaints) < MOST_DETECTED:
            self._complaints.add(about)
            _LOG.warning("%s", text)


def _milliseconds(seconds: float) -> float:
    """Return whole milliseconds, as TorchServe counts them."""
    return float(int(seconds * 1e3))
