"""Data frames of KServe's clients (``--first-output``): each object of ``inputs`` has columns."""

import orjson
import pytest

from salver.dialects.tensorflow.json_codec import Predict
from salver.encoding.bodies import HttpBody
from salver.words.errors import InvalidInput
from salver.words.messages import COLUMNS, Column, InferRequest, Signature, TensorSpec
from salver.words.tensor import DataType

TABLE = Signature(
    tuple(TensorSpec(name, DataType.FP64, (-1,), column=Column()) for name in "ab"),
    (),
    batched=True,
    name=COLUMNS,
)
MODEL = Signature((TensorSpec("input", DataType.FP32, (-1, 2)),), (), batched=True, others=(TABLE,))


def read(*frames: object) -> InferRequest:
    codec = Predict("Latest(m)", first_output=True)
    return codec.decode(HttpBody("m", "", orjson.dumps({"inputs": frames})), MODEL)


def test_frames_are_rows_of_a_table() -> None:
    request = read({"a": [1, 2], "b": [3, 4]}, {"a": 5, "b": 6})
    assert request.signature == COLUMNS
    values = {tensor.name: tensor.array.tolist() for tensor in request.inputs}
    assert values == {"a": [1, 2, 5], "b": [3, 4, 6]}


def test_rows_that_are_not_whole_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"columns of inputs\[0\] have different lengths"):
        read({"a": [1, 2], "b": [3]})
    with pytest.raises(InvalidInput, match="keys must be equal to: a,b"):
        read({"a": [1]})
