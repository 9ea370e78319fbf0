"""By which rules do other tools judge a canary? Re-implemented on arrays, beside Salver's own judge.

Each takes counts of shape ``(releases, buckets)`` in buckets of ten seconds, and answers with the bucket
after which each release is rolled back; -1 = never. Sources: Kayenta's MannWhitneyClassifier and the R
wilcox.test that it follows; Argo Rollouts' and Flagger's documented analyses of success rates.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from judge_twin import Schedule

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Arms(NamedTuple):
    """Counts by arm, each of shape ``(releases, buckets)``."""

    canary: Ints
    baseline: Ints
    stable: Ints


CONFIDENCE, TOLERANCE = 0.98, 0.25
_Z = 2.3263478740408408  # the two-sided quantile of the confidence
_MINUTE = 6  # buckets


def first(hits: npt.NDArray[np.bool_]) -> Ints:
    """The first bucket that is hit; -1 = none."""
    return np.where(hits.any(axis=1), hits.argmax(axis=1), -1)


def is_worse(control: Floats, canary: Floats) -> npt.NDArray[np.bool_]:
    """Kayenta's verdict "High" on two samples, for each row: the confidence interval of the shift between
    them lies above the tolerated part of its estimate (Hodges and Lehmann's).
    """
    count, more = control.shape[1], canary.shape[1]
    differences = np.sort((canary[:, :, None] - control[:, None, :]).reshape(len(control), -1), axis=1)
    ties = sum((_tied(sample) ** 2 - 1).sum(axis=1) for sample in (control, canary))
    total = count + more
    deviation = np.sqrt(count * more / 12 * (total + 1 - ties / (total * (total - 1))))
    estimate = np.median(differences, axis=1)
    rank = np.floor(count * more / 2 - 0.5 - _Z * deviation).astype(int)  # so many may lie below the interval
    lowest = np.take_along_axis(differences, np.clip(rank, 0, None)[:, None], axis=1)[:, 0]
    return (rank >= 0) & (lowest > TOLERANCE * np.abs(estimate))


def kayenta(requests: Arms, events: Arms, schedule: Schedule, every: int = 30) -> Ints:
    """Rates of each minute since the stage began, canary against baseline; a look each so many minutes."""
    found = np.zeros(events.canary.shape, bool)
    canary, control = (
        _rates(*pair) for pair in ((events.canary, requests.canary), (events.baseline, requests.baseline))
    )
    for stage in np.unique(schedule.stages):
        minutes = np.flatnonzero(schedule.stages == stage)[::_MINUTE] // _MINUTE
        for end in range(every, len(minutes) + 1, every):
            seen = minutes[:end]
            found[:, (seen[-1] + 1) * _MINUTE - 1] = is_worse(control[:, seen], canary[:, seen])
    return first(found)


def argo(requests: Arms, events: Arms, success: float, minutes: int = 5, most: int = 3) -> Ints:
    """Success rates of the canary each so many minutes; rolled back after more than ``most`` failures."""
    return _threshold(requests.canary, events.canary, success, minutes, most + 1)


def flagger(requests: Arms, events: Arms, success: float = 0.99) -> Ints:
    """Success rates of the canary, measured each minute; rolled back after ten failures."""
    return _threshold(requests.canary, events.canary, success, 1, 10)


def _threshold(requests: Ints, events: Ints, success: float, minutes: int, failures: int) -> Ints:
    length = minutes * _MINUTE
    asked, failed = (_summed(counts, length) for counts in (requests, events))
    bad = failed > (1 - success) * asked + 1e-9
    at = first(np.cumsum(bad, axis=1) >= failures)
    return np.where(at >= 0, (at + 1) * length - 1, -1)


def _rates(events: Ints, requests: Ints) -> Floats:
    failed, asked = _summed(events, _MINUTE), _summed(requests, _MINUTE)
    return failed / np.maximum(asked, 1)


def _summed(counts: Ints, length: int) -> Ints:
    """Of successive stretches of so many buckets."""
    whole = counts.shape[1] // length * length
    return counts[:, :whole].reshape(len(counts), -1, length).sum(axis=2)


def _tied(sample: Floats) -> Ints:
    """How many are equal to each, itself as well."""
    return (sample[:, :, None] == sample[:, None, :]).sum(axis=2)
