"""Tables and pictures of measurements, batch laws and settings.

Pure: maps a profile and a choice to rows of a table and a :class:`~salver.terminal.picture.Picture`. It knows
neither who measured nor how the picture is drawn.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from salver.features.tuning.choose import Setting, limit_of, slo_rows
from salver.features.tuning.objective import named
from salver.features.tuning.profile import Measurement
from salver.terminal.picture import Mark, Panel, Picture, Points, Series, limits
from salver.words.artifacts import Objective

COLUMNS: Final = ("instances × threads", "rows", "run ms", "rows/s")
_STEPS = 8  # points of a curve per doubling of rows
_FEASIBLE, _BOUND, _OTHERS = 1, 2, 3  # colours; 0 is the chosen placement
_AXIS = "rows in a run"

#: Maximum rows per second of the machine, by rows of a run.
Bound = Callable[[float], float]


def table_rows(measured: Sequence[Measurement]) -> list[tuple[str, ...]]:
    """Return one row per cell, ordered by placement and size.

    >>> from salver.features.tuning.profile import Cell
    >>> table_rows([Measurement(Cell(1, 2, 8), 0.004, 2000), Measurement(Cell(1, 2, 1), 0.001, 1000)])
    [('1 × 2', '1', '1.00', '1000'), ('1 × 2', '8', '4.00', '2000')]
    """
    return [
        (
            f"{m.cell.instances} × {m.cell.threads}",
            str(m.cell.rows),
            milliseconds(m.seconds),
            per_second(m.rate),
        )
        for m in sorted(measured, key=lambda m: m.cell)
    ]


def per_second(rate: float) -> str:
    """Format a rate with at least three digits.

    >>> per_second(12345.6), per_second(9.876)
    ('12346', '9.88')
    """
    if rate >= 100:
        return f"{rate:.0f}"
    return f"{rate:.3g}"


def milliseconds(seconds: float) -> str:
    """Format milliseconds with at least three digits.

    >>> milliseconds(0.00123456), milliseconds(0.25), milliseconds(0.000043)
    ('1.23', '250', '0.043')
    """
    value = seconds * 1e3
    digits = 0
    if value > 0:
        digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:.{min(digits, 3)}f}"


def compose(
    title: str,
    measured: Sequence[Measurement],
    setting: Setting,
    objective: Objective,
    *,
    bound: Bound | None = None,
    feasible: Mapping[int, float] | None = None,
    lines: Sequence[str] = (),
) -> Picture:
    """Return the whole report.

    Args:
        bound: Roofline over all instances of the setting.
        feasible: Highest rate within the objective, by maximum rows of a batch.
        lines: Reasons as sentences.
    """
    xs = _sizes(1.0, float(max(setting.max_rows, *(m.cell.rows for m in measured))))
    panels = (
        _throughput(measured, setting, objective, xs, bound, feasible or {}),
        _latency(measured, setting, objective, xs),
        _efficiency(measured, setting, xs),
    )
    return Picture(title, panels, tuple(lines))


def _throughput(
    measured: Sequence[Measurement],
    setting: Setting,
    objective: Objective,
    xs: Sequence[float],
    bound: Bound | None,
    feasible: Mapping[int, float],
) -> Panel:
    count = setting.instances
    series = [Series("law", tuple((x, count * setting.law.rate(x)) for x in xs))]
    series += _dots(measured, setting, lambda m: m.rate)
    if feasible:
        label = f"highest load with {named(objective)}, by simulation"
        series.append(
            Series(label, tuple(sorted((float(b), r) for b, r in feasible.items())), "line", _FEASIBLE)
        )
    if bound is not None:
        points = tuple((x, bound(x)) for x in xs)
        line = Series("roofline bound", points, "bound", _BOUND)
        top = limits(Panel("", "", "", (*series, line)))[2]
        where = f"{per_second(bound(setting.max_rows))} at {setting.max_rows} rows"
        off = ""
        if min(y for _, y in points) > top:
            off = ", off the scale"
        series.append(msgspec.structs.replace(line, label=f"roofline bound ({where}{off})"))
    marks = [_chosen(setting), *_best(setting, xs)]
    limit = int(slo_rows(setting.law, limit_of(objective)))
    if xs[0] <= limit <= xs[-1]:
        marks.append(Mark(f"B_slo {limit}", limit))
    return Panel("throughput", _AXIS, "rows/s", tuple(series), tuple(marks))


def _latency(
    measured: Sequence[Measurement], setting: Setting, objective: Objective, xs: Sequence[float]
) -> Panel:
    series = [Series("law", tuple((x, 1e3 * setting.law.seconds(x)) for x in xs))]
    series += _dots(measured, setting, lambda m: 1e3 * m.seconds)
    half = 500 * limit_of(objective)
    if 0 < half <= 3 * max(1e3 * setting.law.seconds(xs[-1]), *(1e3 * m.seconds for m in measured)):
        series.append(Series(f"half of {2 * half:g} ms", ((xs[0], half), (xs[-1], half)), "bound", _FEASIBLE))
    kink = setting.law.kink
    marks = [Mark(f"kink {kink}", kink)] if xs[0] <= kink <= xs[-1] else []
    return Panel("length of a run", _AXIS, "ms", tuple(series), (*marks, _chosen(setting)))


def _efficiency(measured: Sequence[Measurement], setting: Setting, xs: Sequence[float]) -> Panel:
    law = setting.law
    share = law.efficiency(setting.max_rows)
    best = math.inf
    if share > 0:
        best = setting.instances * law.rate(setting.max_rows) / share
    ours = [m for m in measured if _is_of(m, setting)]
    series = [
        Series("law", tuple((x, law.efficiency(x)) for x in xs)),
        *_dots(ours, setting, lambda m: m.rate / best),
    ]
    marks = (_chosen(setting), *_best(setting, xs))
    return Panel("efficiency", _AXIS, "share of the best rate at any size", tuple(series), marks)


def _dots(
    measured: Sequence[Measurement], setting: Setting, y: Callable[[Measurement], float]
) -> list[Series]:
    """Return one series per placement, the chosen one first and in the colour of its law."""
    points: dict[tuple[int, int], Points] = {}
    for m in sorted(measured, key=lambda m: (not _is_of(m, setting), m.cell)):
        place = (m.cell.instances, m.cell.threads)
        points[place] = (*points.get(place, ()), (float(m.cell.rows), y(m)))
    chosen = (setting.instances, setting.threads)
    return [
        Series(
            f"measured {place[0]} × {place[1]}",
            found,
            "dots",
            0 if place == chosen else _OTHERS + number - (chosen in points),
        )
        for number, (place, found) in enumerate(points.items())
    ]


def _is_of(measured: Measurement, setting: Setting) -> bool:
    return (measured.cell.instances, measured.cell.threads) == (setting.instances, setting.threads)


def _chosen(setting: Setting) -> Mark:
    return Mark(f"chosen {setting.max_rows}", setting.max_rows, strong=True)


def _best(setting: Setting, xs: Sequence[float]) -> list[Mark]:
    """Return B* if it lies within the measured range."""
    best = setting.law.n_half
    if xs[0] <= best <= xs[-1]:
        return [Mark(f"B* = n_half {best:.3g}", best)]
    return []


def _sizes(low: float, high: float) -> list[float]:
    """Return values from ``low`` to ``high`` in equal ratios, both included."""
    count = 1
    if high > low:
        count = max(1, round(_STEPS * math.log2(high / low)))
    return [low * (high / low) ** (n / count) for n in range(count + 1)]
