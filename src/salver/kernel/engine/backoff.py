"""Exponential back-off for restarts of host processes.

Pure: counts, seconds and the random number are arguments.
"""

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """Back-off rule.

    Attributes:
        first_s: Delay after the first death.
        most_s: Maximum delay.
        healthy_s: Lifetime of a host after which the count starts again.
        jitter: Fraction by which a delay varies in either direction, so that hosts that died together do not
            load together.

    >>> [round(Backoff().delay(n, chance=0.5), 1) for n in (1, 2, 3, 8, 9, 10_000)]
    [0.1, 0.2, 0.4, 12.8, 25.6, 30.0]
    """

    first_s: float = 0.1
    most_s: float = 30.0
    healthy_s: float = 5.0
    jitter: float = 0.1

    def count(self, deaths: int, lived_s: float) -> int:
        """Return the number of consecutive deaths, including this one."""
        return 1 if lived_s >= self.healthy_s else deaths + 1

    def delay(self, deaths: int, chance: float) -> float:
        """Return the delay in seconds after that many consecutive deaths; ``chance`` is uniform in [0, 1)."""
        doublings = min(max(deaths, 1) - 1, 60)
        return min(self.most_s, self.first_s * 2.0**doublings) * (1 + self.jitter * (2 * chance - 1))
