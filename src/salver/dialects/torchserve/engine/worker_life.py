"""When is a worker of a handler started again that died or did not start?

TorchServe's rule as a pure object (TS-B7): after growing pauses, and no more once it has failed for longer
than the model's owner allows; then the model is unhealthy. Times are arguments.
"""

import enum
from typing import Final

#: Pauses in seconds after so many failures in a row; the last one for all that follow.
PAUSES: Final = (0.0, 1.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 34.0, 55.0)
#: A worker that was there so long has recovered: its next death is the first one.
_HEALTHY_S: Final = 5.0


class Stage(enum.StrEnum):
    """How far a worker is."""

    STARTING = "STARTING"  # or pausing before its next start
    READY = "READY"
    UNLOADING = "UNLOADING"
    LOST = "LOST"  # it is not tried any more


class WorkerLife:
    """The life of one worker, through the deaths of its processes.

    Args:
        max_retry_s: So long it may be tried again after it was there last, or after its first failure.

    Attributes:
        has_tried: It has been ready, or has failed.
        deaths: How often its process died after it had been ready.

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
        self._since = 0.0  # when it failed first, of failures in a row
        self._was_ready_at = 0.0

    def ready(self, now: float) -> None:
        """It can run."""
        self.stage, self.has_tried = Stage.READY, True
        self._was_ready_at = now

    def failed(self, now: float) -> float | None:
        """It died, or did not start; how long to pause before the next start, None = it is given up."""
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
        """It is not wanted any more."""
        self.stage = Stage.UNLOADING

    def is_healthy(self, now: float) -> bool:
        """It is there, or has not been missed for longer than it may."""
        if self.stage is Stage.STARTING and self._failures:
            return now - self._since <= self._max_retry_s
        return self.stage is not Stage.LOST
