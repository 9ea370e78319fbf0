"""Top classes of an output.

Triton's classification extension (TR-R27): a requested output is returned as ``BYTES`` elements
``score:index`` or ``score:index:label``, the best first, for each row of the batch.

Pure.
"""

from collections.abc import Mapping

import msgspec
import numpy as np

from salver.encoding.values import MAX_STRINGS
from salver.words.errors import InvalidInput, TooLarge
from salver.words.messages import InferRequest, InferResponse, Signature
from salver.words.tensor import DataType, Tensor

PARAMETER = "classification"
_FLOATS = (DataType.FP32, DataType.FP64)


class Classes(msgspec.Struct, frozen=True, gc=False):
    """Classes requested of one output, with their labels.

    Attributes:
        count: Most classes of each row.
        labels: Labels by index; empty and missing ones are left out of the answer.
        batched: Axis 0 is the batch; else all elements are one row.
    """

    count: int
    labels: tuple[str, ...]
    batched: bool


class ClassRequest(InferRequest, frozen=True):
    """Request for the classes of some outputs, by output name."""

    classes: Mapping[str, Classes] = {}


def with_classes(request: InferRequest, signature: Signature) -> InferRequest:
    """Return the request with the data that :func:`classified` needs, if it asks for classes.

    Raises:
        InvalidInput: the count is negative, or the output is not numeric.
    """
    for output in request.outputs:
        if PARAMETER in output.parameters:
            break
    else:
        return request
    classes = {}
    for output in request.outputs:
        count = output.parameters.get(PARAMETER)
        if not isinstance(count, int) or not count:
            continue
        if count < 0:
            raise InvalidInput(f"parameter '{PARAMETER}' of output '{output.name}' must be at least 0")
        for spec in signature.outputs:
            if spec.name == output.name:
                if not spec.datatype.is_integer and spec.datatype not in _FLOATS:
                    raise InvalidInput(
                        "class result not available for output due to unsupported type "
                        f"'{spec.datatype.name}'"
                    )
                classes[spec.name] = Classes(count, spec.labels, signature.batched)
    if not classes:
        return request
    return ClassRequest(
        request.model,
        request.inputs,
        request.version,
        request.id,
        request.outputs,
        request.parameters,
        classes=classes,
    )


def classified(request: InferRequest, response: InferResponse) -> InferResponse:
    """Return the response with classes in place of the outputs for which the request asks for them."""
    if not isinstance(request, ClassRequest):
        return response
    classes = request.classes
    outputs = [
        top_classes(tensor, classes[tensor.name]) if tensor.name in classes else tensor
        for tensor in response.outputs
    ]
    return msgspec.structs.replace(response, outputs=tuple(outputs))


def top_classes(tensor: Tensor, wanted: Classes) -> Tensor:
    """Return the top classes of a numeric tensor, equal scores by index and NaN last.

    >>> scores = Tensor("y", DataType.FP32, np.array([0.1, 0.7, 0.2], "f4"))
    >>> top_classes(scores, Classes(2, ("ant", "bee"), False)).array.tolist()
    [b'0.700000:1:bee', b'0.200000:2']

    Raises:
        TooLarge: the classes would exceed the limit of strings in an answer.
    """
    array = tensor.array
    rows = array.shape[0] if wanted.batched else 1
    count = min(wanted.count * rows, array.size)
    if count > MAX_STRINGS:
        raise TooLarge(
            f"output '{tensor.name}' would have {count} classes; at most {MAX_STRINGS} are given",
            fix=f"Ask for fewer by '{PARAMETER}', or for the scores.",
        )
    scores = array.reshape(rows, array.size // rows)
    is_float = array.dtype.kind == "f"
    keys = scores
    if is_float:
        keys = np.where(np.isnan(scores), -np.inf, scores)
    last = scores.shape[1] - 1
    # Sort the reversed rows, since numpy has no stable sort in descending order.
    order = (last - np.argsort(keys[:, ::-1], axis=1, kind="stable")[:, ::-1])[:, : wanted.count]
    labels = wanted.labels
    texts = np.empty(order.size, dtype=object)
    best = np.take_along_axis(scores, order, axis=1)
    for at, (score, index) in enumerate(zip(best.ravel().tolist(), order.ravel().tolist(), strict=True)):
        text = f"{score:f}:{index}" if is_float else f"{score}:{index}"
        if index < len(labels) and labels[index]:
            text = f"{text}:{labels[index]}"
        texts[at] = text.encode()
    shape = order.shape if wanted.batched else order.shape[1:]
    return Tensor(tensor.name, DataType.BYTES, texts.reshape(shape))
