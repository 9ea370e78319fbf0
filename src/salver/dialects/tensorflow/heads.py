"""Rules of Classify, Regress and MultiInference for signatures and answers, with TensorFlow Serving's texts.

One input, ``inputs``, of serialised Examples; ``classes`` and ``scores``, or ``outputs``, with a row for each
(TF-R32). gRPC and REST share it. Pure.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from salver.dialects.tensorflow.metadata import signature_def
from salver.dialects.tensorflow.rules import DEFAULT
from salver.dialects.tensorflow.tf_tensor import name_of, word_of
from salver.words.errors import FailedPrecondition, InvalidInput, Unsupported
from salver.words.messages import InferRequest, RequestedOutput, Signature
from salver.words.tensor import Array, DataType, Tensor

CLASSIFY: Final = "tensorflow/serving/classify"
REGRESS: Final = "tensorflow/serving/regress"
_KINDS: Final = {CLASSIFY: "classification", REGRESS: "regression"}
#: The only input of both.
INPUTS: Final = "inputs"
CLASSES: Final = "classes"
SCORES: Final = "scores"
OUTPUTS: Final = "outputs"


class Classes(msgspec.Struct, frozen=True):
    """Classes of an answer, ``[examples, classes]``; one of the two may be missing.

    Attributes:
        labels: Array of ``bytes``.
        scores: Array of float32.
    """

    labels: Array | None
    scores: Array | None


def head_of(signature: Signature, name: str) -> Signature:
    """Return the signature of a Classify or Regress request.

    Raises:
        InvalidInput: The model has none of that name.
    """
    found = signature.named(name or DEFAULT)
    if found is None:
        raise InvalidInput(f"No signature was found with the name: {name or DEFAULT}")
    return found


def outputs_of(head: Signature, method: str, *, checks_method: bool = False) -> tuple[str, ...]:
    """Return the outputs of a signature that such a request needs.

    Args:
        method: :data:`CLASSIFY` or :data:`REGRESS`.
        checks_method: Whether the signature's own method has to be that one.

    Raises:
        InvalidInput, FailedPrecondition: The signature does not fit the method.
        Unsupported: There is no such method.
    """
    if method not in _KINDS:
        raise Unsupported(f"Unsupported signature method_name: {method}")
    kind = _KINDS[method]
    if checks_method and head.method != method:
        raise InvalidInput(f"Expected {kind} signature method_name to be {method}. Was: {head.method}")
    if len(head.inputs) != 1:
        raise InvalidInput("Expected one input Tensor.")
    given = [spec.name for spec in head.outputs]
    if method == REGRESS and len(given) != 1:
        raise InvalidInput("Expected one output Tensor.")
    if method == CLASSIFY and len(given) not in (1, 2):
        raise InvalidInput(f"Expected one or two output Tensors, found {len(given)}")
    if head.inputs[0].name != INPUTS:
        raise FailedPrecondition(f"No {kind} inputs found in SignatureDef: {signature_def(head)}")
    if head.inputs[0].datatype is not DataType.BYTES:
        raise InvalidInput(f"Expects arg[0] to be {word_of(head.inputs[0].datatype)} but string is provided")
    if method == REGRESS:
        if given != [OUTPUTS]:
            raise FailedPrecondition(f"No regression outputs found in SignatureDef: {signature_def(head)}")
        return (OUTPUTS,)
    wanted = tuple([name for name in (CLASSES, SCORES) if name in given])
    if not wanted:
        raise FailedPrecondition(
            "Expected classification signature outputs to contain at least one of "
            f'"{CLASSES}" or "{SCORES}". Signature was: {signature_def(head)}'
        )
    return wanted


def request_of(
    signature: Signature,
    head: Signature,
    outputs: Sequence[str],
    examples: Sequence[bytes],
    model: str,
    version: str = "",
) -> InferRequest:
    """Return the request with serialised examples to a signature of the model.

    Args:
        signature: The model's default signature.
        head: From :func:`head_of`.
        outputs: From :func:`outputs_of`.
    """
    values = np.empty(len(examples), object)
    values[:] = examples
    return InferRequest(
        model,
        (Tensor(INPUTS, DataType.BYTES, values),),
        version,
        outputs=tuple(map(RequestedOutput, outputs)),
        signature="" if head is signature else head.name,
        any_shape=True,
    )


def classes_in(outputs: Sequence[Tensor], examples: int) -> Classes:
    """Return the classes in an answer.

    Raises:
        InvalidInput: The outputs do not have the shape and type of classes.
    """
    found = {tensor.name: tensor for tensor in outputs}
    labels, scores = found.get(CLASSES), found.get(SCORES)
    for tensor, wanted in ((labels, DataType.BYTES), (scores, DataType.FP32)):
        if tensor is None:
            continue
        if tensor.array.ndim != 2:
            raise InvalidInput(
                f"Expected Tensor shape: [batch_size num_classes] but got {_shown(tensor.shape)}"
            )
        if tensor.datatype is not wanted:
            raise InvalidInput(
                f"Expected {tensor.name} Tensor of {name_of(wanted)}. Got: {name_of(tensor.datatype)}"
            )
        if tensor.shape[0] != examples:
            raise InvalidInput(
                f"Expected {tensor.name} output batch size of {examples}. Got: {tensor.shape[0]}"
            )
    if labels is not None and scores is not None and labels.shape[1] != scores.shape[1]:
        raise InvalidInput(
            "Tensors class and score should match in dim_size(1). "
            f"Got {labels.shape[1]} vs. {scores.shape[1]}"
        )
    return Classes(
        None if labels is None else labels.array,
        None if scores is None else scores.array,
    )


def values_in(outputs: Sequence[Tensor], examples: int) -> Array:
    """Return the values in an answer to Regress, float32[examples].

    Raises:
        InvalidInput: The output does not have the shape and type of values.
    """
    found = next((tensor for tensor in outputs if tensor.name == OUTPUTS), None)
    if found is None:
        raise InvalidInput(f"Could not find output tensor '{OUTPUTS}'")
    shape = found.shape
    if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
        raise InvalidInput(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] "
            f"but got {_shown(shape)}"
        )
    if shape[0] != examples:
        raise InvalidInput(f"Input batch size did not match output batch size: {examples} vs. {shape[0]}")
    if found.datatype is not DataType.FP32:
        raise InvalidInput(f"Expected output Tensor of DT_FLOAT.  Got: {name_of(found.datatype)}")
    return found.array.reshape(-1)


def _shown(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
