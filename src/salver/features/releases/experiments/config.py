"""How finely is counted, and how much memory may it take?"""

import msgspec


class CollectorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of the collector.

    Attributes:
        units: So many units of a release are told apart; more of them are, less and less well.
        error: Chance that a new unit is taken for a known one, with so many; it is the same in every arm.
        most_pending: First exposures and events after which a bucket is closed early, to bound memory.
    """

    units: int = 10_000_000
    error: float = 0.001
    most_pending: int = 65_536
