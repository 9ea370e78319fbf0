"""Which setting meets the owner's objective best, and why?

Pure: measurements and laws in, a :class:`Setting` with its reasons out. What a setting is worth under load is
asked of a callable that is handed in (a simulation); this module knows no engine.
"""

from typing import Protocol

import msgspec

from salver.artifacts import Objective
from salver.planner.profile import Profile
from salver.stats.batch_law import BatchLaw


class Setting(msgspec.Struct, frozen=True):
    """What to run with.

    Attributes:
        instances: Runs at the same time.
        threads: Threads inside one run.
        max_rows: Most rows in one run.
        law: Batch law of this placement.
        score: Rows a second that it is expected to answer within the objective.
        reasons: Why, in words for the owner, one sentence each.
    """

    instances: int
    threads: int
    max_rows: int
    law: BatchLaw
    score: float
    reasons: tuple[str, ...] = ()


class Judge(Protocol):
    """Tells what a setting is worth under load, usually by simulation."""

    def __call__(self, law: BatchLaw, instances: int, max_rows: int, limit_s: float) -> float:
        """Most rows a second of which 99 % are answered within ``limit_s`` seconds."""
        ...


def limit_of(objective: Objective) -> float:
    """Seconds within which answers are wanted; 0 = no limit."""
    return (objective.latency_p99_ms or objective.deadline_ms) / 1e3


__all__ = ["Judge", "Profile", "Setting", "limit_of"]
