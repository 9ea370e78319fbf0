"""Engines of the steps of a pipeline: on threads or in host processes, and the response cache before them."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from salver.backends.protocol import LoadOptions, Traits
from salver.features.pipelines.chains import StepChain, StepModel, signature_of
from salver.features.pipelines.compiling import Ask, LocalRun, Runner
from salver.features.pipelines.locking import content_of
from salver.features.pipelines.one_by_one import HITS, LOOKUPS
from salver.features.pipelines.planning import Node
from salver.features.pipelines.steps.step import Arrays, RunMany
from salver.features.pipelines.units import Unit
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.placement import Placement
from salver.kernel.engine.ports import Runner as BatchRunner
from salver.kernel.engine.request_thread import RequestThreadRunner
from salver.kernel.serving.capabilities import Infer
from salver.kernel.serving.servable import Servable
from salver.lazy import lazy_imports
from salver.words.artifacts import Batching, Manifest, ModelConfig
from salver.words.errors import SalverError
from salver.words.events import BatchRan
from salver.words.messages import Call, InferRequest, InferResponse, ModelId, Parameter

with lazy_imports():
    from salver.kernel.engine.process import ProcessRunner

_LOG: Final = logging.getLogger("salver.pipelines")
_TRAITS: Final = Traits()
_HOST: Final = "salver.features.pipelines.step_host:StepHost"
#: Requests of a step whose outputs may depend on all rows are never split.
_WHOLE: Final = 1 << 20
#: Those of a step on several threads are, so that none is idle while another has many rows.
_PARTS: Final = 2
_NO_PARAMETERS: Final[Mapping[str, Parameter]] = {}
#: Puts the server's response cache before a servable; False = it has none.
Cover = Callable[[Servable], bool]


class StepEngines:
    """Makes the engines of one pipeline's steps.

    Args:
        id: The pipeline.
        folder: That of its ``pipeline.toml``.
        ends: Closes what is made.
        count: Shows what a step counts.
    """

    def __init__(
        self,
        id: ModelId,
        folder: Path,
        clock: Callable[[], float],
        ends: contextlib.AsyncExitStack,
        cover: Cover,
        count: Callable[[str, RunMany], None],
    ) -> None:
        self._id = id
        self._folder = folder
        self._clock = clock
        self._ends = ends
        self._cover = cover
        self._count = count

    async def runner(self, node: Node) -> Runner:
        """Return what runs a step. Raises LoadFailed."""
        step, how = node.step, node.table.how
        assert step is not None, "models have engines of their own"
        if not step.is_heavy and not how.placement:
            return Runner(await asyncio.to_thread(step.open, self._folder))
        run, slots = None, how.instances or step.threads
        if how.placement == "process":
            slots = how.instances or 1
            runner: BatchRunner = await self._in_processes(node, slots)
        else:
            model = StepModel(signature_of(node), await self._opened(node))
            runner = RequestThreadRunner([model], _TRAITS, slots=slots, name=node.name)
            if step.quick_bytes and not how.cache:
                run = model.run
        rows = how.max_rows or (_WHOLE if step.threads == 1 else _PARTS)
        engine = self._engine(node.name, runner, rows)
        if not how.cache:
            self._ends.push_async_callback(engine.close)
            return Runner(run, asker(engine.infer))
        content = await asyncio.to_thread(content_of, node, self._folder)
        manifest = Manifest(engine.id, self._folder, "", "", fingerprint=content)
        servable = Servable(manifest, engine, Placement(how.placement or "thread", slots, 1))
        self._ends.push_async_callback(servable.close)
        return self.cached(servable, node)

    def cached(self, servable: Servable, node: Node) -> Runner:
        """Return what asks a step or a model through the response cache."""
        if not self._cover(servable):
            _LOG.warning("%s wants a response cache, and this server has none", servable.manifest.id)
        # Steps know nothing of a request's parameters, which models may.
        ask = CachedAsk(servable.infer, sees_parameters=node.step is None)
        return Runner(None, ask, by_row=_is_by_row(node))

    async def unit(self, unit: Unit) -> Ask:
        """Return what runs a unit. Raises LoadFailed."""
        chain = StepChain(unit, [await self._opened(node) for node in unit])
        first = unit[0].step
        assert first is not None, "models are no part of a unit"
        runner = RequestThreadRunner([chain], _TRAITS, slots=first.threads, name=unit[0].name)
        engine = self._engine(unit[0].name, runner, _WHOLE if first.threads == 1 else _PARTS)
        self._ends.push_async_callback(engine.close)
        return asker(engine.infer)

    async def _opened(self, node: Node) -> RunMany:
        """Return what runs a step on threads, a light one as well."""
        assert node.step is not None, "models are loaded"
        if not node.step.is_heavy:
            types = {name: (name, type) for name, type in node.outputs.items() if type is not None}
            run = await asyncio.to_thread(node.step.open, self._folder)
            return _each(LocalRun(node.name, run, (), node.axis, types))
        run_many = await asyncio.to_thread(node.step.open_many, self._folder)
        self._count(node.name, run_many)
        return run_many

    async def _in_processes(self, node: Node, slots: int) -> BatchRunner:
        step = node.step
        assert step is not None, "models are loaded by their backends"
        kind = type(step)
        options = {
            "step": f"{kind.__module__}:{kind.__qualname__}",
            "options": msgspec.json.encode(node.table.options).decode(),
            "inputs": _types({edge.port: str(edge.type) for edge in node.edges}),
            "outputs": _types({name: str(type) for name, type in node.outputs.items()}),
        }
        id = ModelId(f"{self._id.name}.{node.name}", self._id.version)
        manifest = Manifest(id, self._folder, "", "", ModelConfig(options=options))
        runner = await ProcessRunner.start(_HOST, manifest, LoadOptions(), slots=slots)
        runner.reruns = step.is_repeatable
        return runner

    def _engine(self, name: str, runner: BatchRunner, rows: int) -> Engine:
        id = ModelId(f"{self._id.name}.{name}", self._id.version)
        config = ModelConfig(batching=Batching(max_rows=rows))
        return Engine(id, runner, config, clock=self._clock, emit=_tell_nobody)


class CachedAsk:
    """Asks through the response cache, and tells how often the answer was there.

    Args:
        sees_parameters: What is asked knows the request's parameters, so that they are part of the key.
    """

    __slots__ = ("_infer", "_sees_parameters")

    def __init__(self, infer: Infer, *, sees_parameters: bool) -> None:
        self._infer = infer
        self._sees_parameters = sees_parameters

    async def __call__(self, request: InferRequest, call: Call, sender: Hashable) -> InferResponse:
        """Return the answer, with the numbers of look-ups and hits as its parameters."""
        if request.parameters and not self._sees_parameters:
            request = msgspec.structs.replace(request, parameters=_NO_PARAMETERS)
        response = await self._infer(request, call.deadline, sender, call.standing)
        cache = response.timing.cache
        counts = {HITS: int(cache == "hit"), LOOKUPS: int(cache != "")}
        return msgspec.structs.replace(response, parameters={**response.parameters, **counts})


def asker(infer: Infer) -> Ask:
    """Return what asks an engine."""

    def ask(request: InferRequest, call: Call, sender: Hashable) -> Awaitable[InferResponse]:
        return infer(request, call.deadline, sender, call.standing)

    return ask


def _is_by_row(node: Node) -> bool:
    """Return whether rows may be asked for one by one: their outputs depend on no other row."""
    if node.step is not None and node.step.threads > 1:
        return True
    return all(type is not None and min(type.shape[1:], default=0) >= 0 for type in node.outputs.values())


def _each(run: LocalRun) -> RunMany:
    """Return a light step in the form of a heavy one."""

    def run_many(many: Sequence[Arrays]) -> Sequence[Arrays | SalverError]:
        found = (run.always(dict(arrays)) for arrays in many)
        return [{name: tensor.array for name, tensor in tensors.items()} for tensors in found]

    return run_many


def _types(told: Mapping[str, str]) -> str:
    return msgspec.json.encode(told).decode()


def _tell_nobody(event: BatchRan) -> None:
    """Drop the event: runs of a step are part of the pipeline's own."""
