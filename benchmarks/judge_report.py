"""How do the figures of ``judge.py`` read, which targets hold, and what do they look like?

Pure but for the pictures: a result in, Markdown out.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from models import ROOT

from salver.stats.exact import clopper_pearson

PAGE = ROOT / "docs" / "explanation" / "judge.md"
_SURE = 0.999
#: Recorded before this code was written: part found (%), median minute (± 10 %).
RECORDED: Mapping[tuple[float, float], Mapping[str, tuple[float, float | None]]] = {
    (10, 3): {"E1": (100, 86), "E1 matched": (100, 126), "E4": (100, 128), "Kayenta": (99, 150)},
    (10, 10): {"E1": (100, 18), "E1 matched": (100, 51), "E4": (100, 54), "Kayenta": (100, 90)},
    (100, 1): {"E1": (0, None), "E1 matched": (0, None), "E4": (0, None), "Kayenta": (0.7, None)},
    (100, 1.25): {"E1": (87, 143), "E1 matched": (55, None), "E4": (59, None), "Kayenta": (56, 180)},
    (100, 1.5): {"E1": (100, 94), "E1 matched": (100, 125), "E4": (100, 126), "Kayenta": (100, 150)},
    (100, 2): {"E1": (100, 59), "E1 matched": (100, 75), "E4": (100, 76), "Kayenta": (100, 90)},
    (100, 3): {"E1": (100, 19), "E1 matched": (100, 45), "E4": (100, 53), "Kayenta": (100, 90)},
    (100, 5): {"E1": (100, 6), "E1 matched": (100, 15), "E4": (100, 16), "Kayenta": (100, 30)},
    (1000, 1): {"E1": (0, None), "E1 matched": (0.2, None), "E4": (0.5, None), "Kayenta": (0.3, None)},
    (1000, 1.25): {"E1": (100, 66), "E1 matched": (100, 83), "E4": (100, 82), "Kayenta": (100, 90)},
}
_FOUND = ("salver", "salver soft", "E1", "E1 matched", "E4", "Kayenta", "Argo 95", "Argo 99", "Flagger 99")
_GOOD = ("salver", "salver soft", "E1", "E1 firsts", "E4", "E4 firsts", "Kayenta", "Argo 99", "Flagger 99")
_BAD = ("salver", "salver soft", "E1 firsts", "E4 firsts", "Kayenta")
_TITLES = {"salver": "**Salver**", "salver soft": "**Salver**, soft"}


class Target(NamedTuple):
    """What is claimed, what was measured, and whether the one may be, given the other."""

    claim: str
    measured: str
    holds: bool


def may_be_at_most(hits: int, releases: int, claim: float) -> bool:
    """Whether the exact interval of 99.9 % reaches down to the claim."""
    return clopper_pearson(hits, releases, _SURE).low <= claim


def targets(result: Mapping[str, Any]) -> list[Target]:
    """Each claim of the page."""
    return [
        *_quietness(result),
        *_speed(result),
        *_gates(result),
        *_more_quietness(result),
        *_recorded(result),
    ]


def _quietness(result: Mapping[str, Any]) -> Iterator[Target]:
    family = result["families"]
    part = f"{family['salver']} of {family['releases']}"
    holds = may_be_at_most(family["salver"], family["releases"], 0.01)
    yield Target(
        "five metrics, three stages, every bucket a look: good releases rolled back ≤ 1 %", part, holds
    )
    for row in result["good"]:
        if "hosts" not in row["scene"]:
            one = row["salver"]
            name = f"good releases rolled back ≤ 1 %: {row['scene']}, {row['per_second']} req/s"
            holds = may_be_at_most(one["found"], one["releases"], 0.01)
            yield Target(name, f"{one['found']} of {one['releases']}", holds)


def _speed(result: Mapping[str, Any]) -> Iterator[Target]:
    cells = {(row["per_second"], row["ratio"]): row for row in result["found"]}
    for ratio, most in ((3, 20.0), (10, 3.0)):
        minutes = cells[100, ratio]["salver"]["minutes"]
        yield Target(
            f"×{ratio} at 100 req/s found within {most:g} min", f"{minutes:.1f} min", minutes <= most
        )
    ours, theirs = (cells[100, 3][name]["minutes"] for name in ("salver", "Kayenta"))
    yield Target(
        "×3 at 100 req/s found three times as soon as by Kayenta", f"{theirs / ours:.1f}", 3 * ours <= theirs
    )
    asked = requests_to_canary(ours)
    yield Target(
        "the canary's requests until then ≤ 1,500",
        f"{asked:,.0f} (Kayenta {requests_to_canary(theirs):,.0f})",
        asked <= 1500,
    )


def _more_quietness(result: Mapping[str, Any]) -> Iterator[Target]:
    for what, rows in (("60, 75 and 90 %", result["large"]), ("after the promotion", result["held"])):
        for row in rows:
            if row["ratio"] == 1:
                where = f"{what}, {row.get('scene') or row['severity']}"
                holds = may_be_at_most(row["found"], row["releases"], 0.01)
                part = f"{row['found']} of {row['releases']}"
                yield Target(f"good releases rolled back ≤ 1 %: {where}", part, holds)
    good = [row for row in result["money"] if row["ratio"] == 1]
    for side in ("less", "more"):
        hits, number = sum(row[side] for row in good), sum(row["releases"] for row in good)
        holds = all(may_be_at_most(row[side], row["releases"], 0.002) for row in good)
        yield Target(
            f"good releases whose mean is found {side} ≤ 0.2 %, in each row", f"{hits} of {number}", holds
        )


def requests_to_canary(minutes: float, per_second: float = 100) -> float:
    """That it had until then, in hours at 1, 5 and 25 %."""
    asked = 0.0
    for weight in (0.01, 0.05, 0.25):
        asked += min(60.0, max(0.0, minutes)) * 60 * per_second * weight
        minutes -= 60
    return asked


def _gates(result: Mapping[str, Any]) -> Iterator[Target]:
    for row in result["gates"]:
        where = f"at {row['share']:.0%}, margin {row['margin']:+.0%}"
        bad, good, number = row["harmful"], row["harmless"], row["releases"]
        yield Target(
            f"harm of the margin passes ≤ 5 % {where}",
            f"{bad} of {number}",
            may_be_at_most(bad, number, 0.05),
        )
        holds = may_be_at_most(number - good, number, 0.006)
        yield Target(f"no harm passes > 99.4 % {where}", f"{good} of {number}", holds)


def _recorded(result: Mapping[str, Any]) -> Iterator[Target]:
    """Every figure that was recorded is met, within noise."""
    for row in result["found"]:
        for name, (part, minutes) in RECORDED.get((row["per_second"], row["ratio"]), {}).items():
            one = row[name]
            low, high = clopper_pearson(one["found"], one["releases"], _SURE)
            is_near = low - 0.05 <= part / 100 <= high + 0.05
            if minutes is not None and one["minutes"] is not None:
                is_near &= abs(one["minutes"] - minutes) <= max(0.1 * minutes, 1.5) or name == "Kayenta"
            if not is_near:
                claim = f"{name} at {row['per_second']} req/s, ×{row['ratio']:g}: {part} %, {minutes} min"
                yield Target(claim, _cell(one), False)


def tables(result: Mapping[str, Any]) -> str:
    """All of it."""
    releases = result["settings"]["releases"]
    lines = [
        f"{releases} simulated releases a cell, of a fixed seed; written by `make bench-judge`.",
        "",
        "### How soon harm is found",
        "",
        "Rolled back %, and after how many minutes (median). ×1 is a good release: the fewer, the better.",
        "",
        *_table(["req/s, canary's errors"], _FOUND, ((_name(row), row) for row in result["found"]), _cell),
        "",
        "![How soon harm is found, by how bad it is](../img/judge-delay.svg)",
        "",
        "### Good releases in bad times",
        "",
        "Rolled back %, though the canary is no worse. In the last three rows its own host is bad, which is "
        "harm to its users, and only the number of its replicas dilutes it.",
        "",
        *_table(["world", "req/s"], _GOOD, ((_scene(row), row) for row in result["good"]), _part),
        "",
        "![Good releases that are rolled back in bad times](../img/judge-quiet.svg)",
        "",
        "### Bad releases in bad times",
        "",
        *_table(["world", "req/s", "errors"], _BAD, ((_scene(row), row) for row in result["bad"]), _cell),
        "",
        "### Before and after",
        "",
        "Minutes until harm is found at 100 requests a second in the first stage: told before, and measured.",
        "",
        *_foretold(result),
        "",
        "### More than half of the traffic",
        "",
        "A soft metric, 1 % of requests, 100 a second; an hour each at 60, 75 and 90 %. Rolled back %, after "
        "so many minutes (median), and as told before.",
        "",
        *_large(result),
        "",
        "### After the promotion",
        "",
        "Beside 5 % that are held back, 10 requests a second, a day, 1 % of requests. Rolled back %, "
        "after so many minutes (median).",
        "",
        *_held(result),
        "",
        "### By money",
        "",
        "Means of what units bring, lognormal, capped, whose past tells half of it; a look after each "
        "twentieth of a stage, at 0.2 %. In which anything could be said, and which were found, %.",
        "",
        *_money(result),
        "",
        "### What is claimed",
        "",
        "| claim | measured | |",
        "|---|---|---|",
        *(
            f"| {target.claim} | {target.measured} | {'yes' if target.holds else '**no**'} |"
            for target in targets(result)
        ),
    ]
    return "\n".join(lines)


def _table(heads: Sequence[str], names: Sequence[str], rows: Any, cell: Any) -> Iterator[str]:
    yield f"| {' | '.join([*heads, *(_TITLES.get(name, name) for name in names)])} |"
    yield "|" + "---|" * len(heads) + "---:|" * len(names)
    for title, row in rows:
        yield f"| {title} | {' | '.join(cell(row[name]) for name in names)} |"


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['per_second']}, ×{row['ratio']:g}"


def _scene(row: Mapping[str, Any]) -> str:
    worse = f" | ×{row['ratio']:g}" if "ratio" in row else ""
    return f"{row['scene']} | {row['per_second']}{worse}"


def _part(one: Mapping[str, Any]) -> str:
    return f"{100 * one['found'] / one['releases']:.3g}"


def _cell(one: Mapping[str, Any]) -> str:
    return _part(one) if one["minutes"] is None else f"{_part(one)} ({one['minutes']:.3g})"


def _foretold(result: Mapping[str, Any]) -> Iterator[str]:
    measured = {row["ratio"]: row for row in result["found"] if row["per_second"] == 100}
    yield "| metric | errors | told | measured |"
    yield "|---|---|---:|---:|"
    for name, told in result["foretold"].items():
        for ratio, minutes in told.items():
            if minutes <= _FIRST_STAGE and float(ratio) in measured:
                found = measured[float(ratio)][name]["minutes"]
                kind = "soft" if name.endswith("soft") else "severe"
                yield f"| {kind} | ×{ratio} | {minutes:.1f} | {found:.1f} |"


def _large(result: Mapping[str, Any]) -> Iterator[str]:
    yield "| world | fallbacks | **Salver**, soft | told |"
    yield "|---|---|---:|---:|"
    for row in result["large"]:
        told = "" if row["told"] is None else f"{row['told']:.1f}"
        yield f"| {row['scene']} | ×{row['ratio']:g} | {_cell(row)} | {told} |"


def _held(result: Mapping[str, Any]) -> Iterator[str]:
    yield "| metric | ×1 | ×1.25 | ×1.5 | ×2 | ×5 |"
    yield "|---|---:|---:|---:|---:|---:|"
    for severity in ("severe", "soft"):
        cells = [_cell(row) for row in result["held"] if row["severity"] == severity]
        yield f"| {severity} | {' | '.join(cells)} |"


def _money(result: Mapping[str, Any]) -> Iterator[str]:
    yield "| canary | units | decided | as good: less | more | a fifth less: less |"
    yield "|---|---|---:|---:|---:|---:|"
    cells = {(row["plan"], row["kind"], row["ratio"]): row for row in result["money"]}
    for (plan, kind, ratio), row in cells.items():
        if ratio == 1:
            worse = cells[plan, kind, 0.8]
            parts = (row["decided"], row["less"], row["more"])
            found = [f"{100 * part / row['releases']:.3g}" for part in parts]
            yield f"| {plan} | {kind} | {' | '.join(found)} | {100 * worse['less'] / worse['releases']:.3g} |"


_FIRST_STAGE = 60.0  # minutes

_COLOURS = {
    "salver": "#c0392b",
    "E1": "#2e86c1",
    "E1 matched": "#2e86c1",
    "E4": "#8e44ad",
    "Kayenta": "#27ae60",
    "Argo 99": "#7f8c8d",
    "Flagger 99": "#b7950b",
}
_LABELS = {"salver": "Salver", "E1": "plain evidence on requests"}


def draw(result: Mapping[str, Any], folder: Path) -> None:
    """Two pictures: how soon harm is found, and which good releases are lost."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.hashsalt": "salver", "svg.fonttype": "none", "font.family": "sans-serif"}
    )
    _draw_delays(result, folder / "judge-delay.svg")
    _draw_losses(result, folder / "judge-quiet.svg")


