"""Metrics under TensorFlow Serving's names (TF-M1, TF-M2, TF-M4).

Names begin with a colon, latencies are microseconds, and counters have no ``_total``. Requests over gRPC,
of any protocol, are ``GRPC``, and others ``REST``.
"""

import re
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from salver.lazy import lazy_imports
from salver.stats.histogram import Histogram
from salver.words.errors import Code
from salver.words.events import BatchRan, Event, Lineage, Refused, Replayed, Served
from salver.words.messages import ModelId

with lazy_imports():
    from prometheus_client import Metric

    from salver.encoding import exposition


#: Bounds in microseconds: 10 x 1.8^n (TF-M4).
LATENCY_BOUNDS: Final[tuple[float, ...]] = tuple(10 * 1.8**n for n in range(33))
#: Bounds of the examples of a request, and of the rows of a batch.
EXAMPLE_BOUNDS: Final[tuple[float, ...]] = tuple(float(2**n) for n in range(15))
ROW_BOUNDS: Final[tuple[float, ...]] = tuple(float(2**n) for n in range(14))
_PREFIX: Final = ":tensorflow:serving:"
_BATCHES: Final = "batching_session:"
_PLAIN: Final = re.compile(rb"^_tensorflow_serving_(batching_session_)?", re.MULTILINE)
_UNKNOWN: Final = "_unknown"
#: Models whose series are kept; beyond that the oldest is dropped.
_MOST_MODELS: Final = 1024
_RUNTIME: Final = "TF1"
_INNER: Final = "inner"  # protocol of requests between models
_WITH_EXAMPLES: Final = frozenset({"Classify", "Regress", "MultiInference"})
#: Outcome -> the name of TensorFlow Serving's status.
STATUS: Final[dict[str, str]] = {
    "ok": "OK",
    Code.INVALID_INPUT: "INVALID_ARGUMENT",
    Code.NOT_FOUND: "NOT_FOUND",
    Code.NOT_READY: "NOT_FOUND",
    Code.CONFLICT: "FAILED_PRECONDITION",
    Code.NO_ROUTE: "UNIMPLEMENTED",
    Code.WRONG_VERB: "UNIMPLEMENTED",
    Code.UNAUTHENTICATED: "UNAUTHENTICATED",
    Code.FORBIDDEN: "PERMISSION_DENIED",
    Code.RATE_LIMITED: "RESOURCE_EXHAUSTED",
    Code.OVERLOADED: "UNAVAILABLE",
    Code.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    Code.CANCELLED: "CANCELLED",
    Code.TOO_LARGE: "RESOURCE_EXHAUSTED",
    Code.UNSUPPORTED: "UNIMPLEMENTED",
    Code.MODEL_FAILED: "INTERNAL",
    Code.UNKNOWN: "UNKNOWN",
    Code.INTERNAL: "INTERNAL",
}


class TensorFlowMetricsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Choice of the metrics under TensorFlow Serving's names.

    Attributes:
        requests: Requests that count: those of TensorFlow Serving's interfaces (``own``), or of every
            protocol.
        has_batches: Whether batches count.
        thread_pool_name: Label of the queueing time.
    """

    requests: Literal["none", "own", "all"] = "own"
    has_batches: bool = False
    thread_pool_name: str = ""


def _histograms() -> defaultdict[Any, Histogram]:
    """Return histograms of latencies that are created on first use."""
    return defaultdict(lambda: Histogram(LATENCY_BOUNDS))


class _Model:
    """Counts of one model."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.latencies = _histograms()  # by API and entry point
        self.runs = _histograms()  # by API
        self.examples = Histogram(EXAMPLE_BOUNDS)


