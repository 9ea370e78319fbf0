"""Breakdown of request latencies, and of the slowest requests.

:class:`Explanations` keeps the last minutes in slices of ten seconds: for each model version and each class
of latency the sums of the phases, the slowest requests, rejections, and the results of runs. All of it is
bounded, and only recent ids are kept per request. The sums are interpreted in ``verdict.py``. It knows no
HTTP; the clock is an argument.

Pure.
"""

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from math import floor, log2
from typing import Any

import msgspec

from salver.kernel.serving.present import Present
from salver.lazy import lazy_imports
from salver.words.errors import NO_REFUSAL, NotFound
from salver.words.events import BatchRan, Event, Refused, Served
from salver.words.messages import ModelId, StepTime

with lazy_imports():
    from salver.features.telemetry import verdict as verdicts
    from salver.features.telemetry.verdict import Pressure, Split, Verdict, judge


SLICE_S = 10.0
SLICES = 18
#: Maximum recent requests that can be looked up by id, over all models.
RECENT = 8192
#: Number of slow requests that are listed.
SLOWEST = 10
#: Latencies of one class differ by 9 % at most; there are 290 classes from 1 µs to a day.
_CLASSES_AN_OCTAVE = 8
_TICK_S = 1e-6
_NO_CELL = (0.0,) * 9
_Pair = tuple[str, str]


class _Slice:
    """Ten seconds of one version. A cell holds the sums of :class:`Split`, in its order."""

    __slots__ = ("cells", "first", "is_of_steps", "number", "outcomes", "refused", "rows", "runs", "slowest")

    def __init__(self, number: int, first: float) -> None:
        self.number = number
        self.first = first
        self.cells: dict[int, list[float]] = {}
        self.outcomes: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.rows = 0
        self.is_of_steps = False  # an ensemble
        self.runs: dict[int, list[float]] = {}  # by power of two of their rows: runs, rows, seconds
        self.slowest: list[tuple[float, int, float, Served]] = []

    def served(self, event: Served, now: float, order: int) -> None:
        self.outcomes[event.outcome] += 1
        self.rows += event.rows
        if event.why not in NO_REFUSAL:
            self.refused[event.why] += 1
        if event.outcome != "ok":
            return
        latency, timing = event.latency, event.timing
        kind = floor(log2(latency or _TICK_S) * _CLASSES_AN_OCTAVE)
        cell = self.cells.get(kind)
        if cell is None:
            cell = self.cells[kind] = [0.0] * 9
        cell[0] += 1
        cell[1] += latency
        cell[2] += timing.queue
        cell[3] += timing.formation
        cell[4] += timing.inference
        cell[5] += event.rows
        cell[6] += event.size
        cell[7] += timing.batch_rows
        cell[8] += timing.ahead
        slowest = self.slowest
        if len(slowest) < SLOWEST:
            heapq.heappush(slowest, (latency, order, now, event))
        elif latency > slowest[0][0]:
            heapq.heapreplace(slowest, (latency, order, now, event))

    def ran(self, event: BatchRan) -> None:
        if event.reason == "steps":
            self.is_of_steps = True
        elif event.ok and event.duration > 0:
            sums = self.runs.setdefault(event.rows.bit_length(), [0.0, 0.0, 0.0])
            sums[0] += 1
            sums[1] += event.rows
            sums[2] += event.duration


