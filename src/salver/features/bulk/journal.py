"""Journal of a bulk job, for continuing after a crash.

Beside an output ``OUT`` there are part files ``OUT.part``, ``OUT.part1``, … and ``OUT.journal``: a line that
identifies the job, then a line each time that everything before it is safe on disk. After a crash the parts
are truncated to the sizes in the last complete line. Order: parts, fsync, line, fsync; at the end the whole
file, fsync, rename, fsync of the folder, and only then is the journal removed. It knows no model and no
format.
"""

import contextlib
import fcntl
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import msgspec

from salver.features.bulk.rows import Place
from salver.words.errors import Conflict, InvalidInput

_FIX = "Use the same file and options as before, or start over with --restart."


class Mark(msgspec.Struct, frozen=True):
    """State that is safe on disk.

    Attributes:
        rows: Rows of the input that are done, including bad ones.
        bad: Rows among them without an answer.
        place: Position in the input.
        sizes: Bytes of each part, with the errors file last.
        done: Nothing is left to do.
    """

    rows: int
    bad: int
    place: Place
    sizes: list[int]
    done: bool = False


_read_mark: Final = msgspec.json.Decoder(Mark).decode


class Journal:
    """One job's journal, locked against a second run; close it, or remove it at the end.

    Attributes:
        mark: The last mark, or None at the start.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self.mark: Mark | None = None

    @classmethod
    def open(cls, path: Path, job: Mapping[str, Any], *, restart: bool) -> Self:
        """Open a journal, or create one.

        Args:
            path: Path of the journal.
            job: JSON values that must be equal to continue.
            restart: Discard an existing journal.

        Raises:
            Conflict: another run holds it, or it belongs to another job.
        """
        file = _locked(path)
        try:
            journal = cls(path, file)
            safe = 0 if restart else journal._read(job)
            file.truncate(safe)
            if not safe:
                journal._add(job)
                sync_folder(path)
            return journal
        except BaseException:
            file.close()
            raise

    def _read(self, job: Mapping[str, Any]) -> int:
        """Read the last mark; return the number of complete bytes, 0 if nothing has been done yet."""
        lines = self._file.read().split(b"\n")[:-1]  # a line without an end was not completed
        safe = 0
        for line in lines[1:]:
            try:
                self.mark = _read_mark(line)
            except msgspec.DecodeError:
                break
            safe += len(line) + 1
        if self.mark is None or not (self.mark.rows or self.mark.done):
            self.mark = None
            return 0
        _check(_parsed(lines[0], self._path), job, self._path)
        return len(lines[0]) + 1 + safe

    def add(self, mark: Mark) -> None:
        """Add a mark after the parts have been synced."""
        self._add(mark)
        self.mark = mark

    def _add(self, value: Any) -> None:
        self._file.write(msgspec.json.encode(value) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def remove(self) -> None:
        """Remove the journal of a finished job."""
        self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Release the lock; the journal stays for the next run."""
        self._file.close()


def _locked(path: Path) -> BinaryIO:
    while True:
        try:
            file = path.open("a+b")
        except OSError as error:
            raise InvalidInput(f"cannot write {path}: {error.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise Conflict(f"another run is writing {path.with_suffix('')} just now") from None
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                file.seek(0)
                return file
        file.close()  # the previous run removed it meanwhile


def _parsed(line: bytes, path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError:
        raise Conflict(f"{path} is not a journal", fix=_FIX) from None


def _check(before: Mapping[str, Any], job: Mapping[str, Any], path: Path) -> None:
    plain = msgspec.json.decode(msgspec.json.encode(job))
    for name, value in plain.items():
        if before.get(name) != value:
            was, now = _short(before.get(name)), _short(value)
            raise Conflict(f"{path} is of a job with another {name}: {was} then, {now} now", fix=_FIX)


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    if len(text) <= 120:
        return text
    return f"{text[:117]}..."


class Parts:
    """Growing files, opened at the sizes of the last mark."""

    def __init__(self, paths: Sequence[Path], mark: Mark | None) -> None:
        self.paths = list(paths)
        self._files: list[BinaryIO] = []
        sizes = mark.sizes if mark else [0] * len(paths)
        for path, size in zip(paths, sizes, strict=True):
            try:
                file = path.open("r+b" if size else "wb")
                self._files.append(file)
                if file.seek(0, os.SEEK_END) < size:
                    raise Conflict(f"{path} is shorter than its journal says", fix=_FIX)
            except OSError as error:
                self.close()
                raise Conflict(f"cannot go on with {path}: {error.strerror}", fix=_FIX) from None
            except Conflict:
                self.close()
                raise
            file.truncate(size)
            file.seek(size)
        sync_folder(self.paths[0])

    def write(self, data: Sequence[bytes]) -> None:
        """Append to each."""
        for file, piece in zip(self._files, data, strict=True):
            file.write(piece)

    def sync(self) -> list[int]:
        """Sync everything to disk; return the sizes."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        return [file.tell() for file in self._files]

    def close(self) -> None:
        """Close the files; data not synced may be lost."""
        for file in self._files:
            file.close()


def publish(whole: Path, target: Path) -> None:
    """Rename a finished file atomically."""
    with whole.open("rb") as file:
        os.fsync(file.fileno())
    whole.replace(target)
    sync_folder(target)


def sync_folder(path: Path) -> None:
    """Sync the folder of a file to disk."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
