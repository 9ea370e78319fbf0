"""Part of the budget that no version is given: for requests, and what runs take for a moment. Pure.

A run of PyTorch allocates its activations and frees them with it: EfficientNet-B0 takes 20 to 34 MiB for one
row, of which a trim leaves nothing, so that growth (:mod:`salver.features.memory.growth`) shows none of it.
All runs in the server share its heap, so what counts is the most that they take together.
"""

from typing import Final

_MARGIN: Final = 1.5  # the largest surge so far is not the largest there will be
_KEPT: Final = 0.99  # of a surge that did not come again, at each measurement: half after 69


class Reserve:
    """Bytes for what is not measured, which follow the surges that were seen.

    Args:
        least: Bytes without any surge.
        most: Bytes at most, so that one burst of large requests does not push all models out.
    """

    def __init__(self, least: int = 0, most: int = 0) -> None:
        self._least, self._most = least, most
        self._surge = 0.0

    def __repr__(self) -> str:
        return f"<Reserve of {self.bytes} bytes>"

    @property
    def bytes(self) -> int:
        """Bytes that no version is given now.

        >>> reserve = Reserve(80, 300)
        >>> for surge in (40, 100, 1000):
        ...     reserve.note(surge)
        ...     print(reserve.bytes)
        80
        150
        300
        """
        return max(self._least, min(self._most, int(self._surge * _MARGIN)))

    def note(self, surge: int) -> None:
        """Note by how many bytes the server exceeded for a moment what was known of it."""
        self._surge = max(surge, self._surge * _KEPT)
