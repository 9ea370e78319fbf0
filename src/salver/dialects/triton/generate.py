"""Codec of Triton's generate extension (TR-R6).

A request is one JSON object whose keys are the model's inputs, or else request parameters; a reply has the
outputs as keys. A stream sends each reply as a Server-Sent Event. Pure.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from salver.dialects.oip.faults import http_fault
from salver.encoding.bodies import HttpBody, HttpReply
from salver.encoding.json_text import TOO_DEEP, dumps, filled, is_too_deep, kind_of, loads
from salver.encoding.values import from_json, is_long, to_json, to_json_within
from salver.kernel.serving.ports import Codec
from salver.words.errors import Code, InvalidInput, NotOneResponse, SalverError
from salver.words.messages import InferRequest, InferResponse, Parameter, Signature, TensorSpec
from salver.words.tensor import Array, Tensor

_RESERVED = "triton_"
_FEW = 16


class GenerateCodec(Codec[HttpBody, HttpReply]):
    """Codec of ``POST /v2/models/{m}/generate`` and of each event of ``generate_stream``."""

    protocol = "generate"

    def takes_long(self, response: InferResponse) -> bool:
        """Return whether others would wait while ``encode`` writes the response."""
        return is_long(response.outputs)

    def decode(self, http: HttpBody, signature: Signature) -> InferRequest:
        """Return the request, with scalars and lists as tensors of the signature's datatypes.

        Raises:
            InvalidInput: A field is wrong; the error names it.
        """
        try:
            return _decode(http, signature)
        except InvalidInput:
            if is_too_deep(http.body):
                raise InvalidInput(TOO_DEEP) from None
            raise

    def encode(self, request: InferRequest, response: InferResponse) -> HttpReply:
        """Return a reply, with outputs of one element as scalars and others as flat lists.

        Raises:
            InvalidInput, Unsupported: An output cannot be JSON.
        """
        if response.error is not None:
            return HttpReply(400, http_fault(response.error).body)
        root: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
        if response.id:
            root["id"] = response.id
        root.update(response.parameters)
        long: list[list[bytes]] = []
        for tensor in response.outputs:
            if tensor.array.size != 1:
                root[tensor.name] = to_json_within(tensor, long)
                continue
            (value,) = to_json(tensor)
            root[tensor.name] = value.item() if isinstance(value, np.generic) else value
        return HttpReply(200, filled(dumps(root), long))

    def fault(self, error: SalverError) -> HttpReply:
        """Return ``{"error": text}`` with Triton's status, which is 400 for all errors of a model."""
        reply = http_fault(error)
        if isinstance(error, NotOneResponse):
            return HttpReply(200, reply.body)
        if error.is_late or error.code is Code.MODEL_FAILED:
            return HttpReply(400, reply.body)
        return reply


def event(reply: HttpReply) -> bytes:
    """Return a reply as a Server-Sent Event; JSON holds no raw line break.

    >>> event(HttpReply(200, b'{"a":1}'))
    b'data: {"a":1}\\n\\n'
    """
    return b"data: %s\n\n" % reply.body


def _decode(http: HttpBody, signature: Signature) -> InferRequest:
    root = loads(http.body)
    if type(root) is not dict:
        raise InvalidInput(f"the request must be a JSON object, not {kind_of(root)}")
    specs = {spec.name: spec for spec in signature.inputs}
    nested = root.get("parameters")
    if nested is None:
        nested = {}
    elif type(nested) is not dict:
        raise InvalidInput(f"parameters must be an object, not {kind_of(nested)}", field="parameters")
    if _may_repeat(http.body, (*root, *nested)):
        _refuse_repeated(http.body)
    root.pop("parameters", None)
    id = ""
    if "id" not in specs:
        id = root.pop("id", "")
    if type(id) is not str:
        raise InvalidInput(f"id must be a string, not {kind_of(id)}", field="id")
    inputs: dict[str, Tensor] = {}
    parameters: dict[str, Parameter] = {}
    for prefix, members in (("parameters.", nested), ("", root)):
        for name, value in members.items():
            if value is None:  # counts as missing
                continue
            if name in specs:
                inputs[name] = _input(value, specs[name], f"{prefix}{name}")
            elif type(value) not in (bool, int, float, str):
                raise InvalidInput(
                    f"parameter '{name}' has invalid type. It should be either 'int', 'bool', or 'string'."
                )
            elif name.startswith(_RESERVED):
                raise InvalidInput(
                    "parameter keys starting with 'triton_' are reserved for Triton usage "
                    "and should not be specified."
                )
            else:
                parameters[name] = value
    return InferRequest(http.model, tuple(inputs.values()), http.version, id, parameters=parameters)


def _may_repeat(body: bytes, keys: Sequence[str]) -> bool:
    """Return False if no key can occur twice; cheaper than a second parse."""
    if len(keys) > _FEW or b"\\" in body:  # an escape may spell a key in another way
        return True
    return any(body.count(b'"%b"' % key.encode()) > 1 for key in keys)


def _refuse_repeated(body: bytes) -> None:
    """Raise InvalidInput for a key that occurs twice in an object, which is ambiguous (TR-R6)."""

    def check(pairs: list[tuple[str, Any]]) -> None:
        seen = set()
        for name, _ in pairs:
            if name in seen:
                raise InvalidInput(f"key '{name}' stands twice in the request", field=name)
            seen.add(name)

    json.loads(body, object_pairs_hook=check)


def _input(value: Any, spec: TensorSpec, field: str) -> Tensor:
    """Return a tensor of the signature's rank: dimensions of 1 are added in front, or lists are flattened."""
    values = value if type(value) is list else [value]
    array: Array = from_json(values, spec.datatype, field, is_regular=True)
    if array.ndim > len(spec.shape):
        array = array.ravel()
    if array.ndim < len(spec.shape):
        array = array.reshape((1,) * (len(spec.shape) - array.ndim) + array.shape)
    if any(want not in (-1, have) for want, have in zip(spec.shape, array.shape, strict=False)):
        raise InvalidInput(f"The schema can not convert input '{spec.name}' to tensor with proper shape")
    return Tensor(spec.name, spec.datatype, array)
