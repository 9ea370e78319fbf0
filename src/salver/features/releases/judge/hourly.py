"""Evidence from the first events of units within each hour.

A unit's first event is independent evidence, later ones are not, so only the first counts. Where units return
often, all of them have had one before long, and a canary that fails later would go unnoticed. So each hour
starts again with evidence of its own, in which a unit counts once. The n-th hour bets a fraction 1 / n (n +
1) of the whole, so that the total stays valid evidence however many hours there are. Pure.
"""

import math
from typing import Self

import msgspec

from salver.stats.binomial_evidence import BinomialEvidence, harm
from salver.stats.combine import log_mean, log_sum
from salver.stats.sign_flip import SignFlipEvidence, start
from salver.words.releases import Counts

#: Fraction of the bet on harm that goes to the first events overall; the rest goes to those of each hour.
ON_FIRST = 0.98
_NOTHING = -700.0  # the logarithm of nearly 0


class Hourly(msgspec.Struct, frozen=True):
    """Hourly evidence; plain data, updated by copying.

    Args:
        hour: Current hour, counted from 1970; ``number``: hours so far, including this one.
        harm, flip: Evidence of this hour only.
        past_harm, past_flip: Log of the weighted evidence of all earlier hours.
        events: Events of this hour.
    """

    hour: int = -1
    number: int = 0
    harm: BinomialEvidence = msgspec.field(default_factory=harm)
    flip: SignFlipEvidence = msgspec.field(default_factory=start)
    past_harm: float = _NOTHING
    past_flip: float = _NOTHING
    events: Counts = Counts()

    def at(self, hour: int) -> Self:
        """Return the evidence in this hour; a new hour starts without any."""
        if hour == self.hour:
            return self
        return type(self)(
            hour=hour,
            number=self.number + 1,
            past_harm=log_sum([self.past_harm, *self._bet(self.harm.log_e)]),
            past_flip=log_sum([self.past_flip, *self._bet(self.flip.log_e)]),
        )

    @property
    def log_harm(self) -> float:
        """Return the log binomial evidence of harm of all hours."""
        return self._together(self.past_harm, self.harm.log_e)

    @property
    def log_flip(self) -> float:
        """Return the log sign-flip evidence of harm of all hours."""
        return self._together(self.past_flip, self.flip.log_e)

    def _bet(self, log_e: float) -> list[float]:
        if self.number:
            return [log_e - math.log(self.number * (self.number + 1))]
        return []

    def _together(self, past: float, log_e: float) -> float:
        """Combine the hours with the share reserved for later ones."""
        return log_sum([past, *self._bet(log_e), -math.log(self.number + 1)])


def with_first(first: float, hours: float) -> float:
    """Return the log evidence of first events overall and of each hour together."""
    return log_mean([first, hours], [ON_FIRST, 1 - ON_FIRST])
