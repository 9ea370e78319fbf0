"""Errors of the judge of resources: time in the model, CPU time and memory, by minutes.

More worlds for ``judge_cells.py``. What a request costs is gamma-distributed (CV 2). Canary and stable
version have a process each, whose factor on all costs hiccups, has bursts, or wanders.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from judge_course import told

from salver.features.releases.judge.usage import UsageEvidence
from salver.words.releases import ResourceUse, Spent

Floats = npt.NDArray[np.float64]

GATE = 0.5  # margin, as in the guide
#: What the canary needs, as a multiple of the stable version, and the margin of its rollback.
CASES = {"good": (1.0, 1.0), "tight": (1.0, 0.25), "margin": (1 + GATE, 1.0), "harm": (3.0, 1.0)}
#: Evidence for a rollback at a tenth of alpha, and for a gate.
HARM, PASSED = math.log(1000), math.log(20)
SHARES, HOUR, BUCKETS = (0.01, 0.05, 0.25), 60, 6


class Process(NamedTuple):
    """Costs of a process.

    Attributes:
        hiccups: Factor for 30 seconds each 40 minutes.
        bursts: Squared coefficient of variation of its factor by bucket.
        wanders: Deviation of the logarithm of its factor, which lasts for half an hour.
        is_memory: One value for each bucket, whatever the number of requests.
    """

    hiccups: float = 1.0
    bursts: float = 0.0
    wanders: float = 0.0
    is_memory: bool = False


WORLDS = {
    "steady": Process(),
    "hiccups, ten times as much for 30 s each 40 min": Process(hiccups=10),
    "bursts by process, CV 2": Process(bursts=4),
    "hiccups and bursts": Process(hiccups=10, bursts=4),
    "wanders by 10 % for half an hour": Process(wanders=0.1),
    "wanders by 30 % for half an hour": Process(wanders=0.3),
    "memory that wanders by 10 %": Process(wanders=0.1, is_memory=True),
}


def resources(seed: int, releases: int) -> Iterator[dict[str, Any]]:
    """For each case, what is rolled back, and what passes its last gate."""
    for place, (name, process) in enumerate(WORLDS.items()):
        for per_second in (10.0,) if process.is_memory else (10.0, 100.0):
            rng = np.random.default_rng([seed, 9, place, int(per_second)])
            row: dict[str, Any] = {"world": name, "ratio": 1.0, "seed": seed, "releases": releases}
            if not process.is_memory:
                row["world"] += f", {per_second:g} req/s"
            for case, (ratio, rollback) in CASES.items():
                ends = [_judged(rng, process, per_second, ratio, rollback) for _ in range(releases)]
                rolled_back, passed = (
                    told([BUCKETS * (at + 1) - 1 if at >= 0 else -1 for at in minutes])
                    for minutes in zip(*ends, strict=True)
                )
                row[case] = {"rolled_back": rolled_back, "passed": passed}
            yield row


def _judged(
    rng: np.random.Generator, process: Process, per_second: float, ratio: float, rollback: float
) -> tuple[int, int]:
    """Return the minute of the rollback, and that of the last stage in which its gate passes; -1 = none."""
    shares = np.repeat(SHARES, HOUR)
    arms = zip(
        _spent(rng, process, per_second * shares, ratio),
        _spent(rng, process, per_second * (1 - shares), 1.0),
        strict=True,
    )
    evidence, rolled_back, passed = UsageEvidence(), -1, -1
    for minute, (canary, stable) in enumerate(arms):
        if minute % HOUR == 0:
            evidence = evidence.at_new_stage()
        evidence = evidence.add(ResourceUse(canary, stable), minute, (rollback, GATE), is_warm=True)
        if rolled_back < 0 and evidence.log_harm >= HARM:
            rolled_back = minute
        if passed < 0 and minute >= 2 * HOUR and evidence.log_gate >= PASSED:
            passed = minute - 2 * HOUR
    return rolled_back, passed


def _spent(rng: np.random.Generator, process: Process, per_second: Floats, ratio: float) -> list[Spent]:
    """Return what a version has used in each minute."""
    size = BUCKETS * len(per_second)
    factor = np.full(size, ratio)
    if process.hiccups > 1:
        for begin in np.flatnonzero(rng.random(size) < 1 / 240).tolist():
            factor[begin : begin + 3] = ratio * process.hiccups
    if process.bursts:
        factor *= rng.gamma(1 / process.bursts, process.bursts, size)
    if process.wanders:
        kept, logs, at = math.exp(-1 / 180), np.empty(size), rng.normal()
        for index, step in enumerate(rng.normal(size=size) * math.sqrt(1 - kept**2)):
            logs[index] = at = kept * at + step
        factor *= np.exp(process.wanders * logs)
    if process.is_memory:
        number, amounts = np.ones(size, np.int64), factor
    else:
        number = rng.poisson(10 * np.repeat(per_second, BUCKETS))
        amounts = factor * rng.gamma(number / 4 + 1e-12, 4.0)
    rows = zip(amounts.reshape(-1, BUCKETS).sum(axis=1), number.reshape(-1, BUCKETS).sum(axis=1), strict=True)
    return [Spent(float(amount), int(units)) for amount, units in rows]
