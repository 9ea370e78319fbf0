"""Tables and the picture of the page about the judge of releases, from the results of ``judge_cells.py``.

python benchmarks/judge_report.py     # writes docs/explanation/judge.md and docs/img/judge-errors.svg
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from judge_hanging import report
from judge_worlds import interval
from page import RESULTS, replaced

Row = Mapping[str, Any]
ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "explanation" / "judge.md"
HANGING = RESULTS / "judge_hanging.json"
PICTURE = ROOT / "docs" / "img" / "judge-errors.svg"
FRONTIER = ROOT / "docs" / "img" / "judge-frontier.svg"
_HICCUPS = "hiccups, half fail 30 s each 40 min"
_AS_IT_IS = "as it is"
_HURT = 100 * 0.01 * 9 * 0.005  # failed requests a second by harm of ×10, at 1 % of 100 requests a second
_TOOLS = {"kayenta": "Kayenta", "argo": "Argo", "flagger": "Flagger"}
_COLOURS = {"Salver": "#0b6e4f", "Kayenta": "#c05621", "Argo": "#2b6cb0", "Flagger": "#805ad5"}


def tables(result: Mapping[str, Mapping[str, Row]]) -> str:
    """Return the page's part with all tables."""
    seeds = {row["seed"] for rows in result.values() for row in rows.values() if "seed" in row}
    parts = [
        f"Seed {', '.join(map(str, sorted(seeds)))}; `make bench-judge` goes on where cells have few.",
        "### Good releases",
        "Rolled back of simulated, with the upper 95 % bound; in brackets falsely or rightly paused.",
        *_good(result["good"]),
        "### Bad releases",
        "The canary fails ×*n* as often, from the 1 % stage on. Minutes from the onset to the rollback: the "
        "median, with its 95 % interval, and when 90 % are found.",
        *_bad(result["bad"]),
        "### A canary that fails completely",
        "From minute 2 on, for a quarter of an hour. Seconds: median and 95 % of the releases.",
        *_failures(result["pauses"]),
        "### Gates",
        "One hour at 25 %, margin +50 %. *At the margin*: harm multiplies every rate by 1.5, and hiccups are "
        "as much more frequent. Passed of simulated, with the 95 % interval; minutes in the median.",
        *_gates(result["gates"]),
    ]
    parts += _of_policy(result)
    if "large" in result:
        parts += [
            "### More than half, and after a promotion",
            "A soft metric of 1 %, at 60, 75 and 90 %, an hour each, 100 requests per second; and a day "
            "beside 5 % that are held back, at 10 per second. Minutes to the rollback: the median, with its "
            "95 % interval.",
            *_more(result),
        ]
    if "money" in result:
        parts += [
            "### Means",
            "Lognormal values, capped, whose past tells half of them; a look each twentieth of a stage, "
            "at 0.2 %. Found to be less, or more, of simulated, and decided at all, with 95 % intervals.",
            *_money(result["money"]),
        ]
    if "resources" in result:
        parts += [
            "### Resources",
            "Hours at 1, 5 and 25 %, a tenth of alpha; margins of 100 % (*tight*: 25 %) for a rollback and "
            "50 % for the gate of the last stage. A request's cost is gamma-distributed with CV 2; each "
            "version has a process. With 95 % bounds; minutes in the median.",
            _resources(result["resources"]),
        ]
    if "biased" in result:
        rows = list(result["biased"].values())
        told = "; ".join(f"{_found(row)} at {row['per_second']:g} requests per second" for row in rows)
        parts.append(f"With a split biased by × 1.5, known to the judge by its numbers, rolled back: {told}.")
    return "\n\n".join(parts)


def _of_policy(result: Mapping[str, Mapping[str, Row]]) -> Iterator[str]:
    if "seven" in result:
        yield "### All metrics of the default policy together"
        yield (
            "Stages of an hour each. The seven metrics have units, requests and hiccups in common (in one, "
            "half of the requests fail, three tenths are time-outs, two fifths slow, a fifth fallbacks); "
            "slow answers and refusals have bursts. Rolled back by any of them, of simulated."
        )
        yield from _together(result["seven"])
    if "frontier" in result:
        yield "### Where the two errors meet"
        yield (
            "The same releases, judged by other settings than the product's: by evidence alone, good ones at "
            "1,000 requests per second, bad ones at 100. Failed requests are those that harm of ×10 adds at "
            "1 % of 100 per second until it is rolled back, in the median."
        )
        yield "![False rollbacks over the time to detect harm](../img/judge-frontier.svg)"
        yield from _frontier(result["frontier"])
    if "adaptive" in result:
        yield "### Stages that end by evidence"
        yield (
            "The stages of the default policy, each until its gate is passed: at least 10, 30 and 60 "
            "minutes at 1, 5 and 25 %, margins × 4, × 2 and × 1, three hours in all. What is neither is held."
        )
        yield from _together(result["adaptive"])


