"""How much wilder than chance do events come, so that evidence from them has to be tempered?

Evidence on counts takes events for independent. A replica that hiccups, or one retry storm, makes them come
in bursts that hit one arm and not the other, and a good canary looks sick. Two things tell: the control,
whose two arms meet the same version, so that they differ by chance alone; and, until that says enough, how
far its counts jump from bucket to bucket, all of which is taken for bursts of single arms. Slow changes,
such as days and nights or outages of all arms, are neither. Pure.
"""

import msgspec

from salver.words.releases import Counts

#: Before a bucket was seen, the variance of rates is taken for so many times their mean, squared. It is
#: believed the less the more buckets have come, beyond so many by the square of their number.
PRIOR_VARIATION, PRIOR_BUCKETS = 8.0, 3.0
#: What the control's jumps say weighs as much as so many events expected in its smaller arm.
PRIOR_EVENTS = 20.0
#: The most that one bucket brings, of evidence's logarithm, while rates vary by their mean or more.
MOST = 1.25


class Wildness(msgspec.Struct, frozen=True):
    """What was seen of the control; plain data, that grows by copies.

    Args:
        buckets, events: Of the whole release; only whole buckets.
        jumps: Sum of the squared differences between successive buckets, less what chance explains.
        last: Events of the last bucket; None = the next one cannot be held against it.
        squares, expected: Of this stage: squared differences between the two arms of the control and what
            each share promises, and what chance makes of them.

    >>> calm = Wildness().add(Counts(baseline=1, stable=99), 0.01)
    >>> calm.factor(0.01) < Wildness().add(Counts(baseline=60, stable=40), 0.01).factor(0.01)
    True
    """

    buckets: int = 0
    events: int = 0
    jumps: float = 0.0
    last: int | None = None
    squares: float = 0.0
    expected: float = 0.0

    def add(self, events: Counts, share: float, is_whole: bool = True) -> "Wildness":
        """With one more bucket.

        Args:
            share: The canary's of the units.
            is_whole: It is as long as all; others say nothing of jumps.
        """
        control, last = events.control, self.last
        part = matched_share(share) / (1 - share)  # the baseline's, of the control
        grown = msgspec.structs.replace(
            self,
            squares=self.squares + (events.baseline - part * control) ** 2,
            expected=self.expected + part * (1 - part) * control,
            last=control if is_whole else None,
        )
        if not is_whole:
            return grown
        return msgspec.structs.replace(
            grown,
            buckets=self.buckets + 1,
            events=self.events + control,
            jumps=self.jumps + (0.0 if last is None else float((control - last) ** 2 - control - last)),
        )

    def at_new_stage(self) -> "Wildness":
        """Arms of other sizes: what the differences between them said no longer holds."""
        return msgspec.structs.replace(self, last=None, squares=0.0, expected=0.0)

    @property
    def variation(self) -> float:
        """Of the rate from bucket to bucket: variance by the squared mean; 0 for Poisson counts."""
        if not self.events:
            return PRIOR_VARIATION
        mean, count = self.events / self.buckets, PRIOR_BUCKETS + self.buckets
        seen = max(self.jumps, 0.0) / (2 * mean * mean)
        return PRIOR_VARIATION * (PRIOR_BUCKETS / count) ** 2 + seen / count

    def factor(self, share: float) -> float:
        """By which evidence of a next bucket is to be divided, 1 or more.

        Were the variation the arms' own, the canary's part of the events would vary by that much more than
        chance makes it. What the control's arms show weighs as they collect events.
        """
        if share >= 1 or not self.buckets:
            return 1.0
        events = self.events / self.buckets / (1 - share)
        feared = 1 + 2 * self.variation * share * (1 - share) * events
        return max(1.0, (PRIOR_EVENTS * feared + self.squares) / (PRIOR_EVENTS + self.expected))

    @property
    def most(self) -> float:
        """That a next bucket may bring of evidence's logarithm: no single one decides, unless rates are
        known to be steady.
        """
        return MOST * max(1.0, 1 / self.variation)


def matched_share(share: float) -> float:
    """The baseline's of all units, beside a canary of this share: as large, or what is left.

    >>> matched_share(0.05), matched_share(0.75)
    (0.05, 0.25)
    """
    return min(share, 1 - share)
