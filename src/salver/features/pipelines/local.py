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
from salver.backends.loading import read_bounded
from salver.backends.protocol import LoadOptions, RunnableModel
from salver.features.pipelines.compiling import LocalRun, Runner, compiled
from salver.features.pipelines.directory import inside
from salver.features.pipelines.document import FILE, Document, StepTable, parse
from salver.features.pipelines.ensemble import own_error, stood_in
from salver.features.pipelines.graph import Flow, Marks, Step, Value
from salver.features.pipelines.locking import Skew, check_lock, fingerprint_of, write_lock
from salver.features.pipelines.locks import Fingerprint, Lock
from salver.features.pipelines.planning import Node, Plan, RowForm, plan
from salver.features.pipelines.running import config_of, unfit_member
from salver.features.pipelines.statistics import KEPT, EdgeStatistics
from salver.features.pipelines.steps.step import Arrays, Run
from salver.features.pipelines.watching import add, edges_of, looked_at
from salver.kernel.repository import Repository
from salver.parts import formats
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
    return parse(read_bounded(path, _MOST), str(path))


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
    return Manifest(id, path, kind.format, kind.backend, config_of(table.how))


def served_model(path: Path, version: str = "") -> Manifest | None:
    """Return the manifest of a model of a repository, as a server finds it.

    Args:
        version: Empty = the newest.

    Returns:
        None: there is no such model at this path, or there are several.
    """
    if not path.exists():
        return None
    found = Repository((path,), formats(recogniser(backends()))).scan(0.0)
    if len({manifest.id.name for manifest in found}) != 1:
        return None
    meant = [manifest for manifest in found if version in ("", manifest.id.version)]
    return max(meant, key=lambda manifest: int(manifest.id.version), default=None)


def manifest_of(folder: Path, table: StepTable) -> Manifest | None:
    """Return the manifest of a step's model, of the folder or of the server; None = it is not known here.

    Models of the server are looked for beside the folder, where a repository has them.

    Raises:
        LoadFailed: no backend knows what is there, or the name leads out of the folders.
    """
    if not table.model:
        return None
    path = model_beside(folder, table)
    if path is not None:
        return manifest_beside(ModelId(table.name, "1"), table, path)
    return served_model(inside(folder.resolve().parent, table.model), table.version)


def manifests_of(folder: Path, document: Document) -> dict[str, Manifest]:
    """Return the manifests of models by the names of steps, as far as they are here. Raises LoadFailed."""
    found = ((table.name, manifest_of(folder, table)) for table in document.steps)
    return {name: manifest for name, manifest in found if manifest is not None}


def paths_of(manifests: Mapping[str, Manifest]) -> dict[str, Path]:
    """Return the paths of models by the names of their steps."""
    return {name: manifest.path for name, manifest in manifests.items()}


def load_model(manifest: Manifest, options: LoadOptions) -> RunnableModel:
    """Return a loaded model. Raises LoadFailed."""
    if manifest.problem:
        raise LoadFailed(manifest.problem)
    return backends()[manifest.backend].load(manifest, options)


def plan_of(folder: Path, *, trust_pickle: bool = False) -> tuple[Plan, list[str]]:
    """Return the plan of a folder's pipeline, and the steps whose models are not known here.

    Raises:
        LoadFailed: something does not fit; names the edge.
    """
    document = read_document(folder)
    signatures: dict[str, Signature] = {}
    for table in document.steps:
        if table.model and model_beside(folder, table) is None:
            document.check(table, unfit_member(table.how))
    for name, manifest in manifests_of(folder, document).items():
        model = load_model(manifest, LoadOptions(trust_pickle=trust_pickle))
        signatures[name] = model.signature
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
    return fingerprint_of_plan(folder, found)


def fingerprint_of_plan(folder: Path, found: Plan) -> Fingerprint:
    """Return the fingerprint of a folder's pipeline whose models are all known. Raises LoadFailed."""
    return fingerprint_of(found, folder, paths_of(manifests_of(folder, read_document(folder))))


class LocalPipeline:
    """Pipeline whose steps and models run on the caller's thread.

    Args:
        models: Models by their names in ``pipeline.toml``, where they are not beside it.
        looks_beside: Load models of the server from beside the folder, unless they are among ``models``.
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
        *,
        looks_beside: bool = False,
    ) -> None:
        document = document or read_document(folder)
        self._folder = folder
        manifests = manifests_of(folder, document)
        self._paths = paths_of(manifests)
        self._loaded: list[RunnableModel] = []
        self._models: dict[str, RunnableModel] = {}
        opened: dict[Path, RunnableModel] = {}  # two steps may have one model of the server
        try:
            for table in document.steps:
                if not table.model:
                    continue
                is_beside = model_beside(folder, table) is not None
                manifest = manifests.get(table.name)
                if not is_beside and table.model in models:
                    self._models[table.name] = models[table.model]
                elif manifest is None or not (is_beside or looks_beside):
                    raise LoadFailed(
                        f"step `{table.name}`: the model {table.model!r} is not beside pipeline.toml",
                        fix="Serve the pipeline together with it, or pass it as one of the models",
                    )
                else:
                    if manifest.path not in opened:
                        opened[manifest.path] = load_model(manifest, options or LoadOptions())
                        self._loaded.append(opened[manifest.path])
                    self._models[table.name] = opened[manifest.path]
            self.plan = plan(folder.resolve().name, document, folder, self._signature)
            digest = ""
            if skew is not None:
                digest = check_lock(self.plan, folder, self._paths, skew).digest
            self._graph = compiled(self.plan, lambda node: Runner(self.run_of(node, folder)), digest)
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
