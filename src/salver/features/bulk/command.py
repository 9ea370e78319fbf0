"""``salver infer MODEL --from FILE --to FILE``: progress and result of a bulk job.

A bar on a terminal, a plain line every few seconds in a pipe, both on stderr; the summary on stdout. The work
itself is in ``salver.features.bulk``.
"""

import asyncio
import csv
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Self

from salver.terminal.options import token
from salver.terminal.output import line, record, remark
from salver.words.errors import InvalidInput

if TYPE_CHECKING:
    from salver.features.bulk import Job, Progress, Summary

_PLAIN_EVERY_S = 10.0
#: Request time-out: bulk work waits behind all other work.
_TIMEOUT_S = 300.0
_INTERRUPTED = 130


def parse_columns(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Parse ``INPUT=COLUMN,COLUMN`` arguments; quote a column whose name contains a comma.

    Raises:
        InvalidInput: an argument has no ``=`` or names no column.

    >>> parse_columns(["x=a,b", 'y="c,d"'])
    {'x': ('a', 'b'), 'y': ('c,d',)}
    """
    found = {}
    for word in words:
        name, _, columns = word.partition("=")
        named = tuple(next(csv.reader([columns]), []))
        if not name or not all(named) or not named:
            raise InvalidInput(f"--columns {word!r} is not INPUT=COLUMN,COLUMN,…")
        found[name] = named
    return found


def infer_file(job: "Job", url: str, *, json: bool) -> int:
    """Run the job and show its progress.

    Returns:
        0, or 130 after Ctrl-C.
    """
    shown = _JobProgress(job)
    bar: AbstractContextManager[Any] = shown.bar if sys.stderr.isatty() else nullcontext()
    try:
        with bar:
            summary = asyncio.run(_run(job, url, shown.show))
    except KeyboardInterrupt:
        again = "The same command"
        if job.restart:
            again = "The same command without --restart"
        remark(f"stopped after {shown.rows} rows. {again} goes on from there.")
        return _INTERRUPTED
    if json:
        record(summary)
    else:
        line(sentence(summary))
    return 0


async def _run(job: "Job", url: str, show: "Callable[[Progress], None]") -> "Summary":
    from salver.client import Client
    from salver.features.bulk import run

    async with Client(url, timeout=_TIMEOUT_S, token=token()) as client:
        return await run(client, job, on_progress=show)


def sentence(summary: "Summary") -> str:
    """Return the summary as text."""
    text = f"{summary.answered} rows in {summary.target}"
    if summary.resumed:
        text += f", {summary.resumed} rows of the source done before"
    text += f"; {summary.seconds:.1f} s, {summary.rows_per_second:.0f} rows/s"
    if summary.skipped:
        text += f"; {summary.skipped} skipped, see {summary.errors}"
    return text


class _JobProgress:
    """Progress display of a running job."""

    def __init__(self, job: "Job", clock: Callable[[], float] = time.monotonic) -> None:
        self.rows = 0
        self._job, self._clock = job, clock
        self._begun = self._told = clock()
        self._from = 0.0
        self._waiting = ""
        self.bar = _Bar(job.source.name)

    def show(self, progress: "Progress") -> None:
        """Update the display."""
        first, self.rows = self.rows == 0, progress.rows
        for note in progress.notes:
            remark(f"{self._job.source}: {note}")
        if first and progress.rows == progress.resumed:
            self._from = progress.fraction
            if progress.resumed:
                remark(f"going on after {progress.resumed} rows")
        rate, left = self._pace(progress)
        if self.bar.is_live:
            self.bar.show(progress, rate, left)
            return
        now = self._clock()
        if progress.waiting and not self._waiting:
            remark(f"waiting: {progress.waiting}")
        elif now - self._told >= _PLAIN_EVERY_S:
            self._told = now
            remark(plain(progress, rate, left))
        self._waiting = progress.waiting

    def _pace(self, progress: "Progress") -> tuple[float, float | None]:
        seconds = self._clock() - self._begun
        done = progress.fraction - self._from
        left = seconds * (1 - progress.fraction) / done if done > 0 else None
        return (progress.rows - progress.resumed) / max(seconds, 1e-9), left


def plain(progress: "Progress", rate: float, left: float | None) -> str:
    """Return a log line.

    >>> from salver.features.bulk import Progress
    >>> plain(Progress(512, 2, 0, 0.25, 0), 100.0, 15.0)
    '512 rows, 2 skipped, 25 %, 100 rows/s, 15 s left'
    """
    skipped = ""
    if progress.skipped:
        skipped = f", {progress.skipped} skipped"
    text = f"{progress.rows} rows{skipped}, {progress.fraction:.0%}".replace("%", " %")
    text += f", {rate:.0f} rows/s"
    if left is None:
        return text
    return f"{text}, {left:.0f} s left"


class _Bar:
    """Progress bar of rich, on stderr."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._progress: Any = None
        self._task: Any = None

    @property
    def is_live(self) -> bool:
        """Return whether it is on the screen."""
        return self._progress is not None

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[said]}", markup=False),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(escape(self._title), total=1.0, said="")
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._progress = None

    def show(self, progress: "Progress", rate: float, left: float | None) -> None:
        """Update the bar."""
        said = f"{progress.rows} rows  {rate:.0f}/s"
        if progress.skipped:
            said += f"  {progress.skipped} skipped"
        if left is not None:
            said += f"  {_clock_of(left)} left"
        if progress.waiting:
            said = f"waiting: {progress.waiting}"
        self._progress.update(self._task, completed=progress.fraction, said=said)


def _clock_of(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}"
