"""What is a batch worth: a caller's millisecond against a joule?

Pure: numbers in, numbers out. It knows no model, no meter and no queue.
"""

import msgspec


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Weights of latency and energy, and the energy that a run takes.

    The cost of serving is ``latency_weight · E[W] + energy_weight · power``, with the mean time in the
    system E[W] in milliseconds and power in watts (millijoules per millisecond).

    Attributes:
        latency_weight: Of a millisecond of mean latency.
        energy_weight: Of a watt; 0 = latency is all that counts.
        joules_per_row: Energy of each row of a run.
        joules_per_run: Energy of a run, whatever its size.
    """

    latency_weight: float = 1.0
    energy_weight: float = 0.0
    joules_per_row: float = 0.0
    joules_per_run: float = 0.0

    def joules(self, rows: int) -> float:
        """Energy of a run of so many rows."""
        return self.joules_per_row * rows + self.joules_per_run

    def of(self, latency_s: float, watts: float) -> float:
        """The cost of serving at this mean latency and power."""
        return self.latency_weight * 1e3 * latency_s + self.energy_weight * watts
