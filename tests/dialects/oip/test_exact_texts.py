"""Texts that Triton's clients match on, word for word (TR-R37).

Those of secrets stand in ``tests/transport/test_header_rules.py``, of bodies in ``test_reading.py`` there, of
shared memory in ``test_regions.py``, of a server that ends in ``tests/dialects/oip/test_grpc_stream.py``.
"""

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.dialects.triton.repository_calls import parse_index, parse_load
from salver.encoding.bodies import HttpBody
from salver.words.errors import SalverError
from salver.words.messages import InferRequest, InferResponse, Signature
from salver.words.tensor import DataType, Tensor

SIGNATURE = Signature((), ())


def decode(entry: Any = None, most: int = 0, **fields: Any) -> InferRequest:
    whole = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2], **(entry or {})}
    body = json.dumps({"inputs": [whole], **fields}).encode()
    return OpenInferenceHttp(most=most).decode(HttpBody("m", "", body), SIGNATURE)


def encode(datatype: DataType, array: Any) -> None:
    response = InferResponse("m", "1", (Tensor("y", datatype, array),))
    OpenInferenceHttp().encode(InferRequest("m", ()), response)


HALF = np.ones(2, np.float16)
BRAIN = np.ones(2, ml_dtypes.bfloat16)
DEEP = "[" * 120 + "]" * 120


@pytest.mark.clause("TR-R37")
@pytest.mark.parametrize(
    ("case", "text"),
    [
        (
            lambda: decode({"datatype": "FP16"}),
            "receiving FP16 data via JSON is not supported. Please use the binary data format for input x",
        ),
        (
            lambda: decode({"datatype": "BF16"}),
            "receiving BF16 data via JSON is not supported. Please use the binary data format for input x",
        ),
        (
            lambda: encode(DataType.FP16, HALF),
            "sending FP16 data via JSON is not supported. Please use the binary data format for output",
        ),
        (
            lambda: encode(DataType.BF16, BRAIN),
            "sending BF16 data via JSON is not supported. Please use the binary data format for output",
        ),
        (
            lambda: decode(parameters={"p": json.loads(DEEP)}),
            "JSON nesting depth exceeds maximum allowed limit (100)",
        ),
        (
            lambda: decode({"shape": [3]}),
            "Shape does not match true shape of 'data' field",
        ),
        (
            lambda: decode(parameters={"p": [1]}),
            "parameter 'p' has invalid type. It should be either 'int', 'bool', or 'string'.",
        ),
        (
            lambda: parse_load(b'{"repository_name": "r"}'),
            "'repository_name' specification is not supported",
        ),
        (
            lambda: parse_index(b'{"ready": 1}'),
            "Invalid value for 'ready': expected a boolean",
        ),
        (
            lambda: decode({"datatype": "FP64", "shape": [20], "data": [1] * 20}, most=159),
            "JSON input 'x' has a byte_size (160 bytes) that exceeds the maximum allowed value of 159 bytes. "
            "Use --http-max-input-size to increase the limit.",
        ),
        (
            lambda: decode({"datatype": "BYTES", "data": ["a" * 60, "b" * 40]}, most=107),
            "JSON input 'x' has a byte_size (108 bytes) that exceeds the maximum allowed value of 107 bytes. "
            "Use --http-max-input-size to increase the limit.",
        ),
    ],
)
def test_texts(case: Any, text: str) -> None:
    with pytest.raises(SalverError) as raised:
        case()
    assert (raised.value.triton or str(raised.value)).startswith(text)


@pytest.mark.clause("TR-R37")
def test_a_tensor_as_large_as_it_may_be() -> None:
    assert decode({"datatype": "FP64", "shape": [20], "data": [1] * 20}, most=160).inputs[0].name == "x"
    assert decode({"datatype": "BYTES", "data": ["a" * 60, "b" * 40]}, most=108).inputs[0].name == "x"


@pytest.mark.clause("TR-R29")
def test_nesting_of_a_hundred_is_fine() -> None:
    data: Any = [1.0, 2.0]
    for _ in range(60):
        data = [data]
    assert decode({"data": data}).inputs[0].array.tolist() == [1.0, 2.0]
