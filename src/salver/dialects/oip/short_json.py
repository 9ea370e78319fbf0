"""Short JSON form of requests: inputs and outputs by name, as nested lists.

``{"x": [[1, 2]]}`` for a model with an input ``x``, or ``[[1, 2]]`` for a model with one input; the answer is
``{"y": [[3.0]]}``. Datatypes come from the model, shapes from the lists. A body with the key ``inputs`` has
the protocol's own form.

Pure.
"""

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from salver.encoding.bodies import HttpBody, HttpReply
from salver.encoding.json_text import dumps, kind_of
from salver.encoding.values import from_json
from salver.words.errors import InvalidInput
from salver.words.messages import (
    InferRequest,
    InferResponse,
    RequestedOutput,
    Signature,
    TensorSpec,
    described,
)
from salver.words.tensor import Array, DataType, Tensor, bf16_to_fp32

#: Keys of the protocol's own form that may also be names of inputs.
_KEYS: Final = frozenset(("id", "parameters", "outputs"))
_WHOLE: Final = "The inputs are wanted as {{name: values}}. {model!r} takes: {inputs}"


class ShortRequest(InferRequest, frozen=True):
    """Request in the short form, which is answered in the same form."""


def asked(http: HttpBody, root: Any, signature: Signature) -> ShortRequest:
    """Return the request of a body without ``inputs``. It asks for all outputs.

    Raises:
        InvalidInput: the body does not match the model; the text lists the model's inputs.
    """
    specs = signature.inputs
    if type(root) is list and root:
        if len(specs) != 1:
            raise InvalidInput(
                f"a list is the input of a model that has one, and {http.model!r} has {len(specs)}",
                fix=_fix(http.model, specs),
            )
        root = {specs[0].name: root}
    if type(root) is not dict:
        text = f"the request must be a JSON object, not {kind_of(root)}"
        raise InvalidInput(text, fix=_fix(http.model, specs))
    known = {spec.name: spec for spec in specs}
    if not root or not (root.keys() - _KEYS or root.keys() <= known.keys()):
        raise InvalidInput("inputs must be a list, not null", field="inputs", fix=_fix(http.model, specs))
    if unknown := [name for name in root if name not in known]:
        raise InvalidInput(f"{http.model!r} has no input {unknown[0][:100]!r}", fix=_takes(specs))
    if missing := [spec.name for spec in specs if spec.name not in root and not spec.optional]:
        raise InvalidInput(f"the input {missing[0]!r} of {http.model!r} is missing", fix=_takes(specs))
    inputs = tuple(
        Tensor(name, known[name].datatype, _array(known[name], value)) for name, value in root.items()
    )
    outputs = tuple(RequestedOutput(spec.name) for spec in signature.outputs)
    return ShortRequest(http.model, inputs, http.version, "", outputs)


def told(response: InferResponse) -> HttpReply:
    """Return the answer, with values by output name."""
    return HttpReply(200, dumps({tensor.name: _values(tensor) for tensor in response.outputs}))


def _takes(specs: Iterable[TensorSpec]) -> str:
    return f"It takes: {described(specs)}"


def _fix(model: str, specs: Iterable[TensorSpec]) -> str:
    return _WHOLE.format(model=model, inputs=described(specs))


def _array(spec: TensorSpec, value: Any) -> Array:
    """Return the array of one input; a single value stands for a tensor of one element."""
    if type(value) is list:
        return from_json(value, spec.datatype, spec.name, is_regular=True)
    if any(extent not in (-1, 1) for extent in spec.shape) or not spec.shape:
        raise InvalidInput(
            f"input {spec.name!r} must be a list of shape {list(spec.shape)}, not {kind_of(value)}",
            field=spec.name,
        )
    return from_json([value], spec.datatype, spec.name, is_regular=True).reshape((1,) * len(spec.shape))


def _values(tensor: Tensor) -> Any:
    """Return nested lists for the JSON writer; bytes that are not UTF-8 become base64."""
    array = tensor.array
    if tensor.datatype is DataType.BYTES:
        flat = np.empty(array.size, dtype=object)
        flat[:] = [_text(value) for value in array.ravel().tolist()]
        return flat.reshape(array.shape).tolist()
    if tensor.datatype is DataType.BF16:
        array = bf16_to_fp32(array)
    elif tensor.datatype is DataType.FP16:
        array = array.astype(np.float32)
    if array.ndim:
        return np.ascontiguousarray(array)
    return array[()]


def _text(value: bytes) -> str | Mapping[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}
