"""The judge of releases on arrays: the evidence of one metric of many simulated releases at once.

The same as in ``salver.features.releases.judge.count_evidence``, which a test compares to it. For metrics
whose events are counted; all releases have one schedule. Simulation is elsewhere. Pure.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from salver.features.releases.judge.bets import AT_ONCE
from salver.features.releases.judge.blocks import (
    _CREDIBLE,
    _GATE_PRIOR,
    _HALF,
    _HICCUP,
    _LEAST_LEFT,
    _NEARLY,
    _RARE_PRIOR,
    _SHOWS,
    _SLOWEST,
    _UNSURE,
    _UPWARDS,
    _WIDENED,
    _WILD_AFTER,
    _WILD_MORE,
    _WILD_TIMES,
    ANEW,
    MOST,
    MOST_OF_BURST,
    PRIOR_BLOCKS,
    PRIOR_VARIATION,
)
from salver.features.releases.judge.count_evidence import _NOTHING, _ROUNDED, GATE_SCALES
from salver.features.releases.judge.evidence import BETS, bounded
from salver.features.releases.judge.policy import Metric, Policy
from salver.features.releases.judge.units import GATE_LOOKS, HARM_LOOKS, MOST_COUNTED, thinned
from salver.stats import sign_flip
from salver.stats.binomial_evidence import HARM
from salver.words.releases import BLOCK_BUCKETS, BLOCK_BURST, BUCKET_BURST

Floats = npt.NDArray[np.float64]
Counted = npt.NDArray[Any]
_RATIOS = np.array(HARM)
_LOGS = np.log(_RATIOS)


class Schedule(NamedTuple):
    """Stage of each bucket, and the canary's share; shape ``(buckets,)``.

    Attributes:
        missing: Buckets whose counts of the metric never arrive.
    """

    stages: npt.NDArray[np.int64]
    shares: Floats
    missing: frozenset[int] = frozenset()


class ServerScene(NamedTuple):
    """Counts of many releases by server.

    Attributes:
        requests, raw, units: Shape ``(releases, buckets, servers, 3)``; units that failed in a block.
        first: Units with their first event, of the same shape.
        places: Shape ``(releases, buckets, servers, places, 3)``.
    """

    requests: Counted
    raw: Counted
    units: Counted
    first: Counted
    places: Counted


class Scene(NamedTuple):
    """Counts of many releases; the last axis of each is the arm, or place and arm.

    Attributes:
        requests, met, events, raw: Shape ``(releases, buckets, 3)``; as in a bucket.
        places: Shape ``(releases, buckets, places, 3)``.
        servers: The same by server; None = there is only one.
    """

    requests: Counted
    met: Counted
    events: Counted
    raw: Counted
    places: Counted
    servers: ServerScene | None = None


class Paths(NamedTuple):
    """Log evidence after each bucket, shape ``(releases, buckets)``."""

    log_e: Floats
    first: Floats
    units: Floats
    blocks: Floats
    flip: Floats
    gate: Floats
    factor: Floats


def paths(policy: Policy, metric: Metric, schedule: Schedule, scene: Scene) -> Paths:
    """Return the evidence of a metric after each bucket, regardless of gates and rollbacks."""
    state, buckets = _State(policy, metric, len(scene.requests)), len(schedule.shares)
    found = {name: np.zeros((len(scene.requests), buckets)) for name in Paths._fields}
    stage, stage_seconds = -1, 0.0
    for index, (now, share) in enumerate(
        zip(schedule.stages.tolist(), schedule.shares.tolist(), strict=True)
    ):
        if now != stage:
            if stage >= 0:
                state.at_new_stage()
            stage, stage_seconds = now, 0.0
        is_warm = stage_seconds >= policy.warm_up_seconds
        if index in schedule.missing:
            state.skip(now, share)
        else:
            state.add(scene, index, now, share, is_warm=is_warm)
        stage_seconds += policy.bucket_seconds
        for name in ("first", "units", "blocks", "gate", "factor"):
            found[name][:, index] = getattr(state, f"log_{name}")
    warm = state.warm
    events = scene.places.sum(axis=2) * warm[None, :, None]
    keep = np.minimum(schedule.shares, 1 - schedule.shares) / schedule.shares
    found["flip"][:] = sign_flip.log_e_paths(
        sign_flip.start(), events[:, :, 0], events[:, :, 1], np.where(schedule.shares < 1, keep, 1.0)
    )
    found["log_e"][:] = np.minimum(found["units"], found["blocks"])
    if metric.severity == "soft":
        found["log_e"][:] = np.minimum(found["log_e"], found["flip"])
    return Paths(**found)


class _Open(NamedTuple):
    """The open block."""

    number: int
    stage: int
    share: float


class _State:
    """Evidence of all releases after some buckets; each field as in the product, one row a release."""

    def __init__(self, policy: Policy, metric: Metric, releases: int) -> None:
        self.policy, self.metric, self.size = policy, metric, releases
        start = np.full((releases, len(HARM)), math.log(AT_ONCE))
        self.first, self.bets, self.starts = start, start.copy(), 1
        self.pending, self.withheld = np.zeros_like(start), np.zeros_like(start)
        self.count, self.is_warm, self.last_part = 0, True, -1.0
        self.level, self.mean, self.jumps, self.last = (np.zeros(releases) for _ in range(4))
        self.level -= 1
        self.calm = self.level.copy()
        self.run = np.zeros(releases, np.int64)
        self.runs: Counted = np.zeros(0)
        self.key: _Open | None = None
        self.clusters = np.full(releases, _NOTHING)
        self.log_last_gate = np.full(releases, _NOTHING)
        self.rare = np.zeros((releases, len(BETS)))
        self.opened = _opened(releases)
        self.share = 0.0
        self.warm: Any = np.zeros(0, bool)
        self._restart()

    def _restart(self) -> None:
        self.blocks = 0
        self.met = np.zeros((self.size, 2))
        self.canary, self.control, self.trimmed, self.steady, self.kept_back = (
            np.zeros((self.size, MOST_COUNTED)) for _ in range(5)
        )
        self.places, self.apart = np.zeros((2, self.size, MOST_COUNTED, 2))

    # What is read

    @property
    def log_first(self) -> Floats:
        return _with_rest(self.first, self.starts)

    @property
    def log_units(self) -> Floats:
        return np.logaddexp(self.log_first, self.clusters) - math.log(2)

    @property
    def log_blocks(self) -> Floats:
        return _with_rest(self.bets, self.starts)

    @property
    def log_gate(self) -> Floats:
        stage = self.policy.stages[self.key_stage]
        if not self.metric.negligible_at(stage.margin_times):
            return self.log_last_gate
        rare = np.logaddexp.reduce(self.rare, axis=1) - math.log(len(BETS))
        return np.logaddexp(self.log_last_gate, rare) - math.log(2)

    @property
    def log_factor(self) -> Floats:
        return self.factor(self.share, np.maximum(self.level, 0.0))

    # What is done

    def skip(self, stage: int, share: float) -> None:
        """Go on without the counts of a bucket."""
        self.share, self.key_stage = share, stage
        self.warm = np.append(self.warm, False)

    def add(self, scene: Scene, index: int, stage: int, share: float, *, is_warm: bool) -> None:
        self.warm = np.append(self.warm, (is_warm or self.metric.severity == "severe") and share < 1)
        self.is_warm = bool(is_warm or self.metric.severity == "severe")
        self.share, self.key_stage = share, stage
        seconds, requests = self.policy.bucket_seconds, scene.requests[:, index]
        if is_warm and (most := self.metric.negligible_at(self.policy.stages[stage].margin_times)):
            events = scene.raw[:, index, 0]
            calm = np.maximum(0, requests[:, 0] - events)
            factor = 1 + self.variation(_RARE_PRIOR) * most * requests[:, 0] * BLOCK_BUCKETS
            for place, bet in enumerate(BETS):
                step = events * math.log(bet) + calm * (math.log1p(-bet * most) - math.log1p(-most))
                self.rare[:, place] += step / factor
        if share >= 1:
            return
        boundary = self.sides(share)[2]
        events = scene.events[:, index]
        length = BLOCK_BUCKETS * seconds
        number = math.floor(index * seconds / length + _ROUNDED)
        key = _Open(number, stage, share)
        if self.key is not None and self.key != key:
            self.close()
        if self.key is None:
            self.key, self.opened = key, _opened(self.size)
        if self.is_warm:
            self.pending += _plain(events[:, 0], self.other(events), boundary)
        places, opened = scene.places[:, index], self.opened
        failed = places.sum(axis=1)
        raw = scene.raw[:, index, 0]
        asked = np.maximum(raw, requests[:, 0])
        opened["canary"] += failed[:, 0]
        opened["control"] += self.other(failed)
        opened["failures"] += raw
        opened["requests"] += asked
        opened["others"] += self.other(requests)
        opened["burst"] |= _is_burst(raw, asked, BUCKET_BURST)
        if scene.servers is not None:
            self._add_servers(scene.servers, index)
        opened["seconds"] += seconds
        counted = places[:, :MOST_COUNTED]
        self.places[:, : counted.shape[1], 0] += counted[:, :, 0]
        self.places[:, : counted.shape[1], 1] += self.other(counted)
        self.met[:, 0] += scene.met[:, index, 0]
        self.met[:, 1] += self.other(scene.met[:, index])
        if (index + 1) * seconds >= (number + 1) * length - _ROUNDED * seconds:
            self.close()

    def at_new_stage(self) -> None:
        self.is_warm = True
        self.close()
        self._restart()
        self.log_last_gate = np.full(self.size, _NOTHING)
        self.rare = np.zeros((self.size, len(BETS)))

    def close(self) -> None:
        if self.key is None:
            return
        whole_block, (_, stage, share) = self.opened, self.key
        opened, (mine, whole, boundary) = whole_block, self.sides(share)
        rest: Floats | float = whole
        length = BLOCK_BUCKETS * self.policy.bucket_seconds
        part = min(1.0, float(opened["seconds"][0]) / length)
        alone = self._alone(opened)
        if self.is_warm:
            self.pending = self.pending - _plain(alone["first"][:, 0], alone["first"][:, 1], boundary)
        if "of_canary" in opened:
            opened, mine, rest, boundary = self._calm(opened, alone, share)
        known, level = self.level >= 0, np.where(self.level >= 0, self.level, opened["control"] / rest / part)
        expected = mine * (1 + self.metric.rollback_margin) * np.maximum(level * part, _UNSURE / rest)
        many = _RATIOS * np.reshape(expected, (-1, 1))
        failures = np.maximum(whole_block["failures"], whole_block["canary"])
        burst = whole_block["burst"] | _is_burst(failures, whole_block["requests"], BLOCK_BURST)
        burst = burst | (opened["canary"] > (many + _CREDIBLE * np.sqrt(many))[:, -1])
        after, run = self.run == 1, np.where(burst, self.run + 1, 0)
        burst_most = np.where(run == 1, MOST_OF_BURST, np.where(after, 0.0, np.inf))
        is_burst, is_long = np.isfinite(burst_most), run > _HICCUP
        self.first = self.first + np.minimum(self.pending, burst_most[:, None])
        self.first = self.first + np.where((is_long & ~is_burst)[:, None], self.withheld, 0.0)
        cut = np.maximum(0.0, self.pending - burst_most[:, None])
        self.withheld = np.where(is_burst[:, None], self.withheld + cut, 0.0)
        self.pending[:] = 0
        self._close_clusters(opened, (mine, rest), is_burst, is_long, alone["places"])
        usual = level * rest * part
        wild = (self.count >= _WILD_AFTER) & (opened["control"] > _WILD_TIMES * usual + _WILD_MORE)
        factor = self.factor(share, level * part)
        if self.is_warm:
            most = np.minimum(MOST, burst_most)
            explained = np.minimum(opened["canary"][:, None], np.floor(1 + many + _CREDIBLE * np.sqrt(many)))
            both = explained + opened["control"][:, None]
            losses = np.log1p(np.reshape(boundary, (-1, 1)) * (_RATIOS - 1))
            steps = (explained * _LOGS - both * losses) / factor[:, None]
            self.bets = self.bets + np.where(wild[:, None], 0.0, np.minimum(steps, most[:, None]))
        self.run = run
        is_whole, before = part >= _NEARLY, self.count
        if is_whole:
            self._learn(opened, (rest, whole), level, known)
        else:
            self.last_part = -1.0
        gate_factor = self.factor(share, np.maximum(self.level, 0.0), _GATE_PRIOR)
        if self.count > before and not self.count % ANEW:
            self.starts += 1
            more = math.log((1 - AT_ONCE) / (self.starts * (self.starts - 1)))
            self.first, self.bets = np.logaddexp(self.first, more), np.logaddexp(self.bets, more)
        self.key = None
        self._look(stage, gate_factor)

    def _add_servers(self, seen: ServerScene, index: int) -> None:
        """Add what each server counted in a bucket; the last axis of what is kept is the server."""
        opened = self.opened
        requests, raw, units = seen.requests[:, index], seen.raw[:, index], seen.units[:, index]
        of_control = raw[..., 1] + raw[..., 2]
        told = (raw[..., 0] > 0) | _is_burst(of_control, requests[..., 1] + requests[..., 2], BLOCK_BURST)
        if "of_canary" not in opened:
            none = np.zeros((*requests.shape[:2], 3))  # requests, failures, units
            opened["of_canary"], opened["of_control"] = none, none.copy()
            opened["first"] = np.zeros((*requests.shape[:2], 2))
            opened["places"] = np.zeros((*requests.shape[:2], seen.places.shape[3], 2))
            opened["bursts"] = np.zeros((*requests.shape[:2], 2), bool)
        asked = np.maximum(requests[..., 0], raw[..., 0])
        canary = np.stack([asked, raw[..., 0], units[..., 0]], axis=-1)
        control = np.stack([self.other(requests), told * self.other(raw), told * self.other(units)], axis=-1)
        for place, (name, counts) in enumerate((("of_canary", canary), ("of_control", control))):
            opened[name] += counts
            opened["bursts"][..., place] |= _is_burst(counts[..., 1], counts[..., 0], BUCKET_BURST)
        first, places = seen.first[:, index], seen.places[:, index]
        opened["first"] += told[..., None] * np.stack([first[..., 0], self.other(first)], axis=-1)
        both = np.stack([places[..., 0], self.other(places)], axis=-1)
        opened["places"] += told[..., None, None] * both

    def _alone(self, opened: dict[str, Counted]) -> dict[str, Floats]:
        """Return what is a burst of single servers."""
        if "of_canary" not in opened:
            return {"first": np.zeros((self.size, 2)), "places": np.zeros((self.size, 1, 2))}
        both = np.stack([opened["of_canary"], opened["of_control"]], axis=-1)
        bursts = opened["bursts"] | _is_burst(both[:, :, 1], both[:, :, 0], BLOCK_BURST)
        self.runs = np.where(bursts, (self.runs if self.runs.size else 0) + 1, 0)
        cut = (self.runs > 0) & (self.runs <= _HICCUP)
        assert self.key is not None
        cut[..., 1] &= (self.key.share <= _HALF) & (opened["of_canary"][..., 0] >= _SHOWS)
        found = (both * cut[:, :, None]).sum(axis=1)
        return {
            "canary": found[..., 0],
            "control": found[..., 1],
            "first": (opened["first"] * cut).sum(axis=1),
            "places": (opened["places"] * cut[:, :, None]).sum(axis=1),
        }

    def _calm(self, opened: dict[str, Counted], alone: dict[str, Floats], share: float) -> Any:
        """Return a block without the bursts of single servers, and the shares that are left."""
        mine, rest, _ = self.sides(share)
        canary, control = alone["canary"], alone["control"]
        left = np.maximum(_LEAST_LEFT, 1 - canary[:, 0] / np.maximum(1, opened["requests"]))
        others = np.maximum(_LEAST_LEFT, 1 - control[:, 0] / np.maximum(1, opened["others"]))
        calm = opened | {
            "canary": opened["canary"] - canary[:, 2],
            "control": opened["control"] - control[:, 2],
            "others": opened["others"] - control[:, 0],
        }
        theirs = left * mine * (1 + self.metric.rollback_margin)
        return calm, left * mine, others * rest, theirs / (theirs + others * rest)

    def _close_clusters(
        self,
        opened: dict[str, Counted],
        shares: tuple[Floats | float, Floats | float],
        is_burst: Any,
        is_long: Any,
        alone: Counted,
    ) -> None:
        mine, rest = shares
        expected = np.maximum(self.calm, 0.0) * opened["others"]
        usual = np.maximum(expected + _CREDIBLE * np.sqrt(expected), opened["canary"] * rest / mine)
        alone = alone[:, :MOST_COUNTED]
        calm = self.places.copy()
        calm[:, : alone.shape[1]] = np.maximum(0.0, calm[:, : alone.shape[1]] - alone)
        events = calm[:, :, 1].sum(axis=1)
        kept = np.where(events > 0, np.minimum(1.0, usual / np.maximum(events, 1e-300)), 1.0)
        self.blocks += 1
        self.canary += self.places[:, :, 0]
        self.apart[:, : alone.shape[1]] += alone
        self.steady += np.where(is_burst[:, None], 0.0, calm[:, :, 0])
        self.steady += np.where((is_long & ~is_burst)[:, None], self.kept_back, 0.0)
        self.kept_back = np.where(is_burst[:, None], self.kept_back + calm[:, :, 0], 0.0)
        self.control += self.places[:, :, 1]
        self.trimmed += kept[:, None] * calm[:, :, 1]
        self.places[:] = 0

    def _learn(
        self, opened: dict[str, Counted], shares: tuple[Floats | float, float], level: Floats, known: Any
    ) -> None:
        rest, whole = shares
        control, limit = opened["control"], _WILD_TIMES * level + _WILD_MORE / rest
        events = np.minimum(control / rest, limit)
        self.count += 1
        if self.last_part == whole:
            self.jumps += np.minimum((events - self.last) ** 2, limit**2) - (events + self.last) / rest
        weight = max(1 / self.count, _SLOWEST)
        self.level = np.where(known, level + weight * (events - level), events)
        rate = control / np.maximum(opened["others"], 1)
        step = 2 * min(0.5, weight) * np.where(rate > self.calm, _UPWARDS, 1 - _UPWARDS)
        calm = np.where(self.calm >= 0, self.calm + step * (rate - self.calm), rate)
        self.calm = np.where(opened["others"] > 0, calm, self.calm)
        self.mean += (events - self.mean) / self.count
        self.last, self.last_part = events, whole

    def _look(self, stage: int, factor: Floats) -> None:
        if weight := HARM_LOOKS.get(self.blocks):
            self._look_for_harm(weight)
        if self.metric.promotion_margin is None or self.blocks not in GATE_LOOKS:
            return
        margin = bounded(self.metric, self.metric.promotion_margin * self.policy.stages[stage].margin_times)
        own, others = np.moveaxis(self.apart.sum(axis=1), 1, 0)
        equal = others * self.met[:, 0] / np.maximum(1, self.met[:, 1])
        part = np.minimum(1.0, equal / np.maximum(own, 1e-300))[:, None]
        canary = _falling(np.maximum(0.0, self.canary - part * self.apart[:, :, 0]))
        control = _falling(self.trimmed)
        keep = np.array([thinned(units, self.blocks, margin) for units in canary.tolist()])
        bets = [self._log_ratio(canary, control, -scale, keep) / factor for scale in GATE_SCALES]
        self.log_last_gate = np.logaddexp.reduce(bets, axis=0) - math.log(len(bets))

    def _look_for_harm(self, weight: float) -> None:
        stages = sum(0 < one.weight * (1 - self.policy.traffic.holdback) < 1 for one in self.policy.stages)
        keep = 1 / (1 + self.metric.rollback_margin)
        control = np.maximum(0.0, self.control - self.apart[:, :, 1])
        found = [self._log_ratio(self.steady, control, log, keep) for log in _LOGS.tolist()]
        mean = np.logaddexp.reduce(found, axis=0) - math.log(len(found))
        self.clusters = np.logaddexp(self.clusters, math.log(weight / max(1, stages)) + mean)

    def _log_ratio(self, canary: Floats, control: Floats, scale: float, keep: Floats | float) -> Floats:
        met = np.maximum(self.met[:, 0], canary[:, 0])
        units = met + np.maximum(self.met[:, 1], control[:, 0])
        grow = math.exp(scale)
        kept = 1 - keep + np.asarray(keep) * grow
        tilted = keep * grow / kept
        mine = np.reshape(1 - tilted + tilted * grow, (-1, 1))
        place = np.arange(MOST_COUNTED)
        rest = (canary * mine**place * (mine - 1)).sum(axis=1) + control @ (grow**place * (grow - 1))
        mine = mine[:, 0]
        log_sum = np.log(kept) * canary.sum(axis=1)
        if scale < 0:
            many = canary[:, -1]
            log_sum = log_sum + MOST_COUNTED * many * (scale - np.log(kept))
            rest = rest + many * (grow**MOST_COUNTED - mine**MOST_COUNTED)
        found = log_sum - met * np.log1p(rest / np.maximum(units, 1e-300))
        return np.where(self.met.sum(axis=1) > 0, found, 0.0)

    def factor(self, share: float, level: Floats, part: float = 1.0) -> Floats:
        if share >= 1:
            return np.ones(self.size)
        return 1 + 2 * self.variation(part) * share * min(1.0, 2 * (1 - share)) * level

    def variation(self, part: float = 1.0) -> Floats:
        count = PRIOR_BLOCKS + self.count
        prior = part * PRIOR_VARIATION * (PRIOR_BLOCKS / count) ** 2
        seen = np.maximum(self.jumps, 0.0) / np.where(self.mean > 0, 2 * self.mean**2 * count, np.inf)
        found: Floats = prior + seen * (1 + _WIDENED / math.sqrt(self.count + 1))
        return found

    def sides(self, share: float) -> tuple[float, float, float]:
        rest = min(share, 1 - share) if self.metric.is_matched else 1 - share
        mine = share * (1 + self.metric.rollback_margin)
        return share, rest, mine / (mine + rest)

    def other(self, counts: Counted) -> Counted:
        if self.metric.is_matched:
            return counts[..., 1]
        return counts[..., 1] + counts[..., 2]


def _falling(units: Floats) -> Floats:
    found: Floats = np.maximum.accumulate(units[:, ::-1], axis=1)[:, ::-1]
    return found


def _opened(releases: int) -> dict[str, Counted]:
    names = ("canary", "control", "failures", "requests", "others", "seconds")
    return {name: np.zeros(releases) for name in names} | {"burst": np.zeros(releases, bool)}


def _with_rest(log_sums: Floats, starts: int) -> Floats:
    mean = np.logaddexp.reduce(log_sums, axis=1) - math.log(log_sums.shape[1])
    return np.logaddexp(mean, math.log((1 - AT_ONCE) / starts))


def _plain(canary: Counted, control: Counted, boundary: float) -> Floats:
    both = (canary + control)[:, None]
    return canary[:, None] * _LOGS - both * np.log1p(boundary * (_RATIOS - 1))


def _is_burst(failures: Counted, requests: Counted, least: Sequence[float]) -> Any:
    return (failures >= least[0]) & (failures >= least[1] * requests)
