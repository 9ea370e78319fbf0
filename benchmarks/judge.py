"""How does the judge of releases stand beside those of other tools, in good times and bad?

Simulated releases, three hours each (see ``judge_traffic.py``), before Salver's own judge, on arrays, and
the rules of Kayenta, Argo Rollouts and Flagger. The figures are chances and minutes: the machine has no part
in them, the seed has.

    python benchmarks/judge.py            # prints; --publish writes its page and pictures, too
    python benchmarks/judge.py --releases 50
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
import judge_more
import judge_report
import msgspec
import numpy as np
import numpy.typing as npt
from judge_paths import Arms, Schedule, paths
from judge_peers import argo, first, flagger, kayenta
from judge_traffic import (
    BASE,
    SCHEDULE,
    SECONDS,
    Scene,
    bad_host,
    bursts,
    by_user,
    independent,
    outage,
    swing,
)
from page import add_arguments, write

from salver.features.releases.judge.outlook import Forecast, outlook
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.stats import sign_flip
from salver.stats.binomial_evidence import harm, log_e_paths

Ints = npt.NDArray[np.int64]

ALPHA = 0.002  # of one metric, of five
ERRORS = Metric("errors", "errors", "severe", share=0.2, negligible=0.001)
#: Stages as long as the simulated ones; the release is judged whether or not it passes their gates.
POLICY = Policy(stages=(Stage(0.01, 60), Stage(0.05, 60), Stage(0.25, 60)), metrics=(ERRORS,))
#: The same metric, needing the second opinion.
SOFT = msgspec.structs.replace(POLICY, metrics=(msgspec.structs.replace(ERRORS, severity="soft"),))
CELLS = (
    (10, 3), (10, 10), (100, 1), (100, 1.25), (100, 1.5), (100, 2), (100, 3), (100, 5), (100, 10),
    (1000, 1), (1000, 1.25), (1000, 2), (1000, 3),
)  # fmt: skip


def evidence(events: Arms) -> Ints:
    """Binomial evidence against all of the control, as it is: neither tempered nor bounded."""
    total = events.canary + events.baseline + events.stable
    return first(log_e_paths(harm(), events.canary, total, SCHEDULE.shares) >= -math.log(ALPHA))


def matched(events: Arms) -> Ints:
    """The same, against the matched baseline alone."""
    total = events.canary + events.baseline
    return first(log_e_paths(harm(), events.canary, total, 0.5) >= -math.log(ALPHA))


def flips(events: Arms) -> Ints:
    """Sign-flip evidence, against the matched baseline."""
    found = sign_flip.log_e_paths(sign_flip.start(), events.canary - events.baseline)
    return first(found >= -math.log(ALPHA))


def salver(policy: Policy) -> Callable[[Scene], Ints]:
    """The product's judge, on the first failure of each unit."""
    return lambda scene: paths(policy, SCHEDULE, scene.requests, {"errors": scene.firsts}).rollbacks(policy)


JUDGES: Mapping[str, Callable[[Scene], Ints]] = {
    "salver": salver(POLICY),
    "salver soft": salver(SOFT),
    "E1": lambda scene: evidence(scene.raw),
    "E1 matched": lambda scene: matched(scene.raw),
    "E4": lambda scene: flips(scene.raw),
    "E1 firsts": lambda scene: evidence(scene.firsts),
    "E4 firsts": lambda scene: flips(scene.firsts),
    "Kayenta": lambda scene: kayenta(scene.requests, scene.raw, SCHEDULE),
    "Argo 95": lambda scene: argo(scene.requests, scene.raw, 0.95),
    "Argo 99": lambda scene: argo(scene.requests, scene.raw, 0.99),
    "Flagger 99": lambda scene: flagger(scene.requests, scene.raw),
}


def told(at: Ints) -> dict[str, Any]:
    """Which part was rolled back, after how many minutes (median)."""
    found = at[at >= 0]
    minutes = float(np.median(found + 1) * SECONDS / 60) if len(found) else None
    return {"releases": len(at), "found": len(found), "minutes": minutes}


def judged(scene: Scene, names: tuple[str, ...] = tuple(JUDGES)) -> dict[str, Any]:
    return {name: told(JUDGES[name](scene)) for name in names}


def found_and_when(releases: int) -> list[dict[str, Any]]:
    """Independent failures, by traffic and by how much worse the canary is."""
    names = tuple(name for name in JUDGES if "firsts" not in name)
    return [
        {"per_second": rate, "ratio": ratio}
        | judged(
            independent(np.random.default_rng([1, rate, int(100 * ratio)]), releases, rate, ratio), names
        )
        for rate, ratio in CELLS
    ]


def good_ones_in_bad_times(releases: int) -> Iterator[dict[str, Any]]:
    """Canaries that are no worse, where the world is not kind."""
    rng = np.random.default_rng(2)
    for rate in (10, 100, 1000):
        yield _good("day and night, ± 100 %", rate, independent(rng, releases, rate, rates=swing()))
    for rate in (10, 100, 1000):
        yield _good(
            "outage of all arms, × 6", rate, independent(rng, releases, rate, rates=outage(rng, releases))
        )
    for rate in (10, 100, 1000):
        yield _good(
            "bursts in single arms", rate, independent(rng, releases, rate, rates=bursts(rng, releases))
        )
    for rate, users in ((100, 20_000), (1000, 200_000)):
        yield _good("1 % of users have all failures", rate, by_user(rng, releases, rate, users))
    yield _good("the same, activity lognormal 1.5", 100, by_user(rng, releases, 100, 20_000, tail=1.5))
    for rate, users in ((100, 20_000), (1000, 200_000)):
        wild = bursts(rng, releases)
        scene = by_user(rng, releases, rate, users, is_sticky=False, rates=wild)
        yield _good("bursts among users of single arms", rate, scene)
    for replicas in (1, 3, 10):
        rates = bad_host(rng, releases, replicas)
        name = f"one of the canary's hosts bad, of {replicas}"
        yield _good(name, 100, independent(rng, releases, 100, rates=rates))


