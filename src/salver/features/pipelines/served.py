"""Loading of pipelines on a server: their models are asked through the data plane, their steps run beside.

A model beside ``pipeline.toml`` has an engine of its own, with batching across requests; so has a heavy step.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from salver.backends.loading import options_of
from salver.backends.protocol import Answer, Traits
from salver.features.pipelines import StepCounts
from salver.features.pipelines.compiling import Ask, Runner, compiled
from salver.features.pipelines.document import StepTable
from salver.features.pipelines.edges import EdgeType
from salver.features.pipelines.ensemble import Ensemble
from salver.features.pipelines.graph import Graph
from salver.features.pipelines.local import manifest_beside, model_beside, read_document
from salver.features.pipelines.locking import Checked, Skew, check_lock, skew_of
from salver.features.pipelines.planning import Node, Plan, plan
from salver.features.pipelines.shares import Shares
from salver.features.pipelines.steps.step import Arrays, RunMany
from salver.features.pipelines.watching import Watch
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.placement import Placement
from salver.kernel.engine.request_thread import RequestThreadRunner
from salver.kernel.serving.capabilities import Infer
from salver.kernel.serving.inner import HeldInner, Inner
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import Batching, EnsembleStep, Manifest, ModelConfig
from salver.words.errors import LoadFailed, SalverError
from salver.words.events import BatchRan
from salver.words.messages import Call, InferRequest, InferResponse, ModelId, Signature, TensorSpec

_TRAITS: Final = Traits()
#: Requests of a step on one thread are never split, since the shapes of its answers may depend on all rows.
_WHOLE: Final = ModelConfig(batching=Batching(max_rows=1 << 20))
#: Those of a step on several threads are, so that none is idle while another has many rows.
_PARTS: Final = ModelConfig(batching=Batching(max_rows=2))
#: Returns the artefact of a version of the server; None = it is not known.
PathOf = Callable[[ModelId], Path | None]


class PipelineEngine(Ensemble):
    """One version of a pipeline.

    Attributes:
        ends: Closes the engines of its own models and steps.
        checked: What its lock file says.
    """

    tells_sequence = False
    ends: contextlib.AsyncExitStack
    plan: Plan
    checked: Checked

    async def close(self) -> None:
        """Reject new requests, release the server's models and close its own."""
        await super().close()
        await self.ends.aclose()

    def _named(self, error: SalverError) -> SalverError:
        """Add the pipeline's name to an error."""
        error.message = f"in pipeline '{self.id.name}', {error.message}"
        return error


class PipelineLoader:
    """Loads directories with a ``pipeline.toml``.

    Args:
        inner: Asks the server's models.
        load: Loads a model beside ``pipeline.toml``.
        emit: Receives the pipelines' events.
        clock: Monotonic seconds.
        path_of: Returns the artefact of a model of the server; None = it is not known.
        counts: Takes the counts of steps, for the metrics page.
    """

    def __init__(
        self,
        inner: Inner,
        load: Callable[[Manifest], Awaitable[Servable]],
        emit: Callable[[BatchRan], None],
        clock: Callable[[], float],
        path_of: PathOf | None = None,
        counts: StepCounts | None = None,
    ) -> None:
        self._counts = counts
        self._inner = inner
        self._load = load
        self._emit = emit
        self._clock = clock
        self._path_of = path_of

    async def load(self, manifest: Manifest) -> Servable:
        """See :class:`~salver.kernel.serving.loading.VersionLoader`."""
        config = manifest.config
        skew = skew_of(options_of(manifest, ("skew",)).get("skew", "refuse"))
        try:
            inner = self._inner.hold(config.ensemble.models)
        except SalverError as error:
            raise LoadFailed(f"pipeline '{manifest.id.name}' cannot ask its models: {error}") from error
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(inner.release)
            ends = await stack.enter_async_context(contextlib.AsyncExitStack())
            build = _Building(manifest, inner, self._load, self._clock, ends, self._path_of, self._counts)
            graph = await build.graph(skew)
            assert build.plan is not None
            engine = PipelineEngine(manifest.id, graph, inner, config, self._clock, self._emit)
            engine.ends = ends.pop_all()
            engine.shares = Shares(graph)
            engine.plan, engine.checked = build.plan, build.checked
            engine.watch = Watch(build.plan, build.sample)
            stack.pop_all()
        return Servable(manifest, engine, Placement("thread", 0, 0))


