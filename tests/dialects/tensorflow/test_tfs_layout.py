"""Layout of tensors in TensorFlow Serving's JSON, and large tensors."""

import re
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from salver.dialects.tensorflow.head_json import Classify, Regress
from salver.dialects.tensorflow.json_codec import Predict
from salver.dialects.tensorflow.json_layout import one_line, rows, rows_on_one_line
from salver.encoding.bodies import HttpBody
from salver.words.errors import InvalidInput
from salver.words.messages import InferResponse, Signature, TensorSpec
from salver.words.tensor import Array, DataType, Tensor


@pytest.mark.clause("TF-R29")
@given(arrays.arrays(np.int32, arrays.array_shapes(min_side=0, max_dims=4, max_side=4)), st.booleans())
def test_rows_stand_on_one_line(values: Array, are_strings: bool) -> None:
    datatype = DataType.BYTES if are_strings else DataType.INT32
    array = np.vectorize(lambda value: b"%d" % value, otypes=[object])(values) if are_strings else values
    named = Tensor("y_bytes" if are_strings else "y", datatype, array)
    assert rows_on_one_line(named, 2) == one_line(rows(named, 2), 1)


@pytest.mark.clause("TF-R14")
def test_many_numbers_take_long_to_write() -> None:
    for codec in (Predict(), Classify(), Regress()):
        for sizes, takes_long in (
            ((), False),
            ((1,), False),
            ((32_767,), False),
            ((32_768,), True),
            ((16_384, 1, 16_384), True),
        ):
            outputs = tuple(Tensor("y", DataType.FP32, np.ones(size, np.float32)) for size in sizes)
            assert codec.takes_long(InferResponse("m", "1", outputs)) is takes_long


@pytest.mark.clause("TF-R31")
@pytest.mark.parametrize("size", [4096, 4097, 20_000])
def test_the_first_wrong_value_of_many_is_told(size: int) -> None:
    floats = Signature((TensorSpec("x", DataType.FP32, (-1,)),), ())
    for place in (0, 4095, size - 1):
        row: list[Any] = [1.5] * size
        row[place] = "a"
        row.append(None)
        for body, text in (
            ({"inputs": row}, ".*String is not of expected type: float"),
            ({"instances": row}, f"Failed to process element: {place} of 'instances' list. "),
        ):
            with pytest.raises(InvalidInput) as caught:
                Predict().decode(HttpBody("m", "", orjson.dumps(body)), floats)
            assert re.match(text, str(caught.value), re.DOTALL)
