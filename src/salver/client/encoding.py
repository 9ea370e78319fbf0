"""Encoding of Open Inference requests and decoding of replies.

The client's side of the protocol with the binary tensor extension (TR-R24) in both directions: numbers are
sent as they are in memory. It knows no socket.

Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from salver.encoding.raw import from_raw, to_raw
from salver.encoding.values import count_elements, find_datatype, from_json, shaped
from salver.words.errors import InvalidInput
from salver.words.messages import Parameter, TensorSpec
from salver.words.tensor import Array, DataType, Tensor, bf16_to_fp32

_SPLIT = "inference-header-content-length"
Headers = list[tuple[str, str]]


def specs(metadata: Mapping[str, Any], what: str) -> list[TensorSpec]:
    """Return the ``inputs`` or ``outputs`` of a model's metadata.

    Raises:
        InvalidInput: the answer is not valid metadata, or names an unknown datatype.
    """
    try:
        return [
            TensorSpec(t["name"], find_datatype(t["datatype"], f"{what}[{i}]"), tuple(map(int, t["shape"])))
            for i, t in enumerate(metadata[what])
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"the server's metadata has no proper {what}: {error!r}") from None


def encode_request(
    inputs: Sequence[Tensor],
    *,
    outputs: Sequence[str] = (),
    id: str = "",
    parameters: Mapping[str, Parameter] | None = None,
) -> tuple[Headers, bytes]:
    """Return headers and body of an ``infer`` request for binary outputs."""
    raw = [to_raw(tensor) for tensor in inputs]
    head: dict[str, Any] = {
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype.name,
                "shape": list(tensor.shape),
                "parameters": {"binary_data_size": len(data)},
            }
            for tensor, data in zip(inputs, raw, strict=True)
        ],
        "parameters": {**(parameters or {}), "binary_data_output": True},
    }
    if outputs:
        head["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    if id:
        head["id"] = id
    text = orjson.dumps(head)
    headers = [("content-type", "application/octet-stream"), (_SPLIT, str(len(text)))]
    return headers, b"".join((text, *raw))


def decode_reply(headers: Mapping[bytes, bytes], body: bytes) -> tuple[Tensor, ...]:
    """Return the outputs of an ``infer`` reply, whether binary or JSON.

    Raises:
        InvalidInput: the answer violates the protocol; the message says where.
    """
    split = headers.get(_SPLIT.encode(), b"")
    try:
        at = int(split) if split else len(body)
        head = orjson.loads(body[:at])
        described = head["outputs"]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"the server's answer is not an Open Inference reply: {error!r}") from None
    rest, found = memoryview(body)[at:], []
    for index, output in enumerate(described):
        field = f"outputs[{index}]"
        try:
            name, shape, datatype = output["name"], output["shape"], find_datatype(output["datatype"], field)
            size = output.get("parameters", {}).get("binary_data_size")
            count = count_elements(shape, f"{field}.shape")
            if size is None:
                array = shaped(from_json(output["data"], datatype, field), shape, count, field)
            else:
                array, rest = from_raw(rest[:size], datatype, shape, count, field), rest[size:]
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(f"the server's answer is wrong in {field}: {error!r}", field=field) from None
        found.append(Tensor(name, datatype, array))
    return tuple(found)


def values_of(tensor: Tensor) -> Array:
    """Return the values for numpy users: BF16 widened to float32, everything else unchanged."""
    if tensor.datatype is not DataType.BF16:
        return tensor.array
    return bf16_to_fp32(tensor.array)