def _frontier(rows: Mapping[str, Row]) -> Iterator[str]:
    table = []
    for row in sorted(rows.values(), key=lambda row: row["world"] != _AS_IT_IS):
        good = [_bounded(told, row["releases"]) for told in row["good"].values()]
        bad = [f"{told['minutes'][0]:g}{_within(told)}" for told in row["bad"].values()]
        hurt = 60 * row["bad"]["×10"]["minutes"][0] * _HURT
        table.append([row["world"], *good, *bad, f"{hurt:.0f}"])
    worlds = list(next(iter(rows.values()))["good"])
    yield _table(["setting", *worlds, "×10, minutes", "×3, minutes", "failed requests, ×10"], table)


def _bounded(told: Row, releases: int) -> str:
    return f"{told['found']} of {releases:,}, ≤ {100 * told['high']:.2f} %"


def draw_frontier(rows: Mapping[str, Row], path: Path) -> None:
    """Draw false rollbacks where processes hiccup over the minutes that harm lasts."""
    pyplot = _pyplot()
    figure, each = pyplot.subplots(1, 2, figsize=(11, 4.8), sharey=True)
    for axes, harm in zip(each, ("×10", "×3"), strict=True):
        for place, row in enumerate(rows.values()):
            told = row["good"][_HICCUPS]
            # Settings with equal medians lie beside each other.
            minutes = row["bad"][harm]["minutes"][0] * (1 + 0.012 * (place - 3))
            colour, width = f"C{place}", 1.2
            if row["world"] == _AS_IT_IS:
                colour, width = _COLOURS["Salver"], 3.0
            axes.plot([minutes] * 2, [100 * told["low"], 100 * told["high"]], color=colour, lw=width)
            share = 100 * told["found"] / row["releases"]
            axes.plot(minutes, share, "o", color=colour, ms=3 + 1.5 * width, label=row["world"])
        axes.set_yscale("symlog", linthresh=1)
        axes.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100 %"])
        axes.set_ylim(-0.1, 120)
        axes.margins(x=0.1)
        axes.set_xlabel(f"{harm}, independent users, 100 req/s: minutes to the rollback (median)", fontsize=8)
        axes.grid(alpha=0.25)
    figure.suptitle(f"good releases rolled back (95 % intervals): {_HICCUPS}, 1,000 req/s", fontsize=9)
    figure.legend(*each[0].get_legend_handles_labels(), fontsize=8, loc="lower center", ncols=4)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    _save(figure, path)
    pyplot.close(figure)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "salver", "svg.fonttype": "none", "font.family": "sans-serif"}
    )
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _good(rows: Mapping[str, Row]) -> Iterator[str]:
    worlds = dict.fromkeys(row["world"] for row in rows.values())
    known = {(row["world"], row["per_second"]): row for row in rows.values()}
    table = []
    for world in worlds:
        cells = [_good_cell(known.get((world, rate))) for rate in (10.0, 100.0, 1000.0)]
        row = known.get((world, 100.0))
        peers = [f"{row[name]['found']} of {row['releases']:,}" if row else "–" for name in _TOOLS]
        table.append([world, *cells, *peers])
    head = [
        "world",
        "10 req/s",
        "100 req/s",
        "1,000 req/s",
        *(f"{tool}, 100 req/s" for tool in _TOOLS.values()),
    ]
    yield _table(head, table)


def _good_cell(row: Row | None) -> str:
    if row is None:
        return "not run"
    told = row["rolled_back"]
    paused = f" ({row['paused']})" if row["paused"] else ""
    return f"{told['found']} of {row['releases']:,}, ≤ {100 * told['high']:.2f} %{paused}"


