"""Tensors from and to TensorProtos, compared with TensorFlow."""

import functools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from zoo import EXAMPLES

from salver.dialects.tensorflow import tf_tensor
from salver.dialects.tensorflow.tf_schema import DATA_TYPES, build, build_unread
from salver.dialects.tensorflow.tf_tensor import FillBudget, read, to_bytes
from salver.words.errors import InvalidInput, SalverError, TooLarge, Unsupported
from salver.words.tensor import DataType, Tensor, tensor

_NAMES = DATA_TYPES.split()
_TYPES = [datatype.name for datatype in DataType]


@functools.cache
def _tensorflow() -> Any:
    import tensorflow

    return tensorflow


def _numpy_dtype(datatype: DataType) -> Any:
    return ml_dtypes.bfloat16 if datatype is DataType.BF16 else datatype.dtype


def _proto(message: bytes) -> Any:
    return build_unread()["TensorProto"].FromString(message)


def _theirs(message: bytes) -> np.ndarray | None:
    """What TensorFlow's kernel makes of it (``Tensor::FromProto``); None if it refuses it."""
    tf = _tensorflow()
    number = build()["TensorProto"].FromString(message).dtype
    try:
        found = tf.io.parse_tensor(message, tf.as_dtype(number)).numpy()
        return np.array(found, dtype=object) if isinstance(found, bytes) else np.asarray(found)
    except (tf.errors.InvalidArgumentError, TypeError):
        return None


def _same(ours: Tensor, theirs: np.ndarray) -> None:
    assert ours.array.shape == theirs.shape
    assert ours.array.flags.c_contiguous
    if ours.datatype is DataType.BYTES:
        assert ours.array.ravel().tolist() == np.asarray(theirs, dtype=object).ravel().tolist()
    else:
        assert ours.array.tobytes() == theirs.tobytes()  # bit by bit: NaN as well


_arrays = st.sampled_from(_TYPES).flatmap(
    lambda name: (
        hnp.arrays(
            object, hnp.array_shapes(min_dims=0, min_side=0, max_side=4), elements=st.binary(max_size=9)
        )
        if name == "BYTES"
        else hnp.arrays(
            np.uint16 if name == "BF16" else DataType[name].dtype,
            hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
        ).map(lambda array: array.view(ml_dtypes.bfloat16) if name == "BF16" else array)
    )
)


@pytest.mark.clause("TF-G7")
@given(_arrays)
def test_what_tensorflows_client_sends_is_read(values: np.ndarray) -> None:
    tf = _tensorflow()
    sent = tf.make_tensor_proto(values, dtype=tf.string if values.dtype == object else None)
    _same(read(_proto(sent.SerializeToString()), "x", FillBudget()), values)


@pytest.mark.clause("TF-G7")
@given(_arrays)
def test_what_tensorflow_serializes_is_read(values: np.ndarray) -> None:
    tf = _tensorflow()
    given = tf.constant(values, dtype=tf.string if values.dtype == object else None)
    _same(read(_proto(tf.io.serialize_tensor(given).numpy()), "x", FillBudget()), values)


@pytest.mark.clause("TF-G7")
@given(_arrays, st.booleans())
def test_answers_are_read_by_tensorflow(values: np.ndarray, as_content: bool) -> None:
    ours = tensor("y", values)
    message = to_bytes(ours.datatype, ours.array, as_content=as_content)
    theirs = _theirs(message)
    assert theirs is not None
    _same(ours, theirs)
    plain = build()["TensorProto"].FromString(message)
    assert bool(plain.tensor_content) == (as_content and values.size > 0)
    from tensorflow.core.framework import tensor_pb2

    if not (as_content and ours.datatype is DataType.BYTES):  # make_ndarray reads only string_val
        found = _tensorflow().make_ndarray(tensor_pb2.TensorProto.FromString(message))
        _same(ours, found.astype(object) if ours.datatype is DataType.BYTES else found)


