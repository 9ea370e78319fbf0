"""Pipeline in this process, without a server: its models are loaded by their backends and run at once.

The plan, the graph and the steps are those of a server.
"""

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from salver.backends.discovery import backends, recogniser
from salver.backends.protocol import LoadOptions, RunnableModel
from salver.features.pipelines.compiling import LocalRun, Runner, compiled
from salver.features.pipelines.directory import inside
from salver.features.pipelines.document import FILE, Document, StepTable, parse
from salver.features.pipelines.ensemble import own_error, stood_in
from salver.features.pipelines.graph import Flow, Marks, Step, Value
from salver.features.pipelines.locking import Skew, check_lock, fingerprint_of, model_path, write_lock
from salver.features.pipelines.locks import Fingerprint, Lock
from salver.features.pipelines.planning import Node, Plan, RowForm, plan
from salver.features.pipelines.statistics import KEPT, EdgeStatistics
from salver.features.pipelines.steps.step import Arrays, Run
from salver.features.pipelines.watching import add, edges_of, looked_at
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed, ModelFailed
from salver.words.messages import ModelId, Signature
from salver.words.tensor import Array, Tensor

_LOG: Final = logging.getLogger("salver.pipelines")
_MOST: Final = 1 << 20  # bytes of a pipeline.toml
_MARKS: Final = Marks()
_NONE: Final[Mapping[str, RunnableModel]] = {}


