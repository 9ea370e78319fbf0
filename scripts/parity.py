"""Generator of docs/reference/parity-*.md: what of another server is done, and which tests prove it.

    python scripts/parity.py            # write them
    python scripts/parity.py --check    # fail where one is out of date, or a clause is defined nowhere

The rows stand in docs/reference/parity/*.toml. Code, tests and pages refer to them by their ids, the clauses.
A test names its own by a marker, ``@pytest.mark.clause("TR-S6", "TR-C10")``, and a recorded case in its file.
"""

import ast
import functools
import json
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Set
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
#: What looks like the id of a row.
_CLAUSE = re.compile(r"(?<![\w-])(?!(?:SHA|SSH|UTF)-|P-(?:256|384|521))[A-Z]{1,3}-[A-Z]?\d+(?![\w-])")
_WITH_CLAUSES = ("src/**/*.py", "tests/**/*.py", "benchmarks/**/*.py", "docs/**/*.md", "*.md")

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


def clauses_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Return the rows that a test is marked with."""
    return [
        ast.literal_eval(argument)
        for decorator in function.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.clause"
        for argument in decorator.args
    ]


@functools.cache
def tests() -> dict[str, dict[str, list[str]]]:
    """Test functions by row, then by file."""
    found: dict[str, dict[str, list[str]]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        file = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for id in clauses_of(node):
                    found.setdefault(id, {}).setdefault(file, []).append(node.name)
    return found


def undefined(text: str, defined: Set[str]) -> Iterator[tuple[int, str]]:
    """Yield the line and the id of each clause that is not in ``defined``."""
    for number, line in enumerate(text.splitlines(), 1):
        yield from ((number, id) for id in _CLAUSE.findall(line) if id not in defined)


def _undefined() -> Iterator[str]:
    defined = {row.id for of in SERVERS for row in of.rows()}
    for path in sorted(path for pattern in _WITH_CLAUSES for path in ROOT.glob(pattern)):
        for number, id in undefined(path.read_text(), defined):
            yield f"{path.relative_to(ROOT)}:{number} {id} is in no table of docs/reference/parity"


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
    """Write the pages, or print what is wrong with them and with clauses anywhere."""
    pages = {of.path: page(of) for of in SERVERS}
    if "--check" in sys.argv:
        stale = (path for path, text in pages.items() if path.read_text() != text)
        wrong = [f"{path.relative_to(ROOT)} is out of date: run python scripts/parity.py" for path in stale]
        print(*(wrong := [*wrong, *_undefined()]), f"{len(wrong)} faults", sep="\n")
        return int(bool(wrong))
    for path, text in pages.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
