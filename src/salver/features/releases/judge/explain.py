"""Outlook and verdict as text for people.

Text and tables. The numbers are those of the verdict; nothing is judged here. Pure.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from salver.features.releases.judge.outlook import MetricOutlook, Outlook, spoken
from salver.features.releases.judge.policy import Policy
from salver.features.releases.judge.shadowing import told
from salver.features.releases.judge.verdict import CopyVerdict, Decision, MetricVerdict, Verdict, number
from salver.words.releases import UNSEEN, Bucket

_HEAD = (
    "metric",
    "new version",
    "old version",
    "effect",
    "interval",
    "evidence of harm",
    "of",
    "evidence of none",
    "of",
    "tempered",
)
_LEGEND = (
    "New and old version: how many of their units had it, each counted once; for slow answers, of the old "
    "version's share beside the new one. At most 1 in 500 harmless releases reaches an evidence of 500."
)


def explain(policy: Policy, verdict: Verdict, columns: int = 0) -> str:
    """Describe a decision with its evidence: reasons, a line per metric, what is missing.

    Args:
        columns: Width of the terminal; wider tables are stacked. 0 = no limit.
    """
    weight = policy.stages[verdict.stage].weight
    where = f"stage {verdict.stage + 1} of {len(policy.stages)}"
    lines = [f"{verdict.decision.value.upper()} at {where} ({100 * weight:.4g}% of the units)"]
    lines += [
        f"  because {reason}" if index == 0 else f"      and {reason}"
        for index, reason in enumerate(verdict.reasons)
    ]
    if verdict.copies is not None:
        return "\n".join([*lines, "", *_of_copies(verdict.copies)])
    matched = {metric.name for metric in policy.metrics if metric.is_matched}
    rows = [_row(metric, is_matched=metric.name in matched) for metric in verdict.metrics]
    shown = list(table([_HEAD, *rows]))
    if columns and len(max(shown, key=len)) > columns:
        shown = [part for row in rows for part in _stacked(row)]
    lines += ["", *shown, "", _LEGEND]
    lines.append(
        f"All metrics together: evidence of harm {number(verdict.log_e)} of {number(verdict.threshold)}; "
        f"that the split is broken: {number(verdict.split_log_e)} of {number(-math.log(policy.split_alpha))}."
    )
    lines += [
        f"{metric.name} is undecided: {metric.undecided}." for metric in verdict.metrics if metric.undecided
    ]
    if weight < 1 and verdict.decision in (Decision.CONTINUE, Decision.HOLD):  # it may still continue
        lines += [f"{metric.name} lacks {metric.missing}." for metric in verdict.metrics if metric.missing]
    return "\n".join(lines)


def unseen(policy: Policy, buckets: Iterable[Bucket]) -> Iterator[str]:
    """Return the fraction of answers without a value for a metric, because it was missing or too large."""
    found: Counter[str] = Counter()
    for bucket in buckets:
        found.update({name: counts.total for name, counts in bucket.raw.items() if name.endswith(UNSEEN)})
    for metric in policy.metrics:
        if count := found[metric.name + UNSEEN]:
            what = "its output is not there, or too large"
            yield f"{metric.name} could not look at {count:,} answers: {what}."


def foretell(policy: Policy, outlook: Outlook) -> str:
    """Describe what the traffic can detect, by stage and metric, with a table and advice."""
    lines = []
    for index, minutes in enumerate(outlook.minutes):
        weight = policy.stages[index].weight
        lasts = "is not left by itself"
        if minutes is not None:
            lasts = f"lasts {spoken(minutes)} if all is well"
        lines.append(f"Stage {index + 1} ({100 * weight:.4g}%) {lasts}.")
        if not weight:
            lines.append("  Nobody meets it: copies of requests are answered, too, and compared.")
        elif weight < 1:
            alike: dict[str, list[str]] = {}
            for metric in outlook.metrics:
                alike.setdefault(_sight(metric, index, minutes), []).append(metric.name)
            lines += [f"  {', '.join(names)}: {sight}" for sight, names in alike.items()]
    ratios = list(outlook.metrics[0].detects)
    rows = [
        (metric.name, *(spoken(metric.detects[ratio]) for ratio in ratios))
        for metric in outlook.metrics
        if metric.rate  # a rate of zero cannot be doubled
    ]
    if rows:
        lines += ["", *table([("found after", *(f"×{ratio:g}" for ratio in ratios)), *rows])]
    return "\n".join([*lines, *(f"Note: {advice}." for advice in outlook.advice)])


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Return the lines of a table in columns; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *rest = (
            cell.ljust(width) if not at else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join([first, *rest]).rstrip()


def _of_copies(copies: CopyVerdict) -> Iterator[str]:
    """Describe a stage at which no caller gets the canary."""
    counts = told(copies.copies)
    yield counts[0].upper() + counts[1:] + "."
    yield (
        f"Evidence that enough are alike: {number(copies.log_alike)} of {number(copies.gate)}; that fewer "
        f"are: {number(copies.log_unlike)} of {number(copies.threshold)}."
    )
    if copies.missing:
        yield f"It lacks {copies.missing}."


def _row(metric: MetricVerdict, *, is_matched: bool) -> tuple[str, ...]:
    events, units = metric.events, metric.units
    old, effect, none, gate = _part(events.control, units.control), "–", "–", "–"
    if is_matched:
        old = _part(events.baseline, units.baseline)
    if metric.effect is not None:
        effect = f"×{metric.effect:.2f}"
    if metric.gate is not None:
        none, gate = number(metric.log_gate), number(metric.gate)
    return (
        metric.name,
        _part(events.canary, units.canary),
        old,
        effect,
        f"{_bound(metric.low, '0')} to {_bound(metric.high, '∞')}",
        number(metric.log_e),
        number(metric.threshold),
        none,
        gate,
        f"{metric.dispersion:.2f}",
    )


def _bound(value: float | None, unknown: str) -> str:
    if value is None:
        return unknown
    return f"{value:.2f}"


def _stacked(row: Sequence[str]) -> Iterator[str]:
    """Return the table with each row stacked vertically."""
    metric, new, old, effect, interval, harm, enough, none, gate, tempered = row
    yield f"{metric}: {new} of the new version, {old} of the old one"
    yield f"  effect {effect}, within {interval}; tempered {tempered}"
    yield f"  evidence of harm {harm} of {enough}, of none {none}" + (f" of {gate}" if gate != "–" else "")


def _part(some: int, whole: int) -> str:
    """Format a fraction.

    >>> _part(17, 545), _part(21, 21), _part(0, 0)
    ('17 of 545 (3.1%)', '21 of 21 (100%)', '0 of 0')
    """
    if not whole:
        return f"{some:,} of 0"
    percent = 100 * some / whole
    return f"{some:,} of {whole:,} ({percent:.{2 if percent < 99 else 3}g}%)"


def _sight(metric: MetricOutlook, index: int, minutes: float | None) -> str:
    """Describe what a stage can detect, and what not."""
    if not metric.rate:
        if not metric.alone:
            return "none foreseen; however many there are of the canary alone, they prove nothing"
        in_a_row = f"{metric.alone} minutes in a row"
        return f"none foreseen; {in_a_row} in which the canary alone has some roll it back"
    until = math.inf if minutes is None else minutes
    detects = metric.stages[index].detects
    seen = {ratio: time for ratio, time in detects.items() if time <= until}
    unseen = [ratio for ratio in detects if ratio not in seen]
    if not seen:
        return f"cannot see ×{max(detects):g}"
    least = min(seen)
    words = f"can see ×{least:g} in {spoken(seen[least])}"
    if not unseen:
        return words
    return f"{words} and cannot see ×{max(unseen):g}"