class _Building:
    """State of building the graph of one version; what it opens is closed by ``ends``."""

    def __init__(
        self,
        manifest: Manifest,
        inner: HeldInner,
        load: Callable[[Manifest], Awaitable[Servable]],
        clock: Callable[[], float],
        ends: contextlib.AsyncExitStack,
        path_of: PathOf | None,
        counts: StepCounts | None,
    ) -> None:
        self.plan: Plan | None = None
        self.sample = 0.0
        self.checked = Checked()
        self._path_of = path_of
        self._counts = counts
        self._paths: dict[str, Path] = {}
        self._manifest = manifest
        self._inner = inner
        self._load = load
        self._clock = clock
        self._ends = ends
        self._own: dict[str, Servable] = {}
        self._names: dict[str, tuple[str, str]] = {}

    async def graph(self, skew: Skew) -> Graph:
        """Return the graph, with the models beside it loaded. Raises LoadFailed."""
        id, folder = self._manifest.id, self._manifest.path
        document = read_document(folder)
        # A repository may have renamed the server's models.
        members = iter(self._manifest.config.ensemble.steps)
        for table in document.steps:
            path = model_beside(folder, table)
            if path is not None:
                own = ModelId(f"{id.name}.{table.name}", id.version)
                await self._load_own(table.name, manifest_beside(own, table, path))
                self._paths[table.name] = path
            elif table.model:
                member = next(members)
                self._names[table.name] = (member.model, member.version)
                self._find_artefact(table.name, member)
        found = await asyncio.to_thread(plan, id.name, document, folder, self._signature)
        self.plan, self.sample = found, document.sample
        self.checked = await asyncio.to_thread(check_lock, found, folder, self._paths, skew)
        runners = {node.name: await self._runner(node, folder) for node in found.nodes}
        return compiled(found, lambda node: runners[node.name], self.checked.digest)

    def _find_artefact(self, name: str, member: EnsembleStep) -> None:
        path = None
        if self._path_of is not None:
            path = self._path_of(self._inner.find(member.model, member.version))
        if path is not None:
            self._paths[name] = path

    async def _load_own(self, name: str, manifest: Manifest) -> None:
        self._own[name] = servable = await self._load(manifest)
        self._ends.push_async_callback(servable.close)
        await servable.warm(manifest.config)

    def _signature(self, table: StepTable) -> Signature:
        if table.name in self._own:
            capabilities, signature = self._own[table.name].capabilities, self._own[table.name].signature
        else:
            name = self._names[table.name]
            capabilities, signature = self._inner.capabilities(*name), self._inner.signature(*name)
        if capabilities.is_decoupled or signature.takes_forms:
            raise LoadFailed(f"step `{table.name}`: model '{table.model}' gives no single answer of tensors")
        return signature

    async def _runner(self, node: Node, folder: Path) -> Runner:
        if node.step is None:
            own = self._own.get(node.name)
            if own is not None:
                return Runner(ask=_asker(own.infer))
            return Runner(ask=self._member(*self._names[node.name]))
        if not node.step.is_heavy:
            return Runner(await asyncio.to_thread(node.step.open, folder))
        run_many = await asyncio.to_thread(node.step.open_many, folder)
        self._count(node, run_many)
        model = StepModel(node, run_many)
        runner = RequestThreadRunner([model], _TRAITS, slots=node.step.threads, name=node.name)
        id = ModelId(f"{self._manifest.id.name}.{node.name}", self._manifest.id.version)
        config = _WHOLE if node.step.threads == 1 else _PARTS
        engine = Engine(id, runner, config, clock=self._clock, emit=_tell_nobody)
        self._ends.push_async_callback(engine.close)
        return Runner(model.run if node.step.quick_bytes else None, _asker(engine.infer))

    def _count(self, node: Node, run_many: RunMany) -> None:
        """Show what a step counts as long as the pipeline is loaded."""
        counts = getattr(run_many, "counts", None)
        if counts is None or self._counts is None:
            return
        key = (self._manifest.id.name, self._manifest.id.version, node.name)
        self._counts.known[key] = counts
        self._ends.callback(self._counts.known.pop, key, None)

    def _member(self, name: str, version: str) -> Ask:
        """Return what asks a model of the server by its name there."""

        def ask(request: InferRequest, call: Call, sender: Hashable) -> Awaitable[InferResponse]:
            if request.model != name:
                request = msgspec.structs.replace(request, model=name, version=version)
            return self._inner.infer(request, call, sender)

        return ask


def _asker(infer: Infer) -> Ask:
    def ask(request: InferRequest, call: Call, sender: Hashable) -> Awaitable[InferResponse]:
        return infer(request, call.deadline, sender, call.standing)

    return ask


def _tell_nobody(event: BatchRan) -> None:
    """Drop the event: runs of a step are part of the pipeline's own."""


class StepModel:
    """Heavy step as a model of an engine, which takes the requests that wait together."""

    def __init__(self, node: Node, run_many: RunMany) -> None:
        types = {edge.port: edge.type for edge in node.edges}
        self.signature = Signature(_specs(types), _specs(node.outputs), True)
        self._run_many = run_many

    def run(self, inputs: Arrays) -> Arrays:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        (found,) = self._run_many([inputs])
        if isinstance(found, SalverError):
            raise found
        return found

    def answer(self, requests: Sequence[InferRequest]) -> Sequence[Answer | SalverError]:
        """See :class:`~salver.backends.protocol.RequestModel`."""
        given = [{tensor.name: tensor.array for tensor in request.inputs} for request in requests]
        return [
            found if isinstance(found, SalverError) else Answer(_wanted(found, request))
            for found, request in zip(self._run_many(given), requests, strict=True)
        ]

    def close(self) -> None:
        """See :class:`~salver.backends.protocol.RunnableModel`."""


def _wanted(found: Arrays, request: InferRequest) -> Arrays:
    return {output.name: found[output.name] for output in request.outputs}


def _specs(types: Mapping[str, EdgeType | None]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, type.datatype, type.shape) for name, type in types.items() if type)
