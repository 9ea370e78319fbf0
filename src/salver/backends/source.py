"""Python source of models: finding, running, and isolating its modules.

For backends whose artefacts are Python files. It does not know what a file defines.
"""

import ast
import importlib.util
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed

_MAX_SOURCE = 4 << 20
#: Libraries that may be imported before a fork, if nothing of them has run.
_FORKABLE = frozenset(
    ("numpy", "scipy", "pandas", "sklearn", "torch", "tensorflow", "onnxruntime", "lightgbm", "xgboost")
)
_LOADING = threading.RLock()  # sys.path and sys.modules are used by one loading model at a time


def source_of(path: Path) -> Path:
    """Return the file of a model that is a file, or a folder with ``model.py``."""
    return path / "model.py" if path.is_dir() else path


def code_of(manifest: Manifest) -> Path:
    """Return the file that runs a version."""
    return manifest.code or source_of(manifest.path)


def read_source(path: Path) -> bytes | None:
    """Return its content if it is Python by name and of a sane size, else None. Never raises."""
    try:
        source = source_of(path)
        if not source.is_file() or source.suffix != ".py" or source.stat().st_size > _MAX_SOURCE:
            return None
        return source.read_bytes()
    except (OSError, ValueError):
        return None


def parse(content: bytes) -> ast.Module | None:
    """Return its syntax tree, or None."""
    try:
        return ast.parse(content)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def forkable_imports(source: Path) -> tuple[str, ...]:
    """Return the frameworks that a file imports at its top, of those that a process may import and fork."""
    content = read_source(source)
    tree = parse(content) if content is not None else None
    found = set()
    for node in tree.body if tree is not None else ():
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return tuple(sorted(found & _FORKABLE))


@contextmanager
def running(source: Path) -> Iterator[None]:
    """Translate all exceptions of model code during loading to LoadFailed with the location."""
    try:
        yield
    except LoadFailed:
        raise
    except SyntaxError as error:
        where = f"{error.filename or source}, line {error.lineno}"
        raise LoadFailed(
            f"{where}: {error.msg}: {(error.text or '').strip()}", fix="Correct this line."
        ) from error
    except (Exception, SystemExit) as error:
        raise LoadFailed(f"{source}: {type(error).__name__}: {error}") from error


@contextmanager
def _without_bytecode() -> Iterator[None]:
    """Import without writing bytecode beside models."""
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


@contextmanager
def importable(folder: Path, name: str) -> Iterator[None]:
    """Allow the module ``name`` to import from its folder, and hide these modules from others afterwards."""
    with _LOADING, _without_bytecode():
        before = set(sys.modules)
        # A new list each time: another thread's import may be iterating over the old one.
        sys.path = [str(folder), *sys.path]
        importlib.invalidate_caches()  # the folder may be newer than the finder's cache
        try:
            yield
        except BaseException:
            sys.modules.pop(name, None)
            raise
        finally:
            places = list(sys.path)
            if str(folder) in places:  # the model's code may have removed it
                places.remove(str(folder))
                sys.path = places
            new = set(sys.modules) - before - {name}
            siblings = {n for n in new if "." not in n and _lies_in(folder, sys.modules[n])}
            for each in new:
                if each.partition(".")[0] in siblings:
                    del sys.modules[each]


def _lies_in(folder: Path, module: ModuleType) -> bool:
    """Return whether a module is directly in the folder, not deeper as in a virtual environment."""
    spec = getattr(module, "__spec__", None)
    places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec else []
    return any(Path(place).parent == folder for place in places)


def run_file(source: Path, name: str) -> ModuleType:
    """Run a file as the module ``name``."""
    spec = importlib.util.spec_from_file_location(name, source.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # needed by dataclasses and pickle
    with _without_bytecode():
        spec.loader.exec_module(module)
    return module
