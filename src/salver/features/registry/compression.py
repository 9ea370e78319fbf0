"""Files in an object store that are compressed by zstd where that was measured to make fetches faster."""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Final, NamedTuple

from salver.stores.tars import zstd

#: Smaller files stay as they are.
LEAST_BYTES: Final = 1 << 20
#: What is read and compressed to measure a file.
SAMPLE_BYTES: Final = 16 << 20
_LEVEL: Final = 3
_PIECE: Final = 4 << 20
_AHEAD: Final = 4  # pieces
_TRIES: Final = 3
_MARGIN: Final = 0.9

Fetch = Callable[[int, int], bytes]


class Measurement(NamedTuple):
    """Packed bytes for one of a sample, and seconds to read the sample from the store and to unpack it."""

    ratio: float
    read_s: float
    unpack_s: float

    @property
    def part(self) -> float:
        """Return the time of a fetch of the compressed file, for one of the file as it is.

        >>> Measurement(0.3, read_s=1.0, unpack_s=0.2).part, Measurement(0.3, read_s=1.0, unpack_s=2.0).part
        (0.3, 2.0)
        """
        return max(self.read_s * self.ratio, self.unpack_s) / self.read_s

    @property
    def is_faster(self) -> bool:
        """Return whether a fetch of the compressed file is faster; it is unpacked while the rest is read."""
        return self.part < _MARGIN

    @property
    def told(self) -> str:
        """Return the figures for a person."""
        return f"{self.ratio:.0%} of the bytes, and a fetch {self.part:.0%} of the time"


def measure(fetch: Fetch, size: int) -> Measurement:
    """Read the start of a stored file, and compress and unpack it. Blocking."""
    end = min(size, SAMPLE_BYTES)
    sample = fetch(0, end)
    packed = zstd().compress(sample, _LEVEL)
    read_s, unpack_s = _best(lambda: fetch(0, end)), _best(lambda: zstd().decompress(packed))
    return Measurement(len(packed) / len(sample), read_s, unpack_s)


def _best(call: Callable[[], object]) -> float:
    """Return the seconds of the fastest of some calls: others may use the machine."""
    times = []
    for _ in range(_TRIES):
        began = perf_counter()
        call()
        times.append(perf_counter() - began)
    return max(min(times), 1e-9)


def compress(source: Path, target: Path) -> None:
    """Write a compressed copy of a file. Blocking, with bounded memory."""
    with source.open("rb") as read, zstd().open(target, "wb", level=_LEVEL) as write:
        while piece := read.read(_PIECE):
            write.write(piece)


class ReadAhead:
    """Reader of a stored file that fetches the next pieces while one is used."""

    def __init__(self, fetch: Fetch, size: int) -> None:
        self._pieces = _pieces(fetch, size)
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Return some bytes, at most so many; none at the end."""
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        found, self._rest = self._rest[:size], self._rest[size:]
        return bytes(found)

    def close(self) -> None:
        """Fetch no more."""
        self._pieces.close()


def _pieces(fetch: Fetch, size: int) -> Generator[bytes]:
    with ThreadPoolExecutor(_AHEAD, "fetch") as pool:
        fetched: deque[Future[bytes]] = deque()
        for start in range(0, size, _PIECE):
            fetched.append(pool.submit(fetch, start, min(start + _PIECE, size)))
            if len(fetched) == _AHEAD:
                yield fetched.popleft().result()
        while fetched:
            yield fetched.popleft().result()
