"""Result of a search, as sentences, table, picture and record.

Pure: maps the setting, the cells and a judge of load to its presentation. It knows neither who measured nor
where it is shown.
"""

import math
from typing import Any, Final

import msgspec

from salver.features.tuning.choose import Judge, Setting, limit_of, slo_rows, worth
from salver.features.tuning.curves import compose, milliseconds, per_second
from salver.features.tuning.grid import SIZES, GridPlacement, Limits
from salver.features.tuning.mdp import Chain, Problem, Traffic, greedy
from salver.features.tuning.objective import as_toml, named
from salver.features.tuning.profile import Cell, Measurement
from salver.features.tuning.roofline import Ceilings, Cost, bound, knee
from salver.features.tuning.search import Search
from salver.stats.batch_price import Price
from salver.terminal.picture import Picture
from salver.words.artifacts import Objective
from salver.words.sizes import told_bytes

_LOADS: Final = (0.3, 0.6, 0.9)  # fractions of the capacity at which rules are compared
_BUSY: Final = 0.3  # error of a law (95th percentile) above which something else was running
_SAME: Final = 0.01  # relative gain in mean latency below which no rule is better


class GridComparison(msgspec.Struct, frozen=True):
    """Comparison of the quick choice with the best of all cells.

    Attributes:
        cells, quick_cells: Number of cells measured for each.
        instances, threads, max_rows: The best setting.
        share: Fraction of the best rate that the quick choice reaches.
    """

    cells: int
    quick_cells: int
    instances: int
    threads: int
    max_rows: int
    share: float


class Roofline(msgspec.Struct, frozen=True):
    """Upper bound on a model's rate on this machine.

    Attributes:
        ceilings: None if the model's operations are unknown.
    """

    cost: Cost
    ceilings: Ceilings | None = None

    def rate(self, rows: float) -> float:
        """Return the maximum rows per second, by rows of a run; inf = unknown."""
        if self.ceilings is None:
            return math.inf
        return bound(self.cost, self.ceilings, rows).rate


class Point(msgspec.Struct, frozen=True):
    """The curve at one batch size, on the chosen placement.

    Attributes:
        seconds, rate, efficiency: By the law: seconds of a run, rows per second over all instances, fraction
            of the best rate.
        bound: Rows per second by the roofline; None = unknown.
        feasible: Rows per second within the objective in batches of at most that many rows; None = no limit.
    """

    rows: int
    seconds: float
    rate: float
    efficiency: float
    bound: float | None
    feasible: float | None


class TuningResult(msgspec.Struct, frozen=True):
    """Result of ``salver tune``.

    Attributes:
        measured: All measured cells.
        feasible: With a latency limit, the highest rate that keeps it, by maximum rows of a batch.
        gains: By load as a fraction of the capacity, the reduction of mean latency by the best possible rule,
            relative to draining.
        notes: Remarks about the measurement, as sentences.
    """

    model: str
    objective: Objective
    setting: Setting
    measured: tuple[Measurement, ...]
    feasible: dict[int, float]
    roofline: Roofline = Roofline(Cost())
    gains: dict[float, float] = {}
    compared: GridComparison | None = None
    notes: tuple[str, ...] = ()

    def curve(self) -> tuple[Point, ...]:
        """Return the curve at the sizes of a sweep, the measured ones, and the chosen one."""
        setting, law = self.setting, self.setting.law
        known = {m.cell.rows for m in self.measured} | set(self.feasible) | {setting.max_rows}
        sizes = sorted(known | {size for size in SIZES if size < max(known)})
        return tuple(
            Point(
                rows,
                law.seconds(rows),
                setting.instances * law.rate(rows),
                law.efficiency(rows),
                None if (most := self.roofline.rate(rows)) == math.inf else most,
                self.feasible.get(rows),
            )
            for rows in sizes
        )


def feasible_rates(
    setting: Setting, objective: Objective, limits: Limits, judge: Judge | None
) -> dict[int, float]:
    """Return the highest rate within the objective on the chosen placement, by maximum rows of a batch."""
    limit = limit_of(objective)
    if limit <= 0 or judge is None:
        return {}
    sizes = sorted({*limits.sizes(), setting.max_rows})
    return {rows: judge(setting.law, setting.instances, rows, limit) for rows in sizes}


