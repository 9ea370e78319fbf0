"""Reliability diagram: what was predicted beside what came true, in text and as SVG. Pure."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from salver.stats.scoring import Bin

_WIDTH: Final = 32  # letters of the plot
_SIDE: Final = 320  # pixels of the square
_LEFT, _TOP = 56, 36
_COLOURS: Final = ("#d55e00", "#0072b2")  # Okabe and Ito's
_MOST_RADIUS: Final = 8


def drawn(bins: Sequence[Bin]) -> list[str]:
    """Return a line for each bin: ``|`` where it should be, ``o`` where it is, ``-`` its interval.

    >>> from salver.stats.interval import Interval
    >>> drawn([Bin(0.5, 1.0, 9, 0.75, 0.5, Interval(0.25, 0.75))])
    ['0.50 to 1.00         9   0.750   0.500          --------o-------|']
    """
    lines = []
    for each in bins:
        plot = [" "] * (_WIDTH + 1)
        for place in range(_place(each.interval.low), _place(each.interval.high) + 1):
            plot[place] = "-"
        plot[_place(each.predicted)] = "|"
        plot[_place(each.observed)] = "o"
        numbers = f"{each.rows:>10}   {each.predicted:.3f}   {each.observed:.3f}"
        lines.append(f"{each.low:.2f} to {each.high:.2f}{numbers}  {''.join(plot).rstrip()}")
    return lines


def _place(share: float) -> int:
    return round(share * _WIDTH)


def as_svg(title: str, series: Mapping[str, Sequence[Bin]]) -> str:
    """Return the diagram as SVG: a line for each series, circles as large as their bins, intervals of 95 %.

    Args:
        series: Bins by name, such as ``before`` and ``after``.
    """
    width, height = _LEFT + _SIDE + 150, _TOP + _SIDE + 60
    bottom, right = _TOP + _SIDE, _LEFT + _SIDE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-weight="bold">{escape(title)}</text>',
        f'<path d="M{_LEFT} {bottom}L{right} {_TOP}" stroke="#999" stroke-dasharray="4 3"/>',
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" stroke="black" fill="none"/>',
        f'<text x="{_LEFT + _SIDE / 2}" y="{bottom + 40}" text-anchor="middle">predicted</text>',
        f'<text transform="translate(16 {_TOP + _SIDE / 2}) rotate(-90)" text-anchor="middle">true</text>',
    ]
    for tick in range(0, 11, 2):
        x, y = _point(tick / 10, tick / 10)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{tick / 10:g}</text>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick / 10:g}</text>')
    for index, (name, bins) in enumerate(series.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        parts += _series(bins, colour)
        y = _TOP + 14 + 20 * index
        parts.append(f'<circle cx="{right + 18}" cy="{y - 4}" r="5" fill="{colour}"/>')
        parts.append(f'<text x="{right + 30}" y="{y}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _series(bins: Sequence[Bin], colour: str) -> list[str]:
    rows = sum(each.rows for each in bins)
    points = [_point(each.predicted, each.observed) for each in bins]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    parts = [f'<path d="M{path}" stroke="{colour}" fill="none"/>']
    for each, (x, y) in zip(bins, points, strict=True):
        low, high = (_point(0, end)[1] for end in each.interval)
        radius = 2 + (_MOST_RADIUS - 2) * (each.rows / rows) ** 0.5
        parts.append(f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="{colour}" stroke-opacity=".5"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}"/>')
    return parts


def _point(x: float, y: float) -> tuple[float, float]:
    return _LEFT + x * _SIDE, _TOP + (1 - y) * _SIDE
