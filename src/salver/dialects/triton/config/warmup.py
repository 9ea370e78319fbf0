"""``model_warmup`` of a Triton model configuration (TR-C13). Pure; error texts are Triton's."""

from typing import Any

from salver.dialects.triton.model_config import ENUMS
from salver.words.artifacts import Warmup, WarmupInput, WarmupSample
from salver.words.errors import InvalidInput
from salver.words.tensor import DATATYPES, DataType

_MOST_ELEMENTS = 1 << 31


def warmup_of(message: Any, origin: str) -> Warmup:
    """Return the warm-up; samples of ``batch_size`` 0 are left out, as Triton does.

    Args:
        origin: Where it was read, for messages.

    Raises:
        InvalidInput: a sample is incomplete.
    """
    told = [sample for sample in message.model_warmup if sample.batch_size > 0]
    if not told:
        return Warmup()
    free = {
        size
        for sample in told
        for tensor in message.input
        if tensor.name in sample.inputs  # reading a missing key would add it
        for extent, size in zip(tensor.dims, sample.inputs[tensor.name].dims, strict=False)
        if extent == -1 and size > 0
    }
    return Warmup(
        rows=tuple(sorted({sample.batch_size for sample in told})),
        rounds=max(max(sample.count, 1) for sample in told),
        free_dim=max(free, default=1),
        samples=tuple(_sample(sample, origin) for sample in told),
    )


def _sample(sample: Any, origin: str) -> WarmupSample:
    inputs = {}
    for name, told in sorted(sample.inputs.items()):
        kind = ENUMS["DataType"].split()[told.data_type].removeprefix("TYPE_")
        datatype = DataType.BYTES if kind == "STRING" else DATATYPES.get(kind)
        chosen = told.WhichOneof("input_data_type")
        elements = 1
        for extent in told.dims:
            elements *= max(extent, 0)
        problem = ""
        if datatype is None:
            problem = f"warmup setting must specify the data type of input '{name}'"
        elif any(extent < 0 for extent in told.dims):
            problem = f"warmup setting expects all variable-size dimensions are specified for input '{name}'"
        elif chosen is None:
            problem = f"warmup setting expects input '{name}' to have input_data_type set"
        elif elements > _MOST_ELEMENTS:
            problem = f"warmup setting asks for {elements} elements of input '{name}', which is too many"
        if problem or datatype is None:
            raise InvalidInput(f"{origin}: {problem}", field="model_warmup")
        inputs[name] = WarmupInput(
            datatype,
            tuple(told.dims),
            "random" if chosen == "random_data" else "zeros",
            told.input_data_file,
        )
    return WarmupSample(inputs, sample.name, sample.batch_size, max(sample.count, 1))