def gains(setting: Setting) -> dict[float, float]:
    """Return the reduction of mean latency by the best rule against draining, by load.

    Solved exactly for one instance and Poisson arrivals (:mod:`salver.features.tuning.mdp`). Empty without
    batching, or if runs take no time.
    """
    law, most = setting.law, setting.max_rows
    if most < 2 or law.seconds(1) <= 0:
        return {}
    found = {}
    for load in _LOADS:
        problem = Problem(law, Price(), Traffic((load * law.rate(most),)), most)
        chain = Chain(problem)
        _, best = chain.solve()
        drained, _ = chain.evaluate(greedy(problem))
        found[load] = max(0.0, 1 - best.latency_s / drained.latency_s)
    return found


def compare(
    quick: Setting, quick_cells: int, objective: Objective, search: Search, judge: Judge | None
) -> GridComparison:
    """Compare the quick choice with the best, using all measurements.

    By measured rates if only the rate counts; with a latency limit by the laws of all cells, under simulated
    load.
    """
    best = search.setting(judge) or quick
    limit, measured = limit_of(objective), search.measured
    law = search.laws().get(GridPlacement(quick.instances, quick.threads), quick.law)
    if limit > 0:
        reached = (judge or worth)(law, quick.instances, quick.max_rows, limit)
        place, top = (best.instances, best.threads, best.max_rows), best.score
    else:
        rates = {m.cell: m.rate for m in measured}
        cell = max(rates, key=lambda cell: rates[cell])
        place, top = (cell.instances, cell.threads, cell.rows), rates[cell]
        own = Cell(quick.instances, quick.threads, quick.max_rows)
        reached = rates.get(own) or worth(law, quick.instances, quick.max_rows)
    share = 1.0
    if top > 0:
        share = min(1.0, reached / top)
    return GridComparison(len(measured), quick_cells, *place, share)


def sentences(tuned: TuningResult) -> tuple[str, ...]:
    """Return the reasons as sentences."""
    setting, limit = tuned.setting, limit_of(tuned.objective)
    said = list(setting.reasons)
    if limit > 0 and setting.score > 0:
        said.insert(
            0,
            f"Up to {per_second(setting.score)} rows/s 99 % are answered within {limit * 1e3:g} ms, by "
            "simulation of random arrivals and the rule that serves (half-floor below saturation, "
            "drop-then-drain above).",
        )
    elif limit <= 0:
        said.insert(0, f"{per_second(setting.score)} rows/s in batches of {setting.max_rows} rows.")
    if compared := tuned.compared:
        best = f"{compared.instances} × {compared.threads} with {compared.max_rows} rows"
        said.append(
            f"The whole grid of {compared.cells} cells finds {best}; the choice after {compared.quick_cells} "
            f"cells reaches {100 * compared.share:.1f} % of that."
        )
    if setting.law.error > _BUSY:
        said.append(
            f"Some runs took {100 * setting.law.error:.0f} % longer than the law says: is the machine busy "
            "with something else? Then tune again when it is not."
        )
    return (*said, *_on_the_bound(tuned), *_on_rules(tuned), *tuned.notes)


def _on_the_bound(tuned: TuningResult) -> tuple[str, ...]:
    cost, ceilings, setting = tuned.roofline.cost, tuned.roofline.ceilings, tuned.setting
    notes = tuple(f"Roofline: {note}." for note in cost.notes)
    if ceilings is None:
        return notes
    most = bound(cost, ceilings, setting.max_rows)
    share = setting.instances * setting.law.rate(setting.max_rows) / most.rate
    peaks = [_with_unit(ceilings.flops_per_s, "FLOP/s"), _with_unit(ceilings.bytes_per_s, "B/s")]
    if cost.int8_ops_a_row:
        peaks.insert(1, _with_unit(ceilings.int8_ops_per_s, "OP/s of 8-bit integers"))
    turn = knee(cost, ceilings)
    where = f"{most.by} is the bound at every size"
    if 1 < turn < math.inf:
        where = f"beyond {turn:.3g} rows arithmetic is the bound, below it memory"
    said = (
        f"Roofline: a row is {_operations(cost)}, the weights are {told_bytes(cost.weight_bytes)}; these "
        f"cores do {', '.join(peaks)} at best (measured), so that {setting.max_rows} rows allow "
        f"{per_second(most.rate)} rows/s, of which {100 * share:.0f} % are reached; {where}."
    )
    return (said, *notes)


