"""Trace files in Triton's JSON (TR-O1).

A file is an array with two objects for each request: its names, and its timestamps in nanoseconds of the
monotonic clock. The array is complete after each write. Blocking.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from salver.words.errors import InvalidInput
from salver.words.events import Served, moments


class Trace(NamedTuple):
    """Trace of one request.

    Attributes:
        number: Id in the file.
        scope: Traces of the same scope share a file.
        frequency: Traces in a file; 0 = all in one.
        parent: Id of the trace of the request that this one serves; 0 = none.
    """

    number: int
    event: Served
    scope: str = ""
    frequency: int = 0
    parent: int = 0


def entries(trace: Trace) -> bytes:
    """Return the objects of one trace, without the brackets of the array."""
    event = trace.event
    version: int | str = int(event.version) if event.version.isdecimal() else event.version
    named: dict[str, Any] = {"id": trace.number, "model_name": event.model, "model_version": version}
    if event.request_id:
        named["request_id"] = event.request_id
    if trace.parent:
        named["parent_id"] = trace.parent
    stamps = [{"name": name, "ns": ns} for name, ns in moments(event).items()]
    return orjson.dumps(named) + b",\n" + orjson.dumps({"id": trace.number, "timestamps": stamps})


class TraceFile:
    """Writes traces to one file, or to several with consecutive numbers.

    Args:
        path: The file, emptied by the first write; with a frequency ``path.0``, ``path.1`` and so on.

    Raises:
        InvalidInput: The path cannot be a file.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        if path and not self._path.parent.is_dir():
            raise InvalidInput(
                f"the trace file {path} needs the folder {self._path.parent}, which does not exist"
            )
        if path and self._path.is_dir():
            raise InvalidInput(f"the trace file {path} is a folder")
        self._has_begun = False
        self._next = 0
        self._open: dict[str, tuple[Path, int]] = {}  # by scope: the file and the traces in it

    def __repr__(self) -> str:
        return f"<TraceFile {self._path}, {self._next} numbered>"

    def write(self, traces: Sequence[Trace]) -> None:
        """Append traces. Raises OSError."""
        texts: dict[Path, list[bytes]] = {}
        for trace in traces:
            texts.setdefault(self._place(trace), []).append(entries(trace))
        for path, parts in texts.items():
            if not path.exists():  # it may have been moved away
                _begin(path)
            with path.open("r+b") as file:
                end = file.seek(-2, os.SEEK_END)  # before the closing bracket
                file.write((b",\n" if end > 1 else b"\n") + b",\n".join(parts) + b"\n]")

    def _place(self, trace: Trace) -> Path:
        if not trace.frequency:
            if not self._has_begun:
                _begin(self._path)
                self._has_begun = True
            return self._path
        path, held = self._open.get(trace.scope, (self._path, trace.frequency))
        if held >= trace.frequency:
            path, held = self._path.with_name(f"{self._path.name}.{self._next}"), 0
            self._next += 1
            _begin(path)
        self._open[trace.scope] = (path, held + 1)
        return path


def _begin(path: Path) -> None:
    path.write_bytes(b"[\n]")
