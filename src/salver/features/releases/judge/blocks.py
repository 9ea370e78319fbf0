"""Evidence in which a process is a cluster.

Where a process hiccups, all units that it serves fail together. The evidence therefore counts by blocks of
time the units that failed, of the canary and of its control. What a block may bring is bounded in four ways,
each of which only reduces the evidence:

- More events than a ratio explains are no evidence for that ratio.
- The evidence is divided by a factor for the variation of the control between blocks, as if all of it were
  bursts in single arms.
- No block brings more than a factor of eleven.
- A burst of the canary is one event of one process: its first block brings at most a factor of 1.9, the next
  one nothing. From the third in a row on it is longer than any hiccup. A block is in a burst if a fixed part
  of the requests fail, or more units than the largest ratio explains.

Each of several servers has processes of its own, which hiccup apart. There the bursts of one server's arm,
of the canary and of its control alike, are left out with their requests for two blocks.

A block in which the control fails far more than usual says nothing. Pure.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Self

import msgspec

from salver.features.releases.judge.bets import Bets
from salver.features.releases.judge.units import MOST_COUNTED
from salver.stats.binomial_evidence import HARM
from salver.words.releases import (
    BLOCK_BUCKETS,
    BLOCK_BURST,
    BUCKET_BURST,
    Counts,
    MetricPart,
    ServerPart,
    is_burst,
)

#: Maximum log evidence of a block, and of the first one of a burst.
MOST: Final = 2.4
MOST_OF_BURST: Final = math.log(1.9)
#: Prior variance of rates, as a multiple of their squared mean; its weight falls with the square of the
#: number of blocks beyond this many.
PRIOR_VARIATION, PRIOR_BLOCKS = 8.0 / BLOCK_BUCKETS, 3.0
#: Blocks after which bets begin anew.
ANEW: Final = 10
_GATE_PRIOR: Final = 0.1  # of the prior, for gates
_RARE_PRIOR: Final = 0.4  # the same, for negligible rates
_WIDENED: Final = 3.0  # of the variation that was seen, by this over the root of the number of blocks
_SLOWEST: Final = 0.1  # weight of a block in the moving average
_HICCUP: Final = 2  # blocks
_UNSURE: Final = 0.1  # events of the control in a block
_UPWARDS: Final = 0.1  # the expectile of the calmer blocks
_CREDIBLE: Final = 2.0  # standard deviations beyond what is expected that are no burst
#: A control with more than so many times its average, and so many more, is wild.
_WILD_TIMES, _WILD_MORE, _WILD_AFTER = 4.0, 10.0, 3
_LOGS: Final = tuple(math.log(ratio) for ratio in HARM)
_NEARLY: Final = 0.95  # of its length, from which a block is whole
_HALF: Final = 0.5
#: Requests to the canary of a server in a block, of which a burst would show.
_SHOWS: Final = 12
_LEAST_LEFT: Final = 0.01  # of an arm, if all servers have bursts


class ArmBlock(msgspec.Struct, frozen=True, omit_defaults=True):
    """The canary or its control in a block, on one of several servers.

    Attributes:
        requests, failures: Requests, and those that failed.
        units: Units that failed in the block.
        first: Units with their first failure.
        places: Units by the number of their failing blocks, as in a bucket; missing ones are 0.
        has_burst: One of the buckets has a burst.
    """

    requests: int = 0
    failures: int = 0
    units: int = 0
    first: int = 0
    places: tuple[int, ...] = ()
    has_burst: bool = False

    def add(self, requests: int, failures: int, first: int, places: Sequence[int]) -> Self:
        """Add a bucket."""
        padded = itertools.zip_longest(self.places, places if any(places) else (), fillvalue=0)
        return type(self)(
            self.requests + requests,
            self.failures + failures,
            self.units + sum(places),
            self.first + first,
            tuple(one + more for one, more in padded),
            self.has_burst or is_burst(failures, requests, BUCKET_BURST),
        )

    @property
    def by_place(self) -> list[float]:
        """Return the units of each place that counts."""
        found = [float(count) for count in self.places[:MOST_COUNTED]]
        return found + [0.0] * (MOST_COUNTED - len(found))

    @property
    def is_burst(self) -> bool:
        """Return whether its process failed, rather than some of its users."""
        return self.has_burst or is_burst(self.failures, self.requests, BLOCK_BURST)

    def __add__(self, more: Self) -> Self:
        """Return both together."""
        both = self.add(more.requests, more.failures, more.first, more.places)
        return msgspec.structs.replace(both, has_burst=self.has_burst or more.has_burst)


#: The canary and its control on one server.
ServerBlock = tuple[ArmBlock, ArmBlock]
_NO_ARMS: Final = (ArmBlock(), ArmBlock())


class OpenBlock(msgspec.Struct, frozen=True):
    """A block that is not over.

    Attributes:
        number: Blocks since 1970.
        canary, control: Units that failed in it.
        failures, requests: Requests to the canary; ``others``: to its control.
        has_burst: One of its buckets has a burst.
        servers: The same by server, if there are several.
    """

    number: int
    stage: int
    share: float
    canary: int = 0
    control: int = 0
    failures: int = 0
    requests: int = 0
    others: int = 0
    has_burst: bool = False
    seconds: float = 0.0
    servers: Mapping[str, ServerBlock] = msgspec.field(default_factory=dict)

    def add(self, events: tuple[int, int], failures: int, requests: tuple[int, int], seconds: float) -> Self:
        """Add a bucket.

        Args:
            events: Units of the canary and of its control that failed.
            failures: Failed requests to the canary.
            requests: Requests to the canary and to its control.
        """
        asked = max(failures, requests[0])
        return msgspec.structs.replace(
            self,
            canary=self.canary + events[0],
            control=self.control + events[1],
            failures=self.failures + failures,
            requests=self.requests + asked,
            others=self.others + requests[1],
            has_burst=self.has_burst or is_burst(failures, asked, BUCKET_BURST),
            seconds=self.seconds + seconds,
        )

    def add_parts(self, parts: Sequence[ServerPart], metric: str, *, is_matched: bool) -> Self:
        """Add what each of several servers counted in a bucket."""
        servers = dict(self.servers)
        for part in parts:
            known = part.metrics.get(metric, MetricPart())
            canary, control = servers.get(part.server, _NO_ARMS)
            asked, failed, first = (
                (counts.canary, _rest(counts, is_matched))
                for counts in (part.requests, known.raw, known.events)
            )
            places = known.blocks or (known.events,)
            servers[part.server] = (
                canary.add(max(asked[0], failed[0]), failed[0], first[0], [one.canary for one in places]),
                control.add(asked[1], failed[1], first[1], [_rest(one, is_matched) for one in places]),
            )
        return msgspec.structs.replace(self, servers=servers)

    @property
    def is_burst(self) -> bool:
        """Return whether so many requests to the canary failed, or still wait, that it is a burst."""
        failures = max(self.failures, self.canary)
        return self.has_burst or is_burst(failures, self.requests, BLOCK_BURST)

    def cut(self, runs: Mapping[str, tuple[int, int]]) -> tuple[ServerBlock, dict[str, tuple[int, int]]]:
        """Return what is a burst of single servers, and the length of each burst in blocks.

        Args:
            runs: The same lengths after the block before.
        """
        (canary, control), after = _NO_ARMS, dict[str, tuple[int, int]]()
        for server, arms in self.servers.items():
            before = runs.get(server, (0, 0))
            now = (before[0] + 1) * arms[0].is_burst, (before[1] + 1) * arms[1].is_burst
            if any(now):
                after[server] = now
            if 0 < now[0] <= _HICCUP:
                canary += arms[0]
            # Only where a burst of the canary would show as well, or its hiccups would count alone. And a
            # control that is smaller would be cut sooner than the canary, by users rather than processes.
            is_fair = arms[0].requests >= _SHOWS and self.share <= _HALF
            if 0 < now[1] <= _HICCUP and is_fair:
                control += arms[1]
        return (canary, control), after


class Sides(msgspec.Struct, frozen=True):
    """Shares of all units that the canary and its control have, and the tolerated excess of the canary."""

    canary: float
    control: float
    margin: float = 0.0

    @property
    def boundary(self) -> float:
        """Return the largest probability under "no worse" that the next event is the canary's."""
        mine = self.canary * (1 + self.margin)
        return mine / (mine + self.control)


