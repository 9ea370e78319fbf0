"""Errors of both kinds of the judge of releases, in simulated worlds, beside the rules of other tools.

    python benchmarks/judge_cells.py good --releases 200        # every world, three traffics
    python benchmarks/judge_cells.py bad harm gates pauses --seed 7 --out results/judge.json

Results are written after each cell, with seed and number of releases; a cell that is known with as many
is not simulated again.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import judge_frontier
import judge_more
import judge_resources
import judge_together
import numpy as np
from judge_course import Course, followed, is_struck, told
from judge_peers import Arms, argo, flagger, kayenta
from judge_twin import Paths, paths
from judge_worlds import BASE, SECONDS, WORLDS, Plan, Release, World, key_of, scene

from salver.features.releases.judge.policy import Metric, Policy, Stage

ERRORS = Metric("errors", "errors", "severe", share=0.18, negligible=0.001)
MARGIN = 1.5  # of gates, as a factor
AT_ONCE = 50  # releases on arrays at a time
HOURS = Plan()


def policy(plan: Plan) -> Policy:
    stages = tuple(Stage(share, plan.length / 6) for share in plan.shares)
    return Policy(stages=stages, metrics=(ERRORS,), warm_up_seconds=0.0)


def rolled_back(found: Paths, rules: Policy) -> Any:
    """Return the bucket of each release's rollback by evidence; -1 = none."""
    total = np.log((1 - ERRORS.share) + ERRORS.share * np.exp(np.minimum(found.log_e, 600)))
    return _first(total >= -math.log(rules.alpha))


def _first(hits: Any) -> Any:
    return np.where(hits.any(axis=1), hits.argmax(axis=1), -1)


def batches(seed: int, name: str, world: World, per_second: float, number: int, plan: Plan) -> Iterator[Any]:
    """Simulate releases, some at a time."""
    key = key_of(seed, name, per_second)
    for begin in range(0, number, AT_ONCE):
        some = range(begin, min(begin + AT_ONCE, number))
        if world.missing:
            plan = plan._replace(missing=_missing(np.random.default_rng([*key, begin, 1]), world, plan))
        yield [Release(np.random.default_rng([*key, one]), world, per_second, plan) for one in some]


def _missing(rng: np.random.Generator, world: World, plan: Plan) -> frozenset[int]:
    """Draw the buckets without counts, the same for releases that are judged at once."""
    assert world.missing is not None
    every, length = world.missing
    found: set[int] = set()
    for begin in np.flatnonzero(rng.random(len(plan.schedule.shares)) < 1 / every).tolist():
        found.update(range(begin, begin + int(rng.geometric(1 / length))))
    return frozenset(found)


def cell(
    seed: int,
    name: str,
    world: World,
    per_second: float,
    number: int,
    *,
    plan: Plan = HOURS,
    peers: bool = True,
) -> dict[str, Any]:
    """Simulate a cell: rollbacks and pauses of the judge, and what others do."""
    begun, rules = time.process_time(), policy(plan)
    at: list[int] = []
    paused: list[Course] = []
    alone = dict.fromkeys(("first", "units", "blocks"), 0)
    others: dict[str, list[int]] = {"kayenta": [], "argo": [], "flagger": []}
    bar = -math.log(rules.alpha * ERRORS.share)
    for releases in batches(seed, name, world, per_second, number, plan):
        if world.bias != 1:
            courses = [followed([release], rules) for release in releases]
            at += [course.rolled_back for course in courses]
            paused += [course for course in courses if course.pauses]
            continue
        counted = scene(releases)
        found = paths(rules, ERRORS, releases[0].plan.schedule, counted)
        ends = rolled_back(found, rules)
        for name_ in alone:
            alone[name_] += int((getattr(found, name_) >= bar).any(axis=1).sum())
        for place, release in enumerate(releases):
            if is_struck(release):
                course = followed([release], rules)
                ends[place] = course.rolled_back
                if course.pauses:
                    paused.append(course)
        at += ends.tolist()
        if peers:
            requests, raw = (Arms(*np.moveaxis(counts, 2, 0)) for counts in (counted.requests, counted.raw))
            others["kayenta"] += kayenta(requests, raw, plan.schedule).tolist()
            others["argo"] += argo(requests, raw, 0.99).tolist()
            others["flagger"] += flagger(requests, raw).tolist()
    result = {
        "world": name,
        "per_second": per_second,
        "ratio": world.ratio,
        "onset": world.onset,
        "seed": seed,
        "releases": number,
        "rolled_back": told(at, world.onset),
        "paused": len(paused),
        "off_at_end": sum(course.is_off for course in paused),
        "pauses": sum(len(course.pauses) for course in paused),
        "alone": alone,
        "cpu_seconds": 0.0,
    }
    if peers:
        result |= {tool: told(ends, world.onset) for tool, ends in others.items() if ends}
    result["cpu_seconds"] = round(time.process_time() - begun, 1)
    return result