_FIELDS = {
    "DT_FLOAT": ("float_val", st.floats(width=32)),
    "DT_DOUBLE": ("double_val", st.floats()),
    "DT_INT32": ("int_val", st.integers(-(2**31), 2**31 - 1)),
    "DT_INT16": ("int_val", st.integers(-(2**15), 2**15 - 1)),
    "DT_INT8": ("int_val", st.integers(-128, 127)),
    "DT_UINT8": ("int_val", st.integers(0, 255)),
    "DT_UINT16": ("int_val", st.integers(0, 65535)),
    "DT_INT64": ("int64_val", st.integers(-(2**63), 2**63 - 1)),
    "DT_UINT32": ("uint32_val", st.integers(0, 2**32 - 1)),
    "DT_UINT64": ("uint64_val", st.integers(0, 2**64 - 1)),
    "DT_BOOL": ("bool_val", st.booleans()),
    "DT_HALF": ("half_val", st.integers(0, 65535)),
    "DT_BFLOAT16": ("half_val", st.integers(0, 65535)),
    "DT_STRING": ("string_val", st.binary(max_size=5)),
}


@pytest.mark.clause("TF-G7")
@given(st.data(), st.sampled_from(sorted(_FIELDS)), st.lists(st.integers(0, 3), max_size=3))
@settings(max_examples=300)
def test_typed_fields_are_filled_up_and_cut_as_tensorflow_does(
    data: Any, dtype: str, dims: list[int]
) -> None:
    field, elements = _FIELDS[dtype]
    count = int(np.prod(dims))
    values = data.draw(st.lists(elements, max_size=count + 2))
    made = build()["TensorProto"](dtype=dtype, **{field: values})
    for size in dims:
        made.tensor_shape.dim.add(size=size)
    message = made.SerializeToString()
    theirs = _theirs(message)
    assert theirs is not None
    _same(read(_proto(message), "x", FillBudget()), theirs)


@pytest.mark.clause("TF-G7")
@given(
    st.sampled_from([n for n in _FIELDS if n != "DT_BOOL"]),
    st.lists(st.integers(-1, 3), max_size=3),
    st.binary(),
)
@settings(max_examples=300)
def test_content_is_taken_and_refused_as_tensorflow_does(dtype: str, dims: list[int], content: bytes) -> None:
    made = build()["TensorProto"](dtype=dtype, tensor_content=content)
    for size in dims:
        made.tensor_shape.dim.add(size=size)
    message = made.SerializeToString()
    theirs = _theirs(message)
    if theirs is None:
        with pytest.raises(InvalidInput, match="tensor parsing error: x"):
            read(_proto(message), "x", FillBudget())
    else:
        _same(read(_proto(message), "x", FillBudget()), theirs)


@pytest.mark.clause("TF-G7")
@pytest.mark.parametrize("name", _TYPES)
@pytest.mark.parametrize("as_content", [False, True])
def test_every_datatype_comes_back_unchanged(name: str, as_content: bool) -> None:
    ours = tensor("x", EXAMPLES[name])
    back = read(_proto(to_bytes(ours.datatype, ours.array, as_content=as_content)), "x", FillBudget())
    assert (back.name, back.datatype) == ("x", ours.datatype)
    _same(back, EXAMPLES[name] if name != "BF16" else ours.array)


@pytest.mark.clause("TF-G7")
@pytest.mark.parametrize(
    ("dtype", "error", "text"),
    [
        ("DT_INVALID", InvalidInput, "dtype DT_INVALID is none"),
        ("DT_FLOAT_REF", InvalidInput, "dtype 101 is none"),
        ("DT_COMPLEX64", Unsupported, "tensors of DT_COMPLEX64 are not supported"),
        ("DT_COMPLEX128", Unsupported, "tensors of DT_COMPLEX128 are not supported"),
        ("DT_RESOURCE", Unsupported, "tensors of DT_RESOURCE are not supported"),
        ("DT_VARIANT", Unsupported, "tensors of DT_VARIANT are not supported"),
        ("DT_QINT8", Unsupported, "tensors of DT_QINT8 are not supported"),
        ("DT_INT4", Unsupported, "tensors of DT_INT4 are not supported"),
    ],
)
def test_what_cannot_be_carried_is_said(dtype: str, error: type[SalverError], text: str) -> None:
    made = build()["TensorProto"](dtype=dtype, float_val=[1])
    with pytest.raises(error) as raised:
        read(_proto(made.SerializeToString()), "x", FillBudget())
    assert str(raised.value) == f"tensor parsing error: x ({text})"
    assert type(raised.value) is error


