"""Is a model held to what its signature promises, and does the message name model and output?"""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from salver.backends.outputs import Outputs
from salver.words.errors import ModelFailed
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import DataType

X = (TensorSpec("x", DataType.FP32, (-1, 2)),)
TWO_ROWS = {"x": np.zeros((2, 2), "f4")}


def outputs(kind: str, *shape: int, batched: bool = True) -> Outputs:
    return Outputs(Signature(X, (TensorSpec("y", DataType[kind], shape),), batched), "fraud")


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("FP32", np.array([1.5, 2.0]), [1.5, 2.0]),
        ("FP64", [1.5, 2], [1.5, 2.0]),
        ("FP32", np.array([1, 2]), [1.0, 2.0]),
        ("INT8", np.array([-128, 127]), [-128, 127]),
        ("UINT8", np.array([0, 255]), [0, 255]),
        ("BOOL", np.array([True, False]), [True, False]),
        ("BYTES", ["ü", b"x"], ["ü".encode(), b"x"]),
        ("BYTES", np.array(["a", "bc"]), [b"a", b"bc"]),
        ("BF16", np.array([1, -2.5], "f4"), [0x3F80, 0xC020]),
        ("BF16", np.array([1, -2.5], ml_dtypes.bfloat16), [0x3F80, 0xC020]),
        ("BF16", np.array([0x3F80, 0xC020], "u2"), [0x3F80, 0xC020]),
    ],
)
def test_what_fits_is_converted(kind: str, given: Any, expected: list[Any]) -> None:
    got = outputs(kind, -1).check({"y": given}, TWO_ROWS)["y"]
    assert got.tolist() == expected
    assert got.dtype == DataType[kind].dtype


def test_memory_order_is_mended_and_extras_are_dropped() -> None:
    checked = outputs("FP32", -1, 3).check({"z": 1, "y": np.ones((3, 2), "f4").T}, TWO_ROWS)
    assert list(checked) == ["y"] and checked["y"].flags.c_contiguous


def test_a_right_answer_is_not_copied() -> None:
    given = np.ones(2, "f4")
    assert outputs("FP32", -1).check({"y": given}, TWO_ROWS)["y"] is given


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("FP32", 7, "model 'fraud' answered int, not a mapping"),
        ("FP32", None, "answered NoneType"),
        ("FP32", {"z": 1, "w": 2}, "model 'fraud' did not give its output 'y' (it gave: z, w)"),
        ("FP32", {}, "(it gave: none)"),
        ("FP32", {"y": np.ones((2, 1))}, "output 'y' of model 'fraud' has shape [2, 1], expected [-1]"),
        ("FP32", {"y": 1.0}, "has shape [], expected [-1]"),
        ("FP32", {"y": np.ones(3)}, "has 3 rows for a batch of 2"),
        ("FP32", {"y": [[1], [1, 2]]}, "output 'y' of model 'fraud' is not a tensor"),
        ("FP32", {"y": ["a", "b"]}, "is <U1, expected FP32"),
        ("INT64", {"y": np.ones(2)}, "is float64, expected INT64"),
        ("INT8", {"y": np.array([0, 128])}, "is int64 with values that INT8 cannot hold"),
        ("UINT64", {"y": np.array([0, -1])}, "is int64 with values that UINT64 cannot hold"),
        ("BYTES", {"y": np.ones(2)}, "a BYTES element must be text or bytes, not float"),
        ("BF16", {"y": np.array([1, 2])}, "is int64, expected BF16"),
        ("BOOL", {"y": np.array([0, 1])}, "is int64, expected BOOL"),
    ],
)
def test_what_does_not_fit_is_told(kind: str, given: Any, said: str) -> None:
    with pytest.raises(ModelFailed) as caught:
        outputs(kind, -1).check(given, TWO_ROWS)
    assert said in str(caught.value)


def test_rows_are_free_without_a_batch() -> None:
    assert outputs("FP32", -1, batched=False).check({"y": np.ones(5, "f4")}, TWO_ROWS)["y"].shape == (5,)


def test_a_fixed_extent_is_held() -> None:
    with pytest.raises(ModelFailed, match=r"shape \[2, 4\], expected \[-1, 3\]"):
        outputs("FP32", -1, 3).check({"y": np.ones((2, 4), "f4")}, TWO_ROWS)
