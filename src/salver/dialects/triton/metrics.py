"""Metrics under Triton's names (TR-M1 to TR-M6).

Names and units are those that Triton's dashboards read: microseconds, and counters without ``_total``.
"""

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from salver.kernel.serving.present import CacheUse, Load, Present
from salver.lazy import lazy_imports
from salver.stats.histogram import DURATION_BOUNDS, Histogram
from salver.words.events import BatchRan, Served
from salver.words.messages import State, Timing, VersionStatus

with lazy_imports():
    from prometheus_client import Metric

    from salver.encoding import exposition


#: Outcome of a request -> reason of its failure. Requests refused before they reached a model do not count.
_REASONS: Final = {
    "overloaded": "REJECTED",
    "deadline_exceeded": "REJECTED",
    "cancelled": "CANCELED",
    "model_failed": "BACKEND",
    "internal": "OTHER",
}
_PHASES: Final = ("request", "queue", "compute_input", "compute_infer", "compute_output")
_Pair = tuple[str, str]
#: Histogram of the time to the first response (TR-M3), and its default bounds in milliseconds.
FIRST_RESPONSE: Final = "nv_inference_first_response_histogram_ms"
FIRST_BOUNDS: Final = (100.0, 500.0, 2000.0, 5000.0)
Tags = Mapping[_Pair, Mapping[str, str]]


class TritonMetricsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Choice of the durations that are shown (TR-F7).

    Attributes:
        counters: Whether to show sums of durations.
        summaries: Whether to show quantiles since the start, interpolated from histograms.
        quantiles: Quantiles of summaries.
        histograms: Whether to show the time to the first response of models that answer in pieces.
    """

    counters: bool = True
    summaries: bool = False
    quantiles: tuple[float, ...] = (0.5, 0.9, 0.95, 0.99, 0.999)
    histograms: bool = False


AS_TRITON: Final = TritonMetricsConfig()


class TritonCounts:
    """Counts of one model version.

    Args:
        keeps_histograms: Whether to keep histograms for summaries; sums alone cost less.
        firsts: Histograms of the milliseconds to the first response, by version.
    """

    def __init__(
        self,
        keeps_histograms: bool = False,
        version: _Pair = ("", ""),
        firsts: Mapping[_Pair, Histogram] = MappingProxyType({}),
    ) -> None:
        self._version = version
        self._firsts = firsts
        self.successes = 0
        self.rows = 0
        self.runs = 0
        self.failures = dict.fromkeys(dict.fromkeys(_REASONS.values()), 0)
        self.seconds = dict.fromkeys(_PHASES, 0.0)
        self.lookups = {"hit": 0, "miss": 0}
        self.lookup_seconds = {"hit": 0.0, "miss": 0.0}
        self.histograms = {
            phase: Histogram(DURATION_BOUNDS) for phase in (*_PHASES, *self.lookups) if keeps_histograms
        }

    def served(self, outcome: str, events: Sequence[Served]) -> None:
        """Count requests of one outcome.

        To Triton, a request that failed while its response was sent is a success. Rows of cached answers are
        not counted.
        """
        if (firsts := self._firsts.get(self._version)) is not None:
            firsts.add_all([e.first * 1e3 for e in events if e.first])
        if outcome != "ok":
            sent = [e for e in events if e.why == "response"]
            rows = sum([e.rows for e in sent])
            self._count("ok", rows, [e.latency for e in sent], [e.timing.queue for e in sent])
            self._count(outcome, 0, [e.latency for e in events if e.why != "response"], ())
            return
        timings = [e.timing for e in events]
        rows = sum([e.rows for e in events])
        if cached := [t for t in timings if t.cache]:
            rows -= sum([e.rows for e in events if e.timing.cache == "hit"])
            self._looked_up(cached)
        self._count("ok", rows, [e.latency for e in events], [t.queue + t.formation for t in timings])

    def _count(self, outcome: str, rows: int, latencies: Sequence[float], waits: Sequence[float]) -> None:
        """Count requests; ``waits`` are the queue times of successful ones."""
        if outcome != "ok":
            if (reason := _REASONS.get(outcome)) is not None:
                self.failures[reason] += len(latencies)
            return
        self.successes += len(latencies)
        self.rows += rows
        self.seconds["request"] += sum(latencies)
        self.seconds["queue"] += sum(waits)
        if self.histograms:
            self.histograms["request"].add_all(latencies)
            self.histograms["queue"].add_all(waits)

    def _looked_up(self, timings: Sequence[Timing]) -> None:
        """Count cache lookups of successful requests."""
        for kind in self.lookups:
            seconds = [t.cache_seconds for t in timings if t.cache == kind]
            self.lookups[kind] += len(seconds)
            self.lookup_seconds[kind] += sum(seconds)
            if self.histograms:
                self.histograms[kind].add_all(seconds)

    def ran(self, events: Sequence[BatchRan]) -> None:
        """Count runs of the model; a run's time counts once for each request in it."""
        good = [e for e in events if e.ok]
        self.runs += len(good)
        self.seconds["compute_input"] += sum([e.merge * e.requests for e in good])
        self.seconds["compute_infer"] += sum([e.duration * e.requests for e in good])
        self.seconds["compute_output"] += sum([e.split * e.requests for e in good])
        if self.histograms:
            each = [e for e in good for _ in range(e.requests)]
            self.histograms["compute_input"].add_all([e.merge for e in each])
            self.histograms["compute_infer"].add_all([e.duration for e in each])
            self.histograms["compute_output"].add_all([e.split for e in each])


