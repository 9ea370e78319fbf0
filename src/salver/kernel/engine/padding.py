"""Padding of runs to allowed sizes, and of inputs to equal extents.

Rows are padded with copies of the first one, which are removed from the outputs (TensorFlow Serving's
``allowed_batch_sizes``), and arrays with their first element (its ``pad_variable_length_inputs``). Pure,
except for the runner wrapper.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np

from salver.kernel.engine.ports import RequestRunner, Resizable, Runner
from salver.words.errors import LoadFailed
from salver.words.tensor import Array

_Ran = tuple[Mapping[str, Array], float]


def rounded(rows: int, sizes: Sequence[int]) -> int:
    """Return the smallest size that holds that many rows, or the rows themselves if none does.

    >>> [rounded(rows, (2, 8)) for rows in (1, 2, 3, 9)]
    [2, 2, 8, 9]
    """
    index = bisect_left(sizes, rows)
    if index < len(sizes):
        return sizes[index]
    return rows


def filled(inputs: Mapping[str, Array], rows: int) -> dict[str, Array]:
    """Return arrays padded to that many rows with copies of the first one."""
    return {
        name: np.concatenate([array, np.repeat(array[:1], rows - array.shape[0], axis=0)])
        for name, array in inputs.items()
    }


def joined(parts: Sequence[Array]) -> Array:
    """Concatenate arrays along axis 0, each padded to the largest extents with its first element.

    Args:
        parts: Arrays of equal rank with at least one row.

    >>> joined([np.array([[1, 2]]), np.array([[3]])]).tolist()
    [[1, 2], [3, 3]]
    """
    # Equal extents need no copy of ours: numpy joins them in one.
    tails = {part.shape[1:] for part in parts}
    if len(tails) == 1:
        return np.concatenate(parts)
    tail = tuple(map(max, zip(*tails, strict=True)))
    whole = np.empty((sum(part.shape[0] for part in parts), *tail), parts[0].dtype)
    start = 0
    for part in parts:
        end = start + part.shape[0]
        # TensorFlow Serving pads with the first element, too, whatever it means to the model.
        whole[start:end] = part.flat[0] if part.size else _nothing(part)
        whole[(slice(start, end), *map(slice, part.shape[1:]))] = part
        start = end
    return whole


def _nothing(part: Array) -> object:
    """Return the padding value of an empty array, which has no first element."""
    if part.dtype == object:
        return b""
    return np.zeros((), part.dtype)


class PaddedRunner:
    """Runner wrapper that pads batches to one of some sizes.

    Args:
        sizes: Allowed sizes, ascending.
    """

    def __init__(self, runner: Runner, sizes: Sequence[int]) -> None:
        self.signature = runner.signature
        self.slots = runner.slots
        self._runner = runner
        self._sizes = sizes

    def __repr__(self) -> str:
        return f"<PaddedRunner {list(self._sizes)} on {self._runner!r}>"

    async def run(self, inputs: Mapping[str, Array]) -> _Ran:
        """See :class:`~salver.kernel.engine.ports.Runner`."""
        rows, padded = self._padded(inputs)
        outputs, seconds = await self._runner.run(padded)
        return self._cut(outputs, rows), seconds

    def run_inline(self, inputs: Mapping[str, Array]) -> _Ran | None:
        """See :class:`~salver.kernel.engine.ports.Runner`."""
        rows, padded = self._padded(inputs)
        ran = self._runner.run_inline(padded)
        if ran is None:
            return None
        return (self._cut(ran[0], rows), ran[1])

    async def run_each(self, inputs: Mapping[str, Array]) -> Sequence[Mapping[str, Array]]:
        """See :class:`~salver.kernel.engine.ports.Runner`."""
        rows, padded = self._padded(inputs)
        return [self._cut(outputs, rows) for outputs in await self._runner.run_each(padded)]

    async def resize(self, slots: int) -> None:
        """See :class:`~salver.kernel.engine.ports.Resizable`."""
        if not isinstance(self._runner, Resizable):
            raise LoadFailed("the number of instances cannot be changed")
        await self._runner.resize(slots)
        # Last: a failed resize has left the runner as it was.
        self.slots = slots

    async def close(self) -> None:
        """See :class:`~salver.kernel.engine.ports.Runner`."""
        await self._runner.close()

    def _padded(self, inputs: Mapping[str, Array]) -> tuple[int, Mapping[str, Array]]:
        """Return the original rows and the padded inputs."""
        rows = next(iter(inputs.values())).shape[0]
        size = rounded(rows, self._sizes)
        # Copy nothing where the rows are an allowed size already.
        return rows, inputs if size == rows else filled(inputs, size)

    def _cut(self, outputs: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
        """Remove the padding; outputs without the padded rows are left unchanged, for the later check."""
        size = rounded(rows, self._sizes)
        if size == rows:
            return outputs
        return {
            name: array[:rows] if array.ndim and array.shape[0] == size else array
            for name, array in outputs.items()
        }


def padded(runner: Runner, sizes: Sequence[int]) -> Runner:
    """Wrap a runner for padding; models that take requests one by one have no batches to pad."""
    if sizes and not isinstance(runner, RequestRunner):
        return PaddedRunner(runner, sizes)
    return runner
