"""How large and how tangled has the code become?

Prints the alarms of the architecture and ends with 1 only where a hard limit is broken: a file over
700 lines or a function over 80. Reads the syntax tree; imports nothing of Salver.
"""

import ast
import gc
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
MAX_FILE, MAX_FUNCTION = 700, 80
#: Packages under other projects' names, whose constructors those projects write.
FOREIGN = "/shim/"
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source(NamedTuple):
    """One Python file, read and parsed."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        return self.text.count("\n")


def sources(folder: str) -> list[Source]:
    """Every Python file below a folder of the repository."""
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        text = path.read_text()
        found.append(Source(path.relative_to(ROOT), text, ast.parse(text)))
    return found


def functions(source: Source) -> Iterator[tuple[str, int]]:
    """``file:line name`` and length in lines, of every function and method."""
    for node in ast.walk(source.tree):
        if isinstance(node, Function):
            yield (
                f"{source.path}:{node.lineno} {node.name}",
                (node.end_lineno or node.lineno) - node.lineno + 1,
            )


def classes(source: Source) -> Iterator[tuple[str, ast.ClassDef]]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef):
            yield f"{source.path}:{node.lineno} {node.name}", node


def methods(node: ast.ClassDef) -> list[Function]:
    return [item for item in node.body if isinstance(item, Function)]


def is_protocol(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).split("[")[0] in ("Protocol", "typing.Protocol") for base in node.bases)


def constructor_arguments(node: ast.ClassDef) -> int:
    """How many arguments a written-out constructor takes, self left out."""
    for method in methods(node):
        if method.name == "__init__":
            arguments = method.args
            return len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs) - 1
    return 0


def percentile(values: list[int], share: float) -> int:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def report(alarm: str, value: object, limit: str, over: list[str]) -> None:
    mark = "!" if over else " "
    print(f"{mark} {alarm:<44} {value!s:>8}   ({limit})")
    for name in over:
        print(f"      {name}")


def main() -> int:
    product, tests = sources("src"), sources("tests")
    code_lines = sum(s.lines for s in product)
    test_lines = sum(s.lines for s in tests)
    lengths = [pair for s in product for pair in functions(s)]
    kinds = [pair for s in product for pair in classes(s)]
    ignores = sum(len(re.findall(r"#\s*type:\s*ignore", s.text)) for s in product)
    per_thousand = 1000 * ignores / code_lines
    median = statistics.median(s.lines for s in product)
    p95 = percentile([length for _, length in lengths], 0.95)
    ratio = test_lines / code_lines

    long_files = [f"{s.path} {s.lines}" for s in product + tests if s.lines > MAX_FILE]
    long_functions = [
        f"{name} {length}" for s in product + tests for name, length in functions(s) if length > MAX_FUNCTION
    ]
    wide = [f"{n} {len(methods(c))}" for n, c in kinds if is_protocol(c) and len(methods(c)) > 4]
    own = [(name, kind) for name, kind in kinds if FOREIGN not in name]
    hungry = [f"{n} {constructor_arguments(c)}" for n, c in own if constructor_arguments(c) > 6]

    print(f"  {len(product)} modules, {code_lines} lines; tests {test_lines} lines")
    report("files over the hard limit", len(long_files), f"0 over {MAX_FILE} lines", long_files)
    report(
        "functions over the hard limit", len(long_functions), f"0 over {MAX_FUNCTION} lines", long_functions
    )
    report("median file, lines", median, "<= 150", ["over"] if median > 150 else [])
    report("functions' 95th percentile, lines", p95, "<= 45", ["over"] if p95 > 45 else [])
    report(
        "type: ignore per 1,000 lines", f"{per_thousand:.1f}", "<= 3", ["over"] if per_thousand > 3 else []
    )
    report("protocols with more than four methods", len(wide), "0", wide)
    report("constructors with more than six arguments", len(hungry), "0", hungry)
    report("tests to code", f"{ratio:.2f}", "1.0 to 1.6", [] if 1.0 <= ratio <= 1.6 else ["outside"])
    return 1 if long_files or long_functions else 0


if __name__ == "__main__":
    gc.disable()  # to look for garbage among the syntax trees takes as long as to read them
    sys.exit(main())
