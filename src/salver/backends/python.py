"""How does a Python file become a runnable model?

A file, or a folder with ``model.py``, that defines a class ``Model``::

    class Model:
        inputs = {"text": ("BYTES", [-1])}
        outputs = {"length": ("INT64", [-1])}

        def predict(self, inputs):
            return {"length": np.array([len(t) for t in inputs["text"]])}

``load(self, context)`` and ``close(self)`` are optional. Recognition reads the syntax tree and runs
nothing; loading runs the file, by default in a host process of its own.
"""

import ast
import gc
import importlib.util
import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from salver.artifacts import Manifest
from salver.backends.outputs import Outputs
from salver.backends.protocol import LoadOptions, RunnableModel, Traits
from salver.errors import LoadFailed
from salver.messages import Signature, TensorSpec
from salver.tensor import DATATYPES, Array

_MAX_SOURCE = 4 << 20
_NUMBERS = itertools.count()


class Context(msgspec.Struct, frozen=True):
    """What ``Model.load`` is told.

    Attributes:
        path: The model's file or folder.
        name, version: Under which it is served.
        threads: How many threads one ``predict`` may use.
        options: From the ``[options]`` table of ``salver.toml``.
    """

    path: Path
    name: str
    version: str
    threads: int
    options: Mapping[str, str]


class PythonBackend:
    """Plain Python classes."""

    name = "python"
    extra = "python"
    modules: tuple[str, ...] = ()
    traits = Traits(releases_gil=False, concurrent=False, native=False, isolate=True)

    def recognise(self, path: Path) -> str | None:
        """``python`` for source that defines ``class Model``."""
        try:
            source = _source(path)
            if not source.is_file() or source.suffix != ".py" or source.stat().st_size > _MAX_SOURCE:
                return None
            tree = ast.parse(source.read_bytes())
        except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
            return None
        is_model = any(isinstance(node, ast.ClassDef) and node.name == "Model" for node in tree.body)
        return "python" if is_model else None

    def load(self, manifest: Manifest, options: LoadOptions) -> RunnableModel:
        """Run the file, make a ``Model``, call its ``load``."""
        source = _source(manifest.path)
        module = _import(source)
        try:
            kind = getattr(module, "Model", None)
            if not isinstance(kind, type):
                raise LoadFailed(f"{source} defines no class Model")
            signature = _signature(kind, manifest, source)
            context = Context(
                manifest.path, manifest.id.name, manifest.id.version, options.threads, manifest.config.options
            )
            model = kind()
            if hasattr(model, "load"):
                model.load(context)
            if not callable(getattr(model, "predict", None)):
                raise LoadFailed(f"{source}: class Model has no method predict(self, inputs)")
        except LoadFailed:
            _forget(module)
            raise
        except Exception as error:
            _forget(module)
            raise LoadFailed(f"{source}: {type(error).__name__}: {error}") from error
        return PythonModel(model, module, signature)


class PythonModel:
    """One instance of the owner's class."""

    def __init__(self, model: Any, module: ModuleType, signature: Signature) -> None:
        self.signature = signature
        self._model = model
        self._module: ModuleType | None = module
        self._check = Outputs(signature).check

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        answer = self._model.predict(dict(inputs))
        return self._check(answer, inputs)

    def close(self) -> None:
        """Call the owner's ``close`` and forget the module."""
        try:
            if hasattr(self._model, "close"):
                self._model.close()
        finally:
            self._model = None
            if self._module is not None:
                _forget(self._module)
                self._module = None
            gc.collect()


def _source(path: Path) -> Path:
    return path / "model.py" if path.is_dir() else path


def _import(source: Path) -> ModuleType:
    """The file as a module of a name of its own; its folder is importable while it loads."""
    name = f"salver_model_{next(_NUMBERS)}"
    spec = importlib.util.spec_from_file_location(name, source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(source.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        _forget(module)
        raise LoadFailed(f"{source}: {type(error).__name__}: {error}") from error
    return module


def _forget(module: ModuleType) -> None:
    sys.modules.pop(module.__name__, None)


def _signature(kind: type, manifest: Manifest, source: Path) -> Signature:
    inputs = manifest.config.inputs or _specs(kind, "inputs", source)
    outputs = manifest.config.outputs or _specs(kind, "outputs", source)
    free = all(spec.shape and spec.shape[0] == -1 for spec in (*inputs, *outputs))
    batched = bool(getattr(kind, "batched", free))
    if batched and not free:
        raise LoadFailed(f"{source}: batched = True, but not every shape begins with -1")
    return Signature(inputs, outputs, batched, "python_model")


def _specs(kind: type, what: str, source: Path) -> tuple[TensorSpec, ...]:
    declared = getattr(kind, what, None)
    example = f'{what} = {{"x": ("FP32", [-1, 16])}}'
    if not isinstance(declared, dict) or not declared:
        raise LoadFailed(f"{source}: class Model declares no {what}", fix=f"Write, for example: {example}")
    specs = []
    for name, entry in declared.items():
        try:
            datatype, shape = entry
            spec = TensorSpec(str(name), DATATYPES[datatype], tuple(int(extent) for extent in shape))
        except (TypeError, ValueError, KeyError) as error:
            raise LoadFailed(
                f"{source}: {what}[{name!r}] = {entry!r} is not a (datatype, shape) pair",
                fix=f"Write, for example: {example}; datatypes: {', '.join(DATATYPES)}.",
            ) from error
        specs.append(spec)
    return tuple(specs)