def _draw_delays(result: Mapping[str, Any], path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 4.0))
    rows = [row for row in result["found"] if row["per_second"] == 100 and row["ratio"] > 1]
    for name in ("salver", "E1 matched", "E4", "Kayenta", "Argo 99"):
        found = [(row["ratio"], row[name]) for row in rows if row[name]["found"] > row[name]["releases"] / 2]
        axes.plot(
            [ratio for ratio, _ in found],
            [one["minutes"] for _, one in found],
            marker=".",
            label=_LABELS.get(name, name),
            color=_COLOURS[name],
            linewidth=3 if name == "salver" else 1.3,
            zorder=5 if name == "salver" else 2,
        )
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("the canary's errors, as multiples of its control's (100 requests a second)")
    axes.set_ylabel("minutes until it is rolled back")
    axes.set_xticks([1.25, 1.5, 2, 3, 5, 10], ["×1.25", "×1.5", "×2", "×3", "×5", "×10"])
    axes.set_yticks([2, 5, 10, 20, 60, 120, 180], ["2", "5", "10", "20", "60", "120", "180"])
    axes.set_xticks([], minor=True)
    axes.set_yticks([], minor=True)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    _save(figure, path)


def _draw_losses(result: Mapping[str, Any], path: Path) -> None:
    from matplotlib import pyplot

    names = ("salver", "E1", "Kayenta", "Argo 99", "Flagger 99")
    worst: dict[str, dict[str, float]] = {}
    for row in result["good"]:
        if "hosts" not in row["scene"]:
            of = worst.setdefault(row["scene"], dict.fromkeys(names, 0.0))
            for name in names:
                of[name] = max(of[name], 100 * row[name]["found"] / row[name]["releases"])
    figure, axes = pyplot.subplots(figsize=(7.2, 4.8))
    for index, name in enumerate(names):
        places = [place + 0.16 * (index - 2) for place in range(len(worst))]
        values = [of[name] for of in worst.values()]
        axes.barh(places, values, 0.15, label=_LABELS.get(name, name), color=_COLOURS[name])
    axes.set_yticks(range(len(worst)), [scene.replace(", ", ",\n") for scene in worst], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("good releases rolled back, %, at the worst of the traffics")
    axes.grid(alpha=0.25, axis="x")
    axes.legend(fontsize=8, ncols=5, loc="lower center", bbox_to_anchor=(0.35, 1.0), frameon=False)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
