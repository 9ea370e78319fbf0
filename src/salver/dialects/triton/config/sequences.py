"""``sequence_batching`` of a Triton model configuration. Pure; messages are Triton's where it has one."""

from collections.abc import Iterator
from typing import Any, Final, Literal

from salver.dialects.triton.model_config import ENUMS
from salver.kernel.repository.checks.sequences import control_name, misfit
from salver.words.artifacts import Control, Sequences, SequenceState
from salver.words.errors import InvalidInput
from salver.words.tensor import DATATYPES, DataType

_KINDS: Final[tuple[Literal["start", "ready", "end", "corrid"], ...]] = ("start", "ready", "end", "corrid")
_IDLE_US = 1_000_000
_VALUES: Final = {
    "int32_false_true": DataType.INT32,
    "fp32_false_true": DataType.FP32,
    "bool_false_true": DataType.BOOL,
}


def sequences_of(message: Any, origin: str, name: str) -> Sequences:
    """Return strategy, controls and states of a ModelConfig message; none without ``sequence_batching``.

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
        if problem := misfit(sequences):
            raise ValueError(f"{problem} for {name}")
    except ValueError as error:
        raise InvalidInput(f"{origin}: {error}", field="sequence_batching") from error
    return sequences


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
                f"sequence batching must not specify either {listed}or 'bool_false_true' for "
                f"{control_name(kind)} for {model}"
            )
        datatype = _datatype(said.data_type)
        if datatype is None:
            raise ValueError(
                f"sequence batching control {control_name(kind)} must have a data_type for {model}"
            )
        return Control(name, kind, datatype)
    if not given:
        raise ValueError(
            f"sequence batching must specify either {listed}or 'bool_false_true' for {control_name(kind)} "
            f"for {model}"
        )
    if len(given) > 1:
        raise ValueError(
            f"sequence batching specifies more than one from {listed}and 'bool_false_true' for "
            f"{control_name(kind)} for {model}"
        )
    values = tuple(map(float, getattr(said, given[0])))
    if len(values) != 2:
        raise ValueError(
            f"sequence batching control '{given[0]}' must have exactly 2 entries for {control_name(kind)} "
            f"for {model}"
        )
    return Control(name, kind, _VALUES[given[0]], (values[0], values[1]))


def _state(said: Any) -> SequenceState:
    name, datatype = said.input_name, _datatype(said.data_type)
    if datatype is None:
        raise ValueError(f"the state '{name}' must have a data_type")
    if len(said.initial_state) > 1:
        raise ValueError(
            f"initial_state field for state input '{name}' must contain exactly one or zero element. Found "
            f"'{len(said.initial_state)}' elements."
        )
    state = SequenceState(name, said.output_name, datatype, tuple(said.dims))
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
        state = SequenceState(name, said.output_name, datatype, tuple(said.dims), dims, file)
    return state
