"""Timer that notices a run of a host process that takes too long."""

import asyncio
import math
from collections.abc import Callable

from salver.kernel.engine.run_limit import RunLimit


class RunWatch:
    """Watch over the current run; one timer serves many runs.

    Args:
        waits: Tells whether the run waits for a reader of its responses, which is no fault of the model.
        hangs: Called with the reason when the run has taken too long.
    """

    def __init__(self, limit: RunLimit, waits: Callable[[], bool], hangs: Callable[[str], None]) -> None:
        self._limit = limit
        self._waits = waits
        self._hangs = hangs
        self._loop = asyncio.get_running_loop()
        self._hangs_at = math.inf  # time at which the run counts as hanging
        self._looks_at = math.inf  # time of the next check
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Count from now: a run has started, or the child has sent something."""
        self._hangs_at = at = self._loop.time() + self._limit.seconds
        if at < self._looks_at:
            self.cancel()
            self._looks_at, self._timer = at, self._loop.call_at(at, self._look)

    def end(self) -> None:
        """Note that no run is active."""
        self._hangs_at = math.inf  # cheaper than to cancel the timer: the next run may need it

    def cancel(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._looks_at, self._timer = math.inf, None
        if self._waits():
            self.begin()
        elif self._hangs_at <= self._loop.time():
            self._hangs(f"a run did not end within {self._limit.seconds:g} s")
        elif self._hangs_at < math.inf:
            self._looks_at = self._hangs_at
            self._timer = self._loop.call_at(self._hangs_at, self._look)
