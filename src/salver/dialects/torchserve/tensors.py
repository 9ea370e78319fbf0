"""How is a handler asked by tensors, and how are tensors found in its answer?

It gets the JSON of the Open Inference Protocol as its one part, which TorchServe's envelope ``kservev2``
unpacks and packs (TS-R7, TS-G4, X-7). Bytes stand in it in base64, as TorchServe writes them. It knows no
message.

Pure.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import orjson

from salver.dialects.torchserve.reply import read_reply
from salver.encoding.values import count_elements, find_datatype, from_json, shaped
from salver.words.errors import HandlerFailed, InvalidInput, TooLarge
from salver.words.handlers import BODY, Form, HandlerReply, as_request, part
from salver.words.messages import InferRequest, InferResponse
from salver.words.tensor import Array, DataType, Tensor, bf16_to_fp32

_JSON: Final = "application/json"


class Answer(NamedTuple):
    """What a handler has answered."""

    id: str
    model: str
    version: str
    outputs: tuple[Tensor, ...]


def form_of(model: str, id: str, inputs: Sequence[Mapping[str, Any]]) -> Form:
    """What the handler is asked.

    Args:
        inputs: Each with ``name``, ``shape`` and ``datatype``, and ``data`` where it has some.
    """
    told = {"id": id, "model_name": model, "inputs": inputs}
    return Form((part("body", orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY), _JSON),))


def as_form(request: InferRequest) -> InferRequest:
    """A request of tensors, for a handler."""
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
    """A handler's answer, for a caller who wants tensors; one that has none is the bytes that it is.

    Raises:
        SalverError: that the handler failed.
    """
    reply = read_reply(response)
    try:
        answer = answer_of(reply)
    except HandlerFailed:
        outputs = (Tensor(BODY, DataType.UINT8, part(BODY, reply.body).data),)
        return msgspec.structs.replace(response, outputs=outputs, parameters={})
    return msgspec.structs.replace(response, outputs=answer.outputs, id=answer.id, parameters={})


def elements(datatype: DataType, array: Array) -> Any:
    """The elements one after another, as the writer of JSON takes them."""
    flat = np.ascontiguousarray(array.reshape(-1))
    if datatype is DataType.BYTES:
        return [base64.b64encode(bytes(each)).decode() for each in flat]
    return bf16_to_fp32(flat) if datatype is DataType.BF16 else flat


def answer_of(reply: HandlerReply) -> Answer:
    """The answer in a handler's JSON.

    Raises:
        HandlerFailed: it is none.
    """
    try:
        told = orjson.loads(reply.body)
        listed = told["outputs"]
        if type(listed) is not list:
            raise TypeError("outputs is no list")
        outputs = tuple([_tensor(each, f"outputs[{at}]") for at, each in enumerate(listed)])
        id, model, version = (str(told.get(key) or "") for key in ("id", "model_name", "model_version"))
        return Answer(id, model, version, outputs)
    except (ValueError, TypeError, KeyError, AttributeError, InvalidInput, TooLarge) as error:
        why = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise HandlerFailed(
            f"the handler's answer is none of the Open Inference Protocol: {why}; models without "
            "service_envelope=kservev2 are asked by Predictions",
            500,
        ) from None


def _tensor(told: Any, at: str) -> Tensor:
    datatype = find_datatype(told["datatype"], at)
    shape = told["shape"]
    array = from_json(told["data"], datatype, f"{at}.data")
    return Tensor(str(told["name"]), datatype, shaped(array, shape, count_elements(shape, at), f"{at}.data"))
