"""Restart policy of a worker that died or did not start.

TorchServe's rule as a pure object (TS-B7): restarts follow growing pauses, and end when the worker has been
failing for longer than the model's owner allows; the model is unhealthy then. Times are arguments.
"""

import enum
from typing import Final

#: Pauses in seconds after each of several failures in a row; the last one for all further ones.
PAUSES: Final = (0.0, 1.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 55.0)
#: Seconds after which a ready worker counts as recovered, so that its next death is the first in a row.
_HEALTHY_S: Final = 5.0


class Stage(enum.StrEnum):
    """Stage in the life of a worker."""

    STARTING = "STARTING"  # or pausing before its next start
    READY = "READY"
    UNLOADING = "UNLOADING"
    LOST = "LOST"  # not restarted any more


class WorkerLife:
    """Life of one worker, across its processes.

    Args:
        max_retry_s: Maximum seconds of restarts since it was last ready, or since its first failure.

    Attributes:
        has_tried: Whether it has been ready or has failed.
        deaths: Number of deaths of its process after it had been ready.

    >>> life = WorkerLife(10.0)
    >>> life.failed(100.0), life.failed(101.0), life.failed(109.0), life.failed(112.0), life.stage.value
    (0.0, 1.0, 1.0, None, 'LOST')
    """

    def __init__(self, max_retry_s: float) -> None:
        self.stage = Stage.STARTING
        self.has_tried = False
        self.deaths = 0
        self._max_retry_s = max_retry_s
        self._failures = 0
        self._since = 0.0  # time of the first failure in a row
        self._was_ready_at = 0.0

    def ready(self, now: float) -> None:
        """Note that the worker is ready."""
        self.stage, self.has_tried = Stage.READY, True
        self._was_ready_at = now

    def failed(self, now: float) -> float | None:
        """Note a death or failed start; return the pause before the next start, None = no more starts."""
        if self.stage is Stage.READY:
            self.deaths += 1
            if now - self._was_ready_at >= _HEALTHY_S:
                self._failures = 0
        if not self._failures:
            self._since = now
        self.stage, self.has_tried = Stage.STARTING, True
        if now - self._since > self._max_retry_s:
            self.stage = Stage.LOST
            return None
        self._failures += 1
        return PAUSES[min(self._failures - 1, len(PAUSES) - 1)]

    def leave(self) -> None:
        """Note that the worker is no longer wanted."""
        self.stage = Stage.UNLOADING

    def is_healthy(self, now: float) -> bool:
        """Return whether the worker is ready, or has not been missing for longer than allowed."""
        if self.stage is Stage.STARTING and self._failures:
            return now - self._since <= self._max_retry_s
        return self.stage is not Stage.LOST
