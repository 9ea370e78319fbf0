"""Ragged batches: requests of different shapes in one run (TR-S3).

Ragged inputs are not padded: the elements of all requests are concatenated in a one-dimensional tensor, and
additional inputs, hidden from callers, describe the parts. Flat outputs are split by the shape of an input.
Pure.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from salver.words.artifacts import BatchInput, Ragged
from salver.words.errors import InvalidOutput
from salver.words.messages import Signature
from salver.words.tensor import Array

Arrays = Sequence[Array | None]


class RaggedBatch:
    """Combiner of inputs and splitter of outputs.

    Args:
        config: Ragged tensors and their descriptions.
        signature: Signature that callers see.
        model: Name for error texts.

    Attributes:
        inputs: Indices of the ragged inputs.
    """

    def __init__(self, config: Ragged, signature: Signature, model: str) -> None:
        names = [spec.name for spec in signature.inputs]
        self.inputs = frozenset(names.index(name) for name in config.inputs)
        self._model = model
        self._names = names
        self._outputs = [spec.name for spec in signature.outputs]
        self._extra = [(extra, names.index(extra.source)) for extra in config.extra]
        shapes = {spec.name: spec.shape for spec in signature.outputs}
        self._scatter = {
            output: (names.index(source), shapes[output])
            for output, source in config.scatter.items()
            if output in shapes
        }

    def gather(self, requests: Sequence[Arrays]) -> dict[str, Array]:
        """Return the inputs of one run.

        Args:
            requests: Arrays in the signature's order; None for an optional one that all requests omit.
        """
        inputs: dict[str, Array] = {}
        for index, name in enumerate(self._names):
            parts = [part for request in requests if (part := request[index]) is not None]
            if index in self.inputs and parts:
                # Flat even for a lone request: the model finds its parts by the hidden inputs.
                inputs[name] = np.concatenate([part.reshape(-1) for part in parts])
            elif parts:
                inputs[name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
        for extra, source in self._extra:
            shapes = [(0,) if part is None else part.shape for part in (r[source] for r in requests)]
            inputs[extra.target] = described(extra, shapes)
        return inputs

    def check(self, outputs: Mapping[str, Array], requests: Sequence[Arrays]) -> None:
        """Check that the outputs can be split.

        Raises:
            InvalidOutput: the number of elements does not match the requests.
        """
        for name, (source, spec) in self._scatter.items():
            wanted = sum(math.prod(_filled(spec, request[source])) for request in requests)
            if outputs[name].size != wanted:
                raise InvalidOutput(
                    f"model '{self._model}' gave output '{name}' of {outputs[name].size} elements, where the "
                    f"shapes of input '{self._names[source]}' ask for {wanted}",
                    fix="It must have those of each request, one after the other.",
                )

    def scatter(
        self, outputs: Mapping[str, Array], requests: Sequence[tuple[Arrays, int]]
    ) -> list[Mapping[str, Array]]:
        """Return each request's outputs, after :meth:`check`.

        Args:
            requests: Arrays and rows of each request.
        """
        parts: list[Mapping[str, Array]] = []
        # Each output has its own position, because some are split by rows and some by shapes.
        starts = dict.fromkeys(self._outputs, 0)
        for arrays, rows in requests:
            part = {}
            for name in self._outputs:
                array, start = outputs[name], starts[name]
                if name in self._scatter:
                    source, spec = self._scatter[name]
                    shape = _filled(spec, arrays[source])
                    starts[name] = end = start + math.prod(shape)
                    part[name] = array.reshape(-1)[start:end].reshape(shape)
                else:
                    starts[name] = end = start + rows
                    part[name] = array[start:end]
            parts.append(part)
        return parts

    def is_scattered(self, output: str) -> bool:
        """Return whether an output is split by the shape of an input instead of by rows."""
        return output in self._scatter


def described(extra: BatchInput, shapes: Sequence[tuple[int, ...]]) -> Array:
    """Return the value of an additional input for the requests of a run.

    Args:
        shapes: Shape of each request's source input, including the batch dimension.

    >>> from salver.words.tensor import DataType
    >>> described(BatchInput("accumulated_element_count", "ENDS", DataType.INT32, "X"), [(1, 3), (1, 2)])
    array([3, 5], dtype=int32)
    >>> described(BatchInput("item_shape", "SHAPES", DataType.INT32, "X"), [(2, 3, 1), (1, 2, 2)]).tolist()
    [[3, 1], [3, 1], [2, 2]]
    """
    dtype = extra.datatype.dtype
    counts = [math.prod(shape) for shape in shapes]
    match extra.kind:
        case "element_count":
            said: Sequence[object] = counts
        case "accumulated_element_count":
            said = list(itertools.accumulate(counts))
        case "accumulated_element_count_with_zero":
            said = [0, *itertools.accumulate(counts)]
        case "max_element_count_as_shape":
            return np.zeros(max(counts), dtype)  # its shape is the message, its content is ignored
        case "item_shape" | "item_shape_flatten":
            items = [shape[1:] for shape in shapes for _ in range(shape[0])]
            rows = np.array(items, dtype).reshape(len(items), -1 if items else 0)
            if extra.kind == "item_shape_flatten":
                return rows.reshape(-1)
            return rows
    return np.array(said, dtype)


def _filled(spec: tuple[int, ...], source: Array | None) -> tuple[int, ...]:
    """Return the output's shape, with free extents taken from the input at the same position."""
    shape = () if source is None else source.shape
    # An output may have more dimensions than its input, which then count as 1.
    padded = (*shape, *(1,) * len(spec))
    return tuple(other if extent < 0 else extent for extent, other in zip(spec, padded, strict=False))
