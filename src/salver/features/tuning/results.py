"""What came out of a search, and in which words is it told?

Pure: the setting, the cells and a judge of load in; sentences, a table, a picture and a record out. It does
not know who measured, nor where it is shown.
"""

import math
from typing import Any, Final

import msgspec

from salver.features.tuning.choose import Judge, Setting, limit_of, slo_rows, worth
from salver.features.tuning.curves import compose, milliseconds, per_second
from salver.features.tuning.grid import SIZES, Limits, Placed
from salver.features.tuning.mdp import Chain, Problem, Traffic, greedy
from salver.features.tuning.objective import as_toml, named
from salver.features.tuning.profile import Cell, Measured
from salver.features.tuning.roofline import Ceilings, Cost, bound, knee
from salver.features.tuning.search import Search
from salver.stats.batch_price import Price
from salver.terminal.picture import Picture
from salver.words.artifacts import Objective

_LOADS: Final = (0.3, 0.6, 0.9)  # of the capacity, at which rules are compared
_BUSY: Final = 0.3  # error of a law (95th percentile), above which something else was running
_SAME: Final = 0.01  # a gain in mean latency below which no rule wins


class Compared(msgspec.Struct, frozen=True):
    """The quick choice beside the best of every cell.

    Attributes:
        cells, quick_cells: How many were measured for each.
        instances, threads, max_rows: The best.
        share: Of the best one's rows a second that the quick choice reaches.
    """

    cells: int
    quick_cells: int
    instances: int
    threads: int
    max_rows: int
    share: float


class Roofline(msgspec.Struct, frozen=True):
    """What bounds the model on this machine.

    Attributes:
        ceilings: None where the model's operations are not known.
    """

    cost: Cost
    ceilings: Ceilings | None = None

    def rate(self, rows: float) -> float:
        """Rows a second at best, in runs of so many rows; inf where it is not known."""
        return math.inf if self.ceilings is None else bound(self.cost, self.ceilings, rows).rate


class Point(msgspec.Struct, frozen=True):
    """The curve at one batch size, on the chosen placement.

    Attributes:
        seconds, rate, efficiency: By the law: of a run, rows a second over all instances, share of the best
            rate at any size.
        bound: Rows a second by the roofline; None = unknown.
        feasible: Rows a second within the objective in batches of at most so many rows; None = no limit.
    """

    rows: int
    seconds: float
    rate: float
    efficiency: float
    bound: float | None
    feasible: float | None


class Tuned(msgspec.Struct, frozen=True):
    """The result of ``salver tune``.

    Attributes:
        measured: Every cell that was run.
        feasible: With a latency limit, by most rows of a batch: the highest rate that keeps it.
        gains: By load, as a share of the capacity: by which share of the mean latency the best rule there is
            beats taking what waits.
        notes: What the owner should know of how it was measured, a sentence each.
    """

    model: str
    objective: Objective
    setting: Setting
    measured: tuple[Measured, ...]
    feasible: dict[int, float]
    roofline: Roofline = Roofline(Cost())
    gains: dict[float, float] = {}
    compared: Compared | None = None
    notes: tuple[str, ...] = ()

    def curve(self) -> tuple[Point, ...]:
        """At the sizes of a sweep, those that were measured, and the chosen one."""
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
    """By most rows of a batch the highest rate within the objective, on the chosen placement."""
    limit = limit_of(objective)
    if limit <= 0 or judge is None:
        return {}
    sizes = sorted({*limits.sizes(), setting.max_rows})
    return {rows: judge(setting.law, setting.instances, rows, limit) for rows in sizes}


def gains(setting: Setting) -> dict[float, float]:
    """How much quicker on average the best rule is than taking what waits, by load (:class:`Tuned`).

    Solved exactly for one instance and random arrivals (:mod:`salver.features.tuning.mdp`). Empty where there
    are no batches, or a run takes no time.
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
) -> Compared:
    """How far the quick choice is from the best, by all that is measured now.

    Where the rate alone counts, by the measured rates themselves; with a latency limit by the laws of
    all cells, under simulated load.
    """
    best = search.setting(judge) or quick
    limit, measured = limit_of(objective), search.measured
    law = search.laws().get(Placed(quick.instances, quick.threads), quick.law)
    if limit > 0:
        reached = (judge or worth)(law, quick.instances, quick.max_rows, limit)
        place, top = (best.instances, best.threads, best.max_rows), best.score
    else:
        rates = {m.cell: m.rate for m in measured}
        cell = max(rates, key=lambda cell: rates[cell])
        place, top = (cell.instances, cell.threads, cell.rows), rates[cell]
        own = Cell(quick.instances, quick.threads, quick.max_rows)
        reached = rates.get(own) or worth(law, quick.instances, quick.max_rows)
    share = min(1.0, reached / top) if top > 0 else 1.0
    return Compared(len(measured), quick_cells, *place, share)


def sentences(tuned: Tuned) -> tuple[str, ...]:
    """Why, for people."""
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


def _on_the_bound(tuned: Tuned) -> tuple[str, ...]:
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
    where = (
        f"beyond {turn:.3g} rows arithmetic is the bound, below it memory"
        if 1 < turn < math.inf
        else f"{most.by} is the bound at every size"
    )
    said = (
        f"Roofline: a row is {_operations(cost)}, the weights are {_bytes(cost.weight_bytes)}; these cores "
        f"do {', '.join(peaks)} at best (measured), so that {setting.max_rows} rows allow "
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


def _bytes(count: float) -> str:
    return f"{count / (1 << 20):.3g} MiB" if count >= 1 << 20 else f"{count / (1 << 10):.3g} KiB"


def _on_rules(tuned: Tuned) -> tuple[str, ...]:
    """Whether another rule could win where latency alone counts."""
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


def headline(tuned: Tuned) -> str:
    """The choice in one line."""
    s = tuned.setting
    return (
        f"{tuned.model}, {named(tuned.objective)}: {s.instances} × {s.threads} (instances × threads), "
        f"batches of at most {s.max_rows} rows"
    )


def curve_table(tuned: Tuned) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and rows of the curve on the chosen placement, with what each size is."""
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


def _names(tuned: Tuned, sizes: list[int]) -> dict[int, str]:
    """What the sizes of the table are, where they have a name; one between two stands at the nearest."""
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


def picture(tuned: Tuned) -> Picture:
    """The curves with the sentences."""
    return compose(
        headline(tuned),
        tuned.measured,
        tuned.setting,
        tuned.objective,
        bound=tuned.roofline.rate if tuned.roofline.ceilings else None,
        feasible=tuned.feasible,
        lines=sentences(tuned),
    )


def toml(tuned: Tuned) -> str:
    """The lines of ``salver.toml`` that fix the choice."""
    setting = tuned.setting
    return as_toml(tuned.objective, setting.instances, setting.threads, setting.max_rows)


def as_record(tuned: Tuned, saved: str) -> dict[str, Any]:
    """For programs."""
    return {
        **msgspec.structs.asdict(tuned),
        "curve": tuned.curve(),
        "reasons": sentences(tuned),
        "toml": toml(tuned),
        "saved": saved,
    }
