"""State and verification of a download. It knows no socket.

Data is counted and hashed as it arrives, so that an interrupted download can resume: if its digest is
known, or the server confirms by a strong ``ETag`` that the content is still the same.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import IO, Final

import msgspec

from salver.encoding import lenient
from salver.stores import StoreFailed
from salver.stores.sources.fetched import Progress
from salver.words.errors import LoadFailed

_DIGEST: Final = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})", re.ASCII)
_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})", re.ASCII)
_PARTIAL: Final = 206


class Digest(msgspec.Struct, frozen=True):
    """Digest of content, as ``sha256:…`` or ``sha512:…``."""

    algorithm: str
    hex: str

    def __str__(self) -> str:
        """Return the usual form."""
        return f"{self.algorithm}:{self.hex}"


def parse_digest(text: object) -> Digest | None:
    """Parse a digest; None if its kind is unknown.

    >>> str(parse_digest("sha256:" + "0" * 64))[:12], parse_digest("md5:00")
    ('sha256:00000', None)
    """
    match = _DIGEST.fullmatch(lenient.text(text))
    if not match:
        return None
    return Digest(match[1] or match[3], match[2] or match[4])


class TooLarge(StoreFailed):
    """The download has more bytes than are allowed, or than there is room for."""


class DownloadInterrupted(StoreFailed):
    """The download ended early."""


class DownloadRequest(msgspec.Struct, frozen=True):
    """Expectations of a download.

    Attributes:
        what: Its name in messages.
        most: Most bytes.
        seconds: Longest duration.
        digest, size: Expected values; None = unknown.
    """

    what: str
    most: int
    seconds: float
    digest: Digest | None = None
    size: int | None = None


class Download:
    """One download into a file.

    Args:
        file: New and empty.
        clock: Monotonic seconds.
    """

    def __init__(
        self, wanted: DownloadRequest, file: IO[bytes], progress: Progress, clock: Callable[[], float]
    ) -> None:
        self._wanted = wanted
        self._file = file
        self._progress = progress
        self._clock = clock
        self._end = clock() + wanted.seconds
        self._whole = wanted.size
        self._mark = ""
        self._restart()

    def __repr__(self) -> str:
        return f"<Download of {self._wanted.what}, {self.done} bytes>"

    @property
    def may_go_on(self) -> bool:
        """Return whether the download can resume."""
        return self.done > 0 and bool(self._mark or self._wanted.digest)

    @property
    def is_whole(self) -> bool:
        """Return whether the download is complete."""
        return self._whole is not None and self.done >= self._whole

    def asked(self) -> Mapping[str, str]:
        """Return headers that request the rest."""
        if not self.done:
            return {}
        return {"Range": f"bytes={self.done}-", **({"If-Range": self._mark} if self._mark else {})}

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Begin with a response.

        Raises:
            TooLarge: it announces more bytes than are allowed.
            StoreFailed: it is another part than requested, or smaller than expected.
        """
        if status == _PARTIAL:
            said = _RANGE.fullmatch(headers.get("Content-Range") or "")
            if said is None or int(said[1]) != self.done or int(said[2]) != (self._whole or int(said[2])):
                raise StoreFailed(f"{self._wanted.what} returns another part than requested")
            self._whole = int(said[2])
            return
        self._restart()
        mark, told = headers.get("ETag") or "", headers.get("Content-Length") or ""
        self._mark = mark if mark.startswith('"') else ""  # a weak one does not identify bytes
        length = int(told) if told.isdecimal() and len(told) < 30 else None
        if self._wanted.size is None:
            self._whole = length
        elif length is not None and length < self._wanted.size and not headers.get("Content-Encoding"):
            raise StoreFailed(f"{self._wanted.what} has {length} bytes, and should have {self._wanted.size}")
        if (self._whole or 0) > self._wanted.most:
            raise self._too_large(f"{self._whole} bytes")

    def add(self, piece: bytes) -> None:
        """Add data.

        Raises:
            TooLarge: it is too much.
            StoreFailed: it takes too long.
            LoadFailed: it cannot be written.
        """
        self.done += len(piece)
        if self.done > self._wanted.most or self.done > (self._wanted.size or self.done):
            raise self._too_large(f"more than {min(self._wanted.most, self._wanted.size or self.done)} bytes")
        self.check_time()
        self._mine.update(piece)
        if self._theirs is not self._mine:
            self._theirs.update(piece)
        try:
            self._file.write(piece)
        except OSError as error:
            raise LoadFailed(f"{self._wanted.what} cannot be written: {error.strerror or error}") from error
        self._progress(self._wanted.what, self.done, self._whole or 0)

    def check_time(self) -> None:
        """Raise StoreFailed if it takes too long."""
        if self._clock() > self._end:
            raise StoreFailed(f"{self._wanted.what} takes longer than {self._wanted.seconds:g} seconds")

    def check_whole(self) -> None:
        """Raise DownloadInterrupted if data is missing."""
        if self._whole is not None and self.done != self._whole:
            raise DownloadInterrupted(
                f"{self._wanted.what} ended after {self.done} of {self._whole} bytes", fix="Try again."
            )

    def ended(self) -> str:
        """Finish, and return the SHA-256.

        Raises:
            StoreFailed: it does not match its digest.
        """
        digest = self._wanted.digest
        if digest and self._theirs.hexdigest() != digest.hex:
            raise StoreFailed(
                f"{self._wanted.what} is not what its digest says: it is "
                f"{digest.algorithm}:{self._theirs.hexdigest()}, and should be {digest}"
            )
        return self._mine.hexdigest()

    def _restart(self) -> None:
        self.done = 0
        self._mine = hashlib.sha256()
        digest = self._wanted.digest
        self._theirs = hashlib.new(digest.algorithm) if digest else self._mine
        self._file.seek(0)
        self._file.truncate()

    def _too_large(self, size: str) -> TooLarge:
        return TooLarge(f"{self._wanted.what} has {size}, and there is room for {self._wanted.most}")
