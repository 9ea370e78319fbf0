"""Which queue does a request go to, of a model with several signatures?

Each signature has an engine of its own, so that a batch is of one signature (TF-B1); all of them share one
runner. The model is told which one it runs by a hidden input (:data:`salver.backends.protocol.SIGNATURE`).
"""

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence

import msgspec
import numpy as np

from salver.backends.protocol import SIGNATURE
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.ports import Gave, PostRunner, Returning, Runner
from salver.words.artifacts import ModelConfig, Ragged
from salver.words.errors import InvalidInput, SalverError
from salver.words.events import BatchRan
from salver.words.messages import ANYBODY, InferRequest, InferResponse, Signature, Standing
from salver.words.tensor import Array


class SignatureRunner:
    """Runs batches of one of a model's further signatures.

    Args:
        runner: Of the whole model; whoever made it closes it.
        index: Which one of its signature's others.
    """

    def __init__(self, runner: Runner, index: int) -> None:
        self.signature = runner.signature.others[index]
        self.slots = runner.slots
        self._runner = runner
        self.reruns = isinstance(runner, Returning) and runner.reruns
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

    async def back(self) -> None:
        """See :class:`~salver.kernel.engine.ports.Returning`."""
        if isinstance(self._runner, Returning):
            await self._runner.back()

    def run_inline(self, inputs: Mapping[str, Array]) -> None:
        """Never: how long runs take is known of the first signature."""

    async def run_each(self, inputs: Mapping[str, Array]) -> Sequence[Mapping[str, Array]]:
        """See :class:`~salver.kernel.engine.ports.Runner`."""
        return await self._runner.run_each({**inputs, SIGNATURE: self._mark})

    async def resize(self, slots: int) -> None:
        """The first signature's engine has seen to it."""
        self.slots = slots

    async def close(self) -> None:
        """The first signature's engine does that."""


class SplitRunner:
    """Two runners of one model, each of which can run some of its signatures.

    Args:
        signature: The model's.
        places: Who runs each signature, the first one first. All of them know them by the same index.
    """

    def __init__(self, signature: Signature, places: Sequence[Runner]) -> None:
        self.signature = signature
        self.slots = places[0].slots
        self._places = places

    def __repr__(self) -> str:
        return f"<SplitRunner of {', '.join(map(repr, dict.fromkeys(self._places)))}>"

    def _place(self, inputs: Mapping[str, Array]) -> Runner:
        mark = inputs.get(SIGNATURE)
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
    """The engines of a model, by signature.

    Args:
        first: Of those who name none; it is closed by its owner, after this.
    """

    def __init__(self, first: Engine, others: Mapping[str, Engine]) -> None:
        self.others = others
        self._first = first
        self._all = {first.signature.name: first, **others}

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
        """With an engine for each of the others, under the same rules but for those that were learned."""
        policy = "auto" if config.batching.policy == "learned" else config.batching.policy
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
        """As :meth:`~salver.kernel.engine.engine.Engine.infer`, by the signature that the request names."""
        engine = self._all.get(request.signature) if request.signature else self._first
        if engine is None:
            raise InvalidInput(
                f'Serving signature key "{request.signature}" not found.',
                field="signature_name",
                fix=f"There are: {', '.join(self._all)}.",
            )
        return await engine.infer(request, deadline, sender, standing)

    async def resize(self, slots: int) -> None:
        """So many instances, as the first one's engine has."""
        for engine in self.others.values():
            await engine.resize(slots)

    async def close(self) -> None:
        """Refuse what still waits, and end the runs under way."""
        await asyncio.gather(*(engine.close() for engine in self.others.values()))
