"""Protocols that routing calls."""

from collections.abc import Sequence
from typing import Protocol

from salver.features.routing.instances import Instance


class Policy(Protocol):
    """Balancing policy of one model."""

    def choose(self, among: Sequence[Instance], key: str, now: float) -> Instance:
        """Return the instance for a request.

        Args:
            among: At least one instance.
            key: Requests with the same key belong together; empty = it has none.
            now: Monotonic seconds.
        """
        ...

    def answered(self, instance: Instance, seconds: float, under_way: int, now: float) -> None:
        """Record an answer, or a failure that took so long as counts for one.

        Args:
            under_way: Requests under way there when it began, itself included.
        """
        ...
