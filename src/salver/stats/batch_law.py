"""Model of the run time of a batch by its rows.

``tau(b) = a·b + t0``, with at most one kink where activations leave a cache (Hockney's n_half, and Clipper's
batch law, with a bend). Pure: maps samples to a law. It knows no model and no clock.
"""

import itertools
import math
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

_MANY = 1 << 20
_LEAST_S, _MOST_S = 1e-9, 1e6  # bounds of a run's seconds; other samples are clock errors
_Floats = npt.NDArray[np.float64]


class BatchLaw(msgspec.Struct, frozen=True):
    """Seconds of a run as a function of its rows.

    Attributes:
        a: Seconds per row, up to the kink.
        t0: Fixed seconds per run.
        kink: Rows from which ``a_beyond`` applies; 0 = none.
        a_beyond: Seconds of each row beyond the kink.
        error: 95th percentile of (measured - predicted) / predicted, as a safety margin.

    >>> law = BatchLaw(a=0.001, t0=0.004)
    >>> round(law.seconds(32), 9), law.rows_within(0.0361), law.rows_within(0.0049), law.n_half
    (0.036, 32, 0, 4.0)
    >>> law.efficiency(4), law.best_rows, round(law.rate(32), 1)
    (0.5, 4, 888.9)
    """

    a: float
    t0: float
    kink: int = 0
    a_beyond: float = 0.0
    error: float = 0.0

    def seconds(self, rows: float) -> float:
        """Return the expected duration of a run (>= 0)."""
        if self.kink and rows > self.kink:
            return self.t0 + self.a * self.kink + self.a_beyond * (rows - self.kink)
        return self.t0 + self.a * rows

    def rows_within(self, seconds: float) -> int:
        """Return the maximum rows of a run expected to end within that many seconds; 0 if not even one."""
        if seconds < self.t0 + self.a:
            return 0
        rows = (seconds - self.t0) / self.a if self.a > 0 else _MANY
        if self.kink and rows > self.kink:
            beyond = seconds - self.t0 - self.a * self.kink
            rows = self.kink + (beyond / self.a_beyond if self.a_beyond > 0 else _MANY)
        return int(min(rows, _MANY) + 1e-9)

    @property
    def n_half(self) -> float:
        """Return the rows at which half of the asymptotic rate is reached: t0 / a."""
        if self.a > 0:
            return self.t0 / self.a
        return float(_MANY)

    @property
    def best_rows(self) -> int:
        """Return B*, the batch with the best rate for its latency (argmax of B / tau(B)²)."""
        return max(1, min(_MANY, round(self.n_half)))

    def rate(self, rows: float) -> float:
        """Return the rows per second of one instance that runs batches of this size without pause."""
        seconds = self.seconds(rows)
        if seconds > 0:
            return rows / seconds
        return math.inf

    def efficiency(self, rows: float) -> float:
        """Return the rate at this size as a fraction of the best rate; B / (B + n_half) without a kink."""
        slopes = [self.a_beyond] if self.kink else [self.a]
        best = max(1 / slopes[0] if slopes[0] > 0 else 0.0, self.rate(self.kink) if self.kink else 0.0)
        rate = self.rate(rows)
        if 0 < best < math.inf and rate < math.inf:
            return min(1.0, rate / best)
        return 1.0

    def scaled(self, factor: float) -> "BatchLaw":
        """Return the law of a machine that is slower by a factor."""
        return BatchLaw(self.a * factor, self.t0 * factor, self.kink, self.a_beyond * factor, self.error)


# Error that is attributed to clocks and caches: a fiftieth of a run.
_NOISE_FLOOR = 0.02
_HUBER = 2.0  # residuals beyond this multiple of their median get less weight
_ROUNDS = 4


