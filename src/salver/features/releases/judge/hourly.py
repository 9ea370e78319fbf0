"""What do the first events of each hour say, of units that have had some before?

The first event of a unit says what the next ones of it do not, so only that counts. Where units come often,
all of them have had one before long, and a canary that breaks then would break unseen. So each hour begins
anew, with evidence of its own, in which a unit counts once. Evidence of an hour bets a part of the whole, the
n-th one 1 / n (n + 1), so that all of it together is evidence still, however many hours there are. Pure.
"""

import math
from typing import Self

import msgspec

from salver.stats.binomial_evidence import BinomialEvidence, harm
from salver.stats.combine import log_mean, log_sum
from salver.stats.sign_flip import SignFlipEvidence, start
from salver.words.releases import Counts

#: Of what is bet on harm, this part is bet on the first events of all; what is left, on those of each hour.
ON_FIRST = 0.98
_NOTHING = -700.0  # the logarithm of as good as 0


class Hourly(msgspec.Struct, frozen=True):
    """Plain data, that grows by copies.

    Args:
        hour: That is under way, counted from 1970 on; ``number``: of how many with this one.
        harm, flip: Evidence of this hour alone.
        past_harm, past_flip: The logarithm of what all hours before have brought, by their parts.
        events: Of this hour.
    """

    hour: int = -1
    number: int = 0
    harm: BinomialEvidence = msgspec.field(default_factory=harm)
    flip: SignFlipEvidence = msgspec.field(default_factory=start)
    past_harm: float = _NOTHING
    past_flip: float = _NOTHING
    events: Counts = Counts()

    def at(self, hour: int) -> Self:
        """In this hour; a new one begins without evidence."""
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
        """The logarithm of all hours' binomial evidence of harm."""
        return self._together(self.past_harm, self.harm.log_e)

    @property
    def log_flip(self) -> float:
        """The logarithm of all hours' sign-flip evidence of harm."""
        return self._together(self.past_flip, self.flip.log_e)

    def _bet(self, log_e: float) -> list[float]:
        return [log_e - math.log(self.number * (self.number + 1))] if self.number else []

    def _together(self, past: float, log_e: float) -> float:
        """With what is left for the hours to come."""
        return log_sum([past, *self._bet(log_e), -math.log(self.number + 1)])


def with_first(first: float, hours: float) -> float:
    """The logarithm of the evidence of the first events of all, and of those of each hour."""
    return log_mean([first, hours], [ON_FIRST, 1 - ON_FIRST])
