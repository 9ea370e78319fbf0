"""What may an operator say about loading?"""

import msgspec


class LifecycleConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How versions are brought up.

    Attributes:
        parallel_loads: Versions that load or warm up at the same time.
        retries: Further tries of a version that failed to load; its files being unchanged.
        backoff_s: Seconds before the first of them.
        backoff_factor: By which they grow each time.
        sequences_s: Seconds that sequences under way have to end in a version that is replaced.
    """

    parallel_loads: int = 4
    retries: int = 0
    backoff_s: float = 1.0
    backoff_factor: float = 2.0
    sequences_s: float = 30.0