def fit(samples: Iterable[tuple[float, float]]) -> BatchLaw:
    """Fit a law to measured runs: least squares of the relative error, robust to single slow runs.

    ``a`` and ``t0`` are never negative. A kink is included if the Bayesian information criterion justifies
    its two parameters.

    Args:
        samples: (rows, seconds) of each run, both above 0; others are ignored.

    Returns:
        The law. With a single size all time is attributed to the rows (``t0 = 0``), so that larger batches
        are never underestimated. Without runs: a law of zeros.

    >>> law = fit([(b, 0.004 + 0.001 * b) for b in (1, 2, 8, 32)])
    >>> round(law.a, 6), round(law.t0, 6), law.kink, round(law.error, 6)
    (0.001, 0.004, 0, 0.0)
    """
    kept = [(r, s) for r, s in samples if r > 0 and _LEAST_S <= s <= _MOST_S]
    if not kept:
        return BatchLaw(0.0, 0.0)
    rows, seconds = np.array(kept, float).T
    sizes = np.unique(rows)
    if len(sizes) == 1:
        typical = float(np.median(seconds))
        return BatchLaw(typical / float(sizes[0]), 0.0, error=_p95(seconds / typical - 1))
    line, line_cost = _solve(rows, seconds, 0.0)
    best, best_score = BatchLaw(line[0], line[1]), _bic(line_cost, len(rows), 2)
    for kink in sizes[:-1]:
        found, cost = _solve(rows, seconds, float(kink))
        bent, score = BatchLaw(found[0], found[1], int(kink), found[2]), _bic(cost, len(rows), 4)
        if score < best_score and bent.seconds(1) > 0:  # no run is free, whatever single samples show
            best, best_score = bent, score
    predicted = np.array([best.seconds(r) for r in rows.tolist()])
    return msgspec.structs.replace(best, error=_p95(seconds / np.maximum(predicted, 1e-12) - 1))


def _bic(cost: float, count: int, parameters: int) -> float:
    return count * math.log(cost + _NOISE_FLOOR**2) + parameters * math.log(count)


def _p95(residuals: _Floats) -> float:
    return max(0.0, float(np.quantile(residuals, 0.95)))


def _solve(rows: _Floats, seconds: _Floats, kink: float) -> tuple[Sequence[float], float]:
    """Return (a, t0[, a beyond the kink]) and the mean squared relative error (Huber's loss)."""
    columns = [np.minimum(rows, kink) if kink else rows, np.ones_like(rows)]
    if kink:
        columns.append(np.maximum(rows - kink, 0.0))
        if kink <= rows.min():  # a and t0 cannot be separated
            columns[1] = np.zeros_like(rows)
    design = np.stack(columns, 1) / seconds[:, None]
    weights = np.ones_like(rows)
    for _ in range(_ROUNDS):
        found = _nonnegative(design * weights[:, None], weights)
        residuals = np.abs(design @ found - 1)
        limit = max(_NOISE_FLOOR, _HUBER * float(np.median(residuals)))
        weights = np.sqrt(np.minimum(1.0, limit / np.maximum(residuals, 1e-12)))
    return found.tolist(), float(np.mean((residuals * weights) ** 2))


def _nonnegative(design: _Floats, target: _Floats) -> _Floats:
    """Return the non-negative least-squares solution: the best of all subsets (at most seven)."""
    count = design.shape[1]
    gram, product = design.T @ design, design.T @ target
    best, best_gain = np.zeros(count), -math.inf
    for size in range(count, 0, -1):
        for chosen in itertools.combinations(range(count), size):
            part = gram[np.ix_(chosen, chosen)]
            try:
                found = np.linalg.solve(part, product[list(chosen)])
            except np.linalg.LinAlgError:
                continue
            if (found < 0).any():
                continue
            gain = float(found @ product[list(chosen)])  # reduction of the sum of squares
            if gain > best_gain:
                best, best_gain = np.zeros(count), gain
                best[list(chosen)] = found
            if size == count:
                return best
    return best


_BUCKETS = 24
_FULL = 20.0  # runs averaged in a size's mean
_OUTLIER = 3.0  # limit of a run relative to its size's mean: one pause is not a new law
_ENOUGH = 4.0  # minimum runs of a size before its own mean is used
_REFIT_RUNS = 64
_REFIT_S = 0.25  # and seconds of runs between two fits, so that fitting costs a small fraction of them
_FILLED = 8  # sizes 1, 2, 4 … 128 take part in every fit
_STEP = 0.004  # of the tracked 95th percentile, in fractions of a run
_MOST_TRUSTED = 0.5  # maximum initial error of a law: more indicates a busy machine rather than the model


