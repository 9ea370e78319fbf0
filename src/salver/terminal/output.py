"""Output of commands: coloured tables on a terminal, plain lines in a pipe, JSON with ``--json``."""

import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec

from salver.encoding.escaping import printable
from salver.words.errors import SalverError

T = TypeVar("T")
_BETWEEN: Final = r"(?<!\d) "
_FEW_LINES: Final = 3  # of one cell
_GAP: Final = 2  # blanks between columns
_MOST_WHOLE: Final = 40  # letters of a word that is not broken for want of room
_STYLES: Final = {
    "READY": "green",
    "ok": "green",
    "FAILED": "red",
    "missing": "yellow",
    "wrong": "red",
    "UNAVAILABLE": "yellow",
}


def on_terminal() -> bool:
    """Return True if standard output is a terminal."""
    return sys.stdout.isatty()


def line(text: str = "") -> None:
    """Write one line of the result."""
    sys.stdout.write(f"{text}\n")


@contextmanager
def under_way(text: str) -> Iterator[None]:
    """Show a spinner and the elapsed time on a terminal; nothing in a pipe."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        shown.add_task(text, total=None)
        yield


def prose(text: str, *, beside: bool = False) -> None:
    """Write text that is wrapped between words on a terminal; indentation is kept.

    Args:
        beside: Write to standard error, like :func:`remark`.
    """
    width, say = width_of_terminal(beside=beside), remark if beside else line
    for each in text.splitlines() or [""]:
        indent = len(each) - len(each.lstrip())
        parts = textwrap.wrap(each, width, subsequent_indent=" " * (indent + 2)) if width else []
        for part in parts or [each]:
            say(part)


def width_of_terminal(*, beside: bool = False) -> int:
    """Return the terminal's columns; 0 = no terminal, and no limit."""
    is_seen = sys.stderr.isatty() if beside else on_terminal()
    if not is_seen:
        return 0
    return shutil.get_terminal_size((100, 24)).columns


def remark(text: str) -> None:
    """Write a remark to standard error, so that a pipe gets only the result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def moment(seconds: float) -> str:
    """Return Unix seconds as a date and time of UTC.

    >>> moment(0)
    '1970-01-01 00:00:00Z'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def record(value: Any) -> None:
    """Write one line of JSON."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def result(value: Any, text: str, *, json: bool) -> None:
    """Write a result: as one line of JSON, or as text for people."""
    if json:
        record(value)
    else:
        line(text)


def listed(
    items: Iterable[T],
    columns: Sequence[str],
    row: Callable[[T], Sequence[str]],
    *,
    json: bool,
    none: str = "",
    needless: Sequence[str] = (),
) -> None:
    """Write items as a table, or each as one line of JSON.

    Args:
        none: Text for an empty table; empty = the headings alone.
        needless: See :func:`fitted`.
    """
    found = list(items)
    if json:
        for item in found:
            record(item)
    elif none and not found:
        line(none)
    else:
        table(columns, [row(item) for item in found], needless)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], needless: Sequence[str] = ()) -> None:
    """Write a table: fitted to the terminal's width, or plain and complete in a pipe.

    Args:
        needless: See :func:`fitted`.
    """
    rows = [["\n".join(map(printable, cell.split("\n"))) for cell in row] for row in rows]
    if not on_terminal():
        for text in plain_table(columns, rows):
            line(text)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    widths = fitted(columns, rows, width_of_terminal(), needless)
    shown = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for index, width in widths.items():
        shown.add_column(columns[index], overflow="fold", width=width)
    for row in rows:
        shown.add_row(*(Text(row[index], style=_STYLES.get(row[index], "")) for index in widths))
    console = Console(width=width_of_terminal(), highlight=False)
    console.print(shown)
    if left_out := [name for index, name in enumerate(columns) if index not in widths]:
        console.print(f"too narrow for: {', '.join(left_out)}", style="dim")


def fitted(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int, needless: Sequence[str] = ()
) -> dict[int, int]:
    """Return the widths of the columns that fit, by index.

    Cells are wrapped between words, after a number only if nothing else helps, since its unit follows it. No
    cell gets much more than three lines.

    Args:
        needless: Columns to leave out if there is no room, the first one first.

    >>> rows = [("1", "latest, champion", "2026-11-27 00:28:29Z")]
    >>> fitted(("version", "aliases", "pushed"), rows, 80)
    {0: 7, 1: 16, 2: 20}
    >>> fitted(("version", "aliases", "pushed"), rows, 24, ("pushed", "version"))
    {0: 7, 1: 15}
    """
    cells = [
        [text for cell in (name, *(row[i] for row in rows)) for text in cell.split("\n")]
        for i, name in enumerate(columns)
    ]
    wish = [max(map(len, texts)) for texts in cells]
    words, parts = (
        [max(len(word) for text in texts for word in re.split(between, text)) for texts in cells]
        for between in (" ", _BETWEEN)
    )
    least = [min(max(part, most // _FEW_LINES), _MOST_WHOLE) for part, most in zip(parts, wish, strict=True)]
    shown = list(range(len(columns)))
    for name in needless:
        if sum(least[i] + _GAP for i in shown) <= width + _GAP:
            break
        shown.remove(columns.index(name))
    room = width - _GAP * (len(shown) - 1)
    widths = dict.fromkeys(shown, 1)
    for most in (words, least, wish):
        while sum(widths.values()) < room and (few := [i for i in shown if widths[i] < most[i]]):
            widths[min(few, key=widths.__getitem__)] += 1
    return widths


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return aligned lines without a box, colours or trailing blanks.

    >>> plain_table(("model", "state"), [("a", "READY")])
    ['model  state', 'a      READY']
    """
    grid = [list(columns), *([cell.replace("\n", " ") for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in grid]


def report_error(error: SalverError, *, json: bool) -> None:
    """Write an error to standard error, red on a terminal; as JSON to standard output with ``--json``."""
    if json:
        record({"error": {"code": error.code.value, "message": error.message, "fix": error.fix}})
        return
    text = f"error: {error}"
    remark(f"\x1b[31m{text}\x1b[0m" if sys.stderr.isatty() else text)
