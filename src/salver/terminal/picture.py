"""Plots: records of panels with series and marks, and their drawing in characters of a terminal. Pure."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Final, Literal

import msgspec

Points = tuple[tuple[float, float], ...]
#: How a series is drawn: dots, a line through its points, or the dashed line of a bound.
Kind = Literal["dots", "line", "bound"]
#: A run of characters, and the style in which a terminal shows it.
Run = tuple[str, str]

_COLOURS: Final = ("cyan", "green", "yellow", "magenta", "blue", "red")
_BRAILLE: Final = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # [column][row] of a cell
_SIGNS: Final[dict[Kind, str]] = {"dots": "●", "line": "─", "bound": "╌"}
_GUTTER = 8
_FAR = 3.0  # times the rest; a bound above is cut off


class Series(msgspec.Struct, frozen=True):
    """Points of one curve.

    Attributes:
        points: (x, y), ascending in x; points that are not finite are left out.
        colour: Index of the colour; series of one colour belong together.
    """

    label: str
    points: Points
    kind: Kind = "line"
    colour: int = 0


class Mark(msgspec.Struct, frozen=True):
    """A named x, drawn as a vertical line; strong = the chosen one."""

    label: str
    x: float
    strong: bool = False


class Panel(msgspec.Struct, frozen=True):
    """One pair of axes: x logarithmic to base 2, y from 0."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    marks: tuple[Mark, ...] = ()


class Picture(msgspec.Struct, frozen=True):
    """A report: panels, and sentences beside them."""

    title: str
    panels: tuple[Panel, ...]
    lines: tuple[str, ...]


def draw(panel: Panel, width: int, height: int) -> list[list[Run]]:
    """Return the panel in characters, with its heading and legend.

    >>> panel = Panel("rate", "rows", "rows/s", (Series("law", ((1, 0), (16, 1))),))
    >>> for line in draw(panel, 32, 9):
    ...     print("".join(text for text, _ in line).rstrip())
    rate, rows/s
           1 │                  ⣀⠤⠒⠉
             │             ⢀⡠⠔⠊⠉
         0.5 │        ⢀⣀⠤⠒⠉⠁
             │    ⣀⡠⠔⠊⠁
           0 │⣀⠤⠒⠉
             └──────────────────────
              1    2     4    8   16
              rows   ─ law
    """
    canvas = _Canvas(panel, max(width - _GUTTER - 2, 16), max(height - 4 - bool(panel.marks), 4))
    lines: list[list[Run]] = [[(panel.title, "bold"), (f", {panel.y_label}", "dim")]]
    if panel.marks:
        lines += [[(" " * (_GUTTER + 2), ""), *runs] for runs in canvas.mark_labels()]
    for number, row in enumerate(canvas.rows()):
        lines.append([(f"{canvas.y_tick(number):>{_GUTTER}} │", "dim"), *row])
    lines.append([(" " * (_GUTTER + 1) + "└" + "─" * canvas.width, "dim")])
    lines.append([(" " * (_GUTTER + 2) + canvas.x_ticks(), "dim")])
    return lines + _legend(panel, max(width, _GUTTER + 18))


def _legend(panel: Panel, width: int) -> list[list[Run]]:
    """Return the label of x and the names of the series, on as many lines as they need."""
    used = _GUTTER + 2 + len(panel.x_label)
    lines: list[list[Run]] = [[(" " * (_GUTTER + 2) + panel.x_label, "dim")]]
    for series in panel.series:
        label = f" {series.label}"
        if used + 4 + len(label) > width:
            lines.append([(" " * (_GUTTER - 1), "")])
            used = _GUTTER - 1
        lines[-1] += [(f"   {_SIGNS[series.kind]}", colour_name(series.colour)), (label, "")]
        used += 4 + len(label)
    return lines


def colour_name(number: int) -> str:
    """Return the terminal's name of a colour."""
    return _COLOURS[number % len(_COLOURS)]


def short(value: float) -> str:
    """Return a number in about five characters, for ticks.

    >>> [short(v) for v in (0, 0.005, 0.25, 9.6, 48, 1234, 25_000, 1.5e6)]
    ['0', '0.005', '0.25', '9.6', '48', '1234', '25k', '1.5M']
    """
    for limit, unit in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e6 if unit == 'M' else 1e3):.3g}{unit}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def powers_of_two(low: float, high: float) -> list[int]:
    """Return the ticks of an x axis from ``low`` to ``high``.

    >>> powers_of_two(1, 20)
    [1, 2, 4, 8, 16]
    """
    first, last = math.ceil(math.log2(max(low, 1))), math.floor(math.log2(max(high, 1)))
    return [2**n for n in range(first, last + 1)]


