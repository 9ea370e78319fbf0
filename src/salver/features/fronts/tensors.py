"""Tensors and errors between the engine of the home process and the fronts. Pure."""

import pickle
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from salver.features.fronts.messages import Ask, SentTensor
from salver.words.errors import SalverError
from salver.words.messages import InferRequest, RequestedOutput
from salver.words.tensor import DATATYPES, DataType, Tensor

#: Attributes of an error that are of no use in another process.
_LOCAL: Final = ("recur", "repeated", "reply", "settled")


def sent(tensors: Sequence[Tensor]) -> tuple[SentTensor, ...]:
    """Return tensors as parts of a message; none may hold strings."""
    return tuple(
        [(each.name, each.datatype.name, each.array.shape, each.array.tobytes()) for each in tensors]
    )


def received(tensors: Sequence[SentTensor]) -> tuple[Tensor, ...]:
    """Return the tensors of a message.

    Raises:
        KeyError, TypeError, ValueError: they are not what :func:`sent` returns.
    """
    found = []
    for name, kind, shape, data in tensors:
        datatype = DATATYPES[kind]
        if datatype is DataType.BYTES:  # its elements would be pointers
            raise ValueError(f"tensor '{name}' cannot be sent as it is")
        array: np.ndarray[Any, Any] = np.ndarray(shape, datatype.dtype, data)
        found.append(Tensor(name, datatype, array))
    return tuple(found)


def request_of(ask: Ask, model: str) -> InferRequest:
    """Return the request of a message; it names no version, because the engine is that of one."""
    outputs = tuple([RequestedOutput(name) for name in ask.outputs])
    inputs, parameters = received(ask.inputs), ask.parameters or {}
    return InferRequest(model, inputs, "", ask.id, outputs, parameters, came=ask.came)


def pickled(error: SalverError) -> bytes:
    """Return an error with what its class does not keep by itself, such as Triton's text."""
    kept = {name: value for name, value in vars(error).items() if name not in _LOCAL}
    return pickle.dumps((error, kept))


def unpickled(data: bytes) -> SalverError:
    """Return the error of :func:`pickled`; only for what the home process has sent."""
    error, kept = pickle.loads(data)
    assert isinstance(error, SalverError)
    vars(error).update(kept)
    return error