class TritonView:
    """Triton's names on the metrics page (:class:`salver.features.telemetry.ports.MetricsView`)."""

    def __init__(self, config: TritonMetricsConfig = AS_TRITON) -> None:
        self._config = config
        self._firsts: dict[_Pair, Histogram] = {}
        self._host = Host()

    def __repr__(self) -> str:
        return f"<TritonView {self._config}>"

    def counts(self, version: _Pair) -> TritonCounts:
        """Return the counts of a new version."""
        return TritonCounts(self._config.summaries, version, self._firsts)

    def note(self, loads: Sequence[Load]) -> None:
        """Keep a histogram for each version that answers in pieces, a new one if its buckets change."""
        if not self._config.histograms:
            return
        before = dict(self._firsts)
        self._firsts.clear()
        for load in loads:
            if bounds := load.first_bounds:
                version = (load.id.name, load.id.version)
                found = before.get(version)
                if found is None or found.bounds != bounds:
                    found = Histogram(bounds)
                self._firsts[version] = found

    def families(self, counts: Mapping[_Pair, TritonCounts], present: Present) -> list[Metric]:
        """Return all of Triton's families."""
        loads = present.loads()
        tags = tags_of(loads)
        return [
            *of_requests(counts, self._config, tags),
            *of_cache(counts, self._config, loads, present.cache()),
            *of_first_responses(self._firsts, tags),
            *of_present(loads, present.statuses(), tags),
            *self._host.families(),
        ]


def tags_of(loads: Iterable[Load]) -> Tags:
    """Return the labels that owners give to their models' metrics, by model and version (TR-M8)."""
    return {
        (load.id.name, load.id.version): {
            "_" + re.sub(r"\W", "_", k, flags=re.ASCII): v for k, v in load.tags
        }
        for load in loads
    }