@pytest.mark.clause("TF-G7")
@pytest.mark.parametrize(
    ("dtype", "dims", "fields"),
    [
        ("DT_FLOAT", [1 << 39], {"float_val": [1]}),
        ("DT_FLOAT", [1 << 39], {}),
        ("DT_FLOAT", [1 << 62, 1 << 62], {}),
        ("DT_FLOAT", [0, 1 << 62], {}),
        ("DT_STRING", [1 << 30], {"string_val": [b"a"]}),
        ("DT_BOOL", [1 << 39], {"bool_val": [True]}),
        ("DT_FLOAT", [1] * 40, {"float_val": [1]}),
        ("DT_UINT8", [(64 << 20) + 1], {"int_val": [1]}),
    ],
)
def test_a_shape_that_lies_is_given_no_memory(dtype: str, dims: list[int], fields: dict[str, Any]) -> None:
    made = build()["TensorProto"](dtype=dtype, **fields)
    for size in dims:
        made.tensor_shape.dim.add(size=size)
    with pytest.raises(TooLarge):
        read(_proto(made.SerializeToString()), "x", FillBudget())


@pytest.mark.parametrize("dtype", ["DT_FLOAT", "DT_STRING", "DT_INT64"])
def test_content_shorter_than_its_shape_is_given_no_memory(dtype: str) -> None:
    made = build()["TensorProto"](dtype=dtype, tensor_content=b"1234")
    made.tensor_shape.dim.add(size=1 << 39)
    with pytest.raises(InvalidInput, match="tensor_content has 4 bytes"):
        read(_proto(made.SerializeToString()), "x", FillBudget())


def test_all_tensors_of_a_request_share_the_room() -> None:
    made = build()["TensorProto"](dtype="DT_FLOAT", float_val=[1])
    made.tensor_shape.dim.add(size=100)
    room = FillBudget(600)
    read(_proto(made.SerializeToString()), "x", room)
    with pytest.raises(TooLarge, match="tensor parsing error: y"):
        read(_proto(made.SerializeToString()), "y", room)


@pytest.mark.parametrize(
    ("dtype", "values", "why"),
    [
        ("DT_UINT8", [256], "int_val holds 256, out of the range of UINT8"),
        ("DT_INT8", [1, -129], "int_val holds -129, out of the range of INT8"),
        ("DT_UINT16", [-1], "int_val holds -1, out of the range of UINT16"),
    ],
)
def test_numbers_out_of_range_are_refused_and_do_not_wrap(dtype: str, values: list[int], why: str) -> None:
    made = build()["TensorProto"](dtype=dtype, int_val=values)
    made.tensor_shape.dim.add(size=len(values))
    with pytest.raises(InvalidInput, match="tensor parsing error: x .*" + why):
        read(_proto(made.SerializeToString()), "x", FillBudget())


@pytest.mark.parametrize(
    ("field", "raw"),
    [("float_val", b"12345"), ("int_val", b"\xff"), ("int64_val", b"\xff" * 11), ("bool_val", b"\x80")],
)
def test_packed_bytes_that_are_no_numbers_are_refused(field: str, raw: bytes) -> None:
    kinds = {"float_val": "DT_FLOAT", "int_val": "DT_INT32", "int64_val": "DT_INT64", "bool_val": "DT_BOOL"}
    made = build_unread()["TensorProto"](dtype=kinds[field], **{field: [raw]})
    made.tensor_shape.dim.add(size=1)
    with pytest.raises(InvalidInput, match="tensor parsing error: x"):
        read(made, "x", FillBudget())


def test_a_bool_of_content_is_0_or_1() -> None:
    made = build()["TensorProto"](dtype="DT_BOOL", tensor_content=b"\x01\x02")
    made.tensor_shape.dim.add(size=2)
    with pytest.raises(InvalidInput, match="other than 0 and 1"):
        read(_proto(made.SerializeToString()), "x", FillBudget())


def test_large_numbers_become_no_python_objects() -> None:
    values = np.arange(1 << 16, dtype=np.float32)
    made = build()["TensorProto"](dtype="DT_FLOAT", float_val=values)
    made.tensor_shape.dim.add(size=values.size)
    proto = _proto(made.SerializeToString())
    assert [len(run) for run in proto.float_val] == [values.nbytes]
    np.testing.assert_array_equal(read(proto, "x", FillBudget()).array, values)


@pytest.mark.parametrize("datatype", DataType)
def test_numbers_and_names_of_types(datatype: DataType) -> None:
    assert _NAMES[tf_tensor.number_of(datatype)] == tf_tensor.name_of(datatype)
    assert _tensorflow().as_dtype(_numpy_dtype(datatype)).as_datatype_enum in (
        tf_tensor.number_of(datatype),
        _NAMES.index("DT_STRING"),
    )