def _bad(rows: Mapping[str, Row]) -> Iterator[str]:
    table = []
    for row in rows.values():
        what = f"{row['world']}, {row['per_second']:,g} req/s, ×{row['ratio']:g}"
        what += f", from minute {row['onset'] / 6:g} on" if row["onset"] else ""
        cells = [_minutes(row, "rolled_back"), *(_minutes(row, tool) for tool in _TOOLS)]
        table.append([what, _found(row), *cells])
    yield _table(["harm", "found", "Salver", *_TOOLS.values()], table)


def _found(row: Row, name: str = "rolled_back") -> str:
    told = row[name]
    return f"{told['found']} of {row['releases']:,} ({100 * told['low']:.0f}–{100 * told['high']:.0f} %)"


def _minutes(row: Row, name: str) -> str:
    if name not in row:
        return "–"
    median, _, most = row[name]["minutes"]
    if median is None:
        return "not in half"
    if median <= 0:
        return "before the harm"
    return f"{median:g}{_within(row[name])}; {'∞' if most is None else f'{most:g}'}"


def _within(told: Row) -> str:
    """Return the interval of a median, in brackets."""
    within = told.get("median_within") or ()
    if not within:
        return ""
    return f" ({'–'.join('∞' if each is None else f'{each:g}' for each in within)})"


def _failures(rows: Mapping[str, Row]) -> Iterator[str]:
    table = []
    for row in rows.values():
        seconds = [
            f"{values[0]:g} / {values[1]:g}" if values else "–"
            for values in (row["pause_seconds"], row["rollback_seconds"])
        ]
        parts = []
        for name in ("paused", "rolled_back"):
            low, high = interval(row[name], row["releases"])
            parts.append(f"{row[name]} of {row['releases']} ({100 * low:.0f}–{100 * high:.0f} %)")
        table.append(
            [
                f"{row['world']}, {row['per_second']:g} req/s",
                parts[0],
                seconds[0],
                parts[1],
                seconds[1],
                f"{row['hurt']:g}",
            ]
        )
    head = ["canary", "paused", "after s", "rolled back", "after s", "failed requests"]
    yield _table(head, table)


def _gates(rows: Mapping[str, Row]) -> Iterator[str]:
    known = {(row["world"], row["per_second"], row["ratio"]): row for row in rows.values()}
    table = []
    for world, rate in dict.fromkeys((world, rate) for world, rate, _ in known):
        harmful, harmless = (known.get((world, rate, ratio)) for ratio in (1.5, 1.0))
        if harmful is not None and harmless is not None:
            median = harmless["passed"]["minutes"][0]
            table.append(
                [
                    f"{world}, {rate:,g} req/s",
                    _passed(harmful),
                    f"{_passed(harmless)}, {'not in half' if median is None else f'{median:g} min'}",
                ]
            )
    yield _table(["world", "at the margin", "no harm"], table)


def _passed(row: Row) -> str:
    told = row["passed"]
    low, high = 100 * told["low"], 100 * told["high"]
    return f"{told['found']} of {row['releases']:,} ({low:.1f}–{high:.1f} %)"


def _more(result: Mapping[str, Mapping[str, Row]]) -> Iterator[str]:
    table = []
    for kind, name in (("large", "more than half, {}"), ("held", "after the promotion, {}")):
        for row in result[kind].values():
            share = f"{row['found']} of {row['releases']} ({100 * row['low']:.0f}–{100 * row['high']:.0f} %)"
            minutes = "not in half" if row["minutes"] is None else f"{row['minutes']:g}{_within(row)}"
            table.append([f"{name.format(row['world'])}, ×{row['ratio']:g}", share, minutes])
    yield _table(["world", "rolled back", "minutes"], table)


def _together(rows: Mapping[str, Row]) -> Iterator[str]:
    table, is_adaptive = [], any("promoted" in row for row in rows.values())
    for row in rows.values():
        worse = "".join(f", {name} ×{ratio:g}" for name, ratio in row["worse"].items())
        what = f"{row['world']}, {row['per_second']:,g} req/s{worse or ', no harm'}"
        told = row["rolled_back"]
        bound = f"{told['found']} of {row['releases']:,}, ≤ {100 * told['high']:.2f} %"
        cells = [_found(row) if worse else bound, _minutes(row, "rolled_back") if worse else "–"]
        if is_adaptive:
            cells += [_found(row, "promoted"), _minutes(row, "promoted")]
        table.append([what, *cells])
    head = ["world", "rolled back", "after minutes"]
    yield _table([*head, *(["promoted", "after minutes"] if is_adaptive else [])], table)


