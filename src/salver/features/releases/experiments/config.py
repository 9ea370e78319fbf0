"""Configuration of the collector."""

import msgspec


class CollectorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of the collector.

    Attributes:
        units: Number of units of a release that are distinguished reliably; beyond it errors grow.
        error: Probability that a new unit is taken for a known one, at that number; equal in every arm.
        most_pending: First exposures and events after which a bucket is closed early, to limit memory.
    """

    units: int = 10_000_000
    error: float = 0.001
    most_pending: int = 65_536
