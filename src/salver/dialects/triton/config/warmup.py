"""``model_warmup`` of a Triton model configuration (TR-C13). Error texts are Triton's. Pure."""

import math
from typing import Any, Literal

from salver.dialects.triton.model_config import datatype_numbered
from salver.words.artifacts import Warmup, WarmupInput, WarmupSample
from salver.words.errors import InvalidInput

_MOST_ELEMENTS = 1 << 31


def warmup_of(message: Any, origin: str) -> Warmup:
    """Return the warm-up without samples of ``batch_size`` 0, which Triton leaves out, too.

    Args:
        origin: Its source, for messages.

    Raises:
        InvalidInput: A sample is incomplete.
    """
    samples = [sample for sample in message.model_warmup if sample.batch_size > 0]
    if not samples:
        return Warmup()
    free = {
        size
        for sample in samples
        for tensor in message.input
        if tensor.name in sample.inputs  # reading a missing key would add it
        for extent, size in zip(tensor.dims, sample.inputs[tensor.name].dims, strict=False)
        if extent == -1 and size > 0
    }
    return Warmup(
        rows=tuple(sorted({sample.batch_size for sample in samples})),
        rounds=max(max(sample.count, 1) for sample in samples),
        free_dim=max(free, default=1),
        samples=tuple(_sample(sample, origin) for sample in samples),
    )


def _sample(sample: Any, origin: str) -> WarmupSample:
    inputs = {}
    for name, tensor in sorted(sample.inputs.items()):
        datatype = datatype_numbered(tensor.data_type)
        chosen = tensor.WhichOneof("input_data_type")
        elements = math.prod(max(extent, 0) for extent in tensor.dims)
        problem = ""
        if datatype is None:
            problem = f"warmup setting must specify the data type of input '{name}'"
        elif any(extent < 0 for extent in tensor.dims):
            problem = f"warmup setting expects all variable-size dimensions are specified for input '{name}'"
        elif chosen is None:
            problem = f"warmup setting expects input '{name}' to have input_data_type set"
        elif elements > _MOST_ELEMENTS:
            problem = f"warmup setting asks for {elements} elements of input '{name}', which is too many"
        if problem or datatype is None:
            raise InvalidInput(f"{origin}: {problem}", field="model_warmup")
        fill: Literal["random", "zeros"] = "random" if chosen == "random_data" else "zeros"
        inputs[name] = WarmupInput(datatype, tuple(tensor.dims), fill, tensor.input_data_file)
    return WarmupSample(inputs, sample.name, sample.batch_size, max(sample.count, 1))
