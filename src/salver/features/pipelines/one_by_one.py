"""Requests of many rows to a model that takes one at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import numpy as np
from msgspec.structs import replace

from salver.words.errors import ModelFailed
from salver.words.messages import Call, InferRequest, InferResponse
from salver.words.tensor import Tensor

_AT_ONCE: Final = 64
#: Parameters of an answer: rows or requests that were looked up in the response cache, and found there.
LOOKUPS: Final = "cache_lookups"
HITS: Final = "cache_hits"


async def one_by_one(
    ask: Callable[[InferRequest, Call, Any], Awaitable[InferResponse]],
    request: InferRequest,
    call: Call,
    sender: Any,
    *,
    is_single: bool,
) -> InferResponse:
    """Return one answer for all rows of a request, each of which is asked by itself.

    Args:
        is_single: The model takes and gives rows with an extent of 1 in front.

    Raises:
        ModelFailed: the answers to the rows have different shapes.
    """
    found: list[InferResponse] = []
    rows = len(request.inputs[0].array)
    if rows == 1 and is_single:
        return await ask(request, call, sender)
    for start in range(0, rows, _AT_ONCE):
        parts = []
        for row in range(start, min(rows, start + _AT_ONCE)):
            place: Any = slice(row, row + 1) if is_single else row
            inputs = tuple(Tensor(t.name, t.datatype, np.asarray(t.array[place])) for t in request.inputs)
            parts.append(ask(replace(request, inputs=inputs), call, sender))
        found += await asyncio.gather(*parts)
    outputs = []
    for tensors in zip(*(response.outputs for response in found), strict=True):
        arrays = [tensor.array if is_single else tensor.array[None] for tensor in tensors]
        if len({array.shape[1:] for array in arrays}) > 1:
            raise ModelFailed(
                f"model '{request.model}' gave {tensors[0].name} of a different shape for each row"
            )
        outputs.append(Tensor(tensors[0].name, tensors[0].datatype, np.concatenate(arrays)))
    counts = {
        key: sum(int(response.parameters[key]) for response in found)
        for key in (HITS, LOOKUPS)
        if key in found[-1].parameters
    }
    parameters = {**found[-1].parameters, **counts}
    return replace(found[-1], outputs=tuple(outputs), parameters=parameters)