# Cells


def good(number: int) -> Iterator[tuple[str, World, float, int, Plan, bool]]:
    for per_second in (100.0, 10.0, 1000.0):
        for name, world in WORLDS.items():
            users = world._replace(users=30 if per_second == 10 and world.users else world.users)
            yield name, users, per_second, number, HOURS, per_second == 100


def biased(number: int) -> Iterator[tuple[str, World, float, int, Plan, bool]]:
    for per_second in (100.0, 10.0):
        yield "split biased × 1.5, by hash", World(bias=1.5), per_second, number, Plan(), False


def bad(number: int) -> Iterator[tuple[str, World, float, int, Plan, bool]]:
    base = World()
    rows = [("independent users", base, 100.0, ratio, 0) for ratio in (3.0, 10.0, 2.0, 60.0, 1.5)] + [
        ("300 frequent users", World(users=300), 100.0, 3.0, 0),
        ("300 frequent users", World(users=300), 100.0, 10.0, 0),
        ("independent users", base, 10.0, 3.0, 0),
        ("independent users", base, 10.0, 10.0, 0),
        ("independent users", base, 1000.0, 3.0, 0),
        ("independent users", base, 1000.0, 10.0, 0),
        ("independent users", base, 100.0, 10.0, 60),
        ("independent users", base, 100.0, 3.0, 60),
        ("independent users", base, 100.0, 10.0, 300),
        ("independent users", base, 100.0, 10.0, 540),
        ("independent users", base, 100.0, 3.0, 540),
        ("hiccups, half fail 30 s each 40 min", WORLDS["hiccups, half fail 30 s each 40 min"], 100.0, 3.0, 0),
        (
            "hiccups, half fail 30 s each 40 min",
            WORLDS["hiccups, half fail 30 s each 40 min"],
            100.0,
            10.0,
            0,
        ),
        ("bursts by process, CV 2", World(bursts=4.0), 100.0, 3.0, 0),
        ("bursts by process, CV 2", World(bursts=4.0), 100.0, 10.0, 0),
        (
            "one canary process, twenty stable, hiccups",
            World(hiccups=(240, 3, 0.5), processes=20),
            100.0,
            3.0,
            0,
        ),
        (
            "one canary process, twenty stable, hiccups",
            World(hiccups=(240, 3, 0.5), processes=20),
            100.0,
            10.0,
            0,
        ),
        ("5 % of users have 90 % of errors", World(proneness="few"), 100.0, 3.0, 0),
        ("whales (activity Pareto 1.2)", World(activity="whales"), 100.0, 3.0, 0),
    ]
    for name in ("four servers, half fail 30 s each 40 min", "twenty servers, half fail 30 s each 40 min"):
        rows += [(name, WORLDS[name], 100.0, ratio, 0) for ratio in (3.0, 10.0)]
    for name, world, per_second, ratio, onset in rows:
        yield name, world._replace(ratio=ratio, onset=onset), per_second, number, Plan(), True


def gate(seed: int, name: str, world: World, per_second: float, ratio: float, number: int) -> dict[str, Any]:
    begun, plan = time.process_time(), Plan((0.25,))
    rules, at = policy(plan), []
    for releases in batches(seed, name, world._replace(ratio=ratio, often=ratio), per_second, number, plan):
        found = paths(rules, ERRORS, releases[0].plan.schedule, scene(releases))
        at += _first(found.gate >= -math.log(rules.beta)).tolist()
    cell_ = {
        "world": name,
        "per_second": per_second,
        "ratio": ratio,
        "onset": 0,
        "seed": seed,
        "releases": number,
    }
    return cell_ | {"passed": told(at, 0), "cpu_seconds": round(time.process_time() - begun, 1)}


#: Total failures: users, requests per second, the canary's share, the fraction that fails, servers.
FAILURES = (
    (20, 2.0, 0.25, 1.0, 1),
    (64, 20.0, 0.25, 1.0, 1),
    (300, 100.0, 0.05, 1.0, 1),
    (1000, 100.0, 0.01, 1.0, 1),
    (20_000, 100.0, 0.01, 1.0, 1),
    (2_000, 10.0, 0.05, 1.0, 1),
    (2_000, 10.0, 0.01, 1.0, 1),
    (20_000, 1000.0, 0.01, 1.0, 1),
    (20_000, 100.0, 0.01, 0.9, 1),
    (20_000, 100.0, 0.01, 0.6, 1),
    (20, 2.0, 0.25, 1.0, 4),
    (64, 20.0, 0.25, 1.0, 4),
    (2_000, 10.0, 0.01, 1.0, 4),
    (20_000, 100.0, 0.01, 1.0, 4),
    (20_000, 100.0, 0.01, 1.0, 20),
)


