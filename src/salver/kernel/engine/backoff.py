"""How long does a host that died wait before its next start?

Exponential back-off, as a pure rule: counts, seconds and chance are arguments.

Pure.
"""

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """The rule.

    Attributes:
        first_s: Wait after the first death.
        most_s: Longest wait.
        healthy_s: A host that lived so long starts the count anew.
        jitter: Share by which a wait varies to either side, so that hosts which died together
            do not load together.

    >>> [round(Backoff().delay(n, chance=0.5), 1) for n in (1, 2, 3, 8, 9, 10_000)]
    [0.1, 0.2, 0.4, 12.8, 25.6, 30.0]
    """

    first_s: float = 0.1
    most_s: float = 30.0
    healthy_s: float = 5.0
    jitter: float = 0.1

    def count(self, deaths: int, lived_s: float) -> int:
        """Deaths in a row, this one included."""
        return 1 if lived_s >= self.healthy_s else deaths + 1

    def delay(self, deaths: int, chance: float) -> float:
        """Seconds to wait after so many deaths in a row; ``chance`` is uniform in [0, 1)."""
        doublings = min(max(deaths, 1) - 1, 60)
        return min(self.most_s, self.first_s * 2.0**doublings) * (1 + self.jitter * (2 * chance - 1))
