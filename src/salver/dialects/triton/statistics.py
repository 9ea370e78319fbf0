"""Statistics of each model version, in Triton's form.

Durations are integer nanoseconds, summed over requests; a run's duration counts once for each request in it,
and once in ``batch_stats``. Requests refused before they reached an engine (malformed, unknown model) are not
in ``fail``. The counts of a version start at 0 when it is loaded again. Pure.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from salver.transport.ports import ModelView
from salver.words.errors import Code, InvalidInput, NotFound, NotReady, NotResident
from salver.words.events import BatchRan, Event, Refused, Served, StateChanged
from salver.words.messages import State

#: Outcomes of requests that an engine had accepted, or rejected because its queue was full.
_FAILED = frozenset(
    code.value
    for code in (Code.MODEL_FAILED, Code.DEADLINE_EXCEEDED, Code.CANCELLED, Code.OVERLOADED, Code.INTERNAL)
)


class _Duration:
    __slots__ = ("count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        self.count += count
        self.seconds += seconds

    def shown(self) -> dict[str, int]:
        return _shown(self.count, self.seconds)


def _shown(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}


class _Compute:
    """Sums of the durations of runs: input (merge), inference and output (split)."""

    __slots__ = ("count", "infer", "input", "output")

    def __init__(self) -> None:
        self.count = 0
        self.input = self.infer = self.output = 0.0

    def add(self, run: BatchRan, count: int) -> None:
        self.count += count
        self.input += run.merge * count
        self.infer += run.duration * count
        self.output += run.split * count

    def shown(self) -> dict[str, dict[str, int]]:
        return {
            "compute_input": _shown(self.count, self.input),
            "compute_infer": _shown(self.count, self.infer),
            "compute_output": _shown(self.count, self.output),
        }


class _Version:
    def __init__(self) -> None:
        self.success, self.fail, self.queue = _Duration(), _Duration(), _Duration()
        self.hit, self.miss = _Duration(), _Duration()
        self.compute = _Compute()
        self.batches: dict[int, _Compute] = {}
        self.inferences = self.executions = self.last_ms = 0

    def shown(self, name: str, version: str) -> dict[str, Any]:
        return {
            "name": name,
            "version": version,
            "last_inference": self.last_ms,
            "inference_count": self.inferences,
            "execution_count": self.executions,
            "inference_stats": {
                "success": self.success.shown(),
                "fail": self.fail.shown(),
                "queue": self.queue.shown(),
                **self.compute.shown(),
                "cache_hit": self.hit.shown(),
                "cache_miss": self.miss.shown(),
            },
            "response_stats": {},
            "batch_stats": [
                {"batch_size": rows, **compute.shown()} for rows, compute in sorted(self.batches.items())
            ],
            "memory_usage": [],
        }


class Statistics:
    """Sums of events by model version.

    Args:
        wall: Returns seconds since the epoch, for ``last_inference``.
    """

    takes_refused = True

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._versions: dict[tuple[str, str], _Version] = {}
        self._copies: Counter[tuple[str, str]] = Counter()  # loaded, loading or unloading

    def observe(self, events: Sequence[Event]) -> None:
        """Count a batch of events."""
        now_ms = round(self._wall() * 1000)
        versions = self._versions
        for event in events:
            if isinstance(event, Served):
                if event.outcome == "ok" or event.why == "response":  # the run itself succeeded (TR-R8)
                    found = versions.get((event.model, event.version)) or self._new(event)
                    found.last_ms = now_ms
                    timing = event.timing
                    if timing.cache:
                        (found.hit if timing.cache == "hit" else found.miss).add(timing.cache_seconds)
                    if timing.cache != "hit":
                        found.inferences += event.rows
                    found.success.count += 1
                    found.success.seconds += event.latency
                    found.queue.count += 1
                    found.queue.seconds += timing.queue + timing.formation
                elif event.outcome in _FAILED and (event.model, event.version) in versions:
                    versions[event.model, event.version].fail.add(event.latency)
            elif isinstance(event, Refused):
                pair = (event.like.model, event.like.version)
                if pair in versions:
                    versions[pair].fail.add(event.like.latency * len(event.ids), len(event.ids))
            elif isinstance(event, BatchRan):
                if event.ok:
                    found = versions.get((event.model, event.version)) or self._new(event)
                    found.executions += 1
                    found.compute.add(event, event.requests)
                    batches = found.batches.get(event.rows)
                    if batches is None:
                        batches = found.batches[event.rows] = _Compute()
                    batches.add(event, 1)
            elif isinstance(event, StateChanged):
                self._change(event)

    def snapshot(self, model: str = "", version: str = "") -> dict[str, Any]:
        """Return ``{"model_stats": […]}`` of all versions, of a model's, or of one version."""
        return {
            "model_stats": [
                found.shown(*pair)
                for pair, found in sorted(self._versions.items())
                if model in ("", pair[0]) and version in ("", pair[1])
            ]
        }

    def _change(self, change: StateChanged) -> None:
        """Start a new copy's counts at 0; the end of an older copy must not remove them."""
        pair = (change.id.name, change.id.version)
        if change.after is State.LOADING:
            self._copies[pair] += 1
        elif change.after is State.READY:
            self._versions[pair] = _Version()
        elif change.after is State.GONE and change.before is not State.NEW:
            self._copies[pair] -= 1
            if self._copies[pair] <= 0:
                del self._copies[pair]
                self._versions.pop(pair, None)

    def _new(self, event: Served | BatchRan) -> _Version:
        return self._versions.setdefault((event.model, event.version), _Version())


def check_counted(door: ModelView, model: str, version: str) -> None:
    """Check that a version has statistics.

    Raises:
        InvalidInput: There is no such version (TR-R8).
        NotReady: It cannot answer now, for another reason than that it is not in memory.
    """
    try:
        door.signature(model, version)
    except NotResident:
        return
    except NotFound:
        text = f"requested model '{model}' is not available"
        if version:
            with contextlib.suppress(NotFound, NotReady):
                door.signature(model)
                text = f"requested model version is not available for model '{model}'"
        raise InvalidInput(text) from None
