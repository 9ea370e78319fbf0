"""Tensors that the server adds to requests of sequences, and states kept from their outputs.

Controls (TR-C9) are created for each run; states come from the previous run of the same sequence (implicit
state, TR-S4). Pure.
"""

import hashlib
import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from salver.backends.protocol import Answer
from salver.kernel.engine.sequences import Turn
from salver.words.artifacts import Control, Sequences, SequenceState
from salver.words.errors import InvalidInput, ModelFailed
from salver.words.messages import InferRequest, Parameter
from salver.words.tensor import Array, DataType

#: Maximum length in bytes of a string id, as in Triton.
MAX_ID_BYTES = 128
_MASK = (1 << 64) - 1


def id_of(request: InferRequest) -> int | str:
    """Return the id of the request's sequence; 0 or empty = none.

    Raises:
        InvalidInput: it is neither a 64-bit integer nor a string of at most 128 bytes.
    """
    id = request.parameters.get("sequence_id", 0)
    if type(id) is int and -(1 << 63) <= id <= _MASK:
        return id & _MASK  # as Triton reads a negative number
    if type(id) is str and len(id) <= MAX_ID_BYTES and len(id.encode("utf-8", "replace")) <= MAX_ID_BYTES:
        return id
    raise InvalidInput(
        f"parameter 'sequence_id' must be a whole number of 64 bits or a text of at most {MAX_ID_BYTES} "
        "bytes",
        field="parameters.sequence_id",
    )


def flag(parameters: Mapping[str, Parameter], name: str) -> bool:
    """Return a flag of a request.

    Raises:
        InvalidInput: it is not a boolean.
    """
    value = parameters.get(name, False)
    if type(value) is bool:
        return value
    raise InvalidInput(f"parameter '{name}' must be a boolean", field=f"parameters.{name}")


class ServerTensors:
    """Tensors of one model version that callers do not see.

    Args:
        batched: Axis 0 is the batch dimension.
    """

    def __init__(self, config: Sequences, batched: bool) -> None:
        self._controls = config.controls
        self._states = config.states
        self._shape = (1, 1) if batched else (1,)
        self._initial = {state.input: _initial(state, batched) for state in config.states}
        self._kept_shapes = [(s.output, ((1,) if batched else ()) + s.shape) for s in config.states]
        self.outputs = tuple(state.output for state in config.states)

    def key(self, turn: Turn) -> Hashable:
        """Return a key that is equal for sequences with states of equal shapes."""
        if self._states:
            return tuple(array.shape for array in self._state(turn).values())
        return None

    def of(self, turn: Turn | None, id: int | str) -> dict[str, Array]:
        """Return the tensors to add to one request.

        Args:
            turn: None = an empty row.
            id: Id of its sequence.
        """
        added = {control.name: self._control(control, turn, id) for control in self._controls}
        if self._states:
            added |= self._initial if turn is None else self._state(turn)
        return added

    def keep(self, turn: Turn, answer: Answer) -> None:
        """Store the state of a sequence from the outputs of one request.

        Raises:
            ModelFailed: a state is missing, or its shape does not match the configuration.
        """
        outputs = answer.outputs
        if not self._states:
            return
        if any(name not in outputs or (answer.again and not outputs[name].size) for name in self.outputs):
            return  # one of several responses or runs may leave a state unchanged
        state = {}
        for kept, (name, shape) in zip(self._states, self._kept_shapes, strict=True):
            array = outputs.get(name)
            if array is None:
                raise ModelFailed(f"the model did not give its state '{name}'")
            if len(array.shape) != len(shape) or any(
                want not in (-1, got) for want, got in zip(shape, array.shape, strict=True)
            ):
                raise ModelFailed(f"state '{name}' has shape {list(array.shape)}, expected {list(shape)}")
            # a slice must not keep the whole batch in memory
            state[kept.input] = array if array.base is None else array.copy()
        turn.sequence.state = state

    def _state(self, turn: Turn) -> dict[str, Array]:
        """Return the state of the sequence after its previous request."""
        known: dict[str, Array] | None = turn.sequence.state
        if turn.starts or known is None:
            return self._initial
        return known

    def _control(self, control: Control, turn: Turn | None, id: int | str) -> Array:
        if control.kind == "corrid":
            return np.full(self._shape, _corrid(id, control.datatype), control.datatype.dtype)
        is_on = turn is not None and (
            control.kind == "ready" or (turn.starts if control.kind == "start" else turn.ends)
        )
        return np.full(self._shape, control.values[is_on], control.datatype.dtype)


def _corrid(id: int | str, datatype: DataType) -> object:
    """Return the sequence id as a number or a string.

    >>> _corrid(7, DataType.BYTES), _corrid((1 << 32) + 5, DataType.UINT32)
    (b'7', 5)
    >>> _corrid(2**64 - 1, DataType.INT64)
    -1
    """
    if datatype is DataType.BYTES:
        return str(id).encode("utf-8", "replace")
    if isinstance(id, str):  # a numeric id that is the same for the same string
        id = int.from_bytes(hashlib.blake2b(id.encode("utf-8", "replace"), digest_size=8).digest())
    bits = 8 * datatype.itemsize
    id &= (1 << bits) - 1
    if datatype.name.startswith("INT") and id >> (bits - 1):
        return id - (1 << bits)
    return id


def _initial(state: SequenceState, batched: bool) -> Array:
    extents = state.initial_shape or tuple(1 if extent < 0 else extent for extent in state.shape)
    shape = ((1,) if batched else ()) + extents
    if not state.initial_file:
        if state.datatype is DataType.BYTES:
            return np.full(shape, b"", object)
        return np.zeros(shape, state.datatype.dtype)
    if state.datatype is DataType.BYTES:
        return texts(state.content, shape)
    count = math.prod(shape)
    return np.frombuffer(state.content, state.datatype.dtype.newbyteorder("<"), count).reshape(shape)


def texts(content: bytes, shape: Sequence[int]) -> Array:
    """Parse an array of strings in Triton's binary form: each preceded by its length in four bytes.

    >>> texts(bytes([1, 0, 0, 0, 97, 0, 0, 0, 0]), (2,)).tolist()
    [b'a', b'']
    """
    array = np.full(math.prod(shape), b"", object)
    start = 0
    for index in range(array.size):
        length = int.from_bytes(content[start : start + 4], "little")
        array[index] = content[start + 4 : start + 4 + length]
        start += 4 + length
    return array.reshape(shape)
