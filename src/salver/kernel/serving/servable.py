"""Loaded model version, with its engine and the operations of the lifecycle."""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from salver.kernel.engine.engine import Engine
from salver.kernel.engine.placement import Placement
from salver.kernel.engine.ports import PlacedRunner, Runner
from salver.kernel.engine.thread import ThreadRunner
from salver.kernel.lifecycle.ports import Outline
from salver.kernel.serving.capabilities import Capabilities, Infer, Recording
from salver.kernel.serving.warmer import Warmer
from salver.lazy import lazy_imports
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.messages import Insight, Signature
from salver.words.tensor import DataType

with lazy_imports():
    from salver.kernel.engine.decoupled import DecoupledEngine
    from salver.kernel.engine.inorder import in_order
    from salver.kernel.engine.process import ProcessRunner
    from salver.kernel.engine.sequence_engine import SequenceEngine
    from salver.kernel.engine.sequence_streams import SequenceStreamEngine
    from salver.kernel.engine.signatures import Signatures
    from salver.kernel.engine.stepper import StepEngine


_CHANGE_S = 30.0
_FEW_NUMBERS = 64


class EngineGauges(Protocol):
    """Figures of an engine's load."""

    @property
    def queued(self) -> int:
        """Waiting requests."""
        ...

    @property
    def running(self) -> int:
        """Active runs."""
        ...

    def insight(self) -> Insight:
        """Return measurements of the load."""
        ...


class ServedEngine(EngineGauges, Protocol):
    """Interface of every engine, inside the kernel or outside."""

    @property
    def infer(self) -> Infer:
        """Method that answers a request (:meth:`salver.kernel.engine.engine.Engine.infer`)."""
        ...

    @property
    def signature(self) -> Signature:
        """Signature of the model."""
        ...

    async def close(self) -> None:
        """Refuse waiting requests and end the active runs."""
        ...


class DeclaringEngine(ServedEngine, Protocol):
    """Engine from outside the kernel, which declares its capabilities."""

    @property
    def capabilities(self) -> Capabilities:
        """Return the capabilities; called when a servable is created."""
        ...


_KernelEngine = Engine | StepEngine | DecoupledEngine | SequenceEngine


class Adjustment(msgspec.Struct):
    """Changes that a new manifest may make to a loaded version.

    Attributes:
        placed: Returns the placement for another number of instances; None = it cannot change.
        sampled: Returns the recording for another log setting.
        rescale: Changes the number of workers, if possible; None = the model has no workers.
    """

    placed: Callable[[Manifest], Placement] | None = None
    sampled: Callable[[Manifest], Recording | None] = lambda manifest: None
    rescale: Callable[[Manifest], bool] | None = None


