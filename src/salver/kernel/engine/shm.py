"""Tensors in shared memory between two processes.

An :class:`Arena` is one unnamed segment of shared memory (Linux ``memfd``): both sides hold a descriptor,
nothing is left behind when they die, and the size of ``/dev/shm`` does not matter. One side writes arrays,
tells the other their positions (:class:`Block`), and must not write again before the other is done; taking
turns is up to the callers.

The reader trusts nothing: a block outside the segment, or of a type that could hold pointers, is rejected.
The segment is sealed against shrinking, so that neither side can make the other fault by truncating it.
"""

import fcntl
import math
import mmap
import os
import threading
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from salver.words.tensor import Array

_ALIGN = 64  # a cache line, and enough for any vector instruction
_GRAIN = 1 << 20  # segments grow by whole MiB; untouched pages cost nothing
_CLOSED = mmap.mmap(-1, 1)  # a closed arena raises ValueError on any use
_CLOSED.close()


class Block(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Position of one array.

    Attributes:
        dtype: numpy's string for it; ``|O`` means ``bytes`` elements, laid out as their lengths
            (``<u8`` each) followed by the elements.
        offset, nbytes: In bytes, from the start of the segment.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class Arena:
    """One side's descriptor and mapping of a segment.

    Args:
        fd: The descriptor; closed by the arena.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._changing = threading.Lock()  # protects the descriptor against use after close
        self._map = mmap.mmap(fd, os.fstat(fd).st_size)

    @classmethod
    def create(cls, label: str) -> "Arena":
        """Create a segment; the label only shows in ``/proc/PID/fd``."""
        fd = os.memfd_create(f"salver:{label}"[:200], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, _GRAIN)
            # Sealed against shrinking: a truncated segment would kill the other side with SIGBUS.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            return cls(fd)
        except OSError:
            os.close(fd)
            raise

    def __repr__(self) -> str:
        return f"<Arena fd {self.fd}, {len(self._map)} bytes>"

    def write(self, arrays: Mapping[str, Array]) -> tuple[Block, ...]:
        """Copy the arrays to the start of the segment, which grows as needed.

        Raises:
            OSError: out of memory.
        """
        blocks = []
        sources = []
        offset = 0
        for name, array in arrays.items():
            source = array
            if array.dtype.kind == "O":
                source = _pack(array)
            blocks.append(Block(name, array.dtype.str, array.shape, offset, source.nbytes))
            sources.append(source)
            # Round up, so that every array is aligned for vector instructions.
            offset += -(-source.nbytes // _ALIGN) * _ALIGN
        if offset > len(self._map):
            self._remap(offset)
        for block, source in zip(blocks, sources, strict=True):
            target: Array = np.ndarray(source.shape, source.dtype, self._map, block.offset)
            target[...] = source
        return tuple(blocks)

    def write_stacked(self, columns: Mapping[str, Sequence[Array]]) -> tuple[Block, ...]:
        """Write arrays that are each given in pieces of one type, joined along axis 0."""
        # Strings need packing, and single pieces no joining; otherwise join directly into the segment.
        if any(len(pieces) == 1 or pieces[0].dtype.kind == "O" for pieces in columns.values()):
            return self.write({name: np.concatenate(pieces) for name, pieces in columns.items()})
        blocks = []
        offset = 0
        for name, pieces in columns.items():
            first = pieces[0]
            nbytes = sum([piece.nbytes for piece in pieces])
            shape = (sum([len(piece) for piece in pieces]), *first.shape[1:])
            blocks.append(Block(name, first.dtype.str, shape, offset, nbytes))
            offset += -(-nbytes // _ALIGN) * _ALIGN
        if offset > len(self._map):
            self._remap(offset)
        for block, pieces in zip(blocks, columns.values(), strict=True):
            target: Array = np.ndarray(block.shape, block.dtype, self._map, block.offset)
            np.concatenate(pieces, out=target)
        return tuple(blocks)

    def read(self, blocks: tuple[Block, ...], *, copy: bool) -> dict[str, Array]:
        """Return the arrays: copies, or read-only views that are valid until the other side writes again.

        Raises:
            ValueError: a block is outside the segment or not of a plain type.
            OSError: out of memory.
        """
        end = max((block.offset + block.nbytes for block in blocks), default=0)
        # The other side has grown the segment since it was mapped here.
        if end > len(self._map):
            self._remap()
        arrays = {}
        for block in blocks:
            if block.offset < 0 or (block.shape and min(block.shape) < 0):
                raise ValueError(f"no tensor can be read from {block}")
            if block.dtype == "|O":
                arrays[block.name] = self._unpack(block)
                continue
            dtype = np.dtype(block.dtype)
            if dtype.kind not in "biuf":
                raise ValueError(f"no tensor holds numpy's {dtype}")
            view: Array = np.ndarray(block.shape, dtype, self._map, block.offset)
            if copy:
                view = view.copy()
            else:
                view.flags.writeable = False
            arrays[block.name] = view
        return arrays

    def close(self) -> None:
        """Close the descriptor and the mapping (the mapping once the last view is gone)."""
        with self._changing:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1
                # Not closed explicitly: a thread that still reads or copies from it would crash the process.
                self._map = _CLOSED

    def _remap(self, nbytes: int = 0) -> None:
        """Map the whole segment anew, after growing it to that size if it is smaller."""
        with self._changing:
            if self.fd < 0:
                raise ValueError("the arena is closed")
            size = -(-nbytes // _GRAIN) * _GRAIN
            if size > os.fstat(self.fd).st_size:
                os.ftruncate(self.fd, size)
            # The old mapping is closed with its last view: a model may have kept one.
            self._map = mmap.mmap(self.fd, os.fstat(self.fd).st_size)

    def _unpack(self, block: Block) -> Array:
        count = math.prod(block.shape)
        head = count * 8
        end = block.offset + block.nbytes
        if head > block.nbytes or end > len(self._map):
            raise ValueError(f"no tensor can be read from {block}")
        lengths = np.ndarray((count,), "<u8", self._map, block.offset).tolist()
        body = self._map[block.offset + head : end]
        if sum(lengths) > len(body):
            raise ValueError(f"no tensor can be read from {block}")
        out = np.empty(count, dtype=object)
        start = 0
        for index, length in enumerate(lengths):
            out[index] = body[start : start + length]
            start += length
        return out.reshape(block.shape)


def _pack(array: Array) -> Array:
    items = array.ravel().tolist()
    lengths = np.fromiter(map(len, items), "<u8", len(items))
    return np.frombuffer(lengths.tobytes() + b"".join(items), np.uint8)
