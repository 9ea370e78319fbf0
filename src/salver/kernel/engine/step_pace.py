"""How much of a prompt can be read in a step without making the others wait?

Learns the time of steps by their sequences and of prompt chunks by their tokens, in powers of two, and
allows a chunk that lengthens the step by at most a share. Pure.
"""

_GAIN_UP = 0.05  # of the newest time in the running mean, where it is longer: most long ones are noise
_GAIN_DOWN = 0.3


class StepPace:
    """Running means of a step-wise model's times.

    Args:
        largest: Most tokens of one chunk.
        share: Of a step's own time, by which a chunk may lengthen it.

    >>> pace = StepPace(largest=64, share=0.4)
    >>> pace.chunk(0), pace.chunk(4)  # nobody to wait; nothing known: never guess
    (64, 1)
    >>> pace.stepped(4, 0.010)
    >>> pace.prefilled(8, 0.002)
    >>> pace.chunk(4)
    16
    """

    def __init__(self, largest: int, share: float = 0.4) -> None:
        self._largest = largest
        self._share = share
        self._steps = [0.0] * 32  # by bit length of the sequences; 0 = unknown
        self._chunks = [0.0] * 32  # by the logarithm of the tokens

    def stepped(self, rows: int, seconds: float) -> None:
        """A step that carried so many sequences on took so long."""
        _learn(self._steps, rows.bit_length(), seconds)

    def prefilled(self, tokens: int, seconds: float) -> None:
        """A chunk of so many tokens took so long; what is no power of two tells nothing."""
        if tokens & (tokens - 1) == 0:
            _learn(self._chunks, tokens.bit_length() - 1, seconds)

    def chunk(self, rows: int) -> int:
        """Most prompt tokens to read beside a step of so many sequences; 1 = none but by the step itself."""
        if not rows:
            return self._largest
        allowed = self.step_seconds(rows) * self._share
        if not allowed:
            return 1
        size = 1 << (self._largest.bit_length() - 1)
        while size > 1 and self._seconds(size) > allowed:
            size >>= 1
        return size

    def step_seconds(self, rows: int) -> float:
        """Of so many sequences, or as many fewer as are known; 0 = nothing is."""
        known = [s for s in self._steps[: rows.bit_length() + 1] if s]
        return known[-1] if known else 0.0

    def _seconds(self, size: int) -> float:
        """Of a chunk: as measured, else as if the time grew with the tokens, else as of a longer one."""
        power = size.bit_length() - 1
        if self._chunks[power]:
            return self._chunks[power]
        for lower in range(power - 1, -1, -1):
            if self._chunks[lower]:
                return self._chunks[lower] * (1 << (power - lower))
        return next((s for s in self._chunks[power:] if s), float("inf"))


def _learn(means: list[float], at: int, seconds: float) -> None:
    known = means[at]
    gain = 1.0 if not known else _GAIN_UP if seconds > known else _GAIN_DOWN
    means[at] = max(known + gain * (seconds - known), 1e-9)