def of_requests(
    counts: Mapping[_Pair, TritonCounts], config: TritonMetricsConfig, tags: Tags
) -> list[Metric]:
    """Return the families of counts and durations."""
    successes = _family("request_success", "Number of successful inference requests, all batch sizes")
    failures = _family("request_failure", "Number of failed inference requests, all batch sizes")
    rows = _family("count", "Number of inferences performed (does not include cached requests)")
    runs = _family("exec_count", "Number of model executions performed (does not include cached requests)")
    sums = {
        phase: _family(
            f"{phase}_duration_us", f"Cumulative inference {_words(phase)} duration in microseconds"
        )
        for phase in _PHASES
        if config.counters
    }
    summaries = {
        phase: _family(
            f"{phase}_summary_us", f"Summary of inference {_words(phase)} duration in microseconds", "summary"
        )
        for phase in _PHASES
        if config.summaries
    }
    for pair, found in counts.items():
        labels = _labels(pair, tags)
        _add(successes, labels, found.successes)
        for reason, count in found.failures.items():
            _add(failures, {**labels, "reason": reason}, count)
        _add(rows, labels, found.rows)
        _add(runs, labels, found.runs)
        for phase, family in sums.items():
            _add(family, labels, round(found.seconds[phase] * 1e6))
        for phase, family in summaries.items():
            _summarise(family, labels, found.histograms[phase], config.quantiles)
    return [successes, failures, rows, runs, *sums.values(), *summaries.values()]


def of_cache(
    counts: Mapping[_Pair, TritonCounts],
    config: TritonMetricsConfig,
    loads: Iterable[Load],
    use: CacheUse | None,
) -> list[Metric]:
    """Return the families of the response cache, by model and in all (TR-M5)."""
    if use is None:
        return []
    cached = [load for load in loads if load.is_cached]
    tags = tags_of(cached)
    families = []
    for kind, plural, meaning in (("hit", "hits", ""), ("miss", "misses", " (insert+lookup)")):
        number = Metric(
            f"nv_cache_num_{plural}_per_model", f"Number of cache {plural} per model", exposition.COUNTER
        )
        duration = Metric(
            f"nv_cache_{kind}_duration_per_model",
            f"Total cache {kind}{meaning} duration per model, in microseconds",
            exposition.COUNTER,
        )
        summary = Metric(
            f"nv_cache_{kind}_summary_per_model",
            f"Summary of cache {kind} counts/durations per model, in microseconds.",
            "summary",
        )
        for load in cached:
            pair = (load.id.name, load.id.version)
            found, labels = counts.get(pair) or TritonCounts(True), _labels(pair, tags)
            _add(number, labels, found.lookups[kind])
            _add(duration, labels, round(found.lookup_seconds[kind] * 1e6))
            if config.summaries:
                _summarise(summary, labels, found.histograms[kind], config.quantiles)
        families += [number, *[duration] * config.counters, *[summary] * config.summaries]
    return families + _of_whole_cache(use)


def of_first_responses(seen: Mapping[_Pair, Histogram], tags: Tags) -> list[Metric]:
    """Return the histogram of the time to the first response (TR-M3); nothing if none is kept."""
    if not seen:
        return []
    text = "Duration from request to first response in milliseconds"
    family = Metric(FIRST_RESPONSE, text, "histogram")
    for pair, histogram in seen.items():
        labels = _labels(pair, tags)
        bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
        for bound, count in zip(bounds, histogram.cumulative(), strict=True):
            family.add_sample(f"{family.name}_bucket", {**labels, "le": bound}, count)
        family.add_sample(f"{family.name}_count", labels, histogram.count)
        family.add_sample(f"{family.name}_sum", labels, round(histogram.sum, 3))
    return [family]


def _of_whole_cache(use: CacheUse) -> list[Metric]:
    lookups, inserts = round(use.lookup_seconds * 1e6), round(use.insert_seconds * 1e6)
    shown: list[tuple[str, str, float]] = [
        ("num_hits", "Number of cache hits in response cache", use.hits),
        ("num_misses", "Number of cache misses in response cache", use.misses),
        ("num_lookups", "Number of cache lookups in response cache", use.hits + use.misses),
        ("lookup_duration", "Total cache lookup duration (hit and miss), in microseconds", lookups),
        ("insertion_duration", "Total cache insertion duration, in microseconds", inserts),
    ]
    if use.facts is not None:
        shown += [
            ("num_entries", "Number of responses stored in response cache", use.facts.entries),
            ("num_evictions", "Number of cache evictions in response cache", use.facts.evictions),
            ("util", "Cache utilization [0.0 - 1.0]", use.facts.utilization),
        ]
    return [_gauge(f"nv_cache_{name}", text, value) for name, text, value in shown]