class LiveLaw:
    """Batch law updated by live runs. Plain floats; no lock.

    Args:
        known: Initial law, such as a profile's; None = unknown, with all times 0 until the first run.

    Attributes:
        runs: Number of observed runs.

    >>> live = LiveLaw(BatchLaw(a=0.001, t0=0.004))
    >>> for _ in range(200):
    ...     live.observe(8, 0.024)  # the machine is twice as slow today
    >>> round(live.law().seconds(32) / 0.036, 1)
    2.0
    """

    __slots__ = (
        "_busy", "_candidate", "_counts", "_error", "_fresh", "_law", "_rows", "_seconds", "_shape", "_since",
        "runs",
    )  # fmt: skip

    def __init__(self, known: BatchLaw | None = None) -> None:
        self._law = known or BatchLaw(0.0, 0.0)
        self._shape = known  # for sizes without runs; None: a single size does not determine the others
        self._error = min(self._law.error, _MOST_TRUSTED)
        self._counts = [0.0] * _BUCKETS  # by power of two of the rows
        self._rows = [0.0] * _BUCKETS
        self._seconds = [0.0] * _BUCKETS
        self._candidate: BatchLaw | None = None
        self._fresh = [False] * _BUCKETS  # sizes seen since the last fit
        self._since = 0  # number of runs since the last fit
        self._busy = 0.0  # and their total seconds
        self.runs = 0

    def __repr__(self) -> str:
        law = self._law
        line = f"{law.t0 * 1e3:.3g} ms + {law.a * 1e3:.3g} ms a row"
        return f"<LiveLaw {line}, error {self.error:.0%}, {self.runs} runs>"

    @property
    def is_known(self) -> bool:
        """Return whether there is an initial law or at least one run."""
        return self._shape is not None or self.runs > 0

    @property
    def error(self) -> float:
        """Return the 95th percentile of (measured - predicted) / predicted, initially the known law's."""
        return self._error

    def observe(self, rows: int, seconds: float) -> None:
        """Record a finished run."""
        if rows < 1 or not _LEAST_S <= seconds <= _MOST_S:
            return
        bucket = rows.bit_length()
        if bucket >= _BUCKETS:
            bucket = _BUCKETS - 1
        count = self._counts[bucket]
        mean = self._seconds[bucket]
        if count > _ENOUGH and seconds > _OUTLIER * mean:
            seconds = _OUTLIER * mean
        if count < _FULL:
            self._counts[bucket] = count = count + 1.0
        self._seconds[bucket] = mean + (seconds - mean) / count
        self._rows[bucket] += (rows - self._rows[bucket]) / count
        self._fresh[bucket] = True
        self._busy += seconds
        self._since += 1
        self.runs += 1
        law = self._law
        predicted = law.seconds(rows) if law.kink else law.t0 + law.a * rows
        error = self._error
        step = _STEP * (1.0 + 10.0 * error)
        if seconds > predicted * (1.0 + error):
            self._error = error + 0.95 * step
        elif error > 0.0:
            self._error = max(0.0, error - 0.05 * step)

    def law(self) -> BatchLaw:
        """Return the current law, fitted again when enough runs have been recorded."""
        if self._since >= _REFIT_RUNS and self._busy >= _REFIT_S:
            self._refit()
        elif self._shape is None and self._since > 0 and self.runs < _REFIT_RUNS:
            self._refit()  # a rough law is better than none
        return self._law

    def _refit(self) -> None:
        """Fit the sizes seen since the last fit; other sizes keep the known shape, at the current speed."""
        before, shape, candidate = self._law, self._shape, self._candidate
        least = 1.0 if shape is None else _ENOUGH
        seen = {
            b: (self._rows[b], self._seconds[b])
            for b in range(_BUCKETS)
            if self._fresh[b] and self._counts[b] >= least
        }
        if self._since >= _REFIT_RUNS:
            self._fresh = [False] * _BUCKETS
        self._since, self._busy = 0, 0.0
        if not seen:
            return
        sizes = [rows for rows, _ in seen.values()]
        is_wide = len(seen) >= 3 and max(sizes) >= 4 * min(sizes) and self.runs >= _REFIT_RUNS
        if shape is not None:
            factor = {b: seconds / max(shape.seconds(rows), 1e-12) for b, (rows, seconds) in seen.items()}
            for bucket in range(1, _FILLED + 1):
                if bucket not in seen:
                    rows = float(1 << (bucket - 1))
                    nearest = min(factor, key=lambda b: abs(b - bucket))
                    seen[bucket] = rows, shape.seconds(rows) * factor[nearest]
        law = _through(list(seen.values()), shape.kink if shape else 0)
        # A shape counts only if the next fit also sees many sizes: one with small batches from before a
        # change and large ones from after it is not valid.
        if is_wide and candidate is not None:
            self._shape = candidate
        self._candidate = law if is_wide else None
        # Runs that were longer than the old law predicted are not errors of the new one.
        moved = [abs(law.seconds(r) / old - 1) for r in sizes if (old := before.seconds(r)) > 0]
        self._error = max(min(self._error, before.error), self._error - max(moved, default=0.0))
        self._law = msgspec.structs.replace(law, error=self._error)


def _through(points: Sequence[tuple[float, float]], kink: int) -> BatchLaw:
    """Fit a law to mean times by size, with a known kink."""
    if len(points) == 1:
        return fit(points)
    rows, seconds = np.array(points, float).T
    found, _ = _solve(rows, seconds, float(kink))
    return BatchLaw(found[0], found[1], kink, found[2] if kink else 0.0)
