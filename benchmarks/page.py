"""Where do the results of the open-loop benchmarks go?

Each script prints a Markdown table, writes its figures to ``results/raw`` (git ignores it), and with
``--publish`` also to ``results/NAME.json`` and between its two marks in the documentation's page.
"""

import argparse
import contextlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import host
from models import CACHE, ROOT

PAGE = ROOT / "docs" / "explanation" / "overload-benchmarks.md"
RESULTS = Path(__file__).resolve().parent / "results"


def words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


@contextlib.contextmanager
def scratch(name: str) -> Iterator[Path]:
    """A folder for model repositories, gone afterwards."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=f"{name}-") as folder:
        yield Path(folder)


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument(
        "--out", type=Path, help="where to write the result (default: a file under results/raw)"
    )
    parser.add_argument(
        "--publish", action="store_true", help=f"also write results/{name}.json and its part of the page"
    )


def keep(path: Path, result: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def write(
    given: argparse.Namespace, name: str, result: Mapping[str, Any], text: str, where: Path = PAGE
) -> None:
    """Print, keep, and publish where that was asked."""
    out = given.out or RESULTS / "raw" / f"{name}-{time.strftime('%m%d-%H%M%S')}.json"
    paths = [out, *([RESULTS / f"{name}.json"] if given.publish else [])]
    for path in paths:
        keep(path, result)
    print(text)
    if given.publish:
        where.write_text(replaced(where.read_text(), name, text))
    print(f"written to {', '.join(map(str, paths))}")


def finish(
    given: argparse.Namespace,
    name: str,
    settings: Mapping[str, Any],
    noise: Mapping[str, Any],
    rows: list[dict[str, Any]],
    text: Callable[[Mapping[str, Any]], str],
    verdicts: Callable[[list[dict[str, Any]]], Iterable[tuple[Any, ...]]],
) -> int:
    """Write the result of a script; 1 = a target is missed, as the last of each verdict tells."""
    result = {"host": host.facts(), "settings": settings, "noise": noise, "rows": rows}
    write(given, name, result, text(result))
    return int(not all(holds for *_, holds in verdicts(rows)))


def replaced(whole: str, name: str, part: str) -> str:
    """The page with the text between the marks of that name exchanged. Pure.

    >>> replaced("a <!-- x --> old <!-- end x --> b", "x", "new").split()
    ['a', '<!--', 'x', '-->', 'new', '<!--', 'end', 'x', '-->', 'b']
    """
    begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    if whole.count(begin) != 1 or whole.count(end) != 1:
        raise ValueError(f"the page has not one {begin} and one {end}")
    return re.sub(
        f"{re.escape(begin)}.*{re.escape(end)}",
        lambda _: f"{begin}\n\n{part}\n\n{end}",
        whole,
        flags=re.DOTALL,
    )


def provenance(result: Mapping[str, Any]) -> str:
    """Where, when and how quietly."""
    facts, noise = result["host"], result["noise"]
    before, after = noise["exchange_us"]
    return (
        f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, Python {facts['python']}, "
        f"revision {facts['revision']}, {facts['date']}. Noise: keep-alive exchange {before} µs before, "
        f"{after} after, steal {noise['steal']:.2%}, load average {noise['load_average']}: "
        f"{'; '.join(noise['complaints']) or 'nothing to complain of'}."
    )


def targets(verdicts: Iterable[tuple[str, str, str, bool]]) -> list[str]:
    """A table of (claim, required, measured, holds)."""
    lines = ["| target | required | measured | |", "|---|---|---|---|"]
    for claim, required, measured, holds in verdicts:
        lines.append(f"| {claim} | {required} | {measured} | {'pass' if holds else '**missed**'} |")
    return lines