def of_present(loads: Iterable[Load], statuses: Iterable[VersionStatus], tags: Tags) -> list[Metric]:
    """Return the families of pending requests and load times."""
    pending = _family(
        "pending_request_count", "Instantaneous number of pending requests awaiting execution", "gauge"
    )
    for load in loads:
        _add(pending, _labels((load.id.name, load.id.version), tags), load.queued)
    took = Metric("nv_model_load_duration_secs", "Model load time in seconds", "gauge")
    for status in statuses:
        if status.state is State.READY:
            _add(took, _labels((status.id.name, status.id.version), tags), status.load_seconds)
    return [pending, took]


class Host:
    """Figures of the machine; Linux only.

    Args:
        proc: Folder of the kernel's files.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._before = (0, 0)

    def families(self) -> list[Metric]:
        """Return CPU use since the last call, and memory."""
        found = [
            # There is no pool: frameworks pin memory for their devices themselves.
            _gauge("nv_pinned_memory_pool_total_bytes", "Pinned memory pool total memory size, in bytes", 0),
            _gauge("nv_pinned_memory_pool_used_bytes", "Pinned memory pool used memory size, in bytes", 0),
        ]
        with contextlib.suppress(OSError, ValueError, KeyError):
            ticks = [int(text) for text in (self._proc / "stat").read_text().split("\n", 1)[0].split()[1:9]]
            idle, whole = ticks[3] + ticks[4], sum(ticks)
            since_idle, since = idle - self._before[0], whole - self._before[1]
            self._before = (idle, whole)
            busy = 0.0
            if since > 0:
                busy = min(max(1 - since_idle / since, 0.0), 1.0)
            found.append(_gauge("nv_cpu_utilization", "CPU utilization rate [0.0 - 1.0]", busy))
            lines = (self._proc / "meminfo").read_text().splitlines()
            memory = {name: int(rest.split()[0]) << 10 for name, _, rest in (x.partition(":") for x in lines)}
            total, free = memory["MemTotal"], memory["MemAvailable"]
            found.append(_gauge("nv_cpu_memory_total_bytes", "CPU total memory (RAM), in bytes", total))
            found.append(_gauge("nv_cpu_memory_used_bytes", "CPU used memory (RAM), in bytes", total - free))
        return found


def _family(name: str, text: str, kind: str = "") -> Metric:
    return Metric(f"nv_inference_{name}", text, kind or exposition.COUNTER)


def _gauge(name: str, text: str, value: float) -> Metric:
    family = Metric(name, text, "gauge")
    _add(family, {}, value)
    return family


def _add(family: Metric, labels: dict[str, str], value: float) -> None:
    family.add_sample(family.name, labels, value)


def _summarise(family: Metric, labels: dict[str, str], seen: Histogram, quantiles: Sequence[float]) -> None:
    family.add_sample(f"{family.name}_count", labels, seen.count)
    family.add_sample(f"{family.name}_sum", labels, round(seen.sum * 1e6))
    for quantile in quantiles:
        value = round(seen.quantile(quantile) * 1e6)
        family.add_sample(family.name, {**labels, "quantile": str(quantile)}, value)


def _labels(pair: _Pair, tags: Tags) -> dict[str, str]:
    return {"model": pair[0], "version": pair[1], **tags.get(pair, {})}


def _words(phase: str) -> str:
    if phase == "queue":
        return "queuing"
    return phase.replace("_", " ")
