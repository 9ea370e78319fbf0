"""Registry of callers' shared memory regions.

A region is a part of a POSIX segment (a file in ``/dev/shm``) that a caller has created and registered by
name (TR-R14). Its bytes are copied with ``pread`` and ``pwrite`` and never mapped: if a caller truncated a
mapped file, the server would die of SIGBUS when it touched the missing pages.
"""

import errno
import itertools
import mmap
import os
import stat
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

import msgspec

from salver.dialects.oip.regions import Place, Region
from salver.words.errors import Conflict, InvalidInput, NotFound, SegmentFailed

#: Folder of ``shm_open`` on Linux.
SEGMENTS: Final = Path("/dev/shm")
#: Most regions; each holds a file descriptor, of which a process often has only 1,024.
MAX_REGIONS: Final = 512
#: Most characters of a region's name or key (``NAME_MAX``).
MAX_NAME: Final = 255
MAX_BYTES: Final = 1 << 40
#: Prefix of the segments of Triton's Python backend, which may run on the same machine.
_RESERVED: Final = "triton_python_backend_shm_region_"
_CAUSES: Final = {
    errno.ENOENT: "it is not in this server's {folder}. Where the caller or the server runs in a container, "
    "both must share one {folder} (Docker: --ipc=host; Kubernetes: one emptyDir of medium Memory, mounted "
    "there in both)",
    errno.EACCES: "the user whom this server runs as may not both read and write it",
    errno.ELOOP: "it is no segment",
}


class _OpenRegion(msgspec.Struct, eq=False):
    """Registered region with its file descriptor and the file's identity.

    Attributes:
        users: Number of requests that hold it.
        is_leaving: It was unregistered, and is closed when no request holds it.
    """

    region: Region
    fd: int
    file: tuple[int, int]
    users: int = 0
    is_leaving: bool = False


class _Hold:
    """Hold of a request on regions, released when it is garbage-collected."""

    def __init__(self, held: Sequence[_OpenRegion], let_go: Callable[[Sequence[_OpenRegion]], None]) -> None:
        self._held = held
        self._let_go = let_go

    def __del__(self) -> None:
        self._let_go(self._held)


