"""What does Triton's ``sequence_batching`` say, and what may a model's sequences not be told?

Pure; messages are Triton's where it has one.
"""

import math
from collections.abc import Iterator
from typing import Any, Final, Literal

from salver.dialects.triton.model_config import ENUMS
from salver.words.artifacts import Control, KeptState, ModelConfig, Ragged, Sequences
from salver.words.errors import InvalidInput
from salver.words.tensor import DATATYPES, DataType

_KINDS: Final[tuple[Literal["start", "ready", "end", "corrid"], ...]] = ("start", "ready", "end", "corrid")
_IDLE_US = 1_000_000
_VALUES: Final = {
    "int32_false_true": DataType.INT32,
    "fp32_false_true": DataType.FP32,
    "bool_false_true": DataType.BOOL,
}
_IDS: Final = tuple(DATATYPES[name] for name in ("UINT64", "INT64", "UINT32", "INT32", "BYTES"))
_FLAGS: Final = tuple(_VALUES.values())


def sequences_of(message: Any, origin: str, name: str) -> Sequences:
    """The strategy, controls and states of a ModelConfig message; none where it has no ``sequence_batching``.

    Args:
        origin: Where it was read, for messages.
        name: The model's.

    Raises:
        InvalidInput: in Triton's words where it has some.
    """
    if not message.HasField("sequence_batching"):
        return Sequences()
    said = message.sequence_batching
    oldest = said.HasField("oldest")
    strategy = said.oldest if oldest else said.direct
    try:
        sequences = Sequences(
            strategy="oldest" if oldest else "direct",
            candidates=max(0, said.oldest.max_candidate_sequences),
            max_delay_ms=strategy.max_queue_delay_microseconds / 1000,
            preferred_rows=tuple(sorted(set(said.oldest.preferred_batch_size))),
            min_fill=said.direct.minimum_slot_utilization,
            idle_ms=(said.max_sequence_idle_microseconds or _IDLE_US) / 1000,
            controls=tuple(_controls(said, name)),
            states=tuple(_state(state) for state in said.state),
            iterative=said.iterative_sequence,
        )
        most = message.max_batch_size
        if any(rows <= 0 for rows in sequences.preferred_rows):
            raise ValueError(f"sequence batching preferred batch size must be positive for {name}")
        if any(rows > most for rows in sequences.preferred_rows):
            raise ValueError(f"sequence batching preferred batch size must be <= max batch size for {name}")
        if problem := unfit(sequences):
            raise ValueError(f"{problem} for {name}")
    except ValueError as error:
        raise InvalidInput(f"{origin}: {error}", field="sequence_batching") from error
    return sequences


def unfit(sequences: Sequences) -> str:
    """What is wrong with them, or empty."""
    if not 0 <= sequences.min_fill <= 1:
        return "sequence batching minimum slot utilization must be in range [0.0, 1.0]"
    kinds = [control.kind for control in sequences.controls]
    names = [control.name for control in sequences.controls] + [state.input for state in sequences.states]
    for kind in kinds:
        if kinds.count(kind) > 1:
            return f"sequence batching specifies multiple {_triton(kind)} tensors"
    for name in names:
        if not name:
            return "sequence batching control tensor must have a name"
        if names.count(name) > 1:
            return f"sequence batching control tensor '{name}' is specified for multiple control kinds"
    for control in sequences.controls:
        wanted = _IDS if control.kind == "corrid" else _FLAGS
        if control.datatype not in wanted:
            known = ", ".join(datatype.name for datatype in wanted)
            return (
                f"unexpected data type {control.datatype.name} for control {_triton(control.kind)}, expected "
                f"one of {known}"
            )
    outputs = [state.output for state in sequences.states]
    if len(set(outputs)) < len(outputs) or "" in outputs:
        return "sequence batching states must have outputs of their own"
    return next((problem for problem in map(_unfit_state, sequences.states) if problem), "")


def check_content(state: KeptState) -> str:
    """What is wrong with the content of its file, or empty."""
    if state.datatype is DataType.BYTES:
        return ""
    count = math.prod(state.initial_shape or (abs(extent) for extent in state.shape))
    wanted, found = count * state.datatype.itemsize, len(state.content)
    if found >= wanted:
        return ""
    return (
        f"initial_state setting expects {wanted} bytes, but the data provided from {state.initial_file} only "
        f"has {found} bytes."
    )


