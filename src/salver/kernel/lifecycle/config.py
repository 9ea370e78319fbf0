"""Configuration of loading."""

import math

import msgspec

from salver.kernel.supervise import Backoff


class LifecycleConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings for loading versions.

    Attributes:
        parallel_loads: Maximum number of versions that load or warm up at the same time.
        retries: Number of retries of a version that failed to load, while its files are unchanged.
        backoff_s: Seconds before the first retry.
        backoff_factor: Factor by which the delay grows with each retry.
        sequences_s: Seconds that active sequences have to end when their version is replaced.
    """

    parallel_loads: int = 4
    retries: int = 0
    backoff_s: float = 1.0
    backoff_factor: float = 2.0
    sequences_s: float = 30.0

    @property
    def backoff(self) -> Backoff:
        """Delays of retries."""
        return Backoff(self.backoff_s, math.inf, self.backoff_factor)
