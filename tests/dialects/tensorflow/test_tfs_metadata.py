"""Signatures and states of versions, read by the unmodified client."""

import functools
from typing import Any

import pytest

from salver.dialects.tensorflow.metadata import metadata, signature_def, status
from salver.dialects.tensorflow.versions import number_of_version
from salver.words.errors import NotFound
from salver.words.messages import ModelId, Signature, State, TensorSpec, VersionStatus
from salver.words.tensor import DataType

_REGRESS = Signature(
    (TensorSpec("inputs", DataType.BYTES, (-1,), tensor="tf_example:0", any_rank=True),),
    (TensorSpec("outputs", DataType.FP32, (-1, 1), tensor="y:0"),),
    name="regress_x_to_y",
    method="tensorflow/serving/regress",
)
_PREDICT = Signature(
    (TensorSpec("x", DataType.FP32, (-1, 16)), TensorSpec("flag", DataType.BOOL, ())),
    (TensorSpec("y", DataType.INT64, (-1,)),),
    others=(_REGRESS,),
)


@functools.cache
def _client() -> Any:
    from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

    return get_model_metadata_pb2, get_model_status_pb2


@pytest.mark.clause("TF-G10")
def test_all_signatures_are_told() -> None:
    theirs, _ = _client()
    message = metadata(ModelId("m", "00000123"), _PREDICT).SerializeToString()
    found = theirs.GetModelMetadataResponse.FromString(message)
    assert (found.model_spec.name, found.model_spec.version.value) == ("m", 123)
    assert found.model_spec.signature_name == ""
    assert list(found.metadata) == ["signature_def"]
    named = theirs.SignatureDefMap()
    assert found.metadata["signature_def"].Unpack(named)
    assert set(named.signature_def) == {"serving_default", "regress_x_to_y"}
    regress = named.signature_def["regress_x_to_y"]
    assert regress.method_name == "tensorflow/serving/regress"
    assert (regress.inputs["inputs"].name, regress.inputs["inputs"].dtype) == ("tf_example:0", 7)
    assert regress.inputs["inputs"].tensor_shape.unknown_rank
    assert not regress.inputs["inputs"].tensor_shape.dim
    assert [dim.size for dim in regress.outputs["outputs"].tensor_shape.dim] == [-1, 1]
    predict = named.signature_def["serving_default"]
    assert predict.inputs["x"].name == "x:0"
    assert predict.inputs["flag"].HasField("tensor_shape")
    assert not predict.inputs["flag"].tensor_shape.dim
    assert predict.outputs["y"].dtype == 9


@pytest.mark.clause("TF-G10")
def test_a_version_that_is_no_number_has_none() -> None:
    assert not metadata(ModelId("m", "1.0"), _PREDICT).model_spec.HasField("version")


@pytest.mark.clause("TF-G10")
@pytest.mark.parametrize("datatype", DataType)
def test_every_datatype(datatype: DataType) -> None:
    signature = Signature((TensorSpec("x", datatype, (2,)),), ())
    assert signature_def(signature).inputs["x"].dtype > 0


@pytest.mark.parametrize(
    ("version", "number"),
    [("1", 1), ("0", 0), ("00000123", 123), ("1.0", None), ("", None), ("-1", None), ("²", None)],
)
def test_versions_that_are_numbers(version: str, number: int | None) -> None:
    assert number_of_version(version) == number


def test_versions_beyond_64_bits_are_none() -> None:
    assert number_of_version(str(2**63 - 1)) == 2**63 - 1
    assert number_of_version(str(2**63)) is None
    assert number_of_version("9" * 10_000) is None


_ROWS = (
    VersionStatus(ModelId("m", "10"), State.READY),
    VersionStatus(ModelId("m", "9"), State.FAILED, "no such file"),
    VersionStatus(ModelId("m", "1.0"), State.READY),
    VersionStatus(ModelId("n", "1"), State.READY),
    VersionStatus(ModelId("m", "0008"), State.GONE),
)


@pytest.mark.clause("TF-G11")
def test_versions_and_their_states() -> None:
    _, theirs = _client()
    message = status("m", None, _ROWS).SerializeToString()
    rows = theirs.GetModelStatusResponse.FromString(message).model_version_status
    assert [(row.version, row.state) for row in rows] == [(8, 50), (9, 50), (10, 30)]
    assert [row.status.error_code for row in rows] == [0, 2, 0]
    assert rows[1].status.error_message == "no such file"
    assert all(row.HasField("status") for row in rows)


@pytest.mark.clause("TF-G11")
@pytest.mark.parametrize(
    ("state", "number"),
    [
        (State.NEW, 10),
        (State.LOADING, 20),
        (State.WARMING, 20),
        (State.READY, 30),
        (State.DRAINING, 40),
        (State.UNLOADING, 40),
        (State.GONE, 50),
        (State.FAILED, 50),
    ],
)
def test_states(state: State, number: int) -> None:
    (row,) = status("m", 1, (VersionStatus(ModelId("m", "1"), state),)).model_version_status
    assert row.state == number


@pytest.mark.clause("TF-R21")
@pytest.mark.parametrize(
    ("version", "text"),
    [
        (None, "Could not find any versions of model x"),
        (7, "Could not find version 7 of model x"),
    ],
)
def test_no_version_to_tell_of(version: int | None, text: str) -> None:
    with pytest.raises(NotFound) as raised:
        status("x", version, _ROWS)
    assert str(raised.value) == text


@pytest.mark.clause("TF-G11")
def test_one_version() -> None:
    (row,) = status("m", 8, _ROWS).model_version_status
    assert (row.version, row.state) == (8, 50)
