"""Does the code keep the manners of ARCHITECTURE.md that no import contract can say?

The floors, cycles and foreign imports are import-linter's (pyproject.toml); this file reads the
syntax trees for purity, lazy imports and names, and imports the package to see that nothing happens.
"""

import ast
import fnmatch
import functools
import graphlib
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from compiled_modules import COMPILED

import salver
from salver.words import errors
from salver.words.errors import Code, SalverError

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "salver"
FILES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))

#: Decisions, codecs and words: functions of their arguments alone.
PURE = (
    "words/errors.py", "words/tensor.py", "words/messages.py", "words/artifacts.py", "words/releases.py",
    "words/events.py",
    "stats/*", "features/releases/judge/*", "*/policy.py", "*/states.py", "*/config.py",
)  # fmt: skip
IMPURE_MODULES = {
    "asyncio", "concurrent", "ctypes", "http", "io", "logging", "mmap", "multiprocessing", "os",
    "queue", "random", "secrets", "select", "selectors", "shutil", "signal", "socket", "ssl",
    "subprocess", "tempfile", "threading", "time", "urllib", "uuid",
}  # fmt: skip
#: What is no I/O in such modules: bytes in memory, and an enumeration.
HARMLESS = {("io", "BytesIO"), ("http", "HTTPStatus")}
IMPURE_NAMES = {
    "open", "input", "print", "now", "utcnow", "today", "default_rng", "RandomState", "read_text",
    "read_bytes", "write_text", "write_bytes", "getenv",
}  # fmt: skip
FRAMEWORKS = {
    "onnx", "onnxruntime", "torch", "torchvision", "tensorflow", "keras", "ai_edge_litert", "sklearn",
    "skops", "joblib", "pandas", "xgboost", "lightgbm", "grpc", "tritonclient",
}  # fmt: skip
#: Ours, but slow to import: whoever has no use for them must not wait for them.
LATE = {"scipy", "sqlalchemy", "psycopg"}
#: Where an import of Salver's own inside a function is the point, and not a dodge: a command imports
#: what it needs, so that `salver --help` starts at once; a host process imports what it runs; a server
#: without a registry does not import a database; a compiled module has no blocks of lazy_imports().
LAZY = (
    *COMPILED,
    "cli/*", "__init__.py", "app.py", "migration/*", "*command*.py", "*/migration*.py", "*/flags.py",
    "*_flags.py",
    "*/environment.py", "*/otel.py",
)  # fmt: skip
#: Exceptions that never leave their module.
PRIVATE = "_"
#: What handlers import as ``ts``, in host processes of theirs alone: its names are TorchServe's.
OWN = [name for name in FILES if not name.startswith("dialects/torchserve/shim/")]


#: What no test has: a limit of its own in which something must happen, too short some day on a busy machine.
IMPATIENT = re.compile(
    r"(asyncio\.timeout\(|wait_for\(.*, )([1-9]|[1-5]\d)(\.\d+)?\)(?!,)"
    r"|assert time\.(monotonic|perf_counter)\(\)"
)


@functools.cache
def parsed(name: str) -> ast.Module:
    return ast.parse((SOURCE / name).read_text())


@pytest.fixture(scope="module", autouse=True)
def trees_are_let_go() -> Iterator[None]:
    """Syntax trees of all files take 250 MB."""
    yield
    parsed.cache_clear()


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def imported(node: ast.AST) -> list[str]:
    """The modules that a statement imports, as written."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        (first, *more) = [alias.name for alias in node.names]
        is_harmless = not more and (node.module, first) in HARMLESS
        return [] if is_harmless else [node.module or ""]
    return []


def is_pure(name: str) -> bool:
    """By the list above, or because the module says so of itself."""
    claimed = re.search(r"\bPure\b[.:]", ast.get_docstring(parsed(name)) or "")
    return matches(name, PURE) or claimed is not None


def impurities(tree: ast.Module) -> list[str]:
    """What in a module depends on more than arguments: clocks, chance, files, threads, the environment."""
    found = []
    for node in ast.walk(tree):
        for module in imported(node):
            if module.split(".")[0] in IMPURE_MODULES and module != "urllib.parse":
                found.append(f"line {node.lineno}: imports {module}")
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name in IMPURE_NAMES or ast.unparse(called).startswith(("np.random.", "numpy.random.")):
                found.append(f"line {node.lineno}: calls {ast.unparse(called)}")
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.Global):
            found.append(f"line {node.lineno}: {type(node).__name__}")
    return found


def test_pure_modules_know_no_clock_socket_thread_chance_or_environment() -> None:
    found = {name: impurities(parsed(name)) for name in FILES if is_pure(name)}
    assert {name: some for name, some in found.items() if some} == {}


def test_tests_wait_with_one_patience() -> None:
    tests = [path for path in (ROOT / "tests").rglob("*.py") if path.name != "waiting.py"]
    lines = [(path, line) for path in tests for line in path.read_text().splitlines()]
    assert [(path.name, line) for path, line in lines if IMPATIENT.search(line)] == []


def test_the_purity_check_sees_what_it_should() -> None:
    bad = ast.parse(
        "import time\nfrom os import environ\nimport numpy as np\n"
        "async def f():\n    pass\n"
        "def g():\n    np.random.rand(3)\n    open('x')\n    datetime.now()\n"
    )
    assert len(impurities(bad)) == 6
    assert impurities(ast.parse("import math\ndef f(now, rng):\n    return now + rng.random()")) == []


def test_every_module_says_what_it_is() -> None:
    words = {name: (ast.get_docstring(parsed(name)) or "").strip(".… \n") for name in FILES}
    assert [name for name, said in words.items() if len(said) <= 20] == []


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    drawers = {"util", "utils", "helper", "helpers", "common", "misc", "shared", "stuff"}
    assert [name for name in OWN if drawers & set(Path(name).with_suffix("").parts)] == []


def lazy_imports(tree: ast.Module) -> list[str]:
    """Imports of Salver's own modules below a function."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found += [
                f"line {inner.lineno}: {module}"
                for inner in ast.walk(node)
                for module in imported(inner)
                if module.split(".")[0] == "salver"
            ]
    return found


