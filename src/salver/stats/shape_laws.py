"""Batch laws of a model whose rows differ in size.

A model with free extents (texts, images) has a batch law for each size of its rows, by power of two of their
elements. Pure; see :mod:`salver.stats.batch_law`.
"""

from collections.abc import Mapping

from salver.stats.batch_law import BatchLaw, LiveLaw

_MOST = 64  # number of sizes; elements of a row fit in 64 bits
_NONE: Mapping[int, BatchLaw] = {}


def rounded(size: int) -> int:
    """Round the elements of a row up to the next power of two; 0 stays 0."""
    if size > 0:
        return 1 << (size - 1).bit_length()
    return 0


class ShapeLaws:
    """Live laws by the size of rows. An unseen size starts from the nearest one, in proportion to the size.

    Args:
        usual: Law of the measured size, or of all if shapes are fixed.
        size: Its elements of a row; 0 = the first size seen.
        others: Known laws of other sizes.

    >>> laws = ShapeLaws(LiveLaw(BatchLaw(a=0.001, t0=0.004)), size=128)
    >>> laws.of(100) is laws.usual
    True
    >>> laws.of(500).law()
    BatchLaw(a=0.004, t0=0.004, kink=0, a_beyond=0.0, error=0.0)
    """

    def __init__(
        self, usual: LiveLaw | None = None, size: int = 0, others: Mapping[int, BatchLaw] = _NONE
    ) -> None:
        self.usual = usual or LiveLaw()
        self._laws = {rounded(other): LiveLaw(law) for other, law in others.items()}
        if size:
            self._laws[rounded(size)] = self.usual
        self._is_bound = bool(size)

    def __repr__(self) -> str:
        return f"<ShapeLaws of {len(self._laws)} sizes, usually {self.usual!r}>"

    def of(self, size: int) -> LiveLaw:
        """Return the law for rows of that many elements; 0 = shapes are fixed."""
        if not size:
            return self.usual
        size = rounded(size)
        found = self._laws.get(size)
        if found is None:
            found = self._laws[size] = self._new(size)
        return found

    def known(self, size: int) -> LiveLaw:
        """Return the law without creating one, from any thread; for an unseen size, the usual one."""
        if not size:
            return self.usual
        return self._laws.get(rounded(size), self.usual)

    def others(self) -> dict[int, LiveLaw]:
        """Return the laws other than the usual one, by size."""
        return {size: law for size, law in self._laws.items() if law is not self.usual}

    def _new(self, size: int) -> LiveLaw:
        if not self._is_bound:
            self._is_bound = True
            return self.usual
        known = [other for other, law in self._laws.items() if law.is_known]
        if not known:
            return LiveLaw()
        nearest = min(known, key=lambda other: max(other, size) / min(other, size))
        law = self._laws[nearest].law()
        factor = size / nearest
        if len(self._laws) >= _MOST:
            del self._laws[next(other for other, live in self._laws.items() if live is not self.usual)]
        kink = max(1, round(law.kink / factor)) if law.kink else 0
        return LiveLaw(BatchLaw(law.a * factor, law.t0, kink, law.a_beyond * factor, law.error))
