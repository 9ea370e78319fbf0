"""Measurements and a setting as a table, a plot of characters, and a file."""

import math
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from salver.features.tuning.choose import Setting
from salver.features.tuning.curves import compose, table_rows
from salver.features.tuning.objective import as_toml, named, parse
from salver.features.tuning.profile import Cell, Measurement
from salver.kernel.repository.toml import parse_toml
from salver.stats.batch_law import BatchLaw
from salver.terminal.chart_file import check, write
from salver.terminal.picture import Mark, Panel, Picture, Series, draw, limits, plain
from salver.words.artifacts import Objective
from salver.words.errors import InvalidInput, Unsupported

LAW = BatchLaw(a=0.001, t0=0.004)
SETTING = Setting(1, 2, 32, LAW, 776.0, ("it is quick",))
P99 = Objective(latency_p99_ms=50)


def measured(instances: int, threads: int, *rows: int, slower: float = 1.0) -> list[Measurement]:
    return [
        Measurement(Cell(instances, threads, b), slower * LAW.seconds(b), instances * LAW.rate(b) / slower)
        for b in rows
    ]


CELLS = [*measured(1, 2, 1, 4, 32), *measured(2, 1, 1, 32, slower=2.2)]


def picture(objective: Objective = P99) -> Picture:
    return compose(
        "medium",
        CELLS,
        SETTING,
        objective,
        bound=lambda rows: min(400 * rows, 1300),
        feasible={1: 150.0, 32: 776.0} if objective == P99 else None,
        lines=("it is quick",),
    )


def panel(number: int, objective: Objective = P99) -> Panel:
    return picture(objective).panels[number]


def series(panel: Panel, label: str) -> Series:
    (found,) = (s for s in panel.series if s.label.startswith(label))
    return found


def test_the_throughput_panel_shows_law_bound_cells_and_what_the_simulation_says() -> None:
    shown = panel(0)
    assert series(shown, "law").points[-1] == (32.0, pytest.approx(888.9, abs=0.1))
    assert series(shown, "measured 1 × 2").points[1] == (4.0, pytest.approx(500.0))
    assert [x for x, _ in series(shown, "measured 2 × 1").points] == [1.0, 32.0]
    assert series(shown, "roofline").points[-1] == (32.0, 1300.0)
    assert series(shown, "highest load with p99 within 50 ms").points == ((1.0, 150.0), (32.0, 776.0))


@pytest.mark.parametrize(("most", "off"), [(1300.0, ""), (2600.0, ""), (9000.0, ", off the scale")])
def test_the_bound_is_named_with_its_rate_and_whether_it_is_in_sight(most: float, off: str) -> None:
    shown = compose("m", CELLS, SETTING, P99, bound=lambda rows: most).panels[0]
    assert series(shown, "roofline").label == f"roofline bound ({most:.0f} at 32 rows{off})"
    assert (limits(shown)[2] >= most) == (not off)


def test_the_chosen_batch_the_best_one_and_that_of_the_objective_are_marked() -> None:
    assert [(m.label, m.x, m.strong) for m in panel(0).marks] == [
        ("chosen 32", 32, True),
        ("B* = n_half 4", 4.0, False),
        ("B_slo 21", 21, False),  # (50 ms / 2 - 4 ms) / 1 ms
    ]
    assert [m.label for m in panel(0, Objective(throughput=True)).marks] == ["chosen 32", "B* = n_half 4"]


def test_marks_outside_of_what_was_measured_are_left_out() -> None:
    wide = Setting(1, 2, 2, BatchLaw(a=0.001, t0=0.9), 1.0)
    shown = compose("m", measured(1, 2, 1, 2), wide, Objective())
    assert [m.label for m in shown.panels[0].marks] == ["chosen 2"]


def test_the_laws_of_all_instances_add_up() -> None:
    double = Setting(2, 1, 32, LAW, 1.0)
    shown = compose("m", measured(2, 1, 1, 32), double, Objective())
    assert series(shown.panels[0], "law").points[-1][1] == pytest.approx(2 * 888.9, abs=0.1)
    assert series(shown.panels[2], "measured 2 × 1").points[-1][1] == pytest.approx(32 / 36)


def test_the_latency_panel_has_the_kink_and_half_of_the_objective() -> None:
    bent = Setting(1, 2, 32, BatchLaw(0.001, 0.004, kink=8, a_beyond=0.002), 1.0)
    shown = compose("m", CELLS, bent, P99).panels[1]
    assert [m.label for m in shown.marks] == ["kink 8", "chosen 32"]
    assert series(shown, "half of 50 ms").points == ((1.0, 25.0), (32.0, 25.0))


def test_efficiency_is_a_half_at_n_half() -> None:
    assert series(panel(2), "measured").points[1] == (4.0, pytest.approx(0.5))


def test_the_chosen_placement_has_the_colour_of_its_law_and_no_other_has() -> None:
    shown = panel(0)
    assert series(shown, "law").colour == series(shown, "measured 1 × 2").colour
    colours = [s.colour for s in shown.series if s.label != "law"]
    assert len(colours) == len(set(colours))


