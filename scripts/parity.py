"""Writes docs/reference/parity-*.md: what of another server is done, and which tests hold Salver to it.

    python scripts/parity.py            # write them
    python scripts/parity.py --check    # fail where one is out of date

The rows stand in docs/reference/parity/*.toml. A test belongs to a row whose id its name begins with, as
``test_tr_r12_a_load_brings_files`` does; ``test_tr_s6_tr_c10_…`` belongs to two. Recorded cases name theirs.
"""

import ast
import functools
import json
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
TESTS = ROOT / "tests"
GOLDEN = TESTS / "golden"

STATUSES = ("supported", "differs", "not applicable", "not yet")
TRITON_TITLES = {
    "http": "HTTP",
    "grpc": "gRPC",
    "flags": "Command line",
    "config": "Model configuration",
    "repository": "Repository and life cycle",
    "scheduling": "Scheduling",
    "authoring": "Backends and authoring",
    "observability": "Metrics, traces, logs",
    "clouds": "SageMaker, Vertex AI, OpenAI",
    "base": "Open Inference Protocol",
}
TENSORFLOW_TITLES = {
    "rest": "REST",
    "grpc": "gRPC",
    "flags": "Command line",
    "config": "Configuration files",
    "repository": "Repository and life cycle",
    "batching": "Batching",
    "observability": "Metrics, logs, security, extending",
}
TORCHSERVE_TITLES = {
    "rest": "Inference over REST",
    "management": "Management over REST",
    "grpc": "gRPC",
    "config": "config.properties",
    "commands": "Command lines",
    "yaml": "model-config.yaml",
    "authoring": "Archives, handlers, workflows",
    "runtime": "Behaviour of the server",
}
_ID = r"(?:t[rfs]_[a-z]\d+|oip_\d+)"
_NAMED = re.compile(rf"test_((?:{_ID}(?:_|$))+)")

LEGEND = """\
- **supported**: clients, flags and models written for {server} work unchanged.
- **differs**: supported with a deliberate difference.
- **not applicable**: about something that Salver does not have.
- **not yet**: missing.
"""
TRITON_INTRODUCTION = """\
# Triton, row by row

Capabilities of Triton for clients (C), operators (O) and authors of models (A), and for GPUs (G), each with
its status in Salver. `scripts/parity.py` generates this page from `docs/reference/parity/triton.toml` and the
tests; CI fails if a supported row has no test, a difference has no reason, or the page is out of date.
[Conformance](conformance.md#triton-answer-by-answer) lists answers that differ on purpose.

"""
TENSORFLOW_INTRODUCTION = """\
# TensorFlow Serving, row by row

Capabilities of TensorFlow Serving for clients (C), operators (O) and authors of models (A), and for
accelerators (G), each with its status in Salver. `scripts/parity.py` generates this page from
`docs/reference/parity/tensorflow-serving.toml` and the tests; CI fails if a supported row has no test, a
difference has no reason, or the page is out of date. For flags and files, see
[Migrate from TensorFlow Serving](../how-to/from-tensorflow-serving.md).

"""
TORCHSERVE_INTRODUCTION = """\
# TorchServe, row by row

Capabilities of TorchServe for clients (C), operators (O) and authors of models (A), and for
accelerators (G), each with its status in Salver. `scripts/parity.py` generates this page from
`docs/reference/parity/torchserve.toml` and the tests; CI fails if a supported row has no test, a
difference has no reason, or the page is out of date.
[Conformance](conformance.md#torchserve-answer-by-answer) lists answers that differ on purpose.

"""
HEAD = "| Row | Kind | What | Status | Tests |"
RULE = "|---|---|---|---|---|"


class Row(NamedTuple):
    """One line of the table."""

    id: str
    section: str
    kind: str
    what: str
    status: str
    reason: str


class Parity(NamedTuple):
    """One server, and where its table and its page lie.

    Attributes:
        recorded_of: Who gave the recorded answers, which lie in ``tests/golden``; empty = there are none.
    """

    server: str
    file: str
    titles: dict[str, str]
    introduction: str
    recorded_of: str = ""

    @property
    def table(self) -> Path:
        return REFERENCE / "parity" / f"{self.file}.toml"

    @property
    def path(self) -> Path:
        return REFERENCE / f"parity-{self.file}.md"

    def rows(self) -> list[Row]:
        """Every row, in the order of the table."""
        sections = tomllib.loads(self.table.read_text())
        return [
            Row(id, section, row["kind"], row["what"], row["status"], row.get("reason", ""))
            for section in self.titles
            for id, row in sections[section].items()
        ]

    def recorded(self) -> dict[str, int]:
        """Cases that were recorded, by group."""
        groups: dict[str, int] = tomllib.loads(self.table.read_text()).get("recorded", {})
        return groups

    def cases(self) -> list[dict[str, object]]:
        """The recorded cases that are tests."""
        golden = GOLDEN / f"{self.file}.jsonl"
        is_there = self.recorded_of and golden.exists()
        return [json.loads(line) for line in golden.read_text().splitlines()] if is_there else []


