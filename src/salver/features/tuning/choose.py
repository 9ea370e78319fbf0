"""Choice of the setting that best meets the objective.

Pure: maps the batch laws of placements to a :class:`Setting` with its reasons. The starting point is a
formula (B* = n_half, within the limits of latency and memory); settings around it are compared by a function
argument, if given (a simulation). This module knows no engine.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from salver.features.tuning.grid import GridPlacement, Limits
from salver.features.tuning.profile import Measurement
from salver.stats.batch_law import BatchLaw
from salver.words.artifacts import Objective

#: Relative difference up to which settings count as equal.
_TIE = 0.005
#: n_half below which single rows reach nearly the full rate.
_FLAT = 0.1
#: Placements within this fraction of the best one are compared by simulation.
_NEAR = 0.9


class Setting(msgspec.Struct, frozen=True):
    """Setting of a model.

    Attributes:
        instances: Concurrent runs.
        threads: Threads inside one run.
        max_rows: Maximum rows in one run.
        law: Batch law of this placement.
        score: Expected rows per second within the objective.
        reasons: Reasons as sentences for the user.
    """

    instances: int
    threads: int
    max_rows: int
    law: BatchLaw
    score: float
    reasons: tuple[str, ...] = ()


class Judge(Protocol):
    """Judge of a setting under load, usually by simulation."""

    def __call__(self, law: BatchLaw, instances: int, max_rows: int, limit_s: float) -> float:
        """Return the maximum rows per second of which 99 % are answered within ``limit_s`` seconds."""
        ...


def limit_of(objective: Objective) -> float:
    """Return the seconds within which answers are required; 0 = no limit."""
    return (objective.latency_p99_ms or objective.deadline_ms) / 1e3


def is_set(objective: Objective) -> bool:
    """Return whether an objective is set."""
    return objective.throughput or limit_of(objective) > 0


def slo_rows(law: BatchLaw, limit_s: float) -> float:
    """Return B_slo, not rounded: a request may wait for one full run and then be part of one.

    >>> slo_rows(BatchLaw(a=0.001, t0=0.004), 0.05)
    21.0
    """
    rows = law.rows_within(limit_s / 2)
    step = law.seconds(rows + 1) - law.seconds(rows)
    if step > 0:
        return rows + max(0.0, limit_s / 2 - law.seconds(rows)) / step
    return float(rows)


def worth(law: BatchLaw, instances: int, max_rows: int, limit_s: float = 0.0) -> float:
    """Return the sustainable rows per second of a placement, in batches of at most that many rows.

    With a limit, in batches small enough for it (:func:`slo_rows`); if not even two consecutive runs of one
    row meet it, the remaining part of the rate of single rows.
    """
    if limit_s <= 0:
        return instances * law.rate(max_rows)
    rows = min(float(max_rows), slo_rows(law, limit_s))
    if rows >= 1:
        return instances * law.rate(rows)
    alone = law.seconds(1)
    return instances / alone * max(0.0, limit_s - alone) / alone


def seed_rows(law: BatchLaw, limits: Limits, limit_s: float = 0.0) -> int:
    """Return the start of the search: clamp(n_half, 1, min(B_slo, B_mem, M))."""
    most = limits.sizes()[-1]
    if limit_s > 0:
        most = min(most, int(slo_rows(law, limit_s)))
    return max(1, min(law.best_rows, most))


def choose(
    laws: Mapping[GridPlacement, BatchLaw],
    objective: Objective,
    limits: Limits,
    judge: Judge | None = None,
    measured: Sequence[Measurement] = (),
) -> Setting:
    """Return the setting that best meets the objective.

    Args:
        laws: Law of each placement with all instances busy; at least one.
        judge: Compares the candidates near the best under load; default :func:`worth`.
        measured: Cells whose measured rate is preferred to the law's if only the rate counts.

    >>> laws = {GridPlacement(1, 2): BatchLaw(0.001, 0.004), GridPlacement(2, 1): BatchLaw(0.0018, 0.005)}
    >>> setting = choose(laws, Objective(throughput=True), Limits(cores=2))
    >>> setting.instances, setting.threads, setting.max_rows
    (2, 1, 32)
    """
    limit = limit_of(objective)
    most = limits.sizes()[-1]
    rough = {p: worth(law, p.instances, most, limit) for p, law in laws.items()}
    rates = {(GridPlacement(m.cell.instances, m.cell.threads), m.cell.rows): m.rate for m in measured}
    scores: dict[tuple[GridPlacement, int], float] = {}
    # Simulation is expensive, so that only placements near the best by formula are compared by it.
    for placed, law in laws.items():
        is_near = rough[placed] >= _NEAR * max(rough.values())
        for rows in _candidates(law, limits, limit):
            if judge is not None and limit > 0 and is_near:
                scores[placed, rows] = judge(law, placed.instances, rows, limit)
            elif limit <= 0:
                scores[placed, rows] = rates.get((placed, rows)) or worth(law, placed.instances, rows)
            elif judge is None:
                scores[placed, rows] = worth(law, placed.instances, rows, limit)
    best = max(scores.values())
    if best <= 0:  # out of reach: as fast as possible
        placed = min(laws, key=lambda p: laws[p].seconds(1))
        rows = limits.rows or 1
    else:
        equal = [key for key, score in scores.items() if score >= best * (1 - _TIE)]
        # Rules keep batches within a latency limit by themselves, with an up-to-date law, so a larger limit
        # does no harm.
        placed, rows = min(equal, key=lambda key: (-key[1] if limit > 0 else key[1], -scores[key]))
    score = scores.get((placed, rows), 0.0)
    reasons = _reasons(laws, rough, placed, rows, limits, limit, simulated=judge is not None and limit > 0)
    return Setting(placed.instances, placed.threads, rows, laws[placed], score, reasons)


def _rate(value: float) -> str:
    if value >= 1000:
        return f"{value:.0f}"
    return f"{value:.4g}"


def _candidates(law: BatchLaw, limits: Limits, limit_s: float) -> list[int]:
    """Return the sizes to compare: those of the sweep and, with a latency limit, those around the start."""
    if limits.rows or not limits.batched:
        return [limits.sizes()[-1]]
    sizes = set(limits.sizes())
    if limit_s > 0:
        seed = seed_rows(law, limits, limit_s)
        within = max(1, min(limits.sizes()[-1], int(slo_rows(law, limit_s))))
        sizes = {size for size in sizes if size <= 2 * max(seed, within)} | {seed}
    return sorted(sizes)


def _reasons(
    laws: Mapping[GridPlacement, BatchLaw],
    rough: Mapping[GridPlacement, float],
    placed: GridPlacement,
    rows: int,
    limits: Limits,
    limit_s: float,
    *,
    simulated: bool,
) -> tuple[str, ...]:
    law = laws[placed]
    said = [f"A row takes {law.a * 1e3:.3g} ms however many run together: larger batches gain little."]
    if law.n_half >= _FLAT:
        said = [
            f"A run takes {law.t0 * 1e3:.3g} ms and {law.a * 1e3:.3g} ms a row, so half of the possible rate "
            f"is reached at B* = n_half = {law.n_half:.3g} rows; {rows} rows reach "
            f"{100 * law.efficiency(rows):.0f} %."
        ]
    if law.kink:
        said.append(f"Beyond {law.kink} rows a row takes {law.a_beyond * 1e3:.3g} ms.")
    if limit_s > 0 and law.seconds(1) > limit_s:
        said.append(
            f"One row alone takes {law.seconds(1) * 1e3:.3g} ms: {limit_s * 1e3:g} ms cannot be met; "
            "this is the quickest setting."
        )
    elif limit_s > 0:
        said.append(
            f"Within {limit_s * 1e3:g} ms a request may wait for one whole run and be part of the next: "
            f"{int(slo_rows(law, limit_s))} rows at most."
        )
    others = sorted((p for p in laws if p != placed), key=lambda p: -rough[p])
    if others:
        compared = ", ".join(f"{p}: {_rate(rough[p])} rows/s" for p in [placed, *others])
        said.append(f"Of the placements, {compared}.")
    for value, name in ((limits.instances, "instances"), (limits.threads, "threads"), (limits.rows, "rows")):
        if value:
            said.append(f"Its owner has fixed {name} at {value}.")
    if limits.memory_rows and limits.memory_rows <= rows:
        said.append(f"More than {limits.memory_rows} rows do not fit into memory.")
    if simulated:
        said.append("Sizes and placements near the best were compared by simulating load.")
    return tuple(said)
