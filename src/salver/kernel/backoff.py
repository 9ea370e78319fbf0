"""Exponential back-off.

Pure: counts, seconds and the random number are arguments.
"""

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """Back-off rule.

    Attributes:
        first_s: Delay after the first failure.
        most_s: Maximum delay.
        factor: Factor by which the delay grows with each failure.
        healthy_s: Time without failure after which the count starts again.
        jitter: Fraction by which a delay varies in either direction, so that what failed together does not
            start together.

    >>> [round(Backoff().delay(n, chance=0.5), 1) for n in (1, 2, 3, 8, 9, 10_000)]
    [0.1, 0.2, 0.4, 12.8, 25.6, 30.0]
    """

    first_s: float = 0.1
    most_s: float = 30.0
    factor: float = 2.0
    healthy_s: float = 5.0
    jitter: float = 0.1

    def count(self, failures: int, healthy_s: float) -> int:
        """Return the number of consecutive failures, including this one, after so long without one."""
        return 1 if healthy_s >= self.healthy_s else failures + 1

    def delay(self, failures: int, chance: float = 0.5) -> float:
        """Return the seconds to wait after so many consecutive failures; ``chance`` is uniform in [0, 1)."""
        steps = min(max(failures, 1) - 1, 60)
        return min(self.most_s, self.first_s * self.factor**steps) * (1 + self.jitter * (2 * chance - 1))
