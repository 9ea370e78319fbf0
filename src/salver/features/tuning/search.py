"""Search strategy: which cell to measure next, and when to stop.

:meth:`Search.ask` returns a cell, and the measurement is passed to :meth:`Search.tell`. A quarter of the
cells is as informative as the whole sweep, because the law of a placement follows from two sizes and, if only
the rate counts, all placements are compared at the largest. The remaining budget looks for a size beyond
which rows become more expensive. Pure: it measures nothing itself.
"""

from collections.abc import Sequence

import msgspec

from salver.features.tuning.choose import Judge, Setting, choose, limit_of, slo_rows, worth
from salver.features.tuning.grid import GridPlacement, Limits
from salver.features.tuning.profile import Cell, Measurement
from salver.stats.batch_law import BatchLaw, fit
from salver.words.artifacts import Objective

_SHARE = 4  # divisor of the exhaustive sweep


class Search:
    """One search for a setting.

    Args:
        alone_s: Seconds of a run of the smallest size after warm-up, on the placement with most threads; 0 =
            unknown. A rough value suffices: it only decides which sizes are worth measuring.
        run_limit_s: Maximum expected duration of a run, except for the two smallest sizes.

    Attributes:
        budget: Maximum number of cells: a quarter of the exhaustive sweep, but enough for a law and a
            comparison of the placements.
        measured: Measurements, in order.

    >>> search = Search(Limits(cores=2), Objective(throughput=True))
    >>> law = {(1, 2): BatchLaw(0.001, 0.004), (2, 1): BatchLaw(0.0018, 0.005)}
    >>> while (cell := search.ask()) is not None:
    ...     seconds = law[cell.instances, cell.threads].seconds(cell.rows)
    ...     search.tell(Measurement(cell, seconds, cell.instances * cell.rows / seconds))
    >>> len(search.measured), len(Limits(cores=2).cells())
    (4, 18)
    >>> search.setting().instances
    2
    """

    def __init__(
        self, limits: Limits, objective: Objective, alone_s: float = 0.0, run_limit_s: float = 0.5
    ) -> None:
        self.limits = limits
        least = max(min(2, len(limits.sizes())), len(limits.placements()))
        self.budget = max(least, len(limits.cells()) // _SHARE)
        self.measured: list[Measurement] = []
        self._objective = objective
        self._limit = limit_of(objective)
        self._alone = alone_s
        self._runs: dict[GridPlacement, list[tuple[float, float]]] = {}  # (rows, seconds)
        self._laws: dict[GridPlacement, BatchLaw] = {}
        self._scatter: dict[
            GridPlacement, float
        ] = {}  # 95th percentile of run times over their median, minus 1
        self._refused: set[GridPlacement] = set()
        sizes = limits.sizes()
        affordable = [size for size in sizes if size * alone_s <= run_limit_s]
        self._most = max([*affordable[-1:], *sizes[:2]])

    def __repr__(self) -> str:
        return f"<Search {len(self.measured)} of {self.budget} cells measured>"

    def ask(self) -> Cell | None:
        """Return the next cell to measure; None = enough is known."""
        if len(self.measured) >= self.budget:
            return None
        placements = [p for p in self.limits.placements() if p not in self._refused]
        for placed in placements:
            if not self._has(placed, self._most):
                return Cell(placed.instances, placed.threads, self._most)
            rows = self._working_size(placed)
            if len(self._runs[placed]) < 2 and not self._has(placed, rows):
                return Cell(placed.instances, placed.threads, rows)
        return self._refinement(placements)

    def tell(self, measured: Measurement, runs: Sequence[float] = ()) -> None:
        """Record a measurement. If a cell is measured twice, the faster time counts.

        Args:
            runs: Seconds of single runs, if known; they show the variation.
        """
        cell = measured.cell
        placed = GridPlacement(cell.instances, cell.threads)
        before = next((m for m in self.measured if m.cell == cell), None)
        if before is not None:
            if before.seconds <= measured.seconds:
                return
            self.measured.remove(before)
            self._runs[placed].remove((cell.rows, before.seconds))
        self.measured.append(measured)
        self._runs.setdefault(placed, []).append((cell.rows, measured.seconds))
        if runs:
            # The law's own error says nothing of single runs; their tail does.
            slow = sorted(runs)[min(len(runs) - 1, int(0.95 * len(runs)))] / measured.seconds - 1
            self._scatter[placed] = max(self._scatter.get(placed, 0.0), slow)
        self._laws = {}

    def refuse(self, cell: Cell) -> None:
        """Record that the model rejects a cell's batch, or that the placement is not available.

        For the smallest size this excludes the placement; for a larger one, larger batches.
        """
        smaller = [size for size in self.limits.sizes() if size < cell.rows]
        if smaller:
            self._most = min(self._most, smaller[-1])
        else:
            self._refused.add(GridPlacement(cell.instances, cell.threads))

    def rule_out(self, placed: GridPlacement) -> None:
        """Exclude a placement, for example for lack of memory."""
        self._refused.add(placed)

    def laws(self) -> dict[GridPlacement, BatchLaw]:
        """Return the known laws. With one measured size, the law of another placement is scaled."""
        if self._laws:
            return self._laws
        laws = {p: fit(runs) for p, runs in self._runs.items()}
        sized = [p for p, runs in self._runs.items() if len({rows for rows, _ in runs}) > 1]
        shape = laws[sized[0]] if sized else None
        first = self.limits.placements()[0]
        # interrupted: a rough shape is better than none
        if shape is None and self._alone and first in self._runs:
            sized, shape = [first], fit([*self._runs[first], (self.limits.sizes()[0], self._alone)])
            laws[first] = shape
        for placed, runs in self._runs.items():
            if shape is not None and placed not in sized:
                rows = runs[0][0]
                laws[placed] = shape.scaled(laws[placed].seconds(rows) / shape.seconds(rows))
        for placed, scatter in self._scatter.items():
            laws[placed] = msgspec.structs.replace(laws[placed], error=max(scatter, laws[placed].error))
        self._laws = laws
        return laws

    def setting(self, judge: Judge | None = None) -> Setting | None:
        """Return the best setting known so far, or None; see :func:`choose`."""
        laws = self.laws()
        limits = self.limits
        if self._most < limits.sizes()[-1] and not limits.rows:
            limits = msgspec.structs.replace(limits, memory_rows=self._most)
        if not laws:
            return None
        return choose(laws, self._objective, limits, judge, self.measured)

    def _has(self, placed: GridPlacement, rows: int) -> bool:
        return any(m.cell == Cell(placed.instances, placed.threads, rows) for m in self.measured)

    def _sizes(self) -> list[int]:
        return [size for size in self.limits.sizes() if size <= self._most]

    def _working_size(self, placed: GridPlacement) -> int:
        """Return the expected batch size: the largest, or what the latency limit allows."""
        most = next(m for m in self.measured if m.cell == Cell(placed.instances, placed.threads, self._most))
        if not self._limit or 2 * most.seconds <= self._limit:
            return self._most
        samples = list(self._runs[placed])
        sizes = self._sizes()
        if self._alone and len(self._runs) == 1:
            samples.append((sizes[0], self._alone))
        law = fit(samples) if len({rows for rows, _ in samples}) > 1 else self.laws()[placed]
        rows = max(1.0, slo_rows(law, self._limit))
        return min(sizes[:-1] or sizes, key=lambda size: max(size / rows, rows / size))

    def _refinement(self, placements: Sequence[GridPlacement]) -> Cell | None:
        """Return the expected batch size, then the size that halves the widest gap beside the best.

        On the best placement first.
        """
        laws, sizes = self.laws(), self._sizes()
        known = sorted(placements, key=lambda p: -worth(laws[p], p.instances, self._most, self._limit))
        for placed in known:
            top = sizes.index(self._working_size(placed))
            has = [i for i in range(top + 1) if self._has(placed, sizes[i])]
            if top not in has:
                return Cell(placed.instances, placed.threads, sizes[top])
            rates = {m.cell.rows: m.rate for m in self.measured if m.cell.threads == placed.threads}
            best = max(has, key=lambda i: rates[sizes[i]])
            below = max((i for i in has if i < best), default=-1)
            above = min((i for i in has if i > best), default=best)
            is_below = best - below > above - best
            middle = (below + best + 1) // 2 if is_below else (best + above) // 2
            if middle not in has:
                return Cell(placed.instances, placed.threads, sizes[middle])
        return None