class SharedMemory:
    """Registry of regions (:class:`salver.dialects.oip.regions.RegionRegistry`).

    Not thread-safe, except for the release of a request's regions, which may happen on any thread. A region
    keeps its file open until it is unregistered and no request holds it, even if the segment is unlinked.

    Args:
        folder: Folder of the segments.
    """

    is_allowed = True

    def __init__(self, folder: Path = SEGMENTS) -> None:
        self._folder = folder
        self._held: dict[str, _OpenRegion] = {}
        self._lock = threading.RLock()  # reentrant: the garbage collector may end a hold while it is taken

    def __repr__(self) -> str:
        return f"<SharedMemory {len(self._held)} regions of {self._folder}>"

    def listed(self, name: str = "") -> tuple[Region, ...]:
        """Return all regions in the order of registration, or the one of that name.

        Raises:
            NotFound: there is no region of that name.
        """
        if not name:
            return tuple(held.region for held in self._held.values())
        if name not in self._held:
            raise NotFound(f"Unable to find system shared memory region: '{name}'")
        return (self._held[name].region,)

    def register(self, region: Region) -> None:
        """Open a region's segment and register it.

        Raises:
            InvalidInput: the region is not inside its segment, or a name or number is out of bounds.
            Conflict: the name is taken, or there are already :data:`MAX_REGIONS`.
            SegmentFailed: the segment cannot be opened.
        """
        _check_words(region)
        if region.name in self._held:
            raise Conflict(f"shared memory region '{region.name}' already in manager")
        if len(self._held) >= MAX_REGIONS:
            raise Conflict(
                f"{len(self._held)} shared memory regions are registered, and no more may be",
                fix="Unregister those that are not used any more.",
            )
        fd = self._open(region)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise self._no_segment(region, errno.ELOOP)
            if region.offset + region.byte_size > found.st_size:
                raise InvalidInput(
                    f"failed to register shared memory region '{region.name}': invalid args",
                    fix=f"{_described(region)} ends beyond its segment, which has {found.st_size} bytes.",
                )
        except BaseException:
            os.close(fd)
            raise
        self._held[region.name] = _OpenRegion(region, fd, (found.st_dev, found.st_ino))

    def unregister(self, name: str = "") -> None:
        """Unregister a region, or all; unknown names are ignored.

        A region that a request holds stays open until the request ends.
        """
        with self._lock:
            for each in [name] if name else list(self._held):
                if (held := self._held.get(each)) is not None:
                    held.is_leaving = True
                    self._leave(held)

    def _leave(self, held: _OpenRegion) -> None:
        if held.is_leaving and not held.users and self._held.pop(held.region.name, None) is not None:
            os.close(held.fd)

    # Interface of the codecs.

    def check(self, places: Sequence[Place]) -> None:
        """See :meth:`salver.dialects.oip.regions.Regions.check`."""
        spans = []
        for place in places:
            held = self._find(place)
            start = held.region.offset + place.offset
            spans.append((held.file, start, start + place.size, place.region))
        spans.sort()
        for (file, _, end, name), (other, start, _, second) in itertools.pairwise(spans):
            if file == other and start < end:
                raise InvalidInput(
                    f"two outputs overlap in shared memory, in regions '{name}' and '{second}'",
                    fix="Give each an offset behind the end of the one before.",
                )

    def hold(self, names: Collection[str]) -> object:
        """See :meth:`salver.dialects.oip.regions.Regions.hold`."""
        with self._lock:
            found = [self._held[name] for name in names if name in self._held]
            for held in found:
                held.users += 1
        return _Hold(found, self._let_go)

    def _let_go(self, found: Sequence[_OpenRegion]) -> None:
        with self._lock:
            for held in found:
                held.users -= 1
                self._leave(held)

    def read(self, place: Place) -> bytes:
        """See :meth:`salver.dialects.oip.regions.Regions.read`."""
        held = self._find(place)
        raw = os.pread(held.fd, place.size, held.region.offset + place.offset)
        if len(raw) < place.size:
            raise _shrunk(held, place)
        return raw

    def write(self, place: Place, raw: "bytes | memoryview") -> None:
        """See :meth:`salver.dialects.oip.regions.Regions.write`."""
        held = self._find(place)
        rest = memoryview(raw)
        start = held.region.offset + place.offset
        # Writing beyond the end would grow a segment that its owner has shrunk.
        if os.fstat(held.fd).st_size < start + len(rest):
            raise _shrunk(held, place)
        try:
            while rest:
                done = os.pwrite(held.fd, rest, start)
                rest, start = rest[done:], start + done
        except OSError as error:  # no memory for its pages, or sealed
            raise SegmentFailed(
                f"Unable to write to shared memory region: '{place.region}'",
                fix=f"{_described(held.region)}: {error.strerror}.",
            ) from error

    def _find(self, place: Place) -> _OpenRegion:
        held = self._held.get(place.region)
        if held is None:
            raise NotFound(f"Unable to find shared memory region: '{place.region}'")
        size = held.region.byte_size
        if not 0 <= place.offset < size:
            raise InvalidInput(
                f"Invalid offset for shared memory region: '{place.region}'",
                fix=f"It is {place.offset}; {_described(held.region)} has offsets from 0 to {size - 1}.",
            )
        if not 0 <= place.size <= size - place.offset:
            raise InvalidInput(
                f"Invalid offset + byte size for shared memory region: '{place.region}'",
                fix=f"They are {place.offset} + {place.size}; {_described(held.region)} ends at {size}.",
            )
        return held

    def _open(self, region: Region) -> int:
        # Do not follow a link, nor block on a pipe.
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            return os.open(self._folder / region.key.lstrip("/"), flags)
        except OSError as error:
            raise self._no_segment(region, error.errno or 0) from error

    def _no_segment(self, region: Region, number: int) -> SegmentFailed:
        cause = _CAUSES.get(number, os.strerror(number)).format(folder=self._folder)
        return SegmentFailed(
            f"Unable to open shared memory region: '{region.key}'", fix=f"{_described(region)}: {cause}."
        )


def _check_words(region: Region) -> None:
    """Check that names are file names without a path, and numbers are in range."""
    if not region.name:
        raise InvalidInput("'region name' is necessary to register system shared memory region")
    if region.key.lstrip("/").startswith(_RESERVED):
        raise InvalidInput(
            f"cannot register shared memory region '{region.name}' with key '{region.key}' as the key "
            f"contains the reserved prefix '{_RESERVED}'"
        )
    if len(region.name) > MAX_NAME:
        raise InvalidInput(
            f"the name of a shared memory region has at most {MAX_NAME} characters", field="name"
        )
    name = region.key.lstrip("/")
    if name in ("", ".", "..") or "/" in name or "\0" in name or len(os.fsencode(name)) > MAX_NAME:
        raise InvalidInput(
            f"the key of shared memory region '{region.name}' must be the name of a segment: a slash, and at "
            f"most {MAX_NAME} bytes without another",
            field="key",
        )
    if not (0 <= region.offset <= MAX_BYTES and 0 < region.byte_size <= MAX_BYTES):
        problem = f"byte_size must be from 1 to {MAX_BYTES}, and the offset not negative"
    elif region.offset % mmap.PAGESIZE:  # servers that map regions require it; keep clients portable
        problem = f"the offset must be a multiple of {mmap.PAGESIZE}, the size of a page"
    else:
        return
    raise InvalidInput(
        f"failed to register shared memory region '{region.name}': invalid args",
        fix=f"{_described(region)}: {problem}.",
    )


def _shrunk(held: _OpenRegion, place: Place) -> InvalidInput:
    size = os.fstat(held.fd).st_size
    return InvalidInput(
        f"shared memory region '{place.region}' is not whole any more",
        fix=f"{_described(held.region)} is part of a segment that has {size} bytes now: its owner has made "
        "it smaller since the region was registered.",
    )


def _described(region: Region) -> str:
    return f"Region '{region.name}' (key '{region.key}', offset {region.offset}, {region.byte_size} bytes)"
