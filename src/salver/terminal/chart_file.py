"""Plots as SVG or PNG files, drawn by matplotlib (the extra ``tune``) without its global state."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from salver.terminal.picture import Kind, Panel, Picture, limits, powers_of_two, short
from salver.words.errors import InvalidInput, Unsupported

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS: Final = ("svg", "png")
_COLOURS: Final = ("#0072b2", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#d55e00")  # Okabe and Ito's
_STYLES: Final[dict[Kind, dict[str, Any]]] = {
    "dots": {"linestyle": "", "marker": "o", "markersize": 5},
    "line": {"linewidth": 1.6},
    "bound": {"linewidth": 1.4, "linestyle": (0, (5, 3))},
}
_CHOSEN = "#b22222"


def check(path: Path) -> None:
    """Refuse a wrong path of a report before anything is measured for it.

    Raises:
        InvalidInput: another format, or a folder that does not exist.
        Unsupported: matplotlib is not installed.
    """
    if path.suffix.lower().lstrip(".") not in FORMATS:
        raise InvalidInput(
            f"--report {path} is neither .svg nor .png", fix="Name a file that ends with one of them."
        )
    if not path.absolute().parent.is_dir():
        raise InvalidInput(f"--report {path}: the folder {path.parent} does not exist")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise Unsupported(
            f"--report needs the package 'matplotlib', which cannot be imported ({error})",
            fix="Install it with: pip install 'salver[tune]'. Without --report the curve is drawn here.",
        ) from None


def write(picture: Picture, path: Path) -> None:
    """Draw a picture into a file; the same picture gives the same bytes.

    Raises:
        InvalidInput: the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    lines = [line for text in picture.lines for line in textwrap.wrap(text, 140, subsequent_indent="   ")]
    text_height = 0.24 * len(lines) + 0.3
    settings = {"svg.fonttype": "none", "svg.hashsalt": "salver", "font.size": 9.5}
    with matplotlib.rc_context(settings):
        engine = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
        figure = Figure(figsize=(11, 6.2 + text_height), layout=engine, facecolor="white")
        figure.suptitle(picture.title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        grid = figure.add_gridspec(3, 2, width_ratios=(1.45, 1), height_ratios=(3.1, 3.1, text_height))
        first, *others = picture.panels
        _panel(figure.add_subplot(grid[:2, 0]), first)
        for number, panel in enumerate(others[:2]):
            _panel(figure.add_subplot(grid[number, 1]), panel)
        words = figure.add_subplot(grid[2, :])
        words.axis("off")
        told = words.text(0, 1, "\n".join(lines), va="top", linespacing=1.5, transform=words.transAxes)
        told.set_in_layout(False)  # however long its lines are, they do not squeeze the panels
        try:
            figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
        except OSError as error:
            raise InvalidInput(f"the report {path} cannot be written: {error.strerror or error}") from None


def _panel(axes: "Axes", panel: Panel) -> None:
    low, high, top = limits(panel)
    axes.set_title(panel.title, loc="left", fontsize=10.5, fontweight="bold")
    for series in panel.series:
        if series.points:
            xs, ys = zip(*series.points, strict=True)
            colour = _COLOURS[series.colour % len(_COLOURS)]
            axes.plot(xs, ys, label=series.label, color=colour, **_STYLES[series.kind])
    for mark in panel.marks:
        look = {"color": _CHOSEN, "linewidth": 1.3} if mark.strong else {"color": "0.45", "linestyle": ":"}
        axes.axvline(mark.x, zorder=0, **look)
    _name_marks(axes, panel)
    axes.set_xscale("log", base=2)
    ticks = powers_of_two(low, high)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(low / 1.12, high * 1.12)
    axes.set_ylim(0, top * 1.08)
    axes.yaxis.set_major_formatter(lambda value, _: short(value))
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.grid(color="0.92", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=True, edgecolor="none", framealpha=0.85, borderpad=0.2, fontsize=8.5)


def _name_marks(axes: "Axes", panel: Panel) -> None:
    """Write names along their lines, at alternating heights so that they do not overlap."""
    for number, mark in enumerate(sorted(panel.marks, key=lambda mark: mark.x)):
        axes.text(
            mark.x,
            0.03 + 0.2 * (number % 2),
            f" {mark.label}",
            rotation=90,
            va="bottom",
            ha="right",
            fontsize=8.5,
            color=_CHOSEN if mark.strong else "0.35",
            transform=axes.get_xaxis_transform(),
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
        )
