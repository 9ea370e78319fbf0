"""Strain of a model, and the level of the brown-out that follows from it. Pure."""

import math
from typing import Final

from salver.features import BrownoutConfig
from salver.words.artifacts import ModelConfig
from salver.words.messages import Insight

#: Time constant in seconds of the average of the strain.
TAU_S: Final = 1.0


def strain(config: ModelConfig, queued: int, slots: int, insight: Insight) -> float:
    """Return how near a model is to refusing requests: 1 = it refuses.

    The largest of the utilisation, the share of the queue that is taken, and the delay that the queue means
    as a share of what the objective leaves for it. The first and the last are unknown, and left out, before
    the engine has measured its runs.

    >>> config = ModelConfig()
    >>> strain(config, config.batching.max_queue // 2, 1, Insight(load=0.3))
    0.5
    """
    most = insight.limit or config.batching.max_queue
    found = max(insight.load, queued / most)
    promise = (config.objective.latency_p99_ms or config.objective.deadline_ms) / 1e3
    spare = promise - insight.t0 - insight.a
    if spare > 0:
        largest = config.batching.largest_run
        runs = queued / (largest * max(1, slots))
        found = max(found, runs * (insight.t0 + insight.a * largest) / spare)
    return found


class Brownout:
    """Level of the brown-out, from 0 (everything is on) up.

    It goes up by one after each ``raise_s`` in which the average strain is at least ``enter``, and down by
    one after each ``lower_s`` in which it is at most ``leave``. In between, it stays.

    Args:
        most: Highest level.

    >>> brownout = Brownout(BrownoutConfig(("a", "b"), raise_s=2, lower_s=30), most=2)
    >>> [brownout.observe(1.0, now) for now in (0, 1, 2, 4, 6)]
    [0, 0, 1, 2, 2]
    >>> [brownout.observe(strain, now) for strain, now in ((0.7, 90), (0.1, 100), (0.1, 131), (0.1, 161))]
    [2, 2, 1, 0]
    """

    def __init__(self, config: BrownoutConfig, most: int) -> None:
        self._config = config
        self._most = most
        self._seen = -math.inf
        self._since = -math.inf  # when the strain, or the level, came to where it is
        self._side = 0
        self.strain = 0.0
        self.level = 0

    def __repr__(self) -> str:
        return f"<Brownout at {self.level} of {self._most}, strain {self.strain:.2f}>"

    def observe(self, strain: float, now: float) -> int:
        """Record the strain of the models at a time, and return the level."""
        config = self._config
        self.strain += (strain - self.strain) * (1 - math.exp((self._seen - now) / TAU_S))
        self._seen = now
        side = (self.strain >= config.enter) - (self.strain <= config.leave)
        if side != self._side:
            self._side, self._since = side, now
        pause = config.raise_s if side > 0 else config.lower_s
        level = min(max(self.level + side, 0), self._most)
        if level != self.level and now - self._since >= pause:
            self.level, self._since = level, now
        return self.level