class Servable:
    """Loaded version: an engine with the interface that lifecycle and data plane need.

    Args:
        ends: Called in reverse order after the engine has been closed.
        signatures: Engines of all signatures, for a model that has several.

    Attributes:
        is_ready: Asks the model whether it is ready; None = the model has no such check.
        is_staffed: Whether a worker process is running; None = the model has no workers.
        adjustment: What :meth:`adjust` may change.
        capabilities: Capabilities beyond one response for each request.
        leave: See :class:`~salver.kernel.lifecycle.ports.Servable`; None = the model has no sequences.
    """

    is_ready: Callable[[], Awaitable[bool]] | None = None
    is_staffed: Callable[[], Awaitable[bool]] | None = None

    def __init__(
        self,
        manifest: Manifest,
        engine: _KernelEngine | DeclaringEngine,
        placement: Placement,
        ends: Sequence[Callable[[], Awaitable[None]]] = (),
        signatures: Signatures | None = None,
    ) -> None:
        self.manifest = manifest
        self.engine: ServedEngine = engine
        self.capabilities = _declared(engine, manifest)
        self.placement = placement
        self._ends = list(ends)
        self.signature: Signature = engine.signature
        self.signatures = signatures
        self.infer = self._in_order(self._whole.infer)
        if signatures is not None:
            self.declare(
                post=signatures.post if self.capabilities.post else None,
                may_be_long=any(
                    _may_be_long(each.signature) for each in (engine, *signatures.others.values())
                ),
            )
        self.leave: Callable[[float], Awaitable[None]] | None
        self.leave = engine.leave if isinstance(engine, SequenceEngine) else None
        self.adjustment = Adjustment()
        self._changing = asyncio.Lock()
        self._runners: Sequence[Runner] = ()
        self.warmer = Warmer(manifest, engine, signatures)

    def __repr__(self) -> str:
        return f"<Servable {self.manifest.id} on {self.placement.slots} {self.placement.runner}(s)>"

    @property
    def _whole(self) -> Signatures | ServedEngine:
        return self.signatures or self.engine

    def _in_order(self, infer: Infer) -> Infer:
        if isinstance(self.engine, Engine) and self.manifest.config.batching.preserve_order:
            return in_order(infer)
        return infer  # no wrapper on the usual path

    def cover(self, wrap: Callable[[Infer], Infer]) -> None:
        """Put a response cache before the engine; ``wrap`` gets the method that asks the engine."""
        self.infer = self._in_order(wrap(self._whole.infer))
        self.declare(uncached=self._whole.infer, post=None)

    def guard(self, wrap: Callable[[Infer], Infer]) -> None:
        """Put something before the engine and its response cache; ``wrap`` gets the method that asks them."""
        self.infer = wrap(self.infer)
        self.declare(post=None, foresee=None)

    def declare(self, **changes: object) -> None:
        """Replace some capabilities, while the servable is created or adjusted."""
        self.capabilities = msgspec.structs.replace(self.capabilities, **changes)

    @property
    def engines(self) -> Sequence[EngineGauges]:
        """Engines of the signatures, the default first."""
        return [self.engine, *(self.signatures.others.values() if self.signatures else ())]

    @property
    def outline(self) -> Outline:
        """Facts of the version for its metadata."""
        is_decoupled = self.capabilities.stream is not None
        return Outline(self.manifest, self.signature, self.placement.slots, is_decoupled)

    @property
    def processes(self) -> list[int]:
        """Return the ids of the host processes in which the model runs; empty = it runs in the server."""
        return [pid for runner in self._runners if isinstance(runner, ProcessRunner) for pid in runner.pids]

    @property
    def placed(self) -> PlacedRunner | None:
        """Return its runner on a cluster; None = it runs on this machine."""
        return next((runner for runner in self._runners if isinstance(runner, PlacedRunner)), None)

    @property
    def largest_run(self) -> int:
        """Most rows in one run that the configuration and the model allow."""
        if self.signature.batched:
            return self.manifest.config.batching.largest_run
        return 1

    @property
    def most_rows(self) -> int:
        """Most rows in one run now, by :meth:`limit_rows`."""
        if isinstance(self.engine, Engine):
            return self.engine.most_rows
        return 1

    def limit_rows(self, most: int) -> None:
        """Limit the rows of a run from now on, within :attr:`largest_run`."""
        for engine in self.engines:
            if isinstance(engine, Engine):
                engine.limit_rows(most)

    def hear(self, runners: Sequence[Runner]) -> None:
        """Set the capabilities that runners know: calls to other models, and a readiness check."""
        self._runners = runners
        hosts = [runner for runner in runners if isinstance(runner, ProcessRunner)]
        if any(host.wants_trace for host in hosts):
            self.declare(asks_others=True)
        if any(host.has_opinion for host in hosts):

            async def is_ready() -> bool:
                return all(await asyncio.gather(*(host.is_ready() for host in hosts)))

            self.is_ready = is_ready

    @property
    def hangs(self) -> bool:
        """Whether a run hangs and cannot be ended, so that no other can start."""
        if isinstance(self.engine, StepEngine) and self.engine.hangs:
            return True
        return any(isinstance(runner, ThreadRunner) and runner.hangs for runner in self._runners)

    async def answers(self) -> bool:
        """Return whether it can answer now, including the model's own check if it has one."""
        if self.hangs or any(isinstance(host, ProcessRunner) and host.is_lost for host in self._runners):
            return False
        return self.is_ready is None or await self.is_ready()

    async def warm(self, config: ModelConfig) -> None:
        """Warm the model up before it gets traffic.

        Zeros may be invalid for a model, so an error from them is only logged; an error from the owner's
        warm-up requests prevents serving.

        Raises:
            LoadFailed: one of the owner's warm-up requests failed.
        """
        await self.warmer.run(config)

    def at_end(self, end: Callable[[], Awaitable[None]]) -> None:
        """Add a function that is called last, after the engine has been closed."""
        self._ends.insert(0, end)

    async def adjust(self, manifest: Manifest) -> bool:
        """Change the number of instances to that of a manifest that is otherwise the same.

        Returns:
            False = the model must be reloaded instead.

        Raises:
            LoadFailed: an instance could not be loaded; nothing has changed.
        """
        may = self.adjustment
        if may.rescale is not None:
            return may.rescale(manifest)
        if may.placed is None or not self.can_resize:
            return False
        await self.resize(may.placed(manifest).slots)
        self.declare(recording=may.sampled(manifest))
        config = within(manifest.config, self.signature)
        self.manifest = msgspec.structs.replace(manifest, config=config, path=self.manifest.path)
        return True

    @property
    def can_resize(self) -> bool:
        """Return whether :meth:`resize` is possible."""
        return isinstance(self.engine, Engine) and self.engine.can_resize

    async def resize(self, slots: int) -> None:
        """Set the number of instances; removed ones finish their runs first.

        Raises:
            LoadFailed: an instance could not be added; nothing has changed.
        """
        assert isinstance(self.engine, Engine)
        async with self._changing:
            await self.engine.resize(slots)
            if self.signatures is not None:
                await self.signatures.resize(slots)
        self.placement = msgspec.structs.replace(self.placement, slots=slots)

    async def close(self) -> None:
        """End the active runs, release all resources, and save what was learned."""
        with contextlib.suppress(TimeoutError):  # an adjustment may be waiting for a hanging run
            async with asyncio.timeout(_CHANGE_S):
                await self._changing.acquire()
        async with contextlib.AsyncExitStack() as stack:
            for end in self._ends:
                stack.push_async_callback(end)
            if self.signatures is not None:
                await self.signatures.close()
            await self.engine.close()


