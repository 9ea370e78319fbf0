"""Loading of pipelines on a server: their models are asked through the data plane, their steps run beside.

A model beside ``pipeline.toml`` has an engine of its own, with batching across requests; so has a heavy step.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Hashable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from salver.backends.loading import options_of
from salver.features.pipelines import StepCounts
from salver.features.pipelines.compiling import Ask, Runner, compiled
from salver.features.pipelines.document import StepTable
from salver.features.pipelines.engines import Cover, StepEngines, asker
from salver.features.pipelines.ensemble import Ensemble
from salver.features.pipelines.graph import Graph
from salver.features.pipelines.local import manifest_beside, model_beside, read_document
from salver.features.pipelines.locking import Checked, Skew, check_lock, digest_of, skew_of
from salver.features.pipelines.planning import Node, Plan, plan
from salver.features.pipelines.running import Running, unfit_member
from salver.features.pipelines.shares import Shares
from salver.features.pipelines.steps.step import RunMany
from salver.features.pipelines.units import units
from salver.features.pipelines.watching import Watch
from salver.kernel.engine.delivery import ReplyCallback
from salver.kernel.engine.eager import begin
from salver.kernel.engine.placement import Placement
from salver.kernel.serving.capabilities import Capabilities
from salver.kernel.serving.inner import HeldInner, Inner
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import EnsembleStep, Manifest
from salver.words.errors import LoadFailed, SalverError
from salver.words.events import BatchRan
from salver.words.messages import (
    ANYBODY,
    Call,
    InferRequest,
    InferResponse,
    ModelId,
    Signature,
    Standing,
)

#: Returns the artefact of a version of the server; None = it is not known.
PathOf = Callable[[ModelId], Path | None]


class Surroundings(NamedTuple):
    """Services of a server that its pipelines use.

    Attributes:
        path_of: Returns the artefact of a model of the server; None = it is not known.
        counts: Takes the counts of steps, for the metrics page; None = nobody does.
        cover: Puts the response cache before a step or a model beside ``pipeline.toml``.
        settings: How steps run, by name, in place of what the file says.
    """

    path_of: PathOf = lambda id: None
    counts: StepCounts | None = None
    cover: Cover = lambda servable: False
    settings: Mapping[str, Running] = {}


_ALONE: Final = Surroundings()


class PipelineEngine(Ensemble):
    """One version of a pipeline.

    Attributes:
        ends: Closes the engines of its own models and steps.
        checked: What its lock file says.
        may_post: Nothing outside its own engines runs for a request, so that it may begin without a task.
    """

    tells_sequence = False
    ends: contextlib.AsyncExitStack
    plan: Plan
    checked: Checked
    may_post: bool

    @property
    def capabilities(self) -> Capabilities:
        """Return the engine's capabilities: its models answer on its behalf."""
        return Capabilities(asks_others=True, post=self.post if self.may_post else None)

    def post(
        self, request: InferRequest, deadline: float | None, told: ReplyCallback, standing: Standing = ANYBODY
    ) -> Callable[[], None]:
        """See :class:`~salver.kernel.serving.capabilities.Post`; arguments and errors as of :meth:`infer`."""
        return begin(told, self.infer(request, deadline, None, standing))

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
        around: What else of the server it uses.
    """

    def __init__(
        self,
        inner: Inner,
        load: Callable[[Manifest], Awaitable[Servable]],
        emit: Callable[[BatchRan], None],
        clock: Callable[[], float],
        around: Surroundings = _ALONE,
    ) -> None:
        self._inner = inner
        self._load = load
        self._emit = emit
        self._clock = clock
        self._around = around

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
            build = _Building(manifest, inner, self._load, self._clock, ends, self._around)
            graph = await build.graph(skew)
            assert build.plan is not None
            engine = PipelineEngine(manifest.id, graph, inner, config, self._clock, self._emit)
            engine.ends = ends.pop_all()
            engine.shares = Shares(graph)
            engine.plan, engine.checked = build.plan, build.checked
            engine.watch = Watch(build.plan, build.sample)
            tables = [node.table for node in build.plan.nodes]
            needs_task = any(table.on_error is not None or table.how.cache for table in tables)
            engine.may_post = not (needs_task or engine.turns or config.ensemble.steps)
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
        around: Surroundings,
    ) -> None:
        self.plan: Plan | None = None
        self.sample = 0.0
        self.checked = Checked()
        self._around = around
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
        for name, how in self._around.settings.items():
            document = document.running(name, how)
        # A repository may have renamed the server's models.
        members = iter(self._manifest.config.ensemble.steps)
        for table in document.steps:
            path = model_beside(folder, table)
            if path is not None:
                own = ModelId(f"{id.name}.{table.name}", id.version)
                await self._load_own(table, manifest_beside(own, table, path))
                self._paths[table.name] = path
            elif table.model:
                document.check(table, unfit_member(table.how))
                member = next(members)
                self._names[table.name] = (member.model, member.version)
                self._find_artefact(table.name, member)
        found = await asyncio.to_thread(plan, id.name, document, folder, self._signature)
        self.plan, self.sample = found, document.sample
        self.checked = await asyncio.to_thread(check_lock, found, folder, self._paths, skew)
        engines = StepEngines(id, folder, self._clock, self._ends, self._around.cover, self._count)
        joined = [(unit, await engines.unit(unit)) for unit in units(found)]
        inside = {node.name for unit, _ in joined for node in unit}
        apart = [node for node in found.nodes if node.name not in inside]
        runners = {node.name: await self._runner(node, engines) for node in apart}
        return compiled(found, lambda node: runners[node.name], self.checked.digest, joined)

    def _find_artefact(self, name: str, member: EnsembleStep) -> None:
        path = self._around.path_of(self._inner.find(member.model, member.version))
        if path is not None:
            self._paths[name] = path

    async def _load_own(self, table: StepTable, manifest: Manifest) -> None:
        if table.how.cache:
            content = await asyncio.to_thread(digest_of, manifest.path)
            manifest = msgspec.structs.replace(manifest, fingerprint=content)
        self._own[table.name] = servable = await self._load(manifest)
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

    async def _runner(self, node: Node, engines: StepEngines) -> Runner:
        if node.step is None:
            own = self._own.get(node.name)
            if own is None:
                return Runner(ask=self._member(*self._names[node.name]))
            if node.table.how.cache:
                return engines.cached(own, node)
            return Runner(ask=asker(own.infer))
        return await engines.runner(node)

    def _count(self, step: str, run_many: RunMany) -> None:
        """Show what a step counts as long as the pipeline is loaded."""
        counts, known = getattr(run_many, "counts", None), self._around.counts
        if counts is None or known is None:
            return
        key = (self._manifest.id.name, self._manifest.id.version, step)
        known.known[key] = counts
        self._ends.callback(known.known.pop, key, None)

    def _member(self, name: str, version: str) -> Ask:
        """Return what asks a model of the server by its name there."""

        def ask(request: InferRequest, call: Call, sender: Hashable) -> Awaitable[InferResponse]:
            if request.model != name:
                request = msgspec.structs.replace(request, model=name, version=version)
            return self._inner.infer(request, call, sender)

        return ask
