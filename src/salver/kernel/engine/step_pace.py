"""Choice of how much of a prompt to process in a step without delaying other sequences.

Learns the duration of steps by number of sequences, and of prompt chunks by number of tokens, in powers of
two, and allows a chunk that lengthens the step by at most a given fraction. Pure.
"""

_GAIN_UP = 0.05  # weight of the newest duration in the running mean if it is longer: most long ones are noise
_GAIN_DOWN = 0.3


class StepPace:
    """Running means of a step-wise model's durations.

    Args:
        largest: Maximum tokens of one chunk.
        share: Fraction of a step's duration by which a chunk may lengthen it.

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
        self._steps = [0.0] * 32  # by bit length of the number of sequences; 0 = unknown
        self._chunks = [0.0] * 32  # by the logarithm of the number of tokens

    def stepped(self, rows: int, seconds: float) -> None:
        """Record the duration of a step."""
        _learn(self._steps, rows.bit_length(), seconds)

    def prefilled(self, tokens: int, seconds: float) -> None:
        """Record the duration of a chunk; sizes other than powers of two are ignored."""
        if tokens & (tokens - 1) == 0:
            _learn(self._chunks, tokens.bit_length() - 1, seconds)

    def chunk(self, rows: int) -> int:
        """Return the maximum prompt tokens beside a step of that many sequences; 1 = no chunk."""
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
        """Return the duration of a step of that many sequences, or of fewer; 0 = unknown."""
        known = [s for s in self._steps[: rows.bit_length() + 1] if s]
        if known:
            return known[-1]
        return 0.0

    def _seconds(self, size: int) -> float:
        """Return the duration of a chunk: measured, or estimated from that of another size."""
        power = size.bit_length() - 1
        if self._chunks[power]:
            return self._chunks[power]
        for lower in range(power - 1, -1, -1):
            if self._chunks[lower]:
                return self._chunks[lower] * (1 << (power - lower))
        return next((s for s in self._chunks[power:] if s), float("inf"))


def _learn(means: list[float], at: int, seconds: float) -> None:
    known = means[at]
    gain = _GAIN_UP if seconds > known else _GAIN_DOWN
    if not known:
        gain = 1.0
    means[at] = max(known + gain * (seconds - known), 1e-9)