def test_no_lazy_import_hides_a_cycle() -> None:
    found = {name: lazy_imports(parsed(name)) for name in FILES if not matches(name, LAZY)}
    assert {name: some for name, some in found.items() if some} == {}


def test_imports_have_no_cycle() -> None:
    names = {".".join(("salver", *Path(name).with_suffix("").parts)): name for name in FILES}
    names = {module.removesuffix(".__init__"): name for module, name in names.items()}
    graph: dict[str, set[str]] = {}
    for module, name in names.items():
        found = graph[module] = set()
        for node in ast.walk(parsed(name)):
            if isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
            found |= set(imported(node))
        found &= names.keys() - {module}
        found -= {package for package in found if any(other.startswith(f"{package}.") for other in found)}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_no_environment_is_read_at_import() -> None:
    later = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.If  # `if __name__ == "__main__"`
    for name in FILES:
        tree = parsed(name)
        for statement in tree.body:
            if not isinstance(statement, later):
                read = [node.attr for node in ast.walk(statement) if isinstance(node, ast.Attribute)]
                assert not {"environ", "getenv"} & set(read), f"{name}: {ast.unparse(statement)}"


def test_records_are_read_by_decoders_that_are_made_at_import() -> None:
    """What msgspec knows of a class it finds out at its first use: two threads that are first crash."""
    for name in FILES:
        tree = parsed(name)
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Attribute(attr="decode"), keywords=words):
                    kinds = [word.value for word in words if word.arg == "type"]
                    wrong = [kind for kind in kinds if isinstance(kind, ast.Name)]
                    assert not wrong, f"{name}: {ast.unparse(node)}"


def in_a_fresh_interpreter(script: str) -> dict[str, list[str]]:
    """The JSON that a script prints, run with nothing imported before."""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    answer: dict[str, list[str]] = json.loads(done.stdout)
    return answer


def test_import_salver_imports_the_standard_library_at_most() -> None:
    seen = in_a_fresh_interpreter(
        "import sys; before = set(sys.modules); import salver; new = set(sys.modules) - before; "
        "import json; print(json.dumps({'roots': sorted({n.split('.')[0] for n in new})}))"
    )
    assert set(seen["roots"]) - {"salver"} - sys.stdlib_module_names == set()


def test_importing_every_module_loads_no_framework_and_starts_no_thread() -> None:
    paths = [name for name in OWN if not name.endswith("__main__.py") and name != "__init__.py"]
    names = [f"salver.{path[:-3].replace('/', '.')}".removesuffix(".__init__") for path in paths]
    seen = in_a_fresh_interpreter(
        "import importlib, json, sys, threading\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "roots = sorted({n.split('.')[0] for n in sys.modules})\n"
        "print(json.dumps({'roots': roots, 'threads': [t.name for t in threading.enumerate()]}))"
    )
    assert set(seen["roots"]) & FRAMEWORKS == set()
    assert seen["threads"] == ["MainThread"]


def test_what_is_slow_to_import_waits_until_it_is_needed() -> None:
    starts = [
        "app",
        "embed",
        "backends.discovery",
        *(name[:-3].replace("/", ".") for name in OWN if name.startswith("cli/")),
    ]
    leaves = (
        "assignment",
        "binomial_evidence",
        "combine",
        "multinomial_evidence",
        "sample_ratio",
        "sign_flip",
    )
    names = [f"salver.{name}" for name in starts + [f"stats.{name}" for name in leaves]]
    names = [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]
    seen = in_a_fresh_interpreter(
        "import importlib, json, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(json.dumps({'roots': sorted({n.split('.')[0] for n in sys.modules})}))"
    )
    assert set(seen["roots"]) & LATE == set()


def test_every_exception_is_of_the_one_tree() -> None:
    strangers = []
    for info in pkgutil.walk_packages(salver.__path__, "salver."):
        if info.name.endswith("__main__"):
            continue
        for name, value in vars(importlib.import_module(info.name)).items():
            own = getattr(value, "__module__", "") == info.name and isinstance(value, type)
            error = own and issubclass(value, BaseException)
            if error and not issubclass(value, SalverError) and not name.startswith(PRIVATE):
                strangers.append(f"{info.name}.{name}")
    assert strangers == []


def test_every_code_table_is_total() -> None:
    """Each wire has one table, in the ``faults.py`` of its package; those without some codes are private."""
    names = ["salver." + name[:-3].replace("/", ".") for name in FILES if name.endswith("/faults.py")]
    modules = [importlib.import_module(name) for name in names]
    tables = {
        (module.__name__, name): value
        for module in modules
        for name, value in vars(module).items()
        if name[0] != "_" and isinstance(value, dict) and all(isinstance(key, Code) for key in value)
    }
    assert len({module for module, _ in tables}) >= 6
    for name, table in tables.items():
        assert set(table) == set(Code), name


def test_every_error_class_has_a_code_of_its_own_kind() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    kinds = [kind for kind in classes if issubclass(kind, SalverError)]
    assert all(isinstance(kind.code, Code) for kind in kinds)
    assert all(kind.__doc__ for kind in kinds)


def test_files_of_tests_have_names_of_their_own() -> None:
    """Two of one name cannot be collected together."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []
