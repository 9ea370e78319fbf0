"""A loaded model version: its engine, and what the lifecycle does with it."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from salver.kernel.engine.admission import Admission
from salver.kernel.engine.decoupled import DecoupledEngine
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.inorder import in_order
from salver.kernel.engine.placement import Placement
from salver.kernel.engine.ports import Runner
from salver.kernel.engine.process import ProcessRunner
from salver.kernel.engine.sequence_engine import SequenceEngine
from salver.kernel.engine.sequence_streams import SequenceStreamEngine
from salver.kernel.engine.signatures import Signatures
from salver.kernel.engine.stepper import StepEngine
from salver.kernel.engine.thread import ThreadRunner
from salver.kernel.engine.warmup import samples
from salver.kernel.serving.capabilities import Capabilities, Infer, Recording
from salver.kernel.serving.sequences import within
from salver.kernel.serving.warming import Decode, sample_request, warm_request
from salver.words.artifacts import Manifest, ModelConfig, Warmup, WarmupSample
from salver.words.errors import LoadFailed, SalverError
from salver.words.messages import Insight, Signature

_LOG = logging.getLogger("salver.loader")
_CHANGE_S = 30.0
_NO_WARMUP = Warmup()


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


class Replay(Protocol):
    """Warm-up requests that a model's artefact brings."""

    async def run(self, signature: Signature, ask: Infer, times: int) -> bool:
        """Run all so many times; return whether there are any. Raises LoadFailed."""
        ...


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
        decode: Reads the file of a warm-up request; None = such files are not known.
        leave: See :class:`~salver.kernel.lifecycle.ports.Servable`; None = it has no sequences.
    """

    is_ready: Callable[[], Awaitable[bool]] | None = None
    is_staffed: Callable[[], Awaitable[bool]] | None = None
    rescale: Callable[[Manifest], bool] | None = None
    decode: Decode | None = None

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
        self.warmup: Warmup | None = None  # where its files do not lie where the configuration has them
        self.signatures = signatures
        self._keeps_order = isinstance(engine, Engine) and manifest.config.batching.preserve_order
        self.infer = self._in_order(self._whole.infer)
        self.leave: Callable[[float], Awaitable[None]] | None
        self.leave = engine.leave if isinstance(engine, SequenceEngine) else None
        self.placed: Callable[[Manifest], Placement] | None = None  # of another number of instances
        self.sampled: Callable[[Manifest], Recording | None] = lambda manifest: None  # of another wish to log
        self._changing = asyncio.Lock()
        self._threads: Sequence[ThreadRunner] = ()
        self._hosts: Sequence[ProcessRunner] = ()
        self.replay: Replay | None = None  # of one that may bring warm-up records

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
        self.declare(uncached=self._whole.infer)

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
        engine = self.engine
        if not isinstance(engine, Engine | DecoupledEngine | SequenceEngine):
            return  # others were tried out when they were loaded, or their models were
        wish = self.warmup or config.warmup
        if self.replay is not None:
            has_replayed = await self.replay.run(self.signature, self._whole.infer, wish.replays)
            if has_replayed and not (wish.file or wish.samples):
                return
        decides_itself = isinstance(engine, DecoupledEngine) or engine.answers_each
        if decides_itself and wish == _NO_WARMUP:
            return  # only its author knows a sensible request
        if wish.file:
            await self._warm_from_file(engine, wish.file, wish.rounds)
            return
        if wish.samples:
            await self._warm_with_samples(engine, wish.samples)
            return
        others = self.signatures.others.values() if self.signatures else ()
        refusals = [await self._warm_with_zeros(engine, wish) for engine in (engine, *others)]
        if told := sorted({refusal for refusal in refusals if refusal}):
            _LOG.info("model %s does not take zeros as a warm-up: %s", self.manifest.id, "; ".join(told))

    async def _warm_with_zeros(self, engine: Engine | DecoupledEngine | SequenceEngine, wish: Warmup) -> str:
        """Return why the model refuses zeros; empty = it does not."""
        if engine.signature.is_stateful and msgspec.structs.replace(wish, replays=1) == _NO_WARMUP:
            return ""  # they would change its state
        try:
            for inputs in samples(engine.signature, wish):
                await engine.run_alone(inputs)
        except Exception as error:
            return str(error) or type(error).__name__
        return ""

    async def _warm_with_samples(
        self, engine: Engine | DecoupledEngine | SequenceEngine, samples: Sequence[WarmupSample]
    ) -> None:
        id, signature = self.manifest.id, self.signature
        admission, known = Admission(id.name, signature), {spec.name for spec in signature.inputs}
        for sample in samples:
            try:
                request = await sample_request(id, sample, signature)
                if known.issuperset(sample.inputs):  # else it has control inputs, too
                    admission.bind(request)
                for _ in range(sample.rounds):
                    await engine.run_alone({tensor.name: tensor.array for tensor in request.inputs})
            except Exception as error:
                raise LoadFailed(f"failed to run warmup sample '{sample.name}': {error};") from error

    async def _warm_from_file(
        self, engine: Engine | DecoupledEngine | SequenceEngine, name: str, rounds: int
    ) -> None:
        request = await warm_request(self.manifest, name, self.signature, self.decode)
        try:
            for _ in range(rounds):
                if isinstance(engine, DecoupledEngine | SequenceStreamEngine):
                    await engine.run_alone({tensor.name: tensor.array for tensor in request.inputs})
                else:
                    await engine.infer(request)
        except SalverError as error:
            path = self.manifest.path.parent / name
            raise LoadFailed(f"the warm-up request {path} failed: {error}") from error

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
    match engine:
        case Engine():
            return Capabilities(owns_timeout=manifest.config.queue is not None)
        case StepEngine():
            return Capabilities(stream=engine.stream, gives_parts=True)
        case DecoupledEngine():
            return Capabilities(stream=engine.stream)
        case SequenceStreamEngine():
            return Capabilities(stream=engine.stream, sequences=engine)
        case SequenceEngine():
            return Capabilities(sequences=engine)
        case _:
            return engine.capabilities
