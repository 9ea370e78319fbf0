"""A loaded model version: its engine, and what the lifecycle does with it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from salver.kernel.engine.engine import Engine
from salver.kernel.engine.placement import Placement
from salver.kernel.engine.ports import Runner
from salver.kernel.engine.thread import ThreadRunner
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


class ServedEngine(Protocol):
    """What every engine has, the kernel's own and others."""

    @property
    def infer(self) -> Infer:
        """The method that answers a request (:meth:`salver.kernel.engine.engine.Engine.infer`)."""
        ...

    @property
    def signature(self) -> Signature:
        """The model's."""
        ...

    @property
    def queued(self) -> int:
        """Requests that wait."""
        ...

    @property
    def running(self) -> int:
        """Runs under way."""
        ...

    def insight(self) -> Insight:
        """Return what it knows of its load."""
        ...

    async def close(self) -> None:
        """Refuse what waits, and end the runs under way."""
        ...


class DeclaringEngine(ServedEngine, Protocol):
    """An engine from outside the kernel, which declares what it can do."""

    @property
    def capabilities(self) -> Capabilities:
        """Declare it, when a servable is made of the engine."""
        ...


_KernelEngine = Engine | StepEngine | DecoupledEngine | SequenceEngine


class Servable:
    """A loaded version: an engine, with what the lifecycle and the data plane need of it.

    Args:
        ends: Called when the engine has been closed, the last one first.
        signatures: The engines of all signatures, of a model that has several.

    Attributes:
        is_ready: Asks the model whether it is ready; None = it has no opinion of its own.
        is_staffed: Whether a process is there that answers; None = it needs none of its own.
        rescale: Changes the number of workers to what a manifest says, if it can; None = it has none.
        capabilities: What it can do besides giving one response to a request.
        leave: See :class:`~salver.kernel.lifecycle.ports.Servable`; None = it has no sequences.
    """

    is_ready: Callable[[], Awaitable[bool]] | None = None
    is_staffed: Callable[[], Awaitable[bool]] | None = None
    rescale: Callable[[Manifest], bool] | None = None

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
        self.bytes = manifest.bytes
        self.signatures = signatures
        self._keeps_order = isinstance(engine, Engine) and manifest.config.batching.preserve_order
        self.infer = self._in_order(self._whole.infer)
        if signatures is not None:
            self.declare(post=None)
        self.leave: Callable[[float], Awaitable[None]] | None
        self.leave = engine.leave if isinstance(engine, SequenceEngine) else None
        self.placed: Callable[[Manifest], Placement] | None = None  # of another number of instances
        self.sampled: Callable[[Manifest], Recording | None] = lambda manifest: None  # of another wish to log
        self._changing = asyncio.Lock()
        self._threads: Sequence[ThreadRunner] = ()
        self._hosts: Sequence[ProcessRunner] = ()
        self.warmer = Warmer(manifest, engine, signatures)

    def __repr__(self) -> str:
        return f"<Servable {self.manifest.id} on {self.placement.slots} {self.placement.runner}(s)>"

    @property
    def _whole(self) -> Signatures | ServedEngine:
        return self.signatures or self.engine

    def _in_order(self, infer: Infer) -> Infer:
        return in_order(infer) if self._keeps_order else infer  # without it, the engine's own method

    def cover(self, wrap: Callable[[Infer], Infer]) -> None:
        """Put a response cache before the engine: ``wrap`` is given what asks the engine."""
        self.infer = self._in_order(wrap(self._whole.infer))
        self.declare(uncached=self._whole.infer, post=None)

    def declare(self, **changes: object) -> None:
        """Replace some of its capabilities, while it is made or adjusted."""
        self.capabilities = msgspec.structs.replace(self.capabilities, **changes)

    @property
    def engines(self) -> Sequence[ServedEngine]:
        """Of each signature, the first one first."""
        return [self.engine, *(self.signatures.others.values() if self.signatures else ())]

    def hear(self, runners: Sequence[Runner]) -> None:
        """Learn from its runners whether the model calls others, and whether it says if it is ready."""
        self._threads = [runner for runner in runners if isinstance(runner, ThreadRunner)]
        self._hosts = hosts = [runner for runner in runners if isinstance(runner, ProcessRunner)]
        if any(host.wants_trace for host in hosts):
            self.declare(asks_others=True)
        if any(host.has_opinion for host in hosts):

            async def is_ready() -> bool:
                return all(await asyncio.gather(*(host.is_ready() for host in hosts)))

            self.is_ready = is_ready

    @property
    def hangs(self) -> bool:
        """Whether a run hangs that cannot be ended, so that no other can begin."""
        engine = self.engine
        return (isinstance(engine, StepEngine) and engine.hangs) or any(t.hangs for t in self._threads)

    async def answers(self) -> bool:
        """Return whether it can answer now, by its own opinion, too, if it has one."""
        if self.hangs or any(host.is_lost for host in self._hosts):
            return False
        return self.is_ready is None or await self.is_ready()

    async def warm(self, config: ModelConfig) -> None:
        """Run it before there is traffic.

        Zeros may be nonsense to a model, so an error from them is only logged; an error from the
        owner's own warm-up requests is a reason not to serve.

        Raises:
            LoadFailed: one of the owner's warm-up requests failed.
        """
        await self.warmer.run(config)

    def at_end(self, end: Callable[[], Awaitable[None]]) -> None:
        """Have this called last when the engine has been closed."""
        self._ends.insert(0, end)

    async def adjust(self, manifest: Manifest) -> bool:
        """Change the number of instances to what a manifest says, which is otherwise the one loaded.

        Returns:
            False = the servable cannot do so without being loaded again.

        Raises:
            LoadFailed: an instance could not be loaded; nothing has changed.
        """
        engine = self.engine
        if self.rescale is not None:
            return self.rescale(manifest)
        if self.placed is None or not isinstance(engine, Engine) or not engine.can_resize:
            return False
        slots = self.placed(manifest).slots
        async with self._changing:
            await engine.resize(slots)
            if self.signatures is not None:
                await self.signatures.resize(slots)
        self.declare(recording=self.sampled(manifest))
        self.placement = msgspec.structs.replace(self.placement, slots=slots)
        config = within(manifest.config, self.signature)
        self.manifest = msgspec.structs.replace(manifest, config=config, path=self.manifest.path)
        return True

    async def close(self) -> None:
        """End the runs under way, give everything back, and keep what was learned."""
        with contextlib.suppress(TimeoutError):  # an adjustment may wait for a run that hangs
            async with asyncio.timeout(_CHANGE_S):
                await self._changing.acquire()
        async with contextlib.AsyncExitStack() as stack:
            for end in self._ends:
                stack.push_async_callback(end)
            if self.signatures is not None:
                await self.signatures.close()
            await self.engine.close()


def _declared(engine: _KernelEngine | DeclaringEngine, manifest: Manifest) -> Capabilities:
    """Return what an engine can do: the kernel's own are known here, others say it themselves."""
    if isinstance(engine, Engine):
        return Capabilities(
            owns_timeout=manifest.config.queue is not None,
            post=engine.post if _may_post(engine, manifest) else None,
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


def _may_post(engine: Engine, manifest: Manifest) -> bool:
    """Return whether its answers need no thread to be encoded, and no order to be kept."""
    has_strings = any(spec.datatype is DataType.BYTES for spec in engine.signature.outputs)
    return not has_strings and not manifest.config.batching.preserve_order


def within(config: ModelConfig, signature: Signature) -> ModelConfig:
    """Return the configuration, its batches no larger than the model takes."""
    most = signature.max_rows
    if not most or config.batching.max_rows <= most:
        return config
    sizes = tuple(size for size in config.batching.sizes if size <= most)
    return msgspec.structs.replace(
        config, batching=msgspec.structs.replace(config.batching, max_rows=most, sizes=sizes)
    )
