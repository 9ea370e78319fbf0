"""Large bodies that are received whole, straight into memory in which their tensors are aligned."""

from typing import Final

import numpy as np

from salver.transport.budget import Budget, Share

#: Alignment of tensors in bytes: a cache line, and the widest registers.
_ALIGNMENT: Final = 64


class LargeBody:
    """Memory of one body, reserved before it comes. Release it with :meth:`free`.

    Args:
        share: The reserved memory.
        size: Bytes of the body.
        lead: Bytes of the body before its tensors.

    Attributes:
        view: The body, of which the first ``at`` bytes have come.

    >>> body = LargeBody.reserve(Budget(100), 6, 2)
    >>> body.add(b"ab"), body.add(b"cdef"), body.is_whole, body.view.tobytes()
    (None, None, True, b'abcdef')
    >>> np.frombuffer(body.view, np.int32, 1, 2).flags.aligned
    True
    >>> LargeBody.reserve(Budget(100), 51, 0)
    """

    __slots__ = ("_share", "at", "size", "view")

    def __init__(self, share: Share, size: int, lead: int) -> None:
        self._share = share
        self.size = size
        self.at = 0
        memory = np.empty(size + _ALIGNMENT, np.uint8)  # unlike bytearray, not filled with zeros first
        start = -(memory.__array_interface__["data"][0] + lead) % _ALIGNMENT
        self.view: memoryview = memory.data[start : start + size]

    def __repr__(self) -> str:
        return f"<LargeBody {self.at} of {self.size} bytes>"

    @classmethod
    def reserve(cls, budget: Budget, size: int, lead: int) -> "LargeBody | None":
        """Return memory for a body; None = there is not enough."""
        share = Share(budget)
        return cls(share, size, lead) if share.reserve(size) else None

    @property
    def is_whole(self) -> bool:
        """Whether all of the body has come."""
        return self.at == self.size

    def add(self, piece: bytes | memoryview) -> None:
        """Append a piece, for which there must be room."""
        end = self.at + len(piece)
        self.view[self.at : end] = piece
        self.at = end

    def begun(self) -> bytes:
        """Return what has come."""
        return bytes(self.view[: self.at])

    def free(self) -> None:
        """Release the reserved memory."""
        self._share.free()
