"""Conversion between tensors and the forms and answers of handlers.

A handler gets the JSON of the Open Inference Protocol as its only part, which TorchServe's envelope
``kservev2`` unpacks and packs (TS-R7, TS-G4). Bytes are in base64, as TorchServe writes them. Pure.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import orjson

from salver.dialects.torchserve.json_layout import read_reply
from salver.encoding.values import count_elements, find_datatype, from_json, shaped
from salver.words.errors import HandlerFailed, InvalidInput, TooLarge
from salver.words.handlers import BODY, Form, HandlerReply, as_request, part
from salver.words.messages import InferRequest, InferResponse
from salver.words.tensor import Array, DataType, Tensor, bf16_to_fp32

_JSON: Final = "application/json"


class Answer(NamedTuple):
    """Answer of a handler, as tensors."""

    id: str
    model: str
    version: str
    outputs: tuple[Tensor, ...]


def form_of(model: str, id: str, inputs: Sequence[Mapping[str, Any]]) -> Form:
    """Return the form for a handler.

    Args:
        inputs: Each with ``name``, ``shape`` and ``datatype``, and ``data`` if it has any.
    """
    body = {"id": id, "model_name": model, "inputs": inputs}
    return Form((part("body", orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), _JSON),))


def as_form(request: InferRequest) -> InferRequest:
    """Return a request of tensors as a request for a handler."""
    inputs = [
        {
            "name": tensor.name,
            "shape": list(tensor.array.shape),
            "datatype": tensor.datatype.name,
            "data": elements(tensor.datatype, tensor.array),
        }
        for tensor in request.inputs
    ]
    return as_request(request.model, form_of(request.model, request.id, inputs), request.version)


def as_tensors(response: InferResponse) -> InferResponse:
    """Return a handler's answer as tensors; one that has none becomes a tensor of its bytes.

    Raises:
        SalverError: the handler failed.
    """
    reply = read_reply(response)
    try:
        answer = answer_of(reply)
    except HandlerFailed:
        outputs = (Tensor(BODY, DataType.UINT8, part(BODY, reply.body).data),)
        return msgspec.structs.replace(response, outputs=outputs, parameters={})
    return msgspec.structs.replace(response, outputs=answer.outputs, id=answer.id, parameters={})


def elements(datatype: DataType, array: Array) -> Any:
    """Return the elements of a tensor, flat, as orjson takes them."""
    flat = np.ascontiguousarray(array.reshape(-1))
    if datatype is DataType.BYTES:
        return [base64.b64encode(bytes(each)).decode() for each in flat]
    if datatype is DataType.BF16:
        return bf16_to_fp32(flat)
    return flat


def answer_of(reply: HandlerReply) -> Answer:
    """Return the answer in a handler's JSON.

    Raises:
        HandlerFailed: the JSON holds no answer.
    """
    try:
        answer = orjson.loads(reply.body)
        listed = answer["outputs"]
        if type(listed) is not list:
            raise TypeError("outputs is no list")
        outputs = tuple([_tensor(each, f"outputs[{at}]") for at, each in enumerate(listed)])
        id, model, version = (str(answer.get(key) or "") for key in ("id", "model_name", "model_version"))
        return Answer(id, model, version, outputs)
    except KeyError as error:
        why = f"it has no {error}"
    except (ValueError, TypeError, AttributeError, InvalidInput, TooLarge) as error:
        why = str(error)
    raise HandlerFailed(
        f"the handler's answer is not of the Open Inference Protocol: {why}; call Predictions for models "
        "without service_envelope=kservev2",
        500,
    )


def _tensor(output: Any, at: str) -> Tensor:
    datatype = find_datatype(output["datatype"], at)
    shape = output["shape"]
    array = from_json(output["data"], datatype, f"{at}.data")
    array = shaped(array, shape, count_elements(shape, at), f"{at}.data")
    return Tensor(str(output["name"]), datatype, array)
