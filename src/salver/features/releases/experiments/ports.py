"""What does this room need from others?"""

from typing import Protocol

from salver.words.releases import Seen


class Sink(Protocol):
    """Who keeps what was counted (serving/ over ledger/), in one transaction each."""

    def write(self, seen: Seen) -> None:
        """Takes it and returns at once; buckets of a release come in their order. Must not raise."""
        ...