def _operations(cost: Cost) -> str:
    counts = ((cost.flops_a_row, "FLOP"), (cost.int8_ops_a_row, "OP of 8-bit integers"))
    return " and ".join(_with_unit(count, unit) for count, unit in counts if count)


def _with_unit(count: float, unit: str) -> str:
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {prefix}{unit}"
    return f"{count:.3g} {unit}"


def _on_rules(tuned: TuningResult) -> tuple[str, ...]:
    """Describe whether another rule could be better if only latency counts."""
    if not tuned.gains:
        return ()
    load, gain = max(tuned.gains.items(), key=lambda item: item[1])
    loads = ", ".join(f"{100 * load:.0f}" for load in tuned.gains)
    if gain < _SAME:
        return (
            f"No rule can win on mean latency: at {loads} % of the capacity the best one (solved exactly) "
            f"is at most {100 * gain:.2g} % quicker than taking what waits. Only a price on energy would "
            "change that.",
        )
    return (
        f"For mean latency taking what waits is not best here: at {100 * load:.0f} % of the capacity the "
        f"best rule (solved exactly) lowers it by {100 * gain:.2g} %. "
        'batching.policy = "learned" finds it.',
    )


def headline(tuned: TuningResult) -> str:
    """Return the choice in one line."""
    s = tuned.setting
    return (
        f"{tuned.model}, {named(tuned.objective)}: {s.instances} × {s.threads} (instances × threads), "
        f"batches of at most {s.max_rows} rows"
    )


def curve_table(tuned: TuningResult) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return columns and rows of the curve on the chosen placement, with a note per size."""
    points = tuned.curve()
    columns = ["rows", "run ms", "rows/s", "efficiency"]
    has_bound = any(point.bound is not None for point in points)
    columns += ["bound rows/s"] * has_bound + ["within objective rows/s"] * bool(tuned.feasible) + [""]
    names = _names(tuned, [point.rows for point in points])
    rows = []
    for point in points:
        cells = [str(point.rows), milliseconds(point.seconds), per_second(point.rate)]
        cells.append(f"{100 * point.efficiency:.0f} %")
        cells += [per_second(point.bound)] if point.bound is not None else []
        cells += [per_second(point.feasible or 0.0)] if tuned.feasible else []
        rows.append((*cells, names.get(point.rows, "")))
    return tuple(columns), rows


def _names(tuned: TuningResult, sizes: list[int]) -> dict[int, str]:
    """Return the notes on sizes of the table; one between two sizes is attached to the nearest."""
    setting, limit = tuned.setting, limit_of(tuned.objective)
    marks = [(float(setting.max_rows), "chosen"), (setting.law.n_half, f"B* = {setting.law.n_half:.3g}")]
    if limit > 0 and (within := int(slo_rows(setting.law, limit))):
        marks.append((float(within), f"B_slo = {within}"))
    found: dict[int, list[str]] = {}
    for rows, name in marks:
        if sizes[0] <= rows <= sizes[-1]:
            nearest = min(sizes, key=lambda size: abs(math.log(size / rows)))
            found.setdefault(nearest, []).append(name)
    return {rows: ", ".join(names) for rows, names in found.items()}


def picture(tuned: TuningResult) -> Picture:
    """Return the curves with the sentences."""
    return compose(
        headline(tuned),
        tuned.measured,
        tuned.setting,
        tuned.objective,
        bound=tuned.roofline.rate if tuned.roofline.ceilings else None,
        feasible=tuned.feasible,
        lines=sentences(tuned),
    )


def toml(tuned: TuningResult) -> str:
    """Return the lines of ``salver.toml`` that fix the choice."""
    setting = tuned.setting
    return as_toml(tuned.objective, setting.instances, setting.threads, setting.max_rows)


def as_record(tuned: TuningResult, saved: str) -> dict[str, Any]:
    """Return the result as JSON values."""
    return {
        **msgspec.structs.asdict(tuned),
        "curve": tuned.curve(),
        "reasons": sentences(tuned),
        "toml": toml(tuned),
        "saved": saved,
    }
