"""Rehearsal of a plan with random arrivals, since the rule of rounds assumes even ones. Pure.

Each group of cores serves its models in turn, at most the planned rows at a time, and passes over those
without requests. Gaps between arrivals are an argument; equal arguments give equal results.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from salver.features.planning.packing import Group, Plan, pack
from salver.features.planning.rounds import Promise

#: Share of the requests that must be answered in time, as in ``objective.latency_p99``.
WANTED: Final = 0.99
#: Multiples of the promised rates that are planned for, one after another.
_MARGINS: Final = (1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0)

Gaps = Callable[[int], Sequence[float]]


def with_margin(
    promises: Sequence[Promise], cores: int, gaps: Gaps
) -> tuple[Plan, float, dict[str, float]] | None:
    """Return the plan for the least margin at which random arrivals of the promised rates are in time.

    Args:
        gaps: Returns the gaps between arrivals of the model of a number, in units of their mean.

    Returns:
        The plan, its multiple of the rates, and the share in time by model: of the plan that comes closest if
        none is good enough; None = no plan keeps the promises even for even arrivals.
    """
    best: tuple[Plan, float, dict[str, float]] | None = None
    for margin in _MARGINS:
        found = pack([promise.faster(margin) for promise in promises], cores)
        if found is None:
            break
        shares = in_time(found, promises, gaps)
        if best is None or min(shares.values(), default=1.0) > min(best[2].values(), default=1.0):
            best = found, margin, shares
        if min(shares.values(), default=1.0) >= WANTED:
            break
    return best


def in_time(plan: Plan, promises: Sequence[Promise], gaps: Gaps) -> dict[str, float]:
    """Return the share of requests that a plan answers in time, by model; without a rate there are none."""
    by_name = {promise.name: promise for promise in promises}
    numbers = {name: number for number, name in enumerate(sorted(by_name))}
    shares: dict[str, float] = {}
    for group in plan.groups:
        arrivals = {
            turn.name: _times(gaps(numbers[turn.name]), by_name[turn.name].rate)
            for turn in group.round.turns
            if by_name[turn.name].rate > 0
        }
        shares |= _serve(group, by_name, arrivals)
    return shares


def _times(gaps: Sequence[float], rate: float) -> list[float]:
    times, now = [], 0.0
    for gap in gaps:
        now += gap / rate
        times.append(now)
    return times


def _serve(
    group: Group, promises: Mapping[str, Promise], arrivals: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """Serve until the first model has no more arrivals, so that all are under load throughout."""
    turns = [turn for turn in group.round.turns if arrivals.get(turn.name)]
    end = min((times[-1] for times in arrivals.values()), default=0.0)
    waiting = {turn.name: deque(arrivals[turn.name]) for turn in turns}
    good = dict.fromkeys(waiting, 0)
    counts = dict.fromkeys(waiting, 0)
    now = 0.0
    while now < end:
        is_idle = True
        for turn in turns:
            queue = waiting[turn.name]
            taken: list[float] = []
            while queue and queue[0] <= now and len(taken) < turn.rows:
                taken.append(queue.popleft())
            if not taken:
                continue
            is_idle = False
            placed = promises[turn.name].best(len(taken), len(group.cores))
            assert placed is not None, "it has a turn"
            now += placed.seconds(len(taken))
            counts[turn.name] += len(taken)
            good[turn.name] += sum(now - came <= turn.limit_s for came in taken)
        if is_idle:
            now = min((queue[0] for queue in waiting.values() if queue), default=end)
    return {name: good[name] / counts[name] if counts[name] else 1.0 for name in waiting}