def read_document(folder: Path) -> Document:
    """Return the content of a folder's ``pipeline.toml``.

    Raises:
        LoadFailed: it cannot be read, or has a key that is not known.
    """
    path = folder / FILE
    try:
        with path.open("rb") as file:
            content = file.read(_MOST + 1)
    except OSError as error:
        raise LoadFailed(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > _MOST:
        raise LoadFailed(f"{path} is larger than {_MOST} bytes")
    return parse(content, str(path))


def model_beside(folder: Path, table: StepTable) -> Path | None:
    """Return the path of a step's model; None = it is a model of the server, named there.

    Raises:
        LoadFailed: the path leads out of the folder.
    """
    if not table.model:
        return None
    path = inside(folder, table.model)
    return path if path.exists() else None


def manifest_beside(id: ModelId, table: StepTable, path: Path) -> Manifest:
    """Return the manifest of a model beside ``pipeline.toml``.

    Raises:
        LoadFailed: no backend knows it.
    """
    kind = recogniser(backends())(path)
    if kind is None:
        raise LoadFailed(f"step `{table.name}`: {path} is no model that a backend knows")
    return Manifest(id, path, kind.format, kind.backend)


def plan_of(folder: Path, *, trust_pickle: bool = False) -> tuple[Plan, list[str]]:
    """Return the plan of a folder's pipeline, and the steps whose models are not known here.

    Models of the server are looked for beside the folder, where a repository has them.

    Raises:
        LoadFailed: something does not fit; names the edge.
    """
    document = read_document(folder)
    signatures: dict[str, Signature] = {}
    for table in document.steps:
        path = model_beside(folder, table)
        if table.model and path is None:
            path = inside(folder.resolve().parent, table.model)
        if path is not None and recogniser(backends())(path) is not None:
            manifest = manifest_beside(ModelId(table.name, "1"), table, path)
            model = backends()[manifest.backend].load(manifest, LoadOptions(trust_pickle=trust_pickle))
            signatures[table.name] = model.signature
            model.close()
    found = plan(folder.resolve().name, document, folder, lambda table: signatures.get(table.name))
    return found, [table.name for table in document.steps if table.model and table.name not in signatures]


def fingerprint_in(folder: Path, *, trust_pickle: bool = False) -> Fingerprint:
    """Return the fingerprint of a folder's pipeline.

    Raises:
        LoadFailed: something does not fit, or a model is not here.
    """
    found, unknown = plan_of(folder, trust_pickle=trust_pickle)
    if unknown:
        raise LoadFailed(
            f"models of the steps {', '.join(unknown)} are not beside {folder}, so its digest is not known",
            fix="Keep the models of the server in folders beside that of the pipeline",
        )
    return fingerprint_of(found, folder, model_paths(folder, read_document(folder)))


def model_paths(folder: Path, document: Document) -> dict[str, Path]:
    """Return the paths of models by the names of their steps, as far as they are here. Raises LoadFailed."""
    found = ((table.name, model_path(folder, table)) for table in document.steps if table.model)
    return {name: path for name, path in found if path is not None}


class LocalPipeline:
    """Pipeline whose steps and models run on the caller's thread.

    Args:
        models: Models by their names in ``pipeline.toml``, where they are not beside it.
        skew: What happens if it is not the pipeline of its lock file; None = nothing.
        document: What is run in place of the folder's ``pipeline.toml``; None = that.

    Raises:
        LoadFailed: something does not fit, or a model is missing.
    """

    def __init__(
        self,
        folder: Path,
        models: Mapping[str, RunnableModel] = _NONE,
        options: LoadOptions | None = None,
        skew: Skew | None = "refuse",
        document: Document | None = None,
    ) -> None:
        document = document or read_document(folder)
        self._folder = folder
        self._paths = model_paths(folder, document)
        self._loaded: list[RunnableModel] = []
        self._models: dict[str, RunnableModel] = {}
        try:
            for table in document.steps:
                if table.model:
                    self._models[table.name] = self._model(folder, table, models, options or LoadOptions())
            self.plan = plan(folder.resolve().name, document, folder, self._signature)
            if skew is not None:
                check_lock(self.plan, folder, self._paths, skew)
            self._graph = compiled(self.plan, lambda node: Runner(self.run_of(node, folder)))
        except BaseException:
            self.close()
            raise
        self.signature = self._graph.signature

    def fingerprint(self) -> Fingerprint:
        """Return what decides its answers; reads its files. Raises LoadFailed."""
        return fingerprint_of(self.plan, self._folder, self._paths)

    def lock(self, inputs: Mapping[str, Array] | None = None) -> Lock:
        """Write its lock file, and return its content.

        Args:
            inputs: Training data, of which statistics are recorded; None = the file keeps those that it has.

        Raises:
            LoadFailed: a file cannot be read or written.
        """
        if inputs is None:
            return write_lock(self._folder, self.fingerprint())
        edges = {name: EdgeStatistics(type.datatype) for name, type in edges_of(self.plan).items()}
        add(edges, looked_at(self._flow(inputs), edges, KEPT), threading.Lock())
        statistics = {name: edge.summary() for name, edge in edges.items() if edge.requests}
        return write_lock(self._folder, self.fingerprint(), statistics)

    def _model(
        self, folder: Path, table: StepTable, models: Mapping[str, RunnableModel], options: LoadOptions
    ) -> RunnableModel:
        path = model_beside(folder, table)
        if path is None:
            if table.model not in models:
                raise LoadFailed(
                    f"step `{table.name}`: the model {table.model!r} is not beside pipeline.toml",
                    fix="Serve the pipeline together with it, or pass it as one of the models",
                )
            return models[table.model]
        manifest = manifest_beside(ModelId(table.name, "1"), table, path)
        model = backends()[manifest.backend].load(manifest, options)
        self._loaded.append(model)
        return model

    def _signature(self, table: StepTable) -> Signature:
        return self._models[table.name].signature

    def run_of(self, node: Node, folder: Path) -> Run:
        """Return what runs a node; a subclass may watch it."""
        if node.step is not None:
            return node.step.open(folder)
        return _run_of_model(self._models[node.name], node.form)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs, for inputs of equally many rows.

        Raises:
            SalverError: a step or a model refused them.
        """
        flow = self._flow(inputs)
        return {port.name: flow.array(port.tensor) for port in self._graph.outputs}

    def _flow(self, inputs: Mapping[str, Array]) -> Flow:
        flow = Flow(self._graph)
        given: dict[str, Value | None] = {
            spec.name: Value(Tensor(spec.name, spec.datatype, inputs[spec.name]), 1, _MARKS)
            for spec in self.signature.inputs
        }
        ready = flow.put(given)
        for step in ready:  # the list grows while it is read
            if not isinstance(step.run, LocalRun):
                raise ModelFailed(f"step '{step.model}' cannot run here")
            ready += flow.put(self._values(step, step.run, flow))
        return flow

    def _values(self, step: Step, run: LocalRun, flow: Flow) -> Mapping[str, Value]:
        """Return the outputs of a step, or what stands in for them."""
        try:
            tensors = run.always({port.name: flow.array(port.tensor) for port in step.inputs})
        except Exception as error:
            if step.rescue is None:
                raise
            _LOG.info("%s", own_error(step, error))
            other = step.rescue.step
            if other is None or not isinstance(other.run, LocalRun):
                return stood_in(step, step.rescue, flow)
            found = self._values(other, other.run, flow)
            return {own: found[name] for own, name in step.rescue.tensors.items()}
        return {name: Value(tensor, 1, _MARKS) for name, tensor in tensors.items()}

    def close(self) -> None:
        """Close the models that it has loaded."""
        while self._loaded:
            self._loaded.pop().close()


def _run_of_model(model: RunnableModel, form: RowForm) -> Run:
    if form == "rows":
        return model.run

    def run(arrays: Arrays) -> Arrays:
        rows = []
        for row in range(len(next(iter(arrays.values())))):
            place: int | slice = slice(row, row + 1) if form == "single" else row
            given = {name: np.ascontiguousarray(array[place]) for name, array in arrays.items()}
            found = model.run(given)
            rows.append({name: array if form == "single" else array[None] for name, array in found.items()})
        return {name: np.concatenate([found[name] for found in rows]) for name in rows[0]}

    return run
