"""Variation of events beyond chance, by which evidence is tempered.

Evidence on counts assumes independent events. A replica with a hiccup, or a retry storm, causes bursts that
hit one arm and not the other, so that a good canary looks bad. Two sources show this: the control, whose two
arms have the same version and differ only by chance; and, until that suffices, how much its counts jump from
bucket to bucket, all of which is attributed to bursts in single arms. Slow changes, such as day and night or
outages of all arms, are neither. Pure.
"""

import msgspec

from salver.words.releases import Counts

#: Prior variance of rates before any bucket, as a multiple of their squared mean. Its weight falls with the
#: square of the number of buckets beyond this many.
PRIOR_VARIATION, PRIOR_BUCKETS = 8.0, 3.0
#: Weight of the jumps, in expected events of the smaller arm of the control.
PRIOR_EVENTS = 20.0
#: Maximum log evidence of one bucket while rates vary by their mean or more.
MOST = 1.25


class Wildness(msgspec.Struct, frozen=True):
    """Observations of the control; plain data, updated by copying.

    Args:
        buckets, events: Totals of the release; only full buckets.
        jumps: Sum of the squared differences between successive buckets, minus the expectation by chance.
        last: Events of the last bucket; None = the next one cannot be compared with it.
        squares, expected: In this stage, the squared deviations of the two control arms from their shares,
            and their expectation by chance.

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
        """Add a bucket.

        Args:
            share: The canary's share of the units.
            is_whole: It has the full length; others carry no information about jumps.
        """
        control, last = events.control, self.last
        part = matched_share(share) / (1 - share)  # the baseline's part of the control
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
        """Return the observations at a new stage, without deviations from earlier arm sizes."""
        return msgspec.structs.replace(self, last=None, squares=0.0, expected=0.0)

    @property
    def variation(self) -> float:
        """Return the variation of the rate between buckets: variance by squared mean; Poisson = 0."""
        if not self.events:
            return PRIOR_VARIATION
        mean, count = self.events / self.buckets, PRIOR_BUCKETS + self.buckets
        seen = max(self.jumps, 0.0) / (2 * mean * mean)
        return PRIOR_VARIATION * (PRIOR_BUCKETS / count) ** 2 + seen / count

    def factor(self, share: float) -> float:
        """Return the divisor of the next bucket's evidence, at least 1.

        If the variation were specific to arms, the canary's part of the events would vary by that factor more
        than by chance. The weight of the control's arms grows with their events.
        """
        if share >= 1 or not self.buckets:
            return 1.0
        events = self.events / self.buckets / (1 - share)
        feared = 1 + 2 * self.variation * share * (1 - share) * events
        return max(1.0, (PRIOR_EVENTS * feared + self.squares) / (PRIOR_EVENTS + self.expected))

    @property
    def most(self) -> float:
        """Return the maximum log evidence of the next bucket: no single one decides early."""
        return MOST * max(1.0, 1 / self.variation)


def matched_share(share: float) -> float:
    """Return the baseline's share of all units, beside a canary of this share: equal, or the remainder.

    >>> matched_share(0.05), matched_share(0.75)
    (0.05, 0.25)
    """
    return min(share, 1 - share)
