"""Frontier between both kinds of error, by what one minute may bring and by the variation assumed at first.

More worlds for ``judge_cells.py``: the same releases are judged by other settings than the product's.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import judge_twin
import numpy as np
from judge_course import told
from judge_worlds import WORLDS, Plan, Release, World, key_of, scene

from salver.features.releases.judge import blocks
from salver.features.releases.judge.policy import Metric, Policy, Stage

ERRORS = Metric("errors", "errors", "severe", share=0.18, negligible=0.001)
#: Name, what one minute may bring, that of the first minute of a burst, and factor of the first variation.
SETTINGS: tuple[tuple[str, float, float, float], ...] = (
    ("as it is", blocks.MOST, blocks.MOST_OF_BURST, 1.0),
    ("a minute brings a factor of 3", math.log(3), blocks.MOST_OF_BURST, 1.0),
    ("a minute brings a factor of 100", math.log(100), blocks.MOST_OF_BURST, 1.0),
    ("a minute brings any factor", math.inf, blocks.MOST_OF_BURST, 1.0),
    ("a burst is like any minute", blocks.MOST, blocks.MOST, 1.0),
    ("no variation at first", blocks.MOST, blocks.MOST_OF_BURST, 0.0),
    ("five times the variation at first", blocks.MOST, blocks.MOST_OF_BURST, 5.0),
    ("none of these", math.inf, math.inf, 0.0),
)
_GOOD = ("bursts by process, CV 2", "hiccups, half fail 30 s each 40 min")
_PLAN = Plan()


def frontier(seed: int, number: int) -> Iterator[tuple[str, str, float, Callable[[], dict[str, Any]]]]:
    """Both kinds of error for each setting."""
    for setting in SETTINGS:
        yield setting[0], setting[0], 100.0, lambda one=setting: _both(seed, *one, number)


def _both(
    seed: int, name: str, most: float, most_of_burst: float, variation: float, number: int
) -> dict[str, Any]:
    before = judge_twin.MOST, judge_twin.MOST_OF_BURST, judge_twin.PRIOR_VARIATION
    judge_twin.MOST, judge_twin.MOST_OF_BURST = most, most_of_burst
    judge_twin.PRIOR_VARIATION = variation * blocks.PRIOR_VARIATION
    try:
        good = {world: told(_ends(seed, world, WORLDS[world], 1000.0, number)) for world in _GOOD}
        few = max(20, number // 5)
        bad = {
            f"×{ratio:g}": told(_ends(seed, "harm", World(ratio=ratio), 100.0, few)) for ratio in (10.0, 3.0)
        }
    finally:
        judge_twin.MOST, judge_twin.MOST_OF_BURST, judge_twin.PRIOR_VARIATION = before
    return {"world": name, "releases": number, "few": few, "seed": seed, "good": good, "bad": bad}


def _ends(seed: int, name: str, world: World, per_second: float, number: int) -> list[int]:
    """Return the bucket of each rollback by evidence; -1 = none."""
    rules, found = (
        Policy(
            stages=tuple(Stage(share, 60) for share in _PLAN.shares), metrics=(ERRORS,), warm_up_seconds=0.0
        ),
        [],
    )
    key = key_of(seed, name, per_second)
    for begin in range(0, number, 50):
        some = [
            Release(np.random.default_rng([*key, one]), world, per_second, _PLAN)
            for one in range(begin, min(begin + 50, number))
        ]
        log_e = judge_twin.paths(rules, ERRORS, _PLAN.schedule, scene(some)).log_e
        hits = log_e >= -math.log(rules.alpha * ERRORS.share)
        found += np.where(hits.any(axis=1), hits.argmax(axis=1), -1).tolist()
    return found