class Explanations:
    """Sums of events by model version, time slice and latency class.

    Args:
        clock: Monotonic seconds.
        present: Returns the number of instances; called for each explanation.
    """

    takes_refused = True

    def __init__(self, clock: Callable[[], float], present: Present) -> None:
        self._clock = clock
        self._present = present
        self._versions: dict[_Pair, deque[_Slice]] = {}
        self._recent: deque[Served] = deque(maxlen=RECENT)
        self._order = itertools.count()
        self._is_on = True

    def __repr__(self) -> str:
        return f"<Explanations of {len(self._versions)} versions, {len(self._recent)} requests>"

    def switch(self, is_on: bool) -> None:
        """Start to count no events, or to count again."""
        self._is_on = is_on

    def observe(self, events: Sequence[Event]) -> None:
        """Count a batch of events."""
        if not self._is_on:
            return
        now = self._clock()
        slices: dict[_Pair, _Slice] = {}
        for event in events:
            if type(event) is Served:
                if event.version:  # requests for unknown versions are not counted
                    pair = (event.model, event.version)
                    found = slices.get(pair) or self._look_up(slices, pair, now)
                    found.served(event, now, next(self._order))
                    self._recent.append(event)
            elif type(event) is Refused:
                pair = (event.like.model, event.like.version)
                found = slices.get(pair) or self._look_up(slices, pair, now)
                found.outcomes[event.like.outcome] += len(event.ids)
                found.refused[event.like.why] += len(event.ids)
            elif type(event) is BatchRan and event.version:
                pair = (event.model, event.version)
                found = slices.get(pair) or self._look_up(slices, pair, now)
                found.ran(event)

    def _look_up(self, slices: dict[_Pair, _Slice], pair: _Pair, now: float) -> _Slice:
        found = slices[pair] = self._slice(pair, now)
        return found

    def model(self, model: str, version: str) -> dict[str, Any]:
        """Return the breakdown of a version's requests; durations in milliseconds."""
        now = self._clock()
        slices = self._alive((model, version), now)
        typical, slow = _typical_and_slow(slices)
        pressure = self._pressure(model, version, slices, now)
        entries = heapq.nlargest(SLOWEST, itertools.chain.from_iterable(s.slowest for s in slices))
        return {
            "model": model,
            "version": version,
            "seconds": round(now - slices[0].first, 1) if slices else 0.0,
            "outcomes": dict(_total(s.outcomes for s in slices)),
            "refused": dict(_total(s.refused for s in slices)),
            "typical": _shown(typical) if typical else None,
            "slow": _shown(slow) if slow else None,
            "offered_rows_per_second": round(pressure.offered, 1),
            "capacity_rows_per_second": round(pressure.capacity, 1),
            "verdict": _verdict(judge(slow, typical, pressure)) if slow and typical else None,
            "slowest": [
                {**_request(event), "seconds_ago": round(now - when, 1)} for _, _, when, event in entries
            ],
        }

    def request(self, model: str, request_id: str) -> dict[str, Any]:
        """Return the breakdown of one request.

        Raises:
            NotFound: it is not among the recent or slow requests.
        """
        now = self._clock()
        slow = [
            entry[3]
            for pair in [pair for pair in self._versions if pair[0] == model]
            for found in self._alive(pair, now)
            for entry in found.slowest
        ]
        for event in itertools.chain(reversed(self._recent), slow):
            if event.request_id == request_id and event.model == model:
                break
        else:
            raise NotFound(
                f"no recent request of model '{model}' has the id '{request_id[:80]}'",
                field="request",
                fix=f"Known are the last {RECENT} and the slowest; failed ones of unknown versions are not.",
            )
        shown = _request(event)
        if event.outcome == "ok":
            slices = self._alive((model, event.version), now)
            own = _split(event)
            typical, _ = _typical_and_slow(slices)
            pressure = self._pressure(model, event.version, slices, now)
            shown["typical"] = _shown(typical or own)
            if event.timing.steps:
                shown["steps"] = steps_shown(event.timing.steps, event.arrival)
            shown["verdict"] = _verdict(judge(own, typical or own, pressure))
        return shown

    # -- internals -----------------------------------------------------------------------------

    def _slice(self, pair: _Pair, now: float) -> _Slice:
        number = int(now // SLICE_S)
        slices = self._versions.get(pair)
        if slices is None:
            for other in [p for p in self._versions if not self._alive(p, now)]:
                del self._versions[other]
            slices = self._versions[pair] = deque(maxlen=SLICES)
        if not slices or slices[-1].number != number:
            slices.append(_Slice(number, now))
        return slices[-1]

    def _alive(self, pair: _Pair, now: float) -> list[_Slice]:
        oldest = int(now // SLICE_S) - SLICES
        return [s for s in self._versions.get(pair, ()) if s.number > oldest]

    def _pressure(self, model: str, version: str, slices: list[_Slice], now: float) -> Pressure:
        offered = max((s.rows / _length(s, now) for s in slices), default=0.0)
        runs: dict[int, list[float]] = {}
        for kind, sums in itertools.chain.from_iterable(s.runs.items() for s in slices):
            runs[kind] = [a + b for a, b in zip(runs.get(kind, (0.0, 0.0, 0.0)), sums, strict=True)]
        refused = sum(sum(s.refused.values()) for s in slices)
        if not runs:
            return Pressure(offered, refused=refused, is_of_steps=any(s.is_of_steps for s in slices))
        count, rows, seconds = max(runs.values(), key=lambda sums: sums[1] / sums[2])
        id = ModelId(model, version)
        slots = max([load.slots for load in self._present.loads() if load.id == id], default=0) or 1
        return Pressure(offered, slots * rows / seconds, rows / count, refused)


def _length(found: _Slice, now: float) -> float:
    """Return the seconds of a slice; at least one, so that a single request is not a rate."""
    return max(1.0, min(now, (found.number + 1) * SLICE_S) - found.first)


def _typical_and_slow(slices: list[_Slice]) -> tuple[Split | None, Split | None]:
    """Return the means of the requests around the median, and of the slowest 1 % (at least one)."""
    cells: dict[int, list[float]] = {}
    for kind, sums in itertools.chain.from_iterable(s.cells.items() for s in slices):
        cells[kind] = [a + b for a, b in zip(cells.get(kind, _NO_CELL), sums, strict=True)]
    total = sum(cell[0] for cell in cells.values())
    if not total:
        return None, None
    below = 0.0
    typical: list[float] = []
    for kind in sorted(cells):
        below += cells[kind][0]
        if below >= total / 2:
            typical = cells[kind]
            break
    wanted = max(1.0, total / 100)
    slow = [0.0] * 9
    for kind in sorted(cells, reverse=True):
        share = min(1.0, (wanted - slow[0]) / cells[kind][0])
        slow = [a + share * b for a, b in zip(slow, cells[kind], strict=True)]
        if share < 1.0:
            break
    return _mean(typical), _mean(slow)


def _mean(sums: list[float]) -> Split:
    count = sums[0]
    return Split(count, *(value / count for value in sums[1:]))


def _split(event: Served) -> Split:
    timing = event.timing
    return Split(
        1.0,
        event.latency,
        timing.queue,
        timing.formation,
        timing.inference,
        event.rows,
        event.size,
        timing.batch_rows,
        timing.ahead,
    )


def _total(counters: Iterable[Counter[str]]) -> Counter[str]:
    return sum(counters, Counter())


def _shown(split: Split) -> dict[str, float]:
    phases = {f"{name}_ms": round(split.phase(name) * 1e3, 6) for name in ("latency", *verdicts.PHASES)}
    others = {name: round(getattr(split, name), 1) for name in ("requests", "rows", "batch_rows", "ahead")}
    return {**phases, **others, "bytes": round(split.size)}


def _request(event: Served) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "request_id": event.request_id,
        "model": event.model,
        "version": event.version,
        "protocol": event.protocol,
        "outcome": event.outcome,
        "why": event.why,
    }
    if event.outcome != "ok":  # its phases are unknown
        return {**shown, "latency_ms": event.latency * 1e3, "rows": event.rows, "bytes": event.size}
    numbers = _shown(_split(event))
    del numbers["requests"]
    return {**shown, **numbers, "closed_by": event.timing.reason}


def decisive(steps: Sequence[StepTime]) -> list[StepTime]:
    """Return the steps of a graph that decided when its answer was there, in their order.

    Walks back from the step that ended last: before each came the one that ended last before it began.

    >>> ends = {"a": (0.0, 1.0), "b": (0.0, 3.0), "c": (3.0, 4.0)}
    >>> a, b, c = ((name, *when, 0.0, 0.0, 0, 0) for name, when in ends.items())
    >>> [step[0] for step in decisive([a, b, c])]
    ['b', 'c']
    """
    found: list[StepTime] = []
    for step in sorted(steps, key=lambda step: (step[2], step[1]), reverse=True):
        if not found or step[2] <= found[-1][1]:
            found.append(step)
    return found[::-1]


def steps_shown(steps: Sequence[StepTime], arrival: float) -> list[dict[str, Any]]:
    """Return when each step of a graph ran; those that decided, and the time between them, add up."""
    path = decisive(steps)
    return [
        {
            "name": step[0],
            "at_ms": round((step[1] - arrival) * 1e3, 6),
            "latency_ms": round((step[2] - step[1]) * 1e3, 6),
            "queue_ms": round(step[3] * 1e3, 6),
            "inference_ms": round(step[4] * 1e3, 6),
            "rest_ms": round((step[2] - step[1] - step[3] - step[4]) * 1e3, 6),
            "is_decisive": step in path,
            "cache_lookups": step[5],
            "cache_hits": step[6],
        }
        for step in sorted(steps, key=lambda step: step[1])
    ]


def _verdict(verdict: Verdict) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(verdict)
    return {**found, "share": round(verdict.share, 4)}
