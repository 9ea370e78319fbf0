"""Measure the shape of Python packages: sizes, fan-out, comments, purity.

``python scripts/shape.py NAME=FOLDER …`` prints a table with a column for each package, as in
docs/project/shape.md.
Reads syntax trees and tokens; imports nothing of what it measures.
"""

import ast
import statistics
import sys
import tokenize
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

#: Modules that do I/O, keep time, start threads or draw at random, as tests/test_architecture.py has them.
IMPURE = {
    "asyncio",
    "concurrent",
    "ctypes",
    "http",
    "io",
    "logging",
    "mmap",
    "multiprocessing",
    "os",
    "queue",
    "random",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib",
    "uuid",
}


class Module(NamedTuple):
    """One Python file, read and parsed."""

    name: str
    path: Path
    text: str
    tree: ast.Module


def modules(folder: Path) -> list[Module]:
    """Return every module below a package's folder; generated and foreign code is left out."""
    found = []
    for path in sorted(folder.rglob("*.py")):
        if {"shim", "tests", "_migrations", "alembic"} & set(path.parts) or path.name.endswith("_pb2.py"):
            continue
        parts = (folder.name, *path.relative_to(folder).with_suffix("").parts)
        text = path.read_text()
        found.append(Module(".".join(parts).removesuffix(".__init__"), path, text, ast.parse(text)))
    return found


def fan_out(module: Module, names: set[str]) -> int:
    """Count modules of the same package that this one imports anywhere."""
    package = module.name if module.path.name == "__init__.py" else module.name.rpartition(".")[0]
    seen: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            seen |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            seen |= {full if (full := f"{base}.{alias.name}") in names else base for alias in node.names}
    return len((seen & names) - {module.name})


def attributes(node: ast.ClassDef) -> int:
    """Count attributes that a class sets on ``self`` or declares."""
    own = {
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    for inner in ast.walk(node):
        targets: list[ast.expr] = []
        if isinstance(inner, ast.Assign):
            targets = inner.targets
        elif isinstance(inner, ast.AnnAssign | ast.AugAssign):
            targets = [inner.target]
        for target in targets:
            for part in ast.walk(target):
                if (
                    isinstance(part, ast.Attribute)
                    and isinstance(part.value, ast.Name)
                    and part.value.id == "self"
                ):
                    own.add(part.attr)
    return len(own)


def comments(module: Module) -> int:
    """Count lines that hold a comment."""
    with module.path.open("rb") as file:
        return sum(token.type == tokenize.COMMENT for token in tokenize.tokenize(file.readline))


def is_free_of_io(module: Module) -> bool:
    """Tell whether a module neither imports what does I/O nor is asynchronous."""
    for node in ast.walk(module.tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        if any(name.split(".")[0] in IMPURE and name != "urllib.parse" for name in names):
            return False
        if isinstance(node, ast.AsyncFunctionDef | ast.Await):
            return False
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("open", "print")
        ):
            return False
    return True


def module_names(module: Module) -> int:
    """Count names that a module binds at its top level, imports aside."""
    count = 0
    for node in module.tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            count += 1
        elif isinstance(node, ast.Assign):
            count += len(node.targets)
        elif isinstance(node, ast.AnnAssign):
            count += 1
    return count


def conditionals(module: Module) -> int:
    """Count conditional expressions."""
    return sum(isinstance(node, ast.IfExp) for node in ast.walk(module.tree))


def nested(module: Module) -> int:
    """Count conditional expressions directly inside another."""
    return sum(
        isinstance(child, ast.IfExp)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.IfExp)
        for child in (node.test, node.body, node.orelse)
    )


def _p95(values: Sequence[int]) -> int:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]


def _spread(values: Sequence[int]) -> str:
    return f"{statistics.median(values):g} / {_p95(values)} / {max(values)}"


def _functions(found: Sequence[Module]) -> Iterator[int]:
    for module in found:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield (node.end_lineno or node.lineno) - node.lineno + 1


def figures(folder: Path) -> dict[str, str]:
    """Return the row names and values of one package."""
    found = modules(folder)
    names = {module.name for module in found}
    lines = [module.text.count("\n") for module in found]
    total = sum(lines)
    classes = [node for module in found for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]

    def per(count: Callable[[Module], int], unit: int) -> str:
        return f"{unit * sum(map(count, found)) / total:.1f}"

    free = sum(size for module, size in zip(found, lines, strict=True) if is_free_of_io(module))
    return {
        "lines": f"{total:,}",
        "modules": f"{len(found)}",
        "lines of a module: median / 95 % / most": _spread(lines),
        "lines of a function: median / 95 % / most": _spread(list(_functions(found))),
        "fan-out of a module: median / 95 % / most": _spread([fan_out(module, names) for module in found]),
        "attributes of a class: median / 95 % / most": _spread([attributes(node) for node in classes]),
        "names of a module: median / 95 % / most": _spread([module_names(module) for module in found]),
        "comments in 100 lines": per(comments, 100),
        "conditional expressions in 1,000 lines": per(conditionals, 1000),
        "nested conditional expressions": str(sum(map(nested, found))),
        "lines in modules without I/O": f"{free / total:.0%}",
    }


def main(arguments: Sequence[str]) -> str:
    """Return the table of all packages as Markdown."""
    columns = {name: figures(Path(folder)) for name, _, folder in (word.partition("=") for word in arguments)}
    rows = next(iter(columns.values()))
    out = [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    out += [f"| {row} | {' | '.join(column[row] for column in columns.values())} |" for row in rows]
    return "\n".join(out)


if __name__ == "__main__":
    print(main(sys.argv[1:]))
