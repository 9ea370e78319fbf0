"""Requests whose tensors have other names and types than the model's, as KServe's own servers accept them.

Pure.
"""

import msgspec
import numpy as np

from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.encoding.bodies import HttpBody
from salver.words.messages import InferRequest, RequestedOutput, Signature, TensorSpec
from salver.words.tensor import DataType, Tensor

#: Types whose arrays do not hold their values as numbers.
_NO_NUMBERS = (DataType.BYTES, DataType.BF16)


class LenientHttp(OpenInferenceHttp):
    """Codec of HTTP that fits requests to the model."""

    def decode(self, http: HttpBody, signature: Signature) -> InferRequest:
        """Return the request with the model's names and types. Raises as :class:`OpenInferenceHttp` does."""
        return fitted(super().decode(http, signature), signature)


def fitted(request: InferRequest, signature: Signature) -> InferRequest:
    """Return the request with the model's names and types.

    If the model knows no name of the inputs and takes as many, they count by position; requested outputs
    likewise, of which the model may have more. Numbers become those of the model where the kind stays, such
    as integers for floats. Whatever else does not fit is left as it is: the engine says what is wrong.
    """
    if signature.converts:
        return request
    specs = {spec.name: spec for spec in signature.inputs}
    inputs, outputs = request.inputs, request.outputs
    if len(inputs) == len(specs) and specs.keys().isdisjoint([tensor.name for tensor in inputs]):
        pairs = zip(specs, inputs, strict=True)
        inputs = tuple([Tensor(name, tensor.datatype, tensor.array) for name, tensor in pairs])
    names = [spec.name for spec in signature.outputs]
    if len(outputs) <= len(names) and set(names).isdisjoint([output.name for output in outputs]):
        named = zip(names, outputs, strict=False)
        outputs = tuple([RequestedOutput(name, output.parameters) for name, output in named])
    inputs = tuple([_converted(tensor, specs.get(tensor.name)) for tensor in inputs])
    return msgspec.structs.replace(request, inputs=inputs, outputs=outputs)


def _converted(tensor: Tensor, spec: TensorSpec | None) -> Tensor:
    """Return the tensor with the model's type, if both are numbers and the kind stays."""
    if spec is None or spec.datatype is tensor.datatype:
        return tensor
    if spec.datatype in _NO_NUMBERS or tensor.datatype in _NO_NUMBERS:
        return tensor
    wanted = spec.datatype.dtype
    if not np.can_cast(tensor.array.dtype, wanted, "same_kind"):
        return tensor
    array = tensor.array.astype(wanted)
    if wanted.kind in "iu" and not np.array_equal(array, tensor.array):  # one does not fit
        return tensor
    return Tensor(tensor.name, spec.datatype, array)
