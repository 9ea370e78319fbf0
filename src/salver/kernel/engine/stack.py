"""Merging of requests into the inputs of one run, and splitting of its outputs.

Arrays are stacked along axis 0 and split again, or joined as a ragged batch; the model's outputs are checked.
It runs nothing and knows no queue.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from salver.backends.protocol import Answer
from salver.kernel.engine.admission import BoundRequest
from salver.kernel.engine.waiting import Batch, QueuedRequest
from salver.words.errors import InvalidOutput, SalverError
from salver.words.messages import Signature
from salver.words.tensor import Array, Tensor

if TYPE_CHECKING:
    from salver.kernel.engine.ragged import RaggedBatch


Outputs = Mapping[str, Array]


class Stack:
    """Merger and splitter for one model.

    Args:
        model: Name for messages.
        ragged: Joins requests of different shapes; None = not ragged.
        pads: Pad requests of different shapes to the largest extents.

    Attributes:
        types: Datatypes of the outputs, by name.
    """

    __slots__ = ("_batched", "_model", "_names", "_pads", "_ragged", "types")

    def __init__(self, model: str, signature: Signature, ragged: "RaggedBatch | None", *, pads: bool) -> None:
        self._model = model
        self._batched = signature.batched
        self._names = tuple(spec.name for spec in signature.inputs)
        self._ragged = ragged
        self._pads = pads
        self.types = {spec.name: spec.datatype for spec in signature.outputs}

    @property
    def is_ragged(self) -> bool:
        """Return whether requests of different shapes may share a run."""
        return self._ragged is not None

    def inputs(self, bounds: Sequence[BoundRequest]) -> dict[str, Array]:
        """Return the inputs of one run, stacked if there are several requests."""
        first = bounds[0].arrays
        if self._ragged is not None:
            return self._ragged.gather([b.arrays for b in bounds])
        if len(bounds) == 1:
            return {n: a for n, a in zip(self._names, first, strict=True) if a is not None}
        join: Callable[[list[Any]], Array] = np.concatenate
        if self._pads:
            from salver.kernel.engine.padding import joined

            join = joined
        return {
            name: join([b.arrays[index] for b in bounds])
            for index, name in enumerate(self._names)
            if first[index] is not None
        }

    def alone(self, inputs: Outputs) -> Outputs:
        """Return the inputs of a run that is given by input names."""
        if self._ragged is None:
            return inputs
        return self._ragged.gather([[inputs.get(name) for name in self._names]])

    def parts(self, outputs: Outputs, members: Sequence[QueuedRequest]) -> list[Outputs]:
        """Return each request's rows of the outputs of a batch."""
        if self._ragged is not None:
            return self._ragged.scatter(outputs, [(w.payload[0].arrays, w.rows) for w in members])
        if len(members) == 1:
            return [outputs]
        pairs = [(name, outputs[name]) for name in self.types]
        parts: list[Outputs] = []
        start = 0
        for waiting in members:
            end = start + waiting.rows
            parts.append({name: array[start:end] for name, array in pairs})
            start = end
        return parts

    def joined(self, answers: Sequence[Outputs], names: Sequence[str]) -> tuple[Tensor, ...]:
        """Return the outputs of a request that was answered in parts."""
        return tuple(
            Tensor(name, self.types[name], np.concatenate([outputs[name] for outputs in answers]))
            for name in names
        )

    def check_batch(self, outputs: Outputs | list[Answer | SalverError], batch: Batch) -> None:
        """Check that outputs belong to a batch. Raises InvalidOutput."""
        if isinstance(outputs, list):
            return
        self.check(outputs, batch.rows)
        if self._ragged is not None:
            self._ragged.check(outputs, [w.payload[0].arrays for w in batch.members])

    def check(self, outputs: Outputs, rows: int) -> None:
        """Check that no output is missing or has the wrong number of rows. Raises InvalidOutput."""
        for name in self.types:
            array = outputs.get(name)
            if array is None:
                raise InvalidOutput(f"model '{self._model}' gave no output '{name}'")
            if self._batched and rows and (not array.ndim or array.shape[0] != rows):
                if self._ragged is not None and self._ragged.is_scattered(name):
                    continue
                shape = list(array.shape)
                raise InvalidOutput(
                    f"model '{self._model}' gave output '{name}' of shape {shape} for {rows} rows",
                    fix="Its first dimension must be the batch.",
                )
