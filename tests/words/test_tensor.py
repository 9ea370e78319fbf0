"""Does a tensor hold what every wire and framework may bring?"""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from salver.words.tensor import (
    DATATYPES,
    DataType,
    Tensor,
    as_bytes,
    bf16_from_fp32,
    bf16_to_fp32,
    datatype_of,
    tensor,
)

# Name, bytes per element on the wire, float, integer: the table of the protocol, written out once more.
TABLE = [
    ("BOOL", 1, False, False),
    ("UINT8", 1, False, True),
    ("UINT16", 2, False, True),
    ("UINT32", 4, False, True),
    ("UINT64", 8, False, True),
    ("INT8", 1, False, True),
    ("INT16", 2, False, True),
    ("INT32", 4, False, True),
    ("INT64", 8, False, True),
    ("FP16", 2, True, False),
    ("FP32", 4, True, False),
    ("FP64", 8, True, False),
    ("BF16", 2, True, False),
    ("BYTES", 0, False, False),
]


def test_the_table_is_the_protocols() -> None:
    assert [(d.name, d.itemsize, d.is_float, d.is_integer) for d in DATATYPES.values()] == TABLE


@pytest.mark.parametrize("datatype", [d for d in DataType if d is not DataType.BF16])
def test_datatype_and_dtype_agree_in_any_byte_order(datatype: DataType) -> None:
    assert datatype_of(datatype.dtype) is datatype
    assert datatype_of(datatype.dtype.newbyteorder(">")) is datatype
    assert datatype.dtype.itemsize == datatype.itemsize or datatype is DataType.BYTES


@pytest.mark.parametrize("dtype", ["S1", "S40", "U1", "U7", "O", object, str, bytes])
def test_strings_of_any_width_are_bytes(dtype: type) -> None:
    assert datatype_of(dtype) is DataType.BYTES


def test_a_framework_bfloat16_is_bf16_and_keeps_its_bits() -> None:
    values = np.array([1.5, -0.0, np.inf], ml_dtypes.bfloat16)
    held = tensor("x", values)
    assert held.datatype is DataType.BF16
    assert held.array.dtype == np.uint16
    assert held.array.tobytes() == values.tobytes()


@pytest.mark.parametrize("dtype", ["complex64", "datetime64[s]", "timedelta64[s]"])
def test_a_dtype_without_counterpart_is_refused_by_name(dtype: str) -> None:
    with pytest.raises(ValueError, match=dtype.split("[")[0]):
        datatype_of(np.dtype(dtype))


@given(hnp.arrays(np.uint32, hnp.array_shapes(max_dims=2, max_side=8)))
def test_rounding_to_bf16_is_that_of_ml_dtypes(bits: np.ndarray) -> None:
    values = bits.view(np.float32)
    ours = bf16_from_fp32(values)
    theirs = values.astype(ml_dtypes.bfloat16)
    nan = np.isnan(values)
    assert np.array_equal(ours[~nan], theirs.view(np.uint16)[~nan])
    assert np.isnan(bf16_to_fp32(ours)[nan]).all()


def test_every_bf16_widens_exactly_and_comes_back() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    wide = bf16_to_fp32(bits)
    theirs = bits.view(ml_dtypes.bfloat16).astype(np.float32)
    assert wide.view(np.uint32).tolist() == theirs.view(np.uint32).tolist()
    number = ~np.isnan(wide)
    assert np.array_equal(bf16_from_fp32(wide)[number], bits[number])


@given(st.lists(st.text(st.characters(codec="utf-8")) | st.binary(), max_size=6))
def test_text_becomes_utf8_and_bytes_stay(values: list[str | bytes]) -> None:
    assert as_bytes(values).tolist() == [v.encode() if isinstance(v, str) else v for v in values]


def test_bytes_keep_their_trailing_zeros_and_their_shape() -> None:
    held = as_bytes([[b"a\0", b""], [b"\0\0", "ü"]])
    assert held.shape == (2, 2)
    assert held.ravel().tolist() == [b"a\0", b"", b"\0\0", "ü".encode()]


@pytest.mark.parametrize("stranger", [1, None, 2.5])
def test_a_bytes_element_that_is_neither_text_nor_bytes_is_refused(stranger: object) -> None:
    with pytest.raises(ValueError, match="text or bytes"):
        as_bytes([b"ok", stranger])


@given(
    st.sampled_from([d for d in DataType if d not in (DataType.BF16, DataType.BYTES)]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
def test_a_tensor_is_contiguous_and_of_its_datatype(datatype: DataType, shape: tuple[int, ...]) -> None:
    values = np.zeros((*shape, 2), datatype.dtype)[..., 0]  # strided
    held = tensor("x", values)
    assert held.datatype is datatype
    assert held.array.flags.c_contiguous
    assert held.array.dtype == datatype.dtype
    assert held.shape == shape


def test_contiguous_values_are_not_copied() -> None:
    values = np.arange(6, dtype="f4").reshape(2, 3)
    assert np.shares_memory(tensor("x", values).array, values)


def test_big_endian_values_arrive_in_native_order() -> None:
    held = tensor("x", np.array([1, 256], ">i4"))
    assert held.array.tobytes() == np.array([1, 256], "i4").tobytes()


def test_repr_never_shows_values() -> None:
    assert repr(Tensor("pin", DataType.INT32, np.array([1234], "i4"))) == "<Tensor pin INT32[1]>"
