"""Cost of serving: latency against energy.

Pure: numbers in, numbers out. It knows no model, no meter and no queue.
"""

import msgspec


class Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Weights of latency and energy, and the energy of a run.

    The cost of serving is ``latency_weight · E[W] + energy_weight · power``, with the mean time in the
    system E[W] in milliseconds and power in watts (millijoules per millisecond).

    Attributes:
        latency_weight: Weight of a millisecond of mean latency.
        energy_weight: Weight of a watt; 0 = only latency counts.
        joules_per_row: Energy of each row of a run.
        joules_per_run: Fixed energy of a run.
    """

    latency_weight: float = 1.0
    energy_weight: float = 0.0
    joules_per_row: float = 0.0
    joules_per_run: float = 0.0

    def joules(self, rows: int) -> float:
        """Return the energy of a run."""
        return self.joules_per_row * rows + self.joules_per_run

    def of(self, latency_s: float, watts: float) -> float:
        """Return the cost of serving at this mean latency and power."""
        return self.latency_weight * 1e3 * latency_s + self.energy_weight * watts
