"""Linter for docstrings, class names and nested conditional expressions.

Words not to use are read from the table in ``docs/reference/terms.md``. Reads syntax trees; imports nothing
of Salver. Spelling is left to codespell.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "salver"
TERMS = ROOT / "docs" / "reference" / "terms.md"
Named = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

#: A first line states what something is or does; it does not ask.
QUESTION = re.compile(
    r"(who|whose|whom|whoever|what|whatever|which|whichever|how|where|when|why|does|is|are|has|have|can|was|did|"
    r"will|shall|should|may)\b",
    re.IGNORECASE,
)
#: A function's first line begins with a verb in the imperative.
NO_VERB = re.compile(
    r"(the|a|an|it|its|they|their|of|for|as|so|no|not|true|false|from|all|by|in|one|those|that|this|with|to|up|"
    r"nothing|never)\b",
    re.IGNORECASE,
)
#: Class names that are past participles, interrogatives or metaphors. Events of the bus end in a participle
#: by convention (``Served``), and names in the management API are part of its description (``Wished``).
BAD_NAMES = {
    "Asked", "Asking", "Asks", "Before", "Birth", "Bound", "Brought", "Company", "Crew", "Crowd",
    "Curious", "Desk", "Described", "Farewell", "Fetched", "Forked", "Found", "Gave", "Given", "Handled",
    "Harvest", "Heard", "Held", "Home", "Kept", "Known", "Knowledge", "Lately", "Listed", "Loaded",
    "Looking", "Losses", "Measured", "Merged", "Met", "Mortal", "Mother", "Named", "Nobody", "Nursery",
    "Over", "Placed", "Posted", "Ran", "Reception", "Registered", "Replacing", "Returning", "Said",
    "Seen", "Speaking", "Spoken", "Stranded", "Taken", "Teacher", "Told", "Tuned", "Under", "UnderWay",
    "Uttered", "Waiting", "Wanted", "Watched", "Where", "Wish", "Witness", "Written",
}  # fmt: skip


def described(tree: ast.Module) -> Iterator[tuple[Named, str]]:
    """Yield the module, classes and functions that have a docstring, with it."""
    for node in ast.walk(tree):
        if isinstance(node, Named) and (text := ast.get_docstring(node)):
            yield node, text


def first_line(node: Named, text: str) -> str:
    """Return what is wrong with the first line of a docstring; empty = nothing."""
    summary = text.split("\n\n")[0].replace("\n", " ")
    if summary.endswith("?") or (QUESTION.match(summary) and not summary.startswith(("Do ", "Have "))):
        return "the first line asks: say what it is or does"
    is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith(
        "test_"
    )
    if is_function and NO_VERB.match(summary):
        return "begin with a verb in the imperative (Return…)"
    return ""


def nested(tree: ast.Module) -> Iterator[int]:
    """Yield the lines of conditional expressions inside another one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.IfExp):
            parts = (node.body, node.test, node.orelse)
            yield from (part.lineno for part in parts if isinstance(part, ast.IfExp))


def words_not_to_use() -> dict[str, str]:
    """Return the words in the last column of the list of terms, each with the term to use instead."""
    found: dict[str, str] = {}
    for line in TERMS.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and not cells[0].startswith(("-", "Term")):
            found |= {
                word.strip().lower(): cells[0] or "plain words"
                for word in cells[2].split(",")
                if word.strip()
            }
    return found


def faults(path: Path, unwanted: dict[str, str]) -> Iterator[tuple[int, str]]:
    """Yield line and text of everything that the rules object to in a file."""
    name = path.relative_to(SOURCE).as_posix()
    tree = ast.parse(path.read_text())
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, unwanted))})\b", re.IGNORECASE)
    for node, text in described(tree):
        line = getattr(node, "lineno", 1)
        if fault := first_line(node, text):
            yield line, f"{getattr(node, 'name', name)}: {fault}"
        for word in set(pattern.findall(text)):
            yield line, f"{getattr(node, 'name', name)}: {word!r}: write {unwanted[word.lower()]!r}"
    for kind in ast.walk(tree):
        if isinstance(kind, ast.ClassDef) and kind.name.strip("_") in BAD_NAMES:
            yield kind.lineno, f"class {kind.name}: use a noun of the field"
    for line in nested(tree):
        yield line, "nested conditional expression: write a statement or a table"


def main() -> int:
    """Print all faults; return 1 if there are any."""
    unwanted = words_not_to_use()
    errors = [
        f"{path.relative_to(ROOT)}:{line} {text}"
        for path in sorted(SOURCE.rglob("*.py"))
        for line, text in faults(path, unwanted)
    ]
    print(*errors, f"{len(errors)} faults", sep="\n")
    return int(bool(errors))


if __name__ == "__main__":
    sys.exit(main())
