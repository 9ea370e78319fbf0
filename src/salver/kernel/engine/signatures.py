"""Engines of a model with several signatures.

Each signature has its own engine, because a batch has one signature (TF-B1); all of them share one runner. A
hidden input tells the model which one to run (:data:`salver.backends.protocol.SIGNATURE`).
"""

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence

import msgspec
import numpy as np

from salver.backends.protocol import SIGNATURE
from salver.kernel.engine.delivery import ReplyCallback
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.ports import Gave, PostRunner, RestartingRunner, Runner
from salver.words.artifacts import ModelConfig, Ragged
from salver.words.errors import InvalidInput, SalverError
from salver.words.events import BatchRan
from salver.words.messages import ANYBODY, COLUMNS, InferRequest, InferResponse, Signature, Standing
from salver.words.tensor import Array


class SignatureRunner:
    """Runner of batches of one of a model's additional signatures.

    Args:
        runner: Runner of the whole model; closed by its creator.
        index: Index into the ``others`` of its signature.
    """

    def __init__(self, runner: Runner, index: int) -> None:
        self.signature = runner.signature.others[index]
        self.slots = runner.slots
        self._runner = runner
        self.reruns = isinstance(runner, RestartingRunner) and runner.reruns
        # A tensor, because it travels to host processes beside the inputs.
        self._mark = np.array(index)

    def __repr__(self) -> str:
        return f"<SignatureRunner {self.signature.name} on {self._runner!r}>"

    async def run(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], float]:
        """See :class:`~salver.kernel.engine.ports.Runner`."""
        return await self._runner.run({**inputs, SIGNATURE: self._mark})

    def post(
        self, work: Mapping[str, Array], done: Callable[[Gave | SalverError], None], is_lone: bool
    ) -> bool:
        """See :class:`~salver.kernel.engine.ports.PostRunner`."""
        runner = self._runner
        return isinstance(runner, PostRunner) and runner.post({**work, SIGNATURE: self._mark}, done, is_lone)

    async def back(self, seconds: float) -> None:
        """See :class:`~salver.kernel.engine.ports.RestartingRunner`."""
        if isinstance(self._runner, RestartingRunner):
            await self._runner.back(seconds)

    def run_inline(self, inputs: Mapping[str, Array]) -> None:
        """Return None: durations are known only for the first signature."""

    async def run_each(self, inputs: Mapping[str, Array]) -> Sequence[Mapping[str, Array]]:
        """See :class:`~salver.kernel.engine.ports.Runner`."""
        return await self._runner.run_each({**inputs, SIGNATURE: self._mark})

    async def resize(self, slots: int) -> None:
        """Do nothing: the engine of the first signature resizes the runner."""
        self.slots = slots

    async def close(self) -> None:
        """Do nothing: the engine of the first signature closes the runner."""


class SplitRunner:
    """Two runners of one model, each for some of its signatures.

    Args:
        signature: Signature of the model.
        places: Runner of each signature, in order. All runners use the same index for a signature.
    """

    def __init__(self, signature: Signature, places: Sequence[Runner]) -> None:
        self.signature = signature
        self.slots = places[0].slots
        self._places = places

    def __repr__(self) -> str:
        return f"<SplitRunner of {', '.join(map(repr, dict.fromkeys(self._places)))}>"

    def _place(self, inputs: Mapping[str, Array]) -> Runner:
        mark = inputs.get(SIGNATURE)
        # The first signature is not marked, so that models with one alone see no hidden input.
        return self._places[0 if mark is None else int(mark) + 1]

    async def run(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], float]:
        """See :class:`~salver.kernel.engine.ports.Runner`."""
        return await self._place(inputs).run(inputs)

    def run_inline(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], float] | None:
        """See :class:`~salver.kernel.engine.ports.Runner`."""
        return self._place(inputs).run_inline(inputs)

    async def run_each(self, inputs: Mapping[str, Array]) -> Sequence[Mapping[str, Array]]:
        """See :class:`~salver.kernel.engine.ports.Runner`."""
        return await self._place(inputs).run_each(inputs)

    async def close(self) -> None:
        """Close both."""
        await asyncio.gather(*(runner.close() for runner in dict.fromkeys(self._places)))


class Signatures:
    """Engines of a model, by signature.

    Args:
        first: Engine of requests that name no signature; closed by its owner afterwards.
    """

    def __init__(self, first: Engine, others: Mapping[str, Engine]) -> None:
        self.others = others
        self._first = first
        self._all = {first.signature.name: first, **others}
        self._columns = others.get(COLUMNS)
        own = {spec.name for spec in first.signature.inputs}
        told = self._columns.signature.inputs if self._columns is not None else ()
        self._names = {spec.name for spec in told if spec.column is not None} - own

    def __repr__(self) -> str:
        return f"<Signatures {', '.join(self._all)}>"

    @classmethod
    def of(
        cls,
        first: Engine,
        runner: Runner,
        config: ModelConfig,
        clock: Callable[[], float],
        emit: Callable[[BatchRan], None],
    ) -> "Signatures":
        """Create an engine for each additional signature, with the same rules except learned ones."""
        # A learned rule was learned from the runs of the first signature.
        policy = config.batching.policy
        if config.batching.policy == "learned":
            policy = "auto"
        batching = msgspec.structs.replace(config.batching, policy=policy)
        config = msgspec.structs.replace(config, batching=batching, ragged=Ragged())
        runners = [SignatureRunner(runner, index) for index in range(len(runner.signature.others))]
        engines = [Engine(first.id, one, config, clock=clock, emit=emit) for one in runners]
        return cls(first, {engine.signature.name: engine for engine in engines})

    async def infer(
        self,
        request: InferRequest,
        deadline: float | None = None,
        sender: Hashable = None,
        standing: Standing = ANYBODY,
    ) -> InferResponse:
        """Answer a request as :meth:`~salver.kernel.engine.engine.Engine.infer`, with its signature."""
        return await self._chosen(request).infer(request, deadline, sender, standing)

    def post(
        self, request: InferRequest, deadline: float | None, told: ReplyCallback, standing: Standing = ANYBODY
    ) -> Callable[[], None]:
        """Answer a request as :meth:`~salver.kernel.engine.engine.Engine.post`, with its signature."""
        return self._chosen(request).post(request, deadline, told, standing)

    def _chosen(self, request: InferRequest) -> Engine:
        engine: Engine | None = self._first
        if request.signature:
            engine = self._all.get(request.signature)
        elif self._names and any(tensor.name in self._names for tensor in request.inputs):
            engine = self._columns  # protocols without signatures select it by the names of inputs
        if engine is None:
            raise InvalidInput(
                f'Serving signature key "{request.signature}" not found.',
                field="signature_name",
                fix=f"There are: {', '.join(self._all)}.",
            )
        return engine

    async def resize(self, slots: int) -> None:
        """Set the number of instances, as the first engine has."""
        for engine in self.others.values():
            await engine.resize(slots)

    async def close(self) -> None:
        """Reject waiting requests and finish active runs."""
        await asyncio.gather(*(engine.close() for engine in self.others.values()))
