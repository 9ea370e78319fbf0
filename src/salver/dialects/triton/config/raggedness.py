"""Ragged inputs in a Triton model configuration, and the inputs that describe them (TR-C4, TR-C6). Pure."""

from typing import Any

from salver.dialects.triton.model_config import datatype_numbered, enum_values
from salver.words.artifacts import BatchInput, Ragged
from salver.words.errors import InvalidInput
from salver.words.tensor import DataType


def ragged_of(message: Any, origin: str) -> Ragged | None:
    """Return the ragged inputs of a Triton model configuration; None if it has none.

    Args:
        message: The ``ModelConfig``.
        origin: Its source, for messages.

    Raises:
        InvalidInput: A kind, datatype or name does not fit; the text is Triton's.
    """
    names = tuple(tensor.name for tensor in message.input if tensor.allow_ragged_batch)
    if not names and not message.batch_input and not message.batch_output:
        return None
    inputs = {tensor.name for tensor in message.input}
    outputs = {tensor.name for tensor in message.output}
    kinds = enum_values("BatchInput.Kind")
    extra: list[BatchInput] = []
    for index, described in enumerate(message.batch_input):
        kind, field = kinds[described.kind], f"batch_input[{index}]"
        source = _source(described, f"batch input kind '{kind}'", inputs, f"{origin}: ", field)
        datatype = datatype_numbered(described.data_type)
        if datatype not in (DataType.INT32, DataType.FP32):
            text = f"{origin}: batch input data type must be TYPE_INT32 or TYPE_FP32"
            raise InvalidInput(text, field=f"{field}.data_type")
        for target in described.target_name:
            name: Any = kind.removeprefix("BATCH_").lower()
            extra.append(BatchInput(name, target, datatype, source))
    scatter: dict[str, str] = {}
    for index, described in enumerate(message.batch_output):
        field = f"batch_output[{index}]"
        kind = "batch output kind 'BATCH_SCATTER_WITH_INPUT_SHAPE'"
        source = _source(described, kind, inputs, f"{origin}: ", field)
        for target in described.target_name:
            if target not in outputs:
                text = f"{origin}: unknown target output name '{target}'"
                raise InvalidInput(text, field=f"{field}.target_name")
            scatter[target] = source
    reshaped = [t.name for t in (*message.input, *message.output) if t.HasField("reshape")]
    if reshaped:
        raise InvalidInput(
            f"{origin}: `reshape` of '{reshaped[0]}' cannot be honoured beside `allow_ragged_batch`, "
            "`batch_input` or `batch_output`: a run has no shape of its own to change",
            field="reshape",
        )
    return Ragged(names, tuple(extra), scatter)


def _source(described: Any, kind: str, inputs: set[str], prefix: str, field: str) -> str:
    names = list(described.source_input)
    if len(names) != 1:
        text = f"{prefix}{kind} expects 1 source input, got {len(names)}"
        raise InvalidInput(text, field=f"{field}.source_input")
    if names[0] not in inputs:
        raise InvalidInput(f"{prefix}unknown source input name '{names[0]}'", field=f"{field}.source_input")
    return str(names[0])
