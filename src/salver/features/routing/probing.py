"""Probe of the instances of a model: a request whose answer is known finds those that answer wrongly."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from salver.backends.loading import read_bounded
from salver.client import Client
from salver.client.encoding import decode_reply, values_of
from salver.features.routing.document import ProbeTable
from salver.words.errors import Code, InvalidInput, LoadFailed, SalverError
from salver.words.tensor import Tensor

_MOST_BYTES: Final = 16 << 20
#: Errors that tell of the instance's model; the others are for ejection, which leaves some instances in.
_REFUSED: Final = (Code.INVALID_INPUT, Code.NOT_FOUND, Code.TOO_LARGE, Code.UNSUPPORTED)


class Probe:
    """Request and right answer of one model.

    Args:
        request: Open Inference request as JSON.
        expected: Outputs of the right answer.
        tolerance: Largest difference of a number that is right, absolute or relative.
        every_s: Seconds between two probes of an instance.
    """

    def __init__(self, request: bytes, expected: Sequence[Tensor], tolerance: float, every_s: float) -> None:
        self._request = request
        self._expected = expected
        self._tolerance = tolerance
        self.every_s = every_s

    def __repr__(self) -> str:
        return f"<Probe of {', '.join(tensor.name for tensor in self._expected)}>"

    async def judge(self, client: Client, name: str, version: str) -> str | None:
        """Return what is wrong with an instance's answer; empty = nothing, None = there is no answer now."""
        try:
            found = await client.infer_json(name, self._request, version=version)
        except SalverError as error:
            if error.code in _REFUSED:
                return f"it refuses the probe: {error.message}"
            return None
        wrong = mismatch(self._expected, found, self._tolerance)
        return wrong and f"it answers the probe wrongly: {wrong}"


def read_probe(folder: Path, table: ProbeTable) -> Probe:
    """Return the probe that a model's files tell.

    Raises:
        LoadFailed: a file cannot be read, or has no answer.
    """
    path = folder / table.expect
    try:
        expected = decode_reply({}, read_bounded(path, _MOST_BYTES))
    except InvalidInput as error:
        raise LoadFailed(f"{path} is not an answer: {error.message}", field="probe.expect") from error
    request = read_bounded(folder / table.request, _MOST_BYTES)
    return Probe(request, expected, table.tolerance, table.every_s)


def mismatch(expected: Sequence[Tensor], found: Sequence[Tensor], tolerance: float) -> str:
    """Return in what an answer differs from the expected one; empty = in nothing. It may have more outputs.

    >>> from salver.words.tensor import tensor
    >>> mismatch([tensor("y", [1.0, 100.0])], [tensor("y", [1.0, 100.5])], 0.01)
    ''
    >>> mismatch([tensor("y", [1.0, 100.0])], [tensor("y", [1.5, 100.0])], 0.01)
    "'y' is off by 0.5"
    """
    named = {tensor.name: tensor for tensor in found}
    for tensor in expected:
        other = named.get(tensor.name)
        if other is None:
            return f"there is no '{tensor.name}'"
        if (other.datatype, other.shape) != (tensor.datatype, tensor.shape):
            return f"'{tensor.name}' has another datatype or shape"
        right, given = values_of(tensor), values_of(other)
        if right.dtype == object:
            if not np.array_equal(right, given):
                return f"'{tensor.name}' is another text"
        elif not np.allclose(given, right, rtol=tolerance, atol=tolerance, equal_nan=True):
            off = np.max(np.abs(np.subtract(given, right, dtype=float)))
            return f"'{tensor.name}' is off by {off:.3g}"
    return ""
