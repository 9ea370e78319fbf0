"""Progress display of a search.

A growing table on a terminal, a line per cell in a pipe, nothing with ``--json``. It does not know who
measures.
"""

import shutil
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from salver.features.tuning.curves import COLUMNS, table_rows
from salver.terminal.output import line, on_terminal

if TYPE_CHECKING:
    from salver.features.tuning.profile import Cell, Measurement

_BAR = 24  # width of the best rate in characters


class SearchProgress:
    """Display of measured cells; a context manager.

    Args:
        title: Title of the table.
        quiet: Show nothing.
    """

    def __init__(self, title: str, *, quiet: bool = False) -> None:
        self._title = title
        self._most = 0
        self._quiet = quiet
        self._measured: list[Measurement] = []
        self._live: Any = None
        self._stack = ExitStack()

    def __enter__(self) -> "SearchProgress":
        if not self._quiet and on_terminal():
            from rich.console import Console
            from rich.live import Live

            console = Console(width=shutil.get_terminal_size((100, 24)).columns)
            self._live = self._stack.enter_context(Live(console=console, refresh_per_second=8))
        elif not self._quiet:
            line(self._title)
        self._show(None)
        return self

    def __exit__(self, *why: object) -> None:
        self._show(None)
        self._stack.close()

    def begins(self, cell: "Cell", most: int) -> None:
        """Announce a cell, with the maximum number of cells."""
        self._most = most
        self._show(cell)

    def measured(self, found: "Measurement") -> None:
        """Show a measured cell."""
        self._measured.append(found)
        if self._live is None and not self._quiet:
            ((place, rows, run, rate),) = table_rows([found])
            line(f"{place}  {rows:>5} rows  {run:>8} ms  {rate:>8} rows/s")
            sys.stdout.flush()
        self._show(None)

    def _show(self, cell: "Cell | None") -> None:
        if self._live is None:
            return
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        number = len(self._measured) + (cell is not None)
        progress = ""
        if cell:
            progress = f", cell {number} of at most {self._most}"
        shown = Table(box=None, pad_edge=False, header_style="bold")
        for index, column in enumerate(COLUMNS):
            shown.add_column(column, justify="right" if index else "left")
        shown.add_column("")
        known = sorted(self._measured, key=lambda m: m.cell)
        best = max((found.rate for found in known), default=1.0)
        for found, row in zip(known, table_rows(known), strict=True):
            style = ""
            if found is self._measured[-1]:
                style = "bold"
            shown.add_row(*row, Text("━" * round(_BAR * found.rate / best), style="cyan"), style=style)
        if cell is not None:
            shown.add_row(f"{cell.instances} × {cell.threads}", str(cell.rows), "…", style="dim")
        self._live.update(Group(Text(self._title + progress), shown), refresh=True)