class TensorFlowMetrics:
    """Observer that counts events for the metrics page.

    Args:
        records: Returns the number of logged requests by model and status.
    """

    takes_refused = True

    def __init__(
        self,
        config: TensorFlowMetricsConfig,
        records: Callable[[], Mapping[tuple[str, str], int]] = dict,
    ) -> None:
        self._config = config
        self._records = records
        self._models: dict[str, _Model] = {}
        self._waits = Histogram(LATENCY_BOUNDS)
        self._padding: dict[int, Histogram] = {}  # by rows of the run
        self._inputs = Histogram(ROW_BOUNDS)
        self._batches = Histogram(ROW_BOUNDS)
        self._replays = _histograms()  # by the SavedModel's path and status
        self._replayed_records: Counter[str] = Counter()  # by path
        self._lineage: dict[ModelId, str] = {}
        self._lock = threading.Lock()  # a scrape may come from another thread

    def __repr__(self) -> str:
        return f"<TensorFlowMetrics of {len(self._models)} models>"

    def observe(self, events: Sequence[Event]) -> None:
        """Count a batch of events."""
        requests: dict[tuple[str, str, str, str], list[Served]] = {}
        is_every, has_batches = self._config.requests == "all", self._config.has_batches
        with self._lock:
            for event in events:
                if type(event) is Served:
                    if (is_every or event.api) and event.protocol != _INNER:
                        key = (event.model, event.api, event.protocol, event.outcome)
                        requests.setdefault(key, []).append(event)
                elif type(event) is Refused:
                    like = event.like
                    if (is_every or like.api) and like.protocol != _INNER:
                        key = (like.model, like.api, like.protocol, like.outcome)
                        requests.setdefault(key, []).extend([like] * len(event.ids))
                elif type(event) is BatchRan:
                    if has_batches and event.ok:
                        rows = event.rows + event.padding
                        self._batches.add_all([rows])
                        self._padding.setdefault(rows, Histogram(ROW_BOUNDS)).add_all([event.padding])
                elif type(event) is Replayed:
                    self._replayed(event)
                elif type(event) is Lineage:
                    self._lineage[event.id] = event.uuid
                    _forget_first(self._lineage)
            for (name, api, protocol, outcome), served in requests.items():
                self._served(name, api or "Predict", protocol, outcome, served)

    def _replayed(self, event: Replayed) -> None:
        key = event.path, STATUS[event.why or "ok"]
        self._replays[key].add_all([event.seconds * 1e6])
        self._replayed_records[event.path] += event.records
        _forget_first(self._replays)
        _forget_first(self._replayed_records)

    def _served(self, name: str, api: str, protocol: str, outcome: str, events: Sequence[Served]) -> None:
        """Count requests of one model, API, protocol and outcome."""
        model = self._models.get(name or _UNKNOWN)
        if model is None:
            model = self._models[name or _UNKNOWN] = _Model()
            _forget_first(self._models)
        model.statuses[STATUS[outcome]] += len(events)
        entry = "GRPC" if protocol.endswith("grpc") else "REST"
        model.latencies[api, entry].add_all([e.latency * 1e6 for e in events])
        if outcome != "ok":
            return
        model.runs[api].add_all([e.timing.inference * 1e6 for e in events])
        if api in _WITH_EXAMPLES:
            model.examples.add_all([e.rows for e in events])
        if self._config.has_batches:
            batched = [e for e in events if e.timing.batch_rows]
            self._waits.add_all([(e.timing.queue + e.timing.formation) * 1e6 for e in batched])
            self._inputs.add_all([e.rows for e in batched])

    def collect(self) -> Iterator[Metric]:
        """Yield all metric families."""
        with self._lock:
            yield from self._of_requests()
            yield from self._of_loads()
            if self._config.has_batches:
                yield from self._of_batches()

    def _of_requests(self) -> Iterator[Metric]:
        count = _family("request_count", "The total number of requests.", exposition.COUNTER)
        latency = _family("request_latency", "Distribution of wall time (in microseconds).", "histogram")
        run = _family("runtime_latency", "Distribution of run time (in microseconds).", "histogram")
        examples = _family("request_example_counts", "The number of examples of requests.", "histogram")
        total = _family("request_example_count_total", "The total number of examples.", exposition.COUNTER)
        for name, model in self._models.items():
            for status, requests in model.statuses.items():
                count.add_sample(count.name, {"model_name": name, "status": status}, requests)
            for (api, entry), histogram in model.latencies.items():
                _add(latency, {"model_name": name, "API": api, "entrypoint": entry}, histogram)
            for api, histogram in model.runs.items():
                _add(run, {"model_name": name, "API": api, "runtime": _RUNTIME}, histogram)
            if model.examples.count:
                _add(examples, {"model": name}, model.examples)
                total.add_sample(total.name, {"model": name}, model.examples.sum)
        logged = _family("request_log_count", "The total number of requests logged.", exposition.COUNTER)
        for (name, status), records in self._records().items():
            logged.add_sample(logged.name, {"model_name": name, "status_code": status}, records)
        yield from (count, latency, run, examples, total, logged)

    def _of_loads(self) -> Iterator[Metric]:
        time = _family("model_warmup_latency", "Time of the warm-up records of a load.", "histogram")
        records = _family("model_warmup_records_read", "Warm-up records that were run.", exposition.COUNTER)
        lineage = _family("mlmd_map", "Ids of loaded versions in ML Metadata.", "gauge")
        for (path, status), histogram in self._replays.items():
            _add(time, {"model_path": path, "status": status}, histogram)
        for path, count in self._replayed_records.items():
            records.add_sample(records.name, {"model_path": path}, count)
        for id, uuid in self._lineage.items():
            labels = {"model_name": id.name, "version": id.version, "mlmd_uuid": uuid}
            lineage.add_sample(lineage.name, labels, 1)
        yield from (family for family in (time, records, lineage) if family.samples)

    def _of_batches(self) -> Iterator[Metric]:
        prefix = _BATCHES
        wait = _family(f"{prefix}queuing_latency", "Time of a request in the queue.", "histogram")
        runs = _family(f"{prefix}wrapped_run_count", "Runs of batches.", exposition.COUNTER)
        padding = _family(f"{prefix}padding_size", "Rows that fill batches up.", "histogram")
        inputs = _family(f"{prefix}input_batch_size", "Rows of requests.", "histogram")
        batches = _family(f"{prefix}processed_batch_size", "Rows of batches, filled up.", "histogram")
        _add(wait, {"thread_pool_name": self._config.thread_pool_name}, self._waits)
        runs.add_sample(runs.name, {}, self._batches.count)
        for rows, histogram in sorted(self._padding.items()):
            _add(padding, {"execution_batch_size": str(rows)}, histogram)
        _add(inputs, {}, self._inputs)
        _add(batches, {}, self._batches)
        yield from (wait, runs, padding, inputs, batches)


def _forget_first(series: dict[Any, Any]) -> None:
    if len(series) > _MOST_MODELS:
        del series[next(iter(series))]


def with_colons(page: bytes) -> bytes:
    """Return an OpenMetrics page with colons in the names of samples.

    prometheus_client 0.26 writes them as underscores, but keeps those in the names of families.

    >>> with_colons(b"_tensorflow_serving_batching_session_wrapped_run_count 1")
    b':tensorflow:serving:batching_session:wrapped_run_count 1'
    """
    return _PLAIN.sub(lambda m: f"{_PREFIX}{_BATCHES if m[1] else ''}".encode(), page)


def _family(name: str, text: str, kind: str) -> Metric:
    return Metric(_PREFIX + name, text, kind)


def _add(family: Metric, labels: dict[str, str], histogram: Histogram) -> None:
    bounds = [*(f"{bound:.6g}" for bound in histogram.bounds), "+Inf"]
    for bound, count in zip(bounds, histogram.cumulative(), strict=True):
        family.add_sample(f"{family.name}_bucket", {**labels, "le": bound}, count)
    family.add_sample(f"{family.name}_count", labels, histogram.count)
    family.add_sample(f"{family.name}_sum", labels, histogram.sum)
