"""``sequence_batching`` of a Triton model configuration. Error texts are Triton's where it has one. Pure."""

from collections.abc import Iterator
from typing import Any, Final, Literal

from msgspec.structs import replace

from salver.dialects.triton.model_config import datatype_numbered
from salver.kernel.repository.checks.sequences import control_name, misfit
from salver.words.artifacts import Control, Sequences, SequenceState
from salver.words.errors import InvalidInput
from salver.words.tensor import DataType

_KINDS: Final[tuple[Literal["start", "ready", "end", "corrid"], ...]] = ("start", "ready", "end", "corrid")
_IDLE_US = 1_000_000
_VALUES: Final = {
    "int32_false_true": DataType.INT32,
    "fp32_false_true": DataType.FP32,
    "bool_false_true": DataType.BOOL,
}
_LISTED: Final = "'int32_false_true', 'fp32_false_true' {} 'bool_false_true' for"


def sequences_of(message: Any, origin: str, name: str) -> Sequences:
    """Return strategy, controls and states of a ModelConfig message; none without ``sequence_batching``.

    Args:
        origin: Its source, for messages.
        name: The model's name.

    Raises:
        InvalidInput: A field is wrong, or does not fit another.
    """
    if not message.HasField("sequence_batching"):
        return Sequences()
    batching = message.sequence_batching
    strategy: Literal["oldest", "direct"] = "oldest" if batching.HasField("oldest") else "direct"
    try:
        sequences = Sequences(
            strategy=strategy,
            candidates=max(0, batching.oldest.max_candidate_sequences),
            max_delay_ms=getattr(batching, strategy).max_queue_delay_microseconds / 1000,
            preferred_rows=tuple(sorted(set(batching.oldest.preferred_batch_size))),
            min_fill=batching.direct.minimum_slot_utilization,
            idle_ms=(batching.max_sequence_idle_microseconds or _IDLE_US) / 1000,
            controls=tuple(_controls(batching, name)),
            states=tuple(map(_state, batching.state)),
            iterative=batching.iterative_sequence,
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


def _controls(batching: Any, model: str) -> Iterator[Control]:
    for tensor in batching.control_input:
        for control in tensor.control:
            yield _control(tensor.name, control, model)


def _control(name: str, control: Any, model: str) -> Control:
    kind = _KINDS[control.kind]
    given = [field for field in _VALUES if len(getattr(control, field))]
    whose = f"{control_name(kind)} for {model}"
    if kind == "corrid":
        if given:
            raise ValueError(f"sequence batching must not specify either {_LISTED.format('or')} {whose}")
        datatype = datatype_numbered(control.data_type)
        if datatype is None:
            raise ValueError(
                f"sequence batching control {control_name(kind)} must have a data_type for {model}"
            )
        return Control(name, kind, datatype)
    if not given:
        raise ValueError(f"sequence batching must specify either {_LISTED.format('or')} {whose}")
    if len(given) > 1:
        raise ValueError(f"sequence batching specifies more than one from {_LISTED.format('and')} {whose}")
    values = tuple(map(float, getattr(control, given[0])))
    if len(values) != 2:
        raise ValueError(f"sequence batching control '{given[0]}' must have exactly 2 entries for {whose}")
    return Control(name, kind, _VALUES[given[0]], (values[0], values[1]))


def _state(message: Any) -> SequenceState:
    name, datatype = message.input_name, datatype_numbered(message.data_type)
    if datatype is None:
        raise ValueError(f"the state '{name}' must have a data_type")
    if len(message.initial_state) > 1:
        raise ValueError(
            f"initial_state field for state input '{name}' must contain exactly one or zero element. Found "
            f"'{len(message.initial_state)}' elements."
        )
    state = SequenceState(name, message.output_name, datatype, tuple(message.dims))
    for initial in message.initial_state:
        if initial.data_type != message.data_type:
            raise ValueError(
                f"The data type used for 'initial_state' field of state '{name}' does not match the state "
                "data type."
            )
        if not initial.name:
            raise ValueError(f"Field 'name' must be set when using initial_state for state input '{name}'.")
        if initial.WhichOneof("state_data") is None:
            raise ValueError(f"initial_state setting expects state'{name}' to have state_data set")
        state = replace(state, initial_shape=tuple(initial.dims), initial_file=initial.data_file)
    return state
