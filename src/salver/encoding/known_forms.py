"""Cache of request forms that have been parsed before.

Callers repeat requests with the same tensors, datatypes and shapes, and other numbers. The prefix before the
numbers is parsed once and stored with its result; the next request with this prefix has the same form, and
its numbers are used in place. A codec determines the prefix and the positions of the numbers; nothing here
knows protocols.

Pure.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, TypeVar

import msgspec
import numpy as np

from salver.encoding.raw import SWAP
from salver.words.messages import InferRequest, RequestedOutput
from salver.words.tensor import DataType, Tensor

#: Datatypes whose bytes must be checked individually.
_CHECKED = frozenset((DataType.BYTES, DataType.BOOL))
#: Fields of a requested output that allow its form to be reused.
_EVERYDAY = frozenset(("binary_data",))
#: Maximum bytes of a stored prefix, and maximum number of forms.
LONGEST, _MOST = 2048, 1024

KeyT = TypeVar("KeyT", bound=Hashable)
FormT = TypeVar("FormT")


class Part(msgspec.Struct, frozen=True, gc=False):
    """A tensor whose ``count`` elements begin at an offset from the first one."""

    name: str
    datatype: DataType
    dtype: "np.dtype[np.generic]"
    shape: tuple[int, ...]
    count: int
    offset: int


class Form(msgspec.Struct, frozen=True, gc=False):
    """A request without its numbers.

    Attributes:
        size: Bytes from the first number to the end of the last.
    """

    parts: tuple[Part, ...]
    outputs: tuple[RequestedOutput, ...]
    size: int

    def request(self, model: str, version: str, data: bytes | memoryview, at: int) -> InferRequest:
        """Return the request whose numbers begin at an offset."""
        return InferRequest(model, self.tensors(data, at), version, "", self.outputs)

    def tensors(self, data: bytes | memoryview, at: int) -> tuple[Tensor, ...]:
        """Return the inputs whose numbers begin at an offset; arrays are views if alignment allows."""
        inputs = []
        for part in self.parts:
            array = np.frombuffer(data, part.dtype, part.count, at + part.offset)
            if not array.flags.aligned:
                array = array.copy()
            inputs.append(Tensor(part.name, part.datatype, array.reshape(part.shape)))
        return tuple(inputs)


def form_of(request: InferRequest, gaps: Sequence[int] = ()) -> Form | None:
    """Return the form of a request that consists only of numbers and their description, else None.

    Args:
        gaps: Bytes between the tensors, if any.
    """
    if SWAP or not request.inputs or request.id or request.parameters:
        return None
    if not all(_EVERYDAY.issuperset(output.parameters) for output in request.outputs):
        return None
    parts, at = [], 0
    for index, tensor in enumerate(request.inputs):
        if tensor.datatype in _CHECKED or not tensor.array.size:
            return None
        at += gaps[index - 1] if index and gaps else 0
        array = tensor.array
        parts.append(Part(tensor.name, tensor.datatype, array.dtype, array.shape, array.size, at))
        at += array.nbytes
    return Form(tuple(parts), request.outputs, at)


def holds(message: bytes, pieces: Iterable[tuple[int, bytes]]) -> bool:
    """Return whether each of these pieces is at its offset.

    >>> holds(b"abcd", [(0, b"ab"), (3, b"d")]), holds(b"abcd", [(1, b"x")])
    (True, False)
    """
    for at, expected in pieces:  # noqa: SIM110 - asked for each request, and a generator takes twice as long
        if not message.startswith(expected, at):
            return False
    return True


class KnownForms(Generic[KeyT, FormT]):
    """Bounded number of forms by prefix; all are dropped when there are more."""

    def __init__(self) -> None:
        self._forms: dict[KeyT, FormT] = {}
        self.get = self._forms.get

    def __len__(self) -> int:
        return len(self._forms)

    def __contains__(self, key: KeyT) -> bool:
        return key in self._forms

    def add(self, key: KeyT, form: FormT) -> None:
        """Store a form."""
        if len(self._forms) >= _MOST:
            self._forms.clear()
        self._forms[key] = form