class Cleared(NamedTuple):
    """The open block without the bursts of single servers.

    Attributes:
        block: What is left of it, and ``sides`` its shares.
        level: The control's usual events in such a block, as if all units were its.
        cut: The bursts, and ``runs`` their lengths.
        is_burst: It is in a burst of the canary.
        most: Most that it may bring as part of a burst; infinite = it is in none.
    """

    block: OpenBlock
    sides: Sides
    level: float
    cut: ServerBlock
    runs: dict[str, tuple[int, int]]
    is_burst: bool
    most: float


class Blocks(msgspec.Struct, frozen=True):
    """Evidence of blocks; plain data, updated by copying.

    Args:
        bets: Evidence of harm.
        count: Number of whole blocks.
        level: Moving average of the control's events in a block, as if all units were its; -1 = unknown.
        calm: Events of the control by request, in its calmer blocks; -1 = unknown.
        mean, jumps: Mean of the same, and the sum of its squared differences beyond chance.
        last: The same of the last block, and its part of the units; None = not comparable.
        run: Length of the current burst in blocks.
        is_after_burst: The last block was the first of a burst.
        runs: By server, if there are several, the same length for its canary and for its control.
        open: Block that is not over.
    """

    bets: Bets = Bets()
    count: int = 0
    level: float = -1.0
    calm: float = -1.0
    mean: float = 0.0
    jumps: float = 0.0
    last: tuple[float, float] | None = None
    run: int = 0
    is_after_burst: bool = False
    runs: Mapping[str, tuple[int, int]] = msgspec.field(default_factory=dict)
    open: OpenBlock | None = None

    def variation(self, part: float = 1.0) -> float:
        """Return the variation of the rate between blocks: variance by squared mean; Poisson = 0.

        Args:
            part: Part of the prior.
        """
        count = PRIOR_BLOCKS + self.count
        prior = part * PRIOR_VARIATION * (PRIOR_BLOCKS / count) ** 2
        if not self.mean:
            return prior
        seen = max(self.jumps, 0.0) / (2 * self.mean**2 * count)
        return prior + seen * (1 + _WIDENED / math.sqrt(self.count + 1))

    def factor(self, share: float, level: float | None = None) -> float:
        """Return the divisor of the evidence of harm, at least 1."""
        return self._factor(self.variation(), share, level)

    def gate_factor(self, share: float) -> float:
        """Return the divisor of the evidence of no harm, whose prior is smaller."""
        return self._factor(self.variation(_GATE_PRIOR), share, None)

    def rare_factor(self, expected: float) -> float:
        """Return the divisor of the evidence that the canary's rate is negligible, by its own failures alone.

        Args:
            expected: Failures of the canary in a block at the largest negligible rate.
        """
        return 1 + self.variation(_RARE_PRIOR) * expected

    def _factor(self, variation: float, share: float, level: float | None) -> float:
        if share >= 1:
            return 1.0
        # Of a canary of more than half, the smaller control limits what bursts can move.
        part = share * min(1.0, 2 * (1 - share))
        return 1 + 2 * variation * part * max(0.0, self.level if level is None else level)

    @property
    def is_longer_than_a_hiccup(self) -> bool:
        """Return whether the last block was at least the third one of a burst."""
        return self.run > _HICCUP

    def usual(self, block: OpenBlock, sides: Sides) -> float:
        """Return the control's events that are no burst: as in calmer blocks, or as the canary has."""
        expected = max(0.0, self.calm) * block.others
        return max(expected + _CREDIBLE * math.sqrt(expected), block.canary * sides.control / sides.canary)

    def cleared(self, sides: Sides, length: float) -> Cleared | None:
        """Return the open block without the bursts of single servers.

        Args:
            length: Seconds of a whole block.
        """
        if self.open is None:
            return None
        block, sides, cut, runs = self._calm(self.open, sides)
        part, level = min(1.0, block.seconds / length), self.level * min(1.0, block.seconds / length)
        if self.level < 0:
            level = block.control / sides.control if part else 0.0
        is_burst = self.open.is_burst or is_too_much(block.canary, sides, level)
        most = math.inf
        if self.is_after_burst:
            most = 0.0
        elif is_burst and not self.run:
            most = MOST_OF_BURST
        return Cleared(block, sides, level, cut, runs, is_burst, most)

    def closed(self, sides: Sides, length: float, *, counts: bool) -> Self:
        """Close the open block.

        Args:
            length: Seconds of a whole block.
            counts: It is evidence of harm.
        """
        cleared = self.cleared(sides, length)
        if cleared is None:
            return self
        whole, (block, sides, level, _, runs, is_burst, burst_most) = sides.control, cleared
        part = min(1.0, block.seconds / length)
        usual = level * sides.control
        is_wild = self.count >= _WILD_AFTER and block.control > _WILD_TIMES * usual + _WILD_MORE
        bets = self.bets
        if counts and not is_wild:
            most, factor = min(MOST, burst_most), self.factor(block.share, level)
            steps = self.steps(block.canary, block.control, sides, level, factor)
            bets = bets.add([min(step, most) for step in steps])
        run = self.run + 1 if is_burst else 0
        after = msgspec.structs.replace(
            self, bets=bets, run=run, is_after_burst=run == 1, runs=runs, open=None
        )
        if part < _NEARLY:
            return msgspec.structs.replace(after, last=None)
        return after._learned(block, sides.control, level / part, whole)

    def _calm(
        self, block: OpenBlock, sides: Sides
    ) -> tuple[OpenBlock, Sides, ServerBlock, dict[str, tuple[int, int]]]:
        """Return a block without the bursts of single servers, the shares that are left, and the bursts."""
        (canary, control), runs = block.cut(self.runs)
        if (canary, control) == _NO_ARMS:
            return block, sides, _NO_ARMS, runs
        mine, rest = (
            max(_LEAST_LEFT, 1 - arm.requests / max(1, asked))
            for arm, asked in ((canary, block.requests), (control, block.others))
        )
        calm = msgspec.structs.replace(
            block,
            canary=block.canary - canary.units,
            control=block.control - control.units,
            failures=block.failures - canary.failures,
            requests=block.requests - canary.requests,
            others=block.others - control.requests,
        )
        left = Sides(sides.canary * mine, sides.control * rest, sides.margin)
        return calm, left, (canary, control), runs

    def late(self, canary: int, control: int, sides: Sides) -> Self:
        """Add a bucket of an earlier stage, as a block of its own."""
        level = max(0.0, self.level)
        steps = self.steps(canary, control, sides, level, self.factor(sides.canary, level))
        bets = self.bets.add([min(step, MOST) for step in steps])
        return msgspec.structs.replace(self, bets=bets)

    @staticmethod
    def steps(canary: int, control: float, sides: Sides, level: float, factor: float) -> list[float]:
        """Return the log evidence of a block for each ratio."""
        expected, boundary, found = _expected(sides, level), sides.boundary, []
        for ratio, log in zip(HARM, _LOGS, strict=True):
            many = ratio * expected
            explained = min(canary, math.floor(1 + many + _CREDIBLE * math.sqrt(many)))
            events = explained + control
            found.append((explained * log - events * math.log1p(boundary * (ratio - 1))) / factor)
        return found

    def _learned(self, block: OpenBlock, part: float, level: float, whole: float) -> Self:
        """Learn from a whole block of the control; extremes are clipped.

        Args:
            part: Its part of the units, without bursts of single servers; ``whole``: with them.
        """
        limit = _WILD_TIMES * level + _WILD_MORE / part
        events, count, jumps = min(block.control / part, limit), self.count + 1, self.jumps
        if self.last is not None and self.last[1] == whole:
            before = self.last[0]
            jumps += min((events - before) ** 2, limit**2) - (events + before) / part
        weight, calm = max(1 / count, _SLOWEST), self.calm
        level = level + weight * (events - level) if self.level >= 0 else events
        if block.others:
            rate = block.control / block.others
            step = _UPWARDS if rate > calm else 1 - _UPWARDS
            calm = calm + 2 * min(0.5, weight) * step * (rate - calm) if calm >= 0 else rate
        return msgspec.structs.replace(
            self,
            count=count,
            level=level,
            calm=calm,
            mean=self.mean + (events - self.mean) / count,
            jumps=jumps,
            last=(events, whole),
        )


def is_too_much(canary: int, sides: Sides, level: float) -> bool:
    """Return whether so many units of the canary failed in a block that no ratio explains them.

    Args:
        level: Usual events of the control in a block, as if all units were its.

    >>> is_too_much(1, Sides(0.01, 0.99), 0.3), is_too_much(2, Sides(0.05, 0.95), 6.0)
    (True, False)
    """
    many = HARM[-1] * _expected(sides, level)
    return canary > many + _CREDIBLE * math.sqrt(many)


def _expected(sides: Sides, level: float) -> float:
    """Return the canary's events in a block without harm beyond the margin."""
    # That a control has had no event yet does not make one of the canary inexplicable.
    return sides.canary * (1 + sides.margin) * max(level, _UNSURE / sides.control)


def _rest(counts: Counts, is_matched: bool) -> int:
    return counts.baseline if is_matched else counts.control