def conflict(config: ModelConfig) -> str:
    """A part of the configuration that is not for models with sequences, or empty."""
    if not config.sequences.strategy:
        return ""
    objective = config.objective
    if objective.latency_p99_ms or objective.deadline_ms or objective.throughput:
        return "objective"
    if config.ragged != Ragged():
        return "ragged"
    return "steps" if config.steps.vocabulary else ""


def _unfit_state(state: KeptState) -> str:
    name, initial = state.input, state.initial_shape
    if any(extent == 0 or extent < -1 for extent in state.shape) or any(extent == 0 for extent in initial):
        return f"the dims of state '{name}' must be positive, or -1 for any"
    if initial and len(initial) != len(state.shape):
        return (
            "Number of dimensions in 'initial_state' doesn't match the size of 'state' dimensions for state "
            f"input '{name}'. {len(initial)} != {len(state.shape)}"
        )
    for given, wanted in zip(initial, state.shape, strict=False):
        if given < 0:
            return f"'initial_state' field for state input name '{name}' contains variable dimensions."
        if wanted not in (-1, given):
            return (
                f"'initial_state' dim for input name '{name}' doesn't match 'state' dim description. "
                f"{given} != {wanted}"
            )
    file = state.initial_file
    if file.startswith("/") or ".." in file.split("/"):
        return f"the initial_state file of state '{name}' must lie in the model's folder initial_state"
    return ""


def _triton(kind: str) -> str:
    return f"CONTROL_SEQUENCE_{kind.upper()}"


def _datatype(number: int) -> DataType | None:
    kind = ENUMS["DataType"].split()[number].removeprefix("TYPE_")
    return DataType.BYTES if kind == "STRING" else DATATYPES.get(kind)


def _controls(said: Any, model: str) -> Iterator[Control]:
    for tensor in said.control_input:
        for control in tensor.control:
            yield _control(tensor.name, control, model)


def _control(name: str, said: Any, model: str) -> Control:
    kind = _KINDS[said.kind]
    given = [field for field in _VALUES if len(getattr(said, field))]
    listed = "'int32_false_true', 'fp32_false_true' "
    if kind == "corrid":
        if given:
            raise ValueError(
                f"sequence batching must not specify either {listed}or 'bool_false_true' for {_triton(kind)} "
                f"for {model}"
            )
        datatype = _datatype(said.data_type)
        if datatype is None:
            raise ValueError(f"sequence batching control {_triton(kind)} must have a data_type for {model}")
        return Control(name, kind, datatype)
    if not given:
        raise ValueError(
            f"sequence batching must specify either {listed}or 'bool_false_true' for {_triton(kind)} "
            f"for {model}"
        )
    if len(given) > 1:
        raise ValueError(
            f"sequence batching specifies more than one from {listed}and 'bool_false_true' for "
            f"{_triton(kind)} for {model}"
        )
    values = tuple(map(float, getattr(said, given[0])))
    if len(values) != 2:
        raise ValueError(
            f"sequence batching control '{given[0]}' must have exactly 2 entries for {_triton(kind)} for "
            f"{model}"
        )
    return Control(name, kind, _VALUES[given[0]], (values[0], values[1]))


def _state(said: Any) -> KeptState:
    name, datatype = said.input_name, _datatype(said.data_type)
    if datatype is None:
        raise ValueError(f"the state '{name}' must have a data_type")
    if len(said.initial_state) > 1:
        raise ValueError(
            f"initial_state field for state input '{name}' must contain exactly one or zero element. Found "
            f"'{len(said.initial_state)}' elements."
        )
    state = KeptState(name, said.output_name, datatype, tuple(said.dims))
    for initial in said.initial_state:
        if initial.data_type != said.data_type:
            raise ValueError(
                f"The data type used for 'initial_state' field of state '{name}' does not match the state "
                "data type."
            )
        if not initial.name:
            raise ValueError(f"Field 'name' must be set when using initial_state for state input '{name}'.")
        if initial.WhichOneof("state_data") is None:
            raise ValueError(f"initial_state setting expects state'{name}' to have state_data set")
        dims, file = tuple(initial.dims), initial.data_file
        state = KeptState(name, said.output_name, datatype, tuple(said.dims), dims, file)
    return state