def _declared(engine: _KernelEngine | DeclaringEngine, manifest: Manifest) -> Capabilities:
    """Return the capabilities of an engine; engines from outside the kernel declare their own."""
    if isinstance(engine, Engine):
        return Capabilities(
            owns_timeout=manifest.config.queue is not None,
            post=None if manifest.config.batching.preserve_order else engine.post,
            may_be_long=_may_be_long(engine.signature),
            foresee=engine.foresee,
        )
    if isinstance(engine, StepEngine):
        return Capabilities(stream=engine.stream, gives_parts=True)
    if isinstance(engine, DecoupledEngine):
        return Capabilities(stream=engine.stream)
    if isinstance(engine, SequenceStreamEngine):
        return Capabilities(stream=engine.stream, sequences=engine)
    if isinstance(engine, SequenceEngine):
        return Capabilities(sequences=engine)
    return engine.capabilities


def _may_be_long(signature: Signature) -> bool:
    """Return whether a row of the outputs has texts, or many numbers."""
    for spec in signature.outputs:
        row = spec.shape[signature.batched :]
        if spec.datatype is DataType.BYTES or min(row, default=0) < 0 or math.prod(row) > _FEW_NUMBERS:
            return True
    return False


def within(config: ModelConfig, signature: Signature) -> ModelConfig:
    """Return the configuration with batches no larger than the model accepts."""
    most = signature.max_rows
    if not most or config.batching.max_rows <= most:
        return config
    sizes = tuple(size for size in config.batching.sizes if size <= most)
    return msgspec.structs.replace(
        config, batching=msgspec.structs.replace(config.batching, max_rows=most, sizes=sizes)
    )
