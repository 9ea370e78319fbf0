"""How long a run may take before the model is taken to hang.

Said by the owner, or learned: a run hangs that takes a hundred times as long as the longest one so far, and
not less than a minute. Until enough runs are known, ten minutes. Pure; written by whoever ends a run, on any
thread.
"""

import math
from typing import Final

_ENOUGH: Final = 64  # runs that tell how long they take
_UNKNOWN_S: Final = 600.0
_LEAST_S: Final = 60.0
_FACTOR: Final = 100.0


class RunLimit:
    """The limit of one model's runs.

    Args:
        fixed_s: As the owner says; 0 = learned, inf = none.

    Attributes:
        seconds: The limit now.

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
        """Learn from a run that has ended; one that was taken to hang tells nothing."""
        if seconds > self.seconds:
            return
        self._runs += 1
        if seconds > self._longest:
            self._longest = seconds
        elif self._runs != _ENOUGH:
            return
        if self._runs >= _ENOUGH:
            self.seconds = max(_LEAST_S, _FACTOR * self._longest)
