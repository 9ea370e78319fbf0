"""Maximum duration of a run before the model counts as hanging.

Configured, or learned: a hundred times the longest run so far, at least a minute; ten minutes until enough
runs are known. Pure; updated at the end of a run, on any thread.
"""

import math
from typing import Final

_ENOUGH: Final = 64  # runs before the limit is learned
_UNKNOWN_S: Final = 600.0
_LEAST_S: Final = 60.0
_FACTOR: Final = 100.0


class RunLimit:
    """Limit on the runs of one model.

    Args:
        fixed_s: Configured limit; 0 = learned, inf = none.

    Attributes:
        seconds: The current limit.

    >>> limit = RunLimit()
    >>> limit.seconds
    600.0
    >>> for _ in range(64):
    ...     limit.observe(2.0)
    >>> limit.seconds
    200.0
    """

    __slots__ = ("_longest", "_runs", "seconds")

    def __init__(self, fixed_s: float = 0.0) -> None:
        self.seconds = fixed_s or _UNKNOWN_S
        self._runs = -math.inf if fixed_s else 0.0
        self._longest = 0.0

    def __repr__(self) -> str:
        return f"<RunLimit {self.seconds:g} s>"

    def observe(self, seconds: float) -> None:
        """Record a finished run; ignore one that counted as hanging."""
        if seconds > self.seconds:
            return
        self._runs += 1
        if seconds > self._longest:
            self._longest = seconds
        elif self._runs != _ENOUGH:
            return
        if self._runs >= _ENOUGH:
            self.seconds = max(_LEAST_S, _FACTOR * self._longest)
