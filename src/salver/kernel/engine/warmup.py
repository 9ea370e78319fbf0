"""Inputs of warm-up runs before a version takes traffic.

Pure: maps a signature and the configuration to inputs.
"""

import math
from collections.abc import Iterator

import numpy as np

from salver.words.artifacts import Warmup, WarmupInput
from salver.words.errors import InvalidInput
from salver.words.messages import Signature
from salver.words.tensor import Array, DataType, bf16_from_fp32


def samples(signature: Signature, wish: Warmup) -> Iterator[dict[str, Array]]:
    """Return inputs of zeros (empty strings for BYTES), one for each batch size and round.

    >>> from salver.words.messages import TensorSpec
    >>> spec = TensorSpec("x", DataType.FP32, (-1, 3))
    >>> [s["x"].shape for s in samples(Signature((spec,), (), batched=True), Warmup(rows=(1, 4), rounds=1))]
    [(1, 3), (4, 3)]
    """
    for rows in wish.rows if signature.batched else wish.rows[:1]:
        for _ in range(wish.rounds):
            yield {
                spec.name: _zeros(spec.datatype, spec.shape, rows if signature.batched else 0, wish.free_dim)
                for spec in signature.inputs
                if not spec.optional
            }


def values_of(told: WarmupInput, random: np.random.Generator) -> Array:
    """Return the single row of an input in a sample without a file.

    >>> values_of(WarmupInput(DataType.INT8, (2,)), np.random.default_rng(0)).tolist()
    [0, 0]
    """
    kind = told.datatype
    if kind is DataType.BYTES or told.values == "zeros":
        return _zeros(kind, told.shape, 0, 0)
    if kind.is_float:
        drawn = random.random(told.shape, np.float32)
        if kind is DataType.BF16:
            return bf16_from_fp32(drawn)
        return drawn.astype(kind.dtype)
    return random.integers(0, 2, told.shape).astype(kind.dtype)


_MOST_BYTES = 2 << 30  # maximum bytes of one input, as for a message over gRPC


def _zeros(datatype: DataType, shape: tuple[int, ...], rows: int, free: int) -> Array:
    extents = tuple(free if extent == -1 else extent for extent in shape)
    if rows:
        extents = (rows, *extents[1:])
    size = math.prod(extents) * (datatype.itemsize or 8)
    if size > _MOST_BYTES:
        raise InvalidInput(
            f"a warm-up input of shape {list(extents)} would be {size} bytes; at most {_MOST_BYTES} are made",
            field="warmup.free_dim",
            fix="Set rounds = 0 of [warmup], or give a smaller free_dim, fewer rows or a file.",
        )
    if datatype is DataType.BYTES:
        return np.full(extents, b"", dtype=object)
    return np.zeros(extents, datatype.dtype)
