"""Errors of the judge with all metrics of the default policy together, and with stages that end by evidence.

More worlds for ``judge_cells.py``: the seven metrics have their units, requests and hiccups in common, and
share alpha; stages last as long as the default policy's at least, and end once every gate is passed.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
from judge_course import Course, by_evidence, followed, is_struck, told
from judge_twin import paths
from judge_worlds import SEVEN, WORLDS, Plan, Release, World, key_of, scene

from salver.features.releases.judge.policy import DEFAULT_METRICS, DEFAULT_STAGES, Metric, Policy, Stage

ERRORS = Metric("errors", "errors", "severe", share=0.18, negligible=0.001)
RATES = (100.0, 10.0, 1000.0)
_AT_ONCE = 50  # releases on arrays at a time
_HOURS = Plan()
_HICCUPS = WORLDS["hiccups, half fail 30 s each 40 min"]
#: Key, world, requests per second, and the function that simulates the cell.
Cell = tuple[str, str, float, Callable[[], dict[str, Any]]]


def seven(seed: int, number: int) -> Iterator[Cell]:
    """Seven metrics with planned stages of an hour each."""
    worlds = {
        "seven metrics, independent users": World(),
        "seven metrics, hiccups and bursts": _HICCUPS,
        "seven metrics, 300 frequent users": World(users=300),
    }
    for per_second in RATES:
        for name, world in worlds.items():
            yield _cell(_seven, seed, name, world, per_second, {}, number)
    worse: list[tuple[str, float]] = [(m, ratio) for m in ("errors", "latency_p99") for ratio in (3.0, 10.0)]
    for metric, ratio in worse:
        for name, world in list(worlds.items())[:2]:
            yield _cell(_seven, seed, name, world, 100.0, {metric: ratio}, max(20, number // 5))


def adaptive(seed: int, number: int) -> Iterator[Cell]:
    """Stages that end by evidence: errors alone, and all metrics of the default policy."""
    names = (
        "independent users",
        "300 frequent users",
        "5 % of users have 90 % of errors",
        "bursts by process, CV 2",
        "hiccups, half fail 30 s each 40 min",
    )
    for per_second in RATES:
        for name in names:
            yield _cell(_adaptive, seed, name, WORLDS[name], per_second, {}, number)
    for name in names:
        for ratio in (3.0, 10.0):
            yield _cell(_adaptive, seed, name, WORLDS[name], 100.0, {"errors": ratio}, max(20, number // 5))
    for per_second in (100.0, 10.0):
        name = "seven metrics, hiccups and bursts"
        yield _cell(_adaptive, seed, name, _HICCUPS, per_second, {}, number)


def _cell(
    run: Callable[..., dict[str, Any]],
    seed: int,
    name: str,
    world: World,
    per_second: float,
    worse: dict[str, float],
    number: int,
) -> Cell:
    if per_second == 10 and world.users:
        world = world._replace(users=30)
    key = f"{name}, {per_second:g}/s" + "".join(f", {metric} ×{ratio:g}" for metric, ratio in worse.items())

    def simulated() -> dict[str, Any]:
        begun = time.process_time()
        row = run(seed, name, world, per_second, worse, number)
        told_ = {
            "world": name,
            "per_second": per_second,
            "worse": worse,
            "seed": seed,
            "releases": number,
            "cpu_seconds": round(time.process_time() - begun, 1),
        }
        return row | told_

    return key, name, per_second, simulated


def together(
    rng: np.random.Generator, world: World, per_second: float, worse: dict[str, float], plan: Plan
) -> list[Release]:
    """Simulate the seven metrics of one release."""
    found: list[Release] = []
    for metric, changes in SEVEN.items():
        its, hiccups = dict(changes), None
        part = its.pop("part", 0.0)
        if world.hiccups:
            if part:
                hiccups = (*world.hiccups[:2], part)
        else:
            its.pop("bursts", None)
        its |= {"hiccups": hiccups, "ratio": worse.get(metric, 1.0)}
        found.append(Release(rng, world._replace(**its), per_second, plan, found[0] if found else None))
    return found


def _seven(
    seed: int, name: str, world: World, per_second: float, worse: dict[str, float], number: int
) -> dict[str, Any]:
    rules = Policy(stages=tuple(Stage(share, 60) for share in _HOURS.shares), metrics=DEFAULT_METRICS)
    key, at, courses = key_of(seed, name, per_second), [], []
    for begin in range(0, number, _AT_ONCE):
        some = [
            together(np.random.default_rng([*key, one]), world, per_second, worse, _HOURS)
            for one in range(begin, min(begin + _AT_ONCE, number))
        ]
        total = np.zeros((len(some), _HOURS.size))
        for place, (metric, share) in enumerate(zip(rules.metrics, rules.shares, strict=True)):
            found = paths(rules, metric, _HOURS.schedule, scene([release[place] for release in some]))
            total += share * np.exp(np.minimum(found.log_e, 600))
        hits = total >= 1 / rules.alpha
        ends = np.where(hits.any(axis=1), hits.argmax(axis=1), -1)
        for place, release in enumerate(some):
            severe = (
                one for one, metric in zip(release, rules.metrics, strict=True) if metric.severity == "severe"
            )
            if any(map(is_struck, severe)):
                course = followed(release, rules)
                ends[place] = course.rolled_back
                courses.append(course)
        at += ends.tolist()
    return {"rolled_back": told(at)} | _paused(courses)


def _adaptive(
    seed: int, name: str, world: World, per_second: float, worse: dict[str, float], number: int
) -> dict[str, Any]:
    stages = tuple(msgspec.structs.replace(stage, sample=0) for stage in DEFAULT_STAGES if stage.weight < 1)
    is_seven, plan = name.startswith("seven"), by_evidence(Plan(tuple(stage.weight for stage in stages)))
    rules = Policy(stages=stages, metrics=DEFAULT_METRICS if is_seven else (ERRORS,))
    key, courses = key_of(seed, name, per_second), []
    for one in range(number):

        def again(plan: Plan, one: int = one) -> list[Release]:
            rng = np.random.default_rng([*key, one])
            if is_seven:
                return together(rng, world, per_second, worse, plan)
            return [Release(rng, world._replace(ratio=worse.get("errors", 1.0)), per_second, plan)]

        courses.append(followed(again(plan), rules, again))
    row = {"rolled_back": told([course.rolled_back for course in courses])}
    return row | {"promoted": told([course.promoted for course in courses])} | _paused(courses)


def _paused(courses: list[Course]) -> dict[str, int]:
    paused = [course for course in courses if course.pauses]
    return {"paused": len(paused), "off_at_end": sum(course.is_off for course in paused)}
