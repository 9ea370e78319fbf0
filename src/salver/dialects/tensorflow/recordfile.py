"""Rotating files of records.

Files of one prefix are numbered. A full one is followed by the next, and the oldest is deleted when there
are too many. Each run of the server begins a new one. Blocking.
"""

import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from salver.words.artifacts import Logging
from salver.words.errors import InvalidInput

_UNFIT = re.compile(r"[^A-Za-z0-9._-]")
SUFFIX = ".tfrecord"


class RecordFiles:
    """Files of all prefixes in a folder.

    Raises:
        InvalidInput: The folder cannot hold files.
    """

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._clock = clock
        self._open: dict[str, _Series] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".salver"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise InvalidInput(f"requests cannot be logged in {folder}: {error}") from error

    def __repr__(self) -> str:
        return f"<RecordFiles in {self._folder}, {len(self._open)} open>"

    def append(self, model: str, config: Logging, content: bytes) -> None:
        """Write a whole record. Raises OSError."""
        prefix = config.prefix or _UNFIT.sub("_", model).lstrip(".") or "_"
        series = self._open.get(prefix)
        if series is None:
            series = self._open[prefix] = _Series(self._folder, prefix, self._clock())
        series.append(content, config)

    def flush(self) -> None:
        """Flush all files; the next record reports an error."""
        for series in self._open.values():
            series.flush()

    def close(self) -> None:
        """Close all files."""
        for series in self._open.values():
            series.close()
        self._open.clear()


class _Series:
    """Files of one prefix."""

    def __init__(self, folder: Path, prefix: str, began: float) -> None:
        self._folder = folder
        self._prefix = prefix
        self._began = time.strftime("%Y%m%dT%H%M%S", time.gmtime(began))
        self._file: BinaryIO | None = None
        self._size = 0
        self._number = 0

    def append(self, content: bytes, config: Logging) -> None:
        if self._file is not None and self._size + len(content) > config.max_mb << 20:
            self.close()
        if self._file is None:
            self._file = self._next(config.files)
        try:
            self._file.write(content)
        except OSError:
            self.close()  # nothing may follow a record that was cut off
            raise
        self._size += len(content)

    def _next(self, most: int) -> BinaryIO:
        while True:
            path = self._folder / f"{self._prefix}-{self._began}-{self._number:05}{SUFFIX}"
            self._number += 1
            try:
                file = path.open("xb")
            except FileExistsError:
                continue  # of another server that began in the same second
            break
        self._size = 0
        whose = re.compile(re.escape(self._prefix) + r"-\d{8}T\d{6}-\d{5}" + re.escape(SUFFIX))
        known = sorted(entry for entry in self._folder.iterdir() if whose.fullmatch(entry.name))
        for old in known[:-most]:
            old.unlink(missing_ok=True)
        return file

    def flush(self) -> None:
        if self._file is not None:
            try:
                self._file.flush()
            except OSError:
                self.close()

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()