def _good(scene: str, rate: float, counts: Scene) -> dict[str, Any]:
    return {"scene": scene, "per_second": rate} | judged(counts)


def bad_ones_in_bad_times(releases: int) -> Iterator[dict[str, Any]]:
    """How soon harm is found there."""
    rng, names = np.random.default_rng(3), ("salver", "salver soft", "E1 firsts", "E4 firsts", "Kayenta")
    for rate, users in ((100, 20_000), (1000, 200_000)):
        for ratio in (2, 3, 5):
            scene = by_user(rng, releases, rate, users, ratio)
            yield {"scene": "1 % of users have all failures", "per_second": rate, "ratio": ratio} | judged(
                scene, names
            )
    for rate in (100, 1000):
        for ratio in (2, 3, 5):
            scene = independent(rng, releases, rate, ratio, rates=bursts(rng, releases))
            yield {"scene": "bursts in single arms", "per_second": rate, "ratio": ratio} | judged(
                scene, names
            )


def families(releases: int) -> dict[str, Any]:
    """Five metrics of a good release, at 100 requests a second."""
    metrics = tuple(Metric(f"m{n}", "errors", "severe") for n in range(5))
    policy = Policy(stages=POLICY.stages, metrics=metrics)
    ours, theirs = 0, 0
    for part in range(0, releases, 100):
        rng, number = np.random.default_rng([4, part]), min(100, releases - part)
        scenes = [independent(rng, number, 100) for _ in metrics]
        events = {metric.name: scene.firsts for metric, scene in zip(metrics, scenes, strict=True)}
        ours += int((paths(policy, SCHEDULE, scenes[0].requests, events).rollbacks(policy) >= 0).sum())
        lost = [kayenta(scene.requests, scene.raw, SCHEDULE) >= 0 for scene in scenes]
        theirs += int(np.logical_or.reduce(lost).sum())
    return {"releases": releases, "salver": ours, "Kayenta": theirs}


def gates(releases: int) -> list[dict[str, Any]]:
    """Who passes: the canary whose harm is the margin, and the one that does none."""
    rows = []
    for share, margin, per_second in ((0.05, 0.5, 100), (0.05, 1.0, 100), (0.25, 0.2, 100)):
        metric = Metric("errors", "errors", "severe", promotion_margin=margin)
        policy = Policy(stages=(Stage(share, 1),), metrics=(metric,), warm_up_seconds=0.0)
        buckets = round(20 * math.log(20) / (BASE * margin**2 / 2) / (share * per_second * SECONDS))
        schedule = Schedule(np.zeros(buckets, np.int64), np.full(buckets, share))
        row: dict[str, Any] = {"share": share, "margin": margin, "releases": releases}
        for name, ratio in (("harmful", 1 + margin), ("harmless", 1.0)):
            rng = np.random.default_rng([5, int(100 * margin), int(100 * ratio)])
            size, mean = (releases, buckets), per_second * SECONDS
            rates = (share * ratio, share, 1 - 2 * share)
            arms = Arms(*(rng.poisson(mean * BASE * rate, size) for rate in rates))
            asked = Arms(*(np.full(size, round(mean * part)) for part in (share, share, 1 - 2 * share)))
            gate = paths(policy, schedule, asked, {"errors": arms}).metrics["errors"].log_gate
            at = first(gate >= -math.log(policy.beta))
            passed = at[at >= 0]
            row[name] = len(passed)
            row[f"{name}_requests"] = float((passed + 1).mean() * mean * share) if len(passed) else None
        rows.append(row)
    return rows


def foretold() -> dict[str, dict[str, float]]:
    """What the outlook says of the first stage, at 100 requests a second."""
    forecast = Forecast(100, {"errors": BASE})
    return {
        name: {
            f"{ratio:g}": minutes
            for ratio, minutes in outlook(policy, forecast).metrics[0].stages[0].detects.items()
        }
        for name, policy in (("salver", POLICY), ("salver soft", SOFT))
    }


def run(releases: int) -> dict[str, Any]:
    """All of it, as plain data."""
    return {
        "settings": {"releases": releases, "alpha": ALPHA, "base": BASE},
        "found": found_and_when(releases),
        "good": list(good_ones_in_bad_times(releases)),
        "bad": list(bad_ones_in_bad_times(max(20, releases // 4))),
        "families": families(max(100, 2 * releases)),
        "gates": gates(max(100, 2 * releases)),
        "foretold": foretold(),
        "large": list(judge_more.large(releases)),
        "held": list(judge_more.held(releases)),
        "money": list(judge_more.money(max(20, releases // 4))),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--releases", type=int, default=400, help="simulated for each cell")
    add_arguments(parser, "judge")
    given = parser.parse_args()
    begun = time.monotonic()
    result = run(given.releases)
    text = judge_report.tables(result)
    write(given, "judge", result, text, judge_report.PAGE)
    if given.publish:
        judge_report.draw(result, Path(judge_report.PAGE).parents[1] / "img")
    print(f"{time.monotonic() - begun:.0f} s")
    return 0 if all(target.holds for target in judge_report.targets(result)) else 1


if __name__ == "__main__":
    sys.exit(main())
