"""Is this request one of those that are written down with their answers?"""

from collections.abc import Callable

from salver.words.artifacts import Logging


class Sampling:
    """Takes a share of a model's requests, each by chance.

    Args:
        chance: Gives numbers from 0 up to 1.
    """

    def __init__(self, wish: Logging, chance: Callable[[], float]) -> None:
        self.wish = wish
        self._chance = chance

    def __repr__(self) -> str:
        return f"<Sampling of {self.wish.rate:g}>"

    def takes(self) -> bool:
        """Shall this one be written down?"""
        return self._chance() < self.wish.rate
