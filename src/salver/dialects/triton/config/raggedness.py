"""Ragged inputs in a Triton model configuration, and the inputs that describe them (TR-C4, TR-C6). Pure."""

from collections.abc import Mapping
from typing import Any, Final

from salver.dialects.triton.model_config import ENUMS
from salver.words.artifacts import BatchInput, Ragged
from salver.words.errors import InvalidInput
from salver.words.tensor import DataType

_TYPES: Final[Mapping[str, DataType]] = {"TYPE_INT32": DataType.INT32, "TYPE_FP32": DataType.FP32}


def ragged_of(message: Any, origin: str) -> Ragged | None:
    """Return the ragged inputs of a Triton model configuration; None if it has none.

    Args:
        message: The ``ModelConfig``.
        origin: Where it was read, for messages.

    Raises:
        InvalidInput: in Triton's words: a kind, datatype or name does not fit.
    """
    names = tuple(tensor.name for tensor in message.input if tensor.allow_ragged_batch)
    if not names and not message.batch_input and not message.batch_output:
        return None
    inputs = {tensor.name for tensor in message.input}
    outputs = {tensor.name for tensor in message.output}
    kinds = ENUMS["BatchInput.Kind"].split()
    extra: list[BatchInput] = []
    for index, said in enumerate(message.batch_input):
        kind, field = kinds[said.kind], f"batch_input[{index}]"
        source = _source(said, f"batch input kind '{kind}'", inputs, f"{origin}: ", field)
        datatype = _TYPES.get(ENUMS["DataType"].split()[said.data_type])
        if datatype is None:
            text = f"{origin}: batch input data type must be TYPE_INT32 or TYPE_FP32"
            raise InvalidInput(text, field=f"{field}.data_type")
        for target in said.target_name:
            name: Any = kind.removeprefix("BATCH_").lower()
            extra.append(BatchInput(name, target, datatype, source))
    scatter: dict[str, str] = {}
    for index, said in enumerate(message.batch_output):
        field = f"batch_output[{index}]"
        kind = "batch output kind 'BATCH_SCATTER_WITH_INPUT_SHAPE'"
        source = _source(said, kind, inputs, f"{origin}: ", field)
        for target in said.target_name:
            if target not in outputs:
                text = f"{origin}: unknown target output name '{target}'"
                raise InvalidInput(text, field=f"{field}.target_name")
            scatter[target] = source
    ragged = Ragged(names, tuple(extra), scatter)
    reshaped = [t.name for t in (*message.input, *message.output) if t.HasField("reshape")]
    if reshaped:
        raise InvalidInput(
            f"{origin}: `reshape` of '{reshaped[0]}' cannot be honoured beside `allow_ragged_batch`, "
            "`batch_input` or `batch_output`: a run has no shape of its own to change",
            field="reshape",
        )
    return ragged


def _source(said: Any, kind: str, inputs: set[str], prefix: str, field: str) -> str:
    names = list(said.source_input)
    if len(names) != 1:
        text = f"{prefix}{kind} expects 1 source input, got {len(names)}"
        raise InvalidInput(text, field=f"{field}.source_input")
    if names[0] not in inputs:
        raise InvalidInput(f"{prefix}unknown source input name '{names[0]}'", field=f"{field}.source_input")
    return str(names[0])