def limits(panel: Panel) -> tuple[float, float, float]:
    """Return the least x, the greatest x and the greatest y to show; a bound far above is cut off."""
    every = [p for series in panel.series for p in series.points if all(map(math.isfinite, p))]
    seen = [p for s in panel.series if s.kind != "bound" for p in s.points if all(map(math.isfinite, p))]
    if not every:
        return 1.0, 2.0, 1.0
    low, high = min(x for x, _ in every), max(x for x, _ in every)
    top = max((y for _, y in every), default=1.0)
    if seen:
        highest = max(y for _, y in seen)
        top = top if top <= _FAR * highest else 1.3 * highest
    return max(low, 1.0), max(high, low * 2, 2.0), top if top > 0 else 1.0


class _Canvas:
    """Characters of 2 × 4 dots each."""

    def __init__(self, panel: Panel, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._panel = panel
        self._low, self._high, self._top = limits(panel)
        self._dots: dict[tuple[int, int], tuple[int, str]] = {}  # (line, column) -> bits, style
        self._signs: dict[tuple[int, int], Run] = {}
        for mark in panel.marks:
            self._mark(mark)
        for series in panel.series:
            if series.kind == "dots":
                self._scatter(series)
            else:
                self._line(series)

    def rows(self) -> Iterator[list[Run]]:
        """Return the lines of characters, from the top."""
        for line in range(self.height):
            yield [self._cell(line, column) for column in range(self.width)]

    def y_tick(self, line: int) -> str:
        """Return the label left of a line, mostly empty."""
        middle = (self.height - 1) // 2
        places = {0: 1.0, middle: 1 - middle / (self.height - 1), self.height - 1: 0.0}
        if line not in places:
            return ""
        return short(places[line] * self._top)

    def x_ticks(self) -> str:
        """Return the line below the axis."""
        text = ""
        for tick in powers_of_two(self._low, self._high):
            word = str(tick)
            at = min(self._column(tick), self.width - len(word))
            if at >= len(text) + (1 if text else 0):
                text = text.ljust(at) + word
        return text

    def mark_labels(self) -> list[list[Run]]:
        """Return the names above the vertical lines, on as many lines as they need."""
        lines: list[tuple[int, list[Run]]] = []  # columns used, and what is there
        for mark in sorted(self._panel.marks, key=lambda mark: mark.x):
            at = max(0, min(self._column(mark.x), self.width - len(mark.label)))
            for number, (used, runs) in enumerate(lines):
                if used < at:
                    runs += [(" " * (at - used), ""), (mark.label, _mark_style(mark))]
                    lines[number] = (at + len(mark.label), runs)
                    break
            else:
                lines.append((at + len(mark.label), [(" " * at, ""), (mark.label, _mark_style(mark))]))
        return [runs for _, runs in lines]

    def _cell(self, line: int, column: int) -> Run:
        if sign := self._signs.get((line, column)):
            return sign
        bits, style = self._dots.get((line, column), (0, ""))
        if bits:
            return (chr(0x2800 + bits), style)
        return (" ", "")

    def _column(self, x: float) -> int:
        return self._at(x, 0.0)[0] // 2

    def _at(self, x: float, y: float) -> tuple[int, int]:
        """Return the dot of a point; its line may lie outside."""
        share = math.log2(max(x, self._low) / self._low) / math.log2(self._high / self._low)
        across = round(min(share, 1.0) * (2 * self.width - 1))
        return across, round((1 - y / self._top) * (4 * self.height - 1))

    def _line(self, series: Series) -> None:
        finite = [self._at(*p) for p in series.points if all(map(math.isfinite, p))]
        style = colour_name(series.colour)
        for (x0, y0), (x1, y1) in itertools.pairwise(finite):
            steps = max(abs(x1 - x0), abs(y1 - y0), 1)
            for step in range(steps + 1):
                x, y = round(x0 + (x1 - x0) * step / steps), round(y0 + (y1 - y0) * step / steps)
                if series.kind == "bound" and x % 4 >= 2:
                    continue  # dashed
                self._dot(x, y, style)

    def _dot(self, x: int, y: int, style: str) -> None:
        if 0 <= y < 4 * self.height and 0 <= x < 2 * self.width:
            place = (y // 4, x // 2)
            bits = self._dots.get(place, (0, ""))[0]
            self._dots[place] = (bits | _BRAILLE[x % 2][y % 4], style)

    def _scatter(self, series: Series) -> None:
        for point in series.points:
            if all(map(math.isfinite, point)):
                x, y = self._at(*point)
                place = (min(max(y // 4, 0), self.height - 1), x // 2)
                self._signs[place] = ("●", colour_name(series.colour))

    def _mark(self, mark: Mark) -> None:
        for line in range(self.height):
            self._signs[line, self._column(mark.x)] = ("│" if mark.strong else "┊", _mark_style(mark))


def _mark_style(mark: Mark) -> str:
    return "bold red" if mark.strong else "dim"


def plain(lines: Sequence[Sequence[Run]]) -> list[str]:
    """Return the lines without colours."""
    return ["".join(text for text, _ in runs).rstrip() for runs in lines]
