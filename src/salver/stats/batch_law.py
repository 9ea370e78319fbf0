"""How long does a run of so many rows take?

``tau(b) = a·b + t0``, with at most one kink where activations leave a cache (Hockney's n_half, and
Clipper's batch law, with a bend). Pure: samples in, a law out. It knows no model and no clock.
"""

import msgspec


class BatchLaw(msgspec.Struct, frozen=True):
    """Seconds of a run by its rows.

    Attributes:
        a: Seconds a row, up to the kink.
        t0: Seconds a run, whatever its size.
        kink: Rows from which ``a_beyond`` holds instead; 0 = none.
        a_beyond: Seconds of each row beyond the kink.
        error: 95th percentile of (measured - predicted) / predicted; what a careful planner adds.

    >>> law = BatchLaw(a=0.001, t0=0.004)
    >>> round(law.seconds(32), 9), law.rows_within(0.0361), law.rows_within(0.0049), law.n_half
    (0.036, 32, 0, 4.0)
    """

    a: float
    t0: float
    kink: int = 0
    a_beyond: float = 0.0
    error: float = 0.0

    def seconds(self, rows: int) -> float:
        """Expected length of a run of so many rows (>= 0)."""
        if self.kink and rows > self.kink:
            return self.t0 + self.a * self.kink + self.a_beyond * (rows - self.kink)
        return self.t0 + self.a * rows

    def rows_within(self, seconds: float) -> int:
        """The most rows whose run is expected to end within so many seconds; 0 if not even one."""
        if seconds < self.t0 + self.a:
            return 0
        rows = (seconds - self.t0) / self.a if self.a > 0 else _MANY
        if self.kink and rows > self.kink:
            beyond = seconds - self.t0 - self.a * self.kink
            rows = self.kink + (beyond / self.a_beyond if self.a_beyond > 0 else _MANY)
        return int(min(rows, _MANY) + 1e-9)

    @property
    def n_half(self) -> float:
        """Rows at which half of the asymptotic rate is reached: t0 / a."""
        return self.t0 / self.a if self.a > 0 else float(_MANY)


_MANY = 1 << 20
