"""How are an outlook and a verdict told to people?

Words and tables, as text. The numbers are the verdict's own; nothing is judged here. Pure.
"""

import math
from collections.abc import Iterator, Sequence

from salver.rollout.outlook import MetricOutlook, Outlook
from salver.rollout.policy import Policy
from salver.rollout.verdict import MetricVerdict, Verdict, number

_HEAD = (
    "metric",
    "effect",
    "interval",
    "evidence of harm",
    "of",
    "evidence of none",
    "of",
    "tempered",
    "events",
    "units",
)


def explain(policy: Policy, verdict: Verdict) -> str:
    """A decision with the evidence behind it: reasons, a line for each metric, what is missing."""
    weight = policy.stages[verdict.stage].weight
    lines = [f"{verdict.decision.value.upper()} at stage {verdict.stage} ({weight:.0%})"]
    lines += [
        f"  because {reason}" if index == 0 else f"      and {reason}"
        for index, reason in enumerate(verdict.reasons)
    ]
    lines += ["", *table([_HEAD, *(_row(metric) for metric in verdict.metrics)]), ""]
    lines.append(
        f"All metrics together: evidence of harm {number(verdict.log_e)} of {number(verdict.threshold)}; "
        f"that the split is broken: {number(verdict.split_log_e)} of {number(-math.log(policy.split_alpha))}."
    )
    lines += [f"{metric.name} lacks {metric.missing}." for metric in verdict.metrics if metric.missing]
    return "\n".join(lines)


def foretell(policy: Policy, outlook: Outlook) -> str:
    """What the traffic can and cannot detect: a sentence a stage and metric, a table, advice."""
    lines = []
    for index, minutes in enumerate(outlook.minutes):
        weight = policy.stages[index].weight
        lasts = "is not left by itself" if minutes is None else f"lasts {_time(minutes)} if all is well"
        lines.append(f"Stage {index} ({weight:.0%}) {lasts}.")
        if weight < 1:
            lines += [f"  {metric.name}: {_sight(metric, index, minutes)}" for metric in outlook.metrics]
    ratios = list(outlook.metrics[0].detects)
    rows = [("found after", *(f"×{ratio:g}" for ratio in ratios))]
    rows += [(metric.name, *(_time(metric.detects[ratio]) for ratio in ratios)) for metric in outlook.metrics]
    return "\n".join([*lines, "", *table(rows), *(f"Note: {advice}." for advice in outlook.advice)])


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table in columns, the first row being its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *rest = (
            cell.ljust(width) if not at else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join([first, *rest]).rstrip()


def _row(metric: MetricVerdict) -> tuple[str, ...]:
    low, high = (
        "0" if metric.low is None else f"{metric.low:.2f}",
        "∞" if metric.high is None else f"{metric.high:.2f}",
    )
    return (
        metric.name,
        "–" if metric.effect is None else f"×{metric.effect:.2f}",
        f"{low} to {high}",
        number(metric.log_e),
        number(metric.threshold),
        "–" if metric.gate is None else number(metric.log_gate),
        "–" if metric.gate is None else number(metric.gate),
        f"{metric.dispersion:.2f}",
        f"{metric.events.canary}/{metric.events.total}",
        f"{metric.units.canary}/{metric.units.total}",
    )


def _sight(metric: MetricOutlook, index: int, minutes: float | None) -> str:
    """What a stage can see, and what not."""
    if not metric.rate:
        enough = f"{metric.alone} buckets with some" if metric.alone else "no number"
        return f"none foreseen; {enough} of the canary alone rolls it back"
    until = math.inf if minutes is None else minutes
    detects = metric.stages[index].detects
    seen = {ratio: time for ratio, time in detects.items() if time <= until}
    unseen = [ratio for ratio in detects if ratio not in seen]
    if not seen:
        return f"cannot see ×{max(detects):g}"
    least = min(seen)
    words = f"can see ×{least:g} in {_time(seen[least])}"
    return f"{words} and cannot see ×{max(unseen):g}" if unseen else words


def _time(minutes: float) -> str:
    """For people.

    >>> _time(19.2), _time(0.4), _time(300.0), _time(math.inf)
    ('19 min', '0.4 min', '5.0 h', 'never')
    """
    if math.isinf(minutes):
        return "never"
    if minutes >= 180:
        return f"{minutes / 60:.1f} h" if minutes < 2880 else f"{minutes / 1440:.1f} d"
    return f"{minutes:.0f} min" if minutes >= 9.5 else f"{minutes:.1f} min"