def _money(rows: Mapping[str, Row]) -> Iterator[str]:
    table = []
    for row in rows.values():
        cells = []
        for name in ("less", "more", "decided"):
            low, high = interval(row[name], row["releases"])
            cells.append(f"{row[name]} of {row['releases']} ({100 * low:.0f}–{100 * high:.0f} %)")
        what = "as good" if row["ratio"] == 1 else "a fifth less"
        table.append([f"{row['world']}, {what}", *cells])
    yield _table(["canary and values", "less", "more", "decided"], table)


def _resources(rows: Mapping[str, Row]) -> str:
    table = []
    for row in rows.values():
        cells = [_bounded(row[case]["rolled_back"], row["releases"]) for case in ("good", "tight")]
        for case in ("margin", "good"):
            cells.append(_found(row[case] | {"releases": row["releases"]}, "passed"))
        harm = row["harm"] | {"releases": row["releases"]}
        cells.append(f"{_found(harm)}, {_minutes(harm, 'rolled_back')}")
        table.append([row["world"], *cells])
    head = ["world", "as good, rolled back", "tight", "×1.5 passes", "as good passes", "×3 rolled back"]
    return _table(head, table)


def draw(result: Mapping[str, Mapping[str, Row]], path: Path) -> None:
    """Draw both kinds of error beside each other, at 100 requests per second."""
    pyplot = _pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 6.4), width_ratios=(1.25, 1))
    tools = {"rolled_back": "Salver", **_TOOLS}
    good = [row for row in result["good"].values() if row["per_second"] == 100]
    for place, row in enumerate(good):
        for offset, (key, tool) in enumerate(tools.items()):
            told = row[key]
            share = 100 * told["found"] / row["releases"]
            left.plot(
                [100 * told["low"], 100 * told["high"]], [place + 0.18 * offset] * 2, color=_COLOURS[tool]
            )
            left.plot(share, place + 0.18 * offset, "o", markersize=3.5, color=_COLOURS[tool])
    left.set_yticks([place + 0.27 for place in range(len(good))], [row["world"] for row in good], fontsize=7)
    left.invert_yaxis()
    left.set_xscale("symlog", linthresh=1)
    left.set_xticks([0, 1, 10, 100], ["0", "1", "10", "100 %"])
    left.set_title("good releases rolled back (95 % intervals)", fontsize=9)
    bad = [row for row in result["bad"].values() if row["per_second"] == 100 and not row["onset"]]
    bad = [row for row in bad if row["ratio"] in (3, 10)]
    for place, row in enumerate(bad):
        for offset, (key, tool) in enumerate(tools.items()):
            median = row[key]["minutes"][0]
            ends = [180 if each is None else each for each in row[key].get("median_within") or ()]
            right.plot(ends, [place + 0.18 * offset] * len(ends), color=_COLOURS[tool])
            if median is not None:
                label = tool if not place else None
                right.plot(
                    median, place + 0.18 * offset, "o", markersize=4, color=_COLOURS[tool], label=label
                )
    names = [f"×{row['ratio']:g}, {row['world']}" for row in bad]
    right.set_yticks([place + 0.27 for place in range(len(bad))], names, fontsize=7)
    right.invert_yaxis()
    right.set_xscale("log")
    right.set_xticks([5, 10, 20, 60, 180], ["5", "10", "20", "60", "180 min"])
    right.set_xticks([], minor=True)
    right.set_title("bad releases: minutes to the rollback (median)", fontsize=9)
    for axes in (left, right):
        axes.grid(alpha=0.25, axis="x")
    left.set_xlim(-0.1, 120)
    figure.legend(*right.get_legend_handles_labels(), fontsize=8, loc="lower center", ncols=4)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    _save(figure, path)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--result", type=Path, default=RESULTS / "judge.json")
    given = parser.parse_args()
    result = json.loads(given.result.read_text())
    draw(result, PICTURE)
    draw_frontier(result["frontier"], FRONTIER)
    text = replaced(PAGE.read_text(), "judge", tables(result))
    if HANGING.exists():
        text = replaced(text, "judge hangs", report(json.loads(HANGING.read_text())))
    picture = "![Both kinds of error, beside the rules of other tools](../img/judge-errors.svg)"
    PAGE.write_text(replaced(text, "judge picture", picture))


if __name__ == "__main__":
    main()
