"""Backend for Python files.

A model is a file, or a folder with ``model.py``, that defines a class ``Model``::

    class Model:
        inputs = {"text": ("BYTES", [-1])}
        outputs = {"length": ("INT64", [-1])}

        def predict(self, inputs):
            return {"length": np.array([len(t) for t in inputs["text"]])}

A model that answers token by token has ``step`` instead, and ``steps.vocabulary`` in its ``salver.toml``::

    class Model:
        def prefill(self, slot, tokens): ...   # scores [vocabulary] after a piece of a prompt; optional
        def step(self, slots, tokens): ...     # scores [n, vocabulary] after one token for each slot
        def release(self, slot): ...           # the slot's sequence has ended

``load(self, context)`` and ``close(self)`` are optional. Recognition reads the syntax tree and runs
nothing; loading runs the file, by default in a host process of its own. Modules beside the file can
be imported until ``load`` has returned, and belong to this model alone.
"""

import ast
import itertools
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np

from salver.backends.protocol import LoadOptions, RunnableModel, StepModel, Traits
from salver.backends.source import (
    code_of,
    forkable_imports,
    importable,
    parse,
    read_source,
    run_file,
    running,
)
from salver.lazy import lazy_imports
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import DATATYPES, Array

with lazy_imports():
    from salver.backends.outputs import Outputs
    from salver.backends.stateful import StatefulSteps


_NUMBERS = itertools.count()
_NO_TENSORS = Signature((), ())
_MEANT = re.compile(rb"^class[ \t]+Model\b", re.MULTILINE)


class Context(msgspec.Struct, frozen=True):
    """Argument of ``Model.load``.

    Attributes:
        path: The model's file or folder.
        name, version: Name and version under which it is served.
        threads: Number of threads that one ``predict`` may use.
        options: The ``[options]`` table of ``salver.toml``.
    """

    path: Path
    name: str
    version: str
    threads: int
    options: Mapping[str, str]


class PythonBackend:
    """Backend for plain Python classes."""

    name = "python"
    extra = "python"
    modules: tuple[str, ...] = ()
    traits = Traits(
        releases_gil=False,
        concurrent=False,
        native=False,
        isolate=True,
        reads_config=True,
        harmless_formats=frozenset(),
    )

    def recognise(self, path: Path) -> str | None:
        """Return ``triton_python`` for source with ``TritonPythonModel``, ``python`` with ``Model``.

        Also for source that evidently intended it: the error on loading explains the mistake.
        """
        content = read_source(path)
        if content is None:
            return None
        return self.format_of(content, parse(content))

    def format_of(self, content: bytes, tree: ast.Module | None) -> str | None:
        """Return ``python`` for source that defines ``class Model``, or plainly means to.

        In the latter case loading says what is wrong.

        Args:
            tree: The syntax tree; None if there is none.
        """
        if tree is None:
            return "python" if _MEANT.search(content) else None
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        if any(c.name == "Model" or _is_alike(c) for c in classes):
            return "python"
        return None

    def preloads(self, manifest: Manifest) -> tuple[str, ...]:
        """See :class:`~salver.backends.protocol.ForkableBackend`."""
        return ("salver.backends.python", *forkable_imports(code_of(manifest)))

    def load(self, manifest: Manifest, options: LoadOptions) -> RunnableModel:
        """Run the file, create a ``Model`` (or ``TritonPythonModel``), call its ``load``."""
        model, module, signature = _load(manifest, options, "predict")
        return PythonModel(model, manifest.id.name, module, signature)

    def load_steps(self, manifest: Manifest, options: LoadOptions) -> StepModel:
        """Load a class that has ``step`` or, with states, ``predict``."""
        model, module, signature = _load(manifest, options, "step")
        if hasattr(model, "step"):
            return PythonSteps(model, module)
        steps = manifest.config.steps
        stateful = PythonModel(model, manifest.id.name, module, signature)
        try:
            return StatefulSteps(stateful, manifest.id.name, steps.max_sequences, steps.max_context)
        except BaseException:
            stateful.close()
            raise


def _load(manifest: Manifest, options: LoadOptions, method: str) -> tuple[Any, str, Signature]:
    """Return a loaded ``Model``, the name of its module, and its inputs and outputs.

    Args:
        method: ``predict``; or ``step``, for which ``predict`` is a substitute.
    """
    source = code_of(manifest)
    context = Context(
        manifest.path, manifest.id.name, manifest.id.version, options.threads, manifest.config.options
    )
    with running(source), importable(source.parent.resolve(), name := f"salver_model_{next(_NUMBERS)}"):
        kind = _model_class(run_file(source, name), source, method)
        is_stepped = method == "step" and hasattr(kind, "step")
        signature = _NO_TENSORS if is_stepped else _signature(kind, manifest, source)
        model = kind()
        if hasattr(model, "load"):
            model.load(context)
    return model, name, signature


class PythonModel:
    """An instance of the user's class; ``module`` is the name under which its file was run."""

    def __init__(self, model: Any, name: str, module: str, signature: Signature) -> None:
        self.signature = signature
        self._model = model
        self._module = module
        self._check = Outputs(signature, name).check

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        answer = self._model.predict(dict(inputs))
        return self._check(answer, inputs)

    def close(self) -> None:
        """Call the model's ``close``."""
        model, self._model = self._model, None
        sys.modules.pop(self._module, None)
        if hasattr(model, "close"):
            model.close()


class PythonSteps:
    """An instance of a class with ``step``; ``module`` as in :class:`PythonModel`."""

    def __init__(self, model: Any, module: str) -> None:
        self._model = model
        self._module = module
        self.step = model.step
        self.release = model.release
        self.prefill = getattr(model, "prefill", self._prefill_by_steps)
        if hasattr(model, "save") and hasattr(model, "resume"):
            self.save, self.resume = model.save, model.resume

    def _prefill_by_steps(self, slot: int, tokens: Array) -> Array:
        for token in tokens:
            scores = self._model.step(np.array([slot]), np.array([token]))
        last: Array = scores[0]
        return last

    def close(self) -> None:
        """Call the model's ``close``."""
        model, self._model = self._model, None
        sys.modules.pop(self._module, None)
        if hasattr(model, "close"):
            model.close()


def _is_alike(node: ast.ClassDef) -> bool:
    """Return whether a class of another name declares tensors, or takes ``inputs``, and predicts."""
    predict = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "predict"), None)
    declared = {
        target.id
        for statement in node.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    takes = {argument.arg for argument in predict.args.args} if predict else set()
    return predict is not None and bool((declared | takes) & {"inputs", "outputs"})


def _model_class(module: ModuleType, source: Path, method: str) -> type:
    kind = getattr(module, "Model", None)
    if not isinstance(kind, type):
        own = [n for n, v in vars(module).items() if isinstance(v, type) and hasattr(v, "predict")]
        fix = "Write one with a method predict."
        if own:
            fix = f"Rename the class {own[0]} to Model."
        raise LoadFailed(f"{source} defines no class Model", fix=fix)
    if callable(getattr(kind, method, None)):
        missing = "release" if method == "step" else method
    else:
        missing = "predict"
    if callable(getattr(kind, missing, None)):
        return kind
    fix = "Write: def predict(self, inputs): ..."
    if missing == "release":
        fix = "Write: def release(self, slot): ..., which forgets the slot's sequence."
    elif hasattr(kind, "step"):
        fix = 'For one that answers token by token write steps.vocabulary = "bytes" into its salver.toml.'
    raise LoadFailed(f"{source}: class Model has no method {missing}", fix=fix)


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