def test_one_size_only_is_drawn_as_well() -> None:
    single = compose("m", measured(1, 1, 1), Setting(1, 1, 1, BatchLaw(0.005, 0.0), 200.0), Objective())
    assert all(draw(shown, 60, 12) for shown in single.panels)


def test_the_table_is_sorted_by_placement_and_size() -> None:
    rows = table_rows([*measured(2, 1, 2, 1), *measured(1, 2, 1)])
    assert [row[:2] for row in rows] == [("1 × 2", "1"), ("2 × 1", "1"), ("2 × 1", "2")]
    assert rows[2][2:] == ("6.00", "667")


@pytest.mark.parametrize(("width", "height"), [(20, 6), (60, 12), (200, 40)])
def test_every_line_of_a_drawing_fits(width: int, height: int) -> None:
    for shown in picture().panels:
        lines = plain(draw(shown, width, height))
        body = [line for line in lines if "│" in line[:12]]
        assert len(body) >= 4
        assert all(len(line) <= max(width, 26) for line in body)


def test_a_drawing_names_its_marks_and_series() -> None:
    text = "\n".join(plain(draw(panel(0), 100, 16)))
    for word in ("chosen 32", "B* = n_half 4", "B_slo 21", "● measured 1 × 2", "╌ roofline bound", "rows/s"):
        assert word in text
    assert sum(line.count("│") == 2 for line in text.splitlines()) > 4  # the axis, and what was chosen


@pytest.mark.parametrize("width", [40, 60, 100])
def test_a_legend_too_long_for_a_line_goes_on_below(width: int) -> None:
    lines = plain(draw(panel(0), width, 16))
    legend = lines[lines.index(next(line for line in lines if "rows in a run" in line)) :]
    text = " ".join(" ".join(legend).split())
    assert all(shown.label in text for shown in panel(0).series)
    assert all(len(line) <= max(width, 9 + max(len(s.label) + 3 for s in panel(0).series)) for line in legend)


def test_names_that_would_meet_stand_on_two_lines() -> None:
    marks = (Mark("first", 4), Mark("second", 4.2), Mark("third", 16))
    lines = plain(draw(Panel("t", "x", "y", (Series("s", ((1, 1), (32, 2))),), marks), 60, 12))
    assert [line.split() for line in lines[1:3]] == [["first", "third"], ["second"]]


def test_what_is_not_finite_is_left_out() -> None:
    odd = Panel("t", "x", "y", (Series("s", ((1, math.inf), (2, 1.0), (4, math.nan)), "dots"),))
    assert limits(odd) == (2.0, 4.0, 1.0)
    assert plain(draw(odd, 40, 10))
    assert limits(Panel("t", "x", "y", ())) == (1.0, 2.0, 1.0)


def test_a_bound_far_above_does_not_flatten_the_curve() -> None:
    far = Panel("t", "x", "y", (Series("s", ((1, 1), (2, 10))), Series("b", ((1, 900), (2, 999)), "bound")))
    assert limits(far)[2] == 13


def test_an_svg_holds_the_sentences_as_text_and_is_the_same_each_time(tmp_path: Path) -> None:
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    write(picture(), first)
    write(picture(), second)
    words = " ".join(ElementTree.parse(first).getroot().itertext())
    assert "it is quick" in words
    assert "B_slo 21" in words
    assert first.read_bytes() == second.read_bytes()


def test_a_png(tmp_path: Path) -> None:
    path = tmp_path / "report.PNG"
    check(path)
    write(picture(), path)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "reason"), [("report.pdf", "neither .svg nor .png"), ("nowhere/report.svg", "does not exist")]
)
def test_a_report_that_cannot_be_is_refused_first(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=reason):
        check(tmp_path / name)


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(Unsupported, match=r"pip install 'salver\[tune\]'"):
        check(tmp_path / "report.svg")


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken.svg").mkdir()
    with pytest.raises(InvalidInput, match="cannot be written"):
        write(picture(), tmp_path / "taken.svg")


@pytest.mark.parametrize(
    ("text", "objective"),
    [
        ("", Objective()),
        ("throughput", Objective(throughput=True)),
        ("latency_p99=50ms", Objective(latency_p99_ms=50)),
        ("latency_p99=0.05s", Objective(latency_p99_ms=50)),
        ("deadline=1500us", Objective(deadline_ms=1.5)),
    ],
)
def test_objectives(text: str, objective: Objective) -> None:
    assert parse(text) == objective


@pytest.mark.parametrize(
    "text",
    ["latency=50ms", "latency_p99", "latency_p99=50", "deadline=-5ms", "deadline=0ms", "deadline=nans",
     "throughput=9", "latency_p99=1e3ms", "latency_p99=50 ms ms"],
)  # fmt: skip
def test_objectives_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput, match="--objective"):
        parse(text)


@pytest.mark.parametrize("text", ["", "throughput", "latency_p99=50ms", "deadline=1500us"])
def test_the_lines_for_the_configuration_are_read_back_as_they_were_meant(text: str) -> None:
    config = parse_toml(as_toml(parse(text), 2, 1, 8).encode(), "salver.toml")
    assert config.objective == parse(text)
    assert (config.instances.count, config.instances.threads, config.batching.max_rows) == (2, 1, 8)


def test_an_objective_in_words() -> None:
    assert named(Objective(throughput=True)) == "throughput"