def failure(
    seed: int, users: int, per_second: float, share: float, part: float, servers: int, number: int
) -> dict[str, Any]:
    """A canary that fails from minute 2 on, for a quarter of an hour."""
    begun, plan, onset = time.process_time(), Plan((share,), 90), 12
    name = f"{users} users, {100 * share:g} %, {100 * part:g} % fail"
    if servers > 1:
        name += f", {servers} servers"
    world = World(users=users, ratio=1 + part / BASE, onset=onset, servers=servers)
    courses = [
        followed([release], policy(plan))
        for some in batches(seed, name, world, per_second, number, plan)
        for release in some
    ]
    delays = [course.pauses[0] + 1 - onset for course in courses if course.pauses]
    ends = [course.rolled_back + 1 - onset for course in courses if course.rolled_back >= 0]

    def quantiles(values: list[int]) -> list[float]:
        return [float(SECONDS * each) for each in np.quantile(values, [0.5, 0.95])] if values else []

    return {
        "world": name,
        "per_second": per_second,
        "ratio": 1 + part / BASE,
        "onset": onset,
        "seed": seed,
        "releases": number,
        "paused": len(delays),
        "pause_seconds": quantiles(delays),
        "rolled_back": len(ends),
        "rollback_seconds": quantiles(ends),
        "hurt": float(np.median([course.hurt for course in courses])),
        "cpu_seconds": round(time.process_time() - begun, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what",
        nargs="+",
        choices=[
            "good",
            "bad",
            "gates",
            "pauses",
            "biased",
            "large",
            "held",
            "money",
            "resources",
            "seven",
            "adaptive",
            "frontier",
        ],
    )
    parser.add_argument("--releases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "judge.json")
    parser.add_argument("--only", default="", help="worlds whose name has this")
    parser.add_argument("--per-second", type=float, default=0, help="only this traffic")
    given = parser.parse_args()
    known = json.loads(given.out.read_text()) if given.out.exists() else {}
    for what in given.what:
        if what in ("large", "held", "money", "resources"):
            module = judge_resources if what == "resources" else judge_more
            rows = list(getattr(module, what)(given.seed, given.releases))
            known[what] = {f"{row['world']}, ×{row['ratio']:g}": row for row in rows}
            given.out.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
            continue
        for key, run in _runs(what, given):
            before = known.setdefault(what, {}).get(key)
            if (
                before
                and before["seed"] == given.seed
                and before.get("wanted", before["releases"]) >= given.releases
            ):
                continue
            row = run() | {"wanted": given.releases}
            known[what][key] = row
            given.out.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
            print(what, key, _short(row), flush=True)


def _runs(what: str, given: argparse.Namespace) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    number, seed = given.releases, given.seed

    def wanted(name: str, per_second: float) -> bool:
        return given.only in name and (not given.per_second or given.per_second == per_second)

    if what in ("good", "bad", "biased"):
        for name, world, per_second, count, plan, peers in {"good": good, "bad": bad, "biased": biased}[what](
            number
        ):
            key = f"{name}, {per_second:g}/s" + (f", ×{world.ratio:g}" if world.ratio != 1 else "")
            key += f", from minute {world.onset / 6:g}" if world.onset else ""
            if wanted(name, per_second):
                yield (
                    key,
                    lambda n=name, w=world, p=per_second, c=count, s=plan, o=peers: cell(
                        seed, n, w, p, c, plan=s, peers=o
                    ),
                )
    if what == "gates":
        worlds = {name: world for name, world in WORLDS.items() if "all fail 40" not in name}
        worlds["all harm in 5 % of the canary's users"] = World(corner=0.05)
        # Harm at the margin is then at the negligible rate as well.
        rare = ERRORS.negligible / MARGIN
        worlds["few errors, independent users"] = World(base=rare)
        worlds["few errors, bursts by process, CV 2"] = World(base=rare, bursts=4.0)
        for per_second in (100.0, 10.0, 1000.0):
            for name, world in worlds.items():
                for ratio in (MARGIN, 1.0):
                    if wanted(name, per_second):
                        count = number if ratio > 1 else max(20, number // 5)
                        yield (
                            f"{name}, {per_second:g}/s, ×{ratio:g}",
                            lambda n=name, w=world, p=per_second, r=ratio, c=count: gate(seed, n, w, p, r, c),
                        )
    if what in ("seven", "adaptive", "frontier"):
        module = judge_frontier if what == "frontier" else judge_together
        for key, name, per_second, run in getattr(module, what)(seed, number):
            if wanted(name, per_second):
                yield key, run
    if what == "pauses":
        for row in FAILURES:
            yield f"{row}", lambda r=row: failure(seed, *r, number)


def _short(row: dict[str, Any]) -> str:
    return json.dumps(
        {name: value for name, value in row.items() if name not in ("world", "per_second", "seed", "onset")}
    )


if __name__ == "__main__":
    main()