TRITON = Parity("Triton", "triton", TRITON_TITLES, TRITON_INTRODUCTION, "a real Triton 2.51")
TENSORFLOW = Parity("TensorFlow Serving", "tensorflow-serving", TENSORFLOW_TITLES, TENSORFLOW_INTRODUCTION)
TORCHSERVE = Parity(
    "TorchServe", "torchserve", TORCHSERVE_TITLES, TORCHSERVE_INTRODUCTION, "a real TorchServe 0.12"
)
SERVERS = (TRITON, TENSORFLOW, TORCHSERVE)


def ids_of(name: str) -> list[str]:
    """The rows that a test's name begins with.

    >>> ids_of("test_tr_s6_tr_c10_members"), ids_of("test_oip_3"), ids_of("test_try")
    (['TR-S6', 'TR-C10'], ['OIP-3'], [])
    """
    named = _NAMED.match(name)
    return [id.upper().replace("_", "-") for id in re.findall(_ID, named[1])] if named else []


@functools.cache
def tests() -> dict[str, dict[str, list[str]]]:
    """Test functions by row, then by file."""
    found: dict[str, dict[str, list[str]]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for name in _functions(path):
            for id in ids_of(name):
                found.setdefault(id, {}).setdefault(path.relative_to(ROOT).as_posix(), []).append(name)
    return found


def _functions(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name


def page(of: Parity) -> str:
    """The whole page."""
    every, named, kept = of.rows(), tests(), of.cases()
    of_row = Counter(id for case in kept for id in case["rows"])  # type: ignore[attr-defined]
    head, rule = (HEAD + " Recorded |", RULE + "---|") if of.recorded_of else (HEAD, RULE)
    parts = [of.introduction + LEGEND.format(server=of.server), _sums(every)]
    for section, title in of.titles.items():
        parts.append(f"## {title}\n\n{head}\n{rule}")
        for row in every:
            if row.section == section:
                count = sum(map(len, named.get(row.id, {}).values()))
                status = f"{row.status}: {row.reason}" if row.reason else row.status
                counts = f"{count or '–'} | {of_row[row.id] or '–'}" if of.recorded_of else f"{count or '–'}"
                parts.append(f"| {row.id} | {row.kind} | {row.what} | {status} | {counts} |")
        parts.append("")
    parts += [*([_recorded(of, kept)] if of.recorded_of else []), _named(every, named)]
    return "\n".join(parts)


def _sums(every: list[Row]) -> str:
    sums = Counter(row.status for row in every)
    kept = ", ".join(f"{sums[status]} {status}" for status in STATUSES)
    return f"Of {len(every)} rows: {kept}.\n"


def _recorded(of: Parity, kept: list[dict[str, object]]) -> str:
    totals, hold = of.recorded(), Counter(case["group"] for case in kept)
    lines = [
        "## Recorded answers\n",
        f"Cases asked of {of.recorded_of}, and how many of them are tests because Salver answers alike. The",
        f"others differ on purpose ([Conformance](conformance.md#{of.file}-answer-by-answer) has the table),",
        "or belong to a row that is not there yet.\n",
        "| Group | Hold | Recorded |\n|---|---|---|",
    ]
    lines += [f"| {group} | {hold[group]} | {total} |" for group, total in totals.items()]
    lines.append(f"| all | {sum(hold.values())} | {sum(totals.values())} |\n")
    return "\n".join(lines)


def _named(every: list[Row], named: dict[str, dict[str, list[str]]]) -> str:
    lines = ["## Tests by row\n"]
    for row in every:
        if row.id in named:
            lines.append(f"- {row.id}")
            lines += [f"  - `{path}`: {', '.join(names)}" for path, names in named[row.id].items()]
    return "\n".join(lines) + "\n"


def main() -> int:
    pages = {of.path: page(of) for of in SERVERS}
    if "--check" in sys.argv:
        return 0 if all(path.read_text() == text for path, text in pages.items()) else 1
    for path, text in pages.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
