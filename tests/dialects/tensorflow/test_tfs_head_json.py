"""Classify and Regress in TensorFlow Serving's JSON, status and metadata."""

import json
import math
from typing import Any

import numpy as np
import orjson
import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.tensorflow import metadata as tfs_metadata
from salver.dialects.tensorflow import status as tfs_status
from salver.dialects.tensorflow.examples import example_of
from salver.dialects.tensorflow.faults import model_fault
from salver.dialects.tensorflow.head_json import Classify, Regress
from salver.dialects.tensorflow.tf_schema import build
from salver.encoding.bodies import HttpBody
from salver.words.errors import InvalidInput, NotFound, Unsupported
from salver.words.messages import (
    InferRequest,
    InferResponse,
    ModelId,
    Signature,
    State,
    TensorSpec,
    VersionStatus,
)
from salver.words.tensor import Array, DataType, Tensor

_EXAMPLES = TensorSpec("inputs", DataType.BYTES, (-1,))


def _head(*outputs: tuple[str, DataType], **more: Any) -> Signature:
    return Signature((_EXAMPLES,), tuple(TensorSpec(n, d, (-1,)) for n, d in outputs), **more)


CLASSES = _head(("classes", DataType.BYTES), ("scores", DataType.FP32))
VALUES = _head(("outputs", DataType.FP32))
PLAIN = Signature((TensorSpec("x", DataType.FP32, (-1,)),), (TensorSpec("y", DataType.FP32, (-1,)),))


def read(body: Any, codec: Classify | Regress | None = None, signature: Signature = CLASSES) -> InferRequest:
    return (codec or Classify()).decode(HttpBody("m", "", orjson.dumps(body)), signature)


def features(serialized: bytes) -> dict[str, list[Any]]:
    made = build()["Example"].FromString(serialized).features.feature
    return {
        name: list(getattr(f, f.WhichOneof("kind")).value) if f.WhichOneof("kind") else []
        for name, f in made.items()
    }


def refused(body: Any, codec: Classify | Regress | None = None, signature: Signature = CLASSES) -> str:
    with pytest.raises(InvalidInput) as caught:
        read(body, codec, signature)
    return str(caught.value)


@pytest.mark.clause("TF-R17")
def test_the_token_decides_the_kind() -> None:
    (tensor,) = read(
        {
            "examples": [
                {
                    "names": ["foo", "bar"],
                    "ratings": [8.0, 9.5],
                    "age": 20,
                    "flags": [1, True, False],
                    "none": [],
                },
                {"names": [{"b64": "aGVsbG8="}, "b"], "ratings": 6.0, "is": True},
            ]
        }
    ).inputs
    assert (tensor.name, tensor.datatype) == ("inputs", DataType.BYTES)
    assert [features(example) for example in tensor.array] == [
        {"names": [b"foo", b"bar"], "ratings": [8.0, 9.5], "age": [20], "flags": [1, 1, 0], "none": []},
        {"names": [b"hello", b"b"], "ratings": [6.0], "is": [1]},
    ]


@pytest.mark.clause("TF-R17")
def test_context_is_merged_into_every_example() -> None:
    body = {"context": {"query": "pizza", "x": 1}, "examples": [{"x": 2}, {"y": [1.5]}]}
    found = [features(example) for example in read(body).inputs[0].array]
    assert found == [{"query": [b"pizza"], "x": [2]}, {"query": [b"pizza"], "x": [1], "y": [1.5]}]


@pytest.mark.clause("TF-R17", "TF-R14")
def test_numbers_that_are_not_finite() -> None:
    text = b'{"examples": [{"r": [8.0, NaN, Infinity], "s": -Infinity}]}'
    (found,) = Classify().decode(HttpBody("m", "", text), CLASSES).inputs[0].array
    ratings = features(found)["r"]
    assert ratings[0] == 8.0
    assert math.isnan(ratings[1])
    assert (ratings[2], features(found)["s"]) == (math.inf, [-math.inf])


_VALUES = (
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=5)
    | st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5)
    | st.lists(st.text(st.characters(codec="utf-8"), max_size=5), min_size=1, max_size=5)
)


@pytest.mark.clause("TF-R17")
@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), _VALUES, max_size=4))
def test_examples_say_what_the_maps_say(maps: dict[str, list[Any]]) -> None:
    wanted = {n: [v.encode() if isinstance(v, str) else v for v in vs] for n, vs in maps.items()}
    assert features(example_of(json.loads(json.dumps(maps)))) == wanted


@pytest.mark.clause("TF-R17")
@pytest.mark.parametrize("count", [1000, 1001, 2500])
def test_examples_of_many_features(count: int) -> None:
    maps = {f"f{index}": [index + 0.5] for index in range(count)}
    assert features(example_of(maps)) == maps


@pytest.mark.clause("TF-R17")
@pytest.mark.parametrize("count", [1, 2])
def test_floats_are_rounded_to_float32(count: int) -> None:
    most = float(np.finfo(np.float32).max)
    maps = {"tenth": [0.1] * count, "most": [most] * count, "least": [-most] * count}
    wanted = {"tenth": [float(np.float32(0.1))] * count, "most": maps["most"], "least": maps["least"]}
    assert features(example_of(maps)) == wanted
    beyond = {"more": [1e39] * count, "less": [-1e300] * count, "infinite": [math.inf] * count}
    infinite = {"more": [math.inf] * count, "less": [-math.inf] * count, "infinite": [math.inf] * count}
    assert features(example_of(beyond)) == infinite
    assert features(example_of({"whole": [2**64] * count})) == {"whole": [2.0**64] * count}


_SHOWN = 'JSON Value: {\n    "examples": %s\n} '


@pytest.mark.clause("TF-R32")
@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "JSON Value: {} When method is classify, key 'examples' is expected and was not found"),
        ({"examples": {}}, _SHOWN % "{}" + "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, _SHOWN % "[]" + "'examples' value is an empty array"),
        ({"examples": [[]]}, "Example must be JSON object but got JSON Array"),
        ({"examples": [None]}, "Example must be JSON object but got JSON Null"),
        ({"context": [1], "examples": [{}]}, "Example must be JSON object but got JSON Array"),
        ({"examples": [{"n": [10, None]}]}, "Feature: n has element with unexpected JSON type: Null"),
        ({"examples": [{"n": [[10], 20]}]}, "Feature: n has element with unexpected JSON type: Array"),
        ({"examples": [{"n": {"t": 1}}]}, "Feature: n has element with unexpected JSON type: Object"),
        ({"examples": [{"n": [10, 10.0]}]}, "Unexpected element type in feature: n expecting type: int64"),
        ({"examples": [{"n": [1.5, 10]}]}, "Unexpected element type in feature: n expecting type: float"),
        ({"examples": [{"n": ["a", 10]}]}, "Unexpected element type in feature: n expecting type: bytes"),
        ({"examples": [{"n": [1.5, True]}]}, "Unexpected element type in feature: n expecting type: float"),
        (
            {"examples": [{"n": [20, 2**64 - 13]}]},
            "Feature: n has uint64_t element. Only int64_t is supported.",
        ),
        ({"examples": [{"n": {"b64": "!"}}]}, "Unable to base64 decode"),
        ({"signature_name": "q", "examples": [{}]}, "No signature was found with the name: q"),
        ([], "JSON Value: [] Is not object"),
        (
            {"signature_name": ["hello"]},
            'JSON Value: {\n    "signature_name": [\n        "hello"\n    ]\n} not formatted correctly. '
            "'signature_name' key must be a string value.",
        ),
    ],
)
def test_texts(body: Any, text: str) -> None:
    assert refused(body) == text
    assert refused(body, Regress(), VALUES) == text


@pytest.mark.clause("TF-R32")
@pytest.mark.parametrize(
    ("codec", "signature", "text"),
    [
        (Classify(), Signature((_EXAMPLES, _EXAMPLES), ()), "Expected one input Tensor."),
        (Classify(), _head(*[("a", DataType.FP32)] * 3), "Expected one or two output Tensors, found 3"),
        (Regress(), CLASSES, "Expected one output Tensor."),
        (Classify(), PLAIN, 'No classification inputs found in SignatureDef: inputs {\n  key: "x"\n'),
        (Regress(), PLAIN, "No regression inputs found in SignatureDef: "),
        (
            Classify(),
            VALUES,
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            "Signature was: ",
        ),
        (Regress(), _head(("scores", DataType.FP32)), "No regression outputs found in SignatureDef: "),
        (
            Classify(checks_method=True),
            CLASSES,
            "Expected classification signature method_name to be tensorflow/serving/classify. "
            "Was: tensorflow/serving/predict",
        ),
        (
            Regress(checks_method=True),
            VALUES,
            "Expected regression signature method_name to be tensorflow/serving/regress. "
            "Was: tensorflow/serving/predict",
        ),
    ],
)
def test_signatures_that_are_not_for_it(codec: Classify | Regress, signature: Signature, text: str) -> None:
    assert refused({"examples": [{}]}, codec, signature).startswith(text)


@pytest.mark.clause("TF-R32")
def test_the_signature_is_chosen_by_name() -> None:
    head = _head(("scores", DataType.FP32), name="head", method="tensorflow/serving/classify")
    model = Signature(PLAIN.inputs, PLAIN.outputs, others=(head,))
    request = read({"signature_name": "head", "examples": [{}]}, Classify(checks_method=True), model)
    assert (request.signature, [output.name for output in request.outputs]) == ("head", ["scores"])
    assert request.any_shape


def answered(codec: Classify | Regress, count: int, **outputs: Array) -> bytes:
    signature = CLASSES if isinstance(codec, Classify) else VALUES
    request = read({"examples": [{}] * count}, codec, signature)
    kinds = {"O": DataType.BYTES, "f": DataType.FP32, "i": DataType.INT64}
    tensors = tuple(Tensor(n, kinds[a.dtype.kind], a) for n, a in outputs.items())
    return codec.encode(request, InferResponse("m", "1", tensors)).body


def texts(rows: list[list[bytes]]) -> Array:
    return np.array(rows, object)


@pytest.mark.clause("TF-R18")
def test_classes_and_scores() -> None:
    labels = texts([[b"car", b'"b"'], [b"car", "é".encode()]])
    scores = np.array([[0.2, 0.7], [1, np.nan]], "f4")
    assert answered(Classify(), 2, classes=labels, scores=scores).decode() == (
        '{\n    "results": [[["car", 0.2], ["\\"b\\"", 0.7]], [["car", 1.0], ["é", NaN]]\n    ]\n}'
    )


@pytest.mark.clause("TF-R30")
def test_a_label_that_there_is_not_is_empty() -> None:
    body = answered(Classify(), 1, scores=np.array([[0.5, 2]], "f4"))
    assert body == b'{\n    "results": [[["", 0.5], ["", 2.0]]\n    ]\n}'
    body = answered(Classify(), 1, classes=texts([[b"a"]]))
    assert body == b'{\n    "results": [[["a", 0.0]]\n    ]\n}'
    assert answered(Classify(), 1, scores=np.zeros((1, 0), "f4")) == b'{\n    "results": [[]\n    ]\n}'
    with pytest.raises(InvalidInput, match="Cannot convert empty ClassificationResults to JSON"):
        answered(Classify(), 1)


@pytest.mark.clause("TF-R19")
def test_values() -> None:
    for shape in ((3,), (3, 1)):
        body = answered(Regress(), 3, outputs=np.array([0.2, 42, -np.inf], "f4").reshape(shape))
        assert body == b'{\n    "results": [0.2, 42.0, -Infinity]\n}'


@pytest.mark.clause("TF-R32")
@pytest.mark.parametrize(
    ("codec", "outputs", "text"),
    [
        (
            Classify(),
            {"scores": np.zeros(2, "f4")},
            "Expected Tensor shape: [batch_size num_classes] but got [2]",
        ),
        (Classify(), {"scores": np.zeros((2, 1), "i8")}, "Expected scores Tensor of DT_FLOAT. Got: DT_INT64"),
        (Classify(), {"scores": np.zeros((3, 1), "f4")}, "Expected scores output batch size of 2. Got: 3"),
        (
            Classify(),
            {"classes": texts([[b"a"], [b"b"]]), "scores": np.zeros((2, 2), "f4")},
            "Tensors class and score should match in dim_size(1). Got 1 vs. 2",
        ),
        (
            Regress(),
            {"outputs": np.zeros((2, 2), "f4")},
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [2,2]",
        ),
        (
            Regress(),
            {"outputs": np.zeros(3, "f4")},
            "Input batch size did not match output batch size: 2 vs. 3",
        ),
    ],
)
def test_outputs_that_are_not_for_it(codec: Classify | Regress, outputs: dict[str, Array], text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        answered(codec, 2, **outputs)
    assert str(caught.value) == text


def test_labels_that_are_no_text_are_refused() -> None:
    with pytest.raises(Unsupported, match="is not UTF-8"):
        answered(Classify(), 1, classes=texts([[b"\xff"]]))


def _row(version: str, state: State, reason: str = "") -> VersionStatus:
    return VersionStatus(ModelId("m", version), state, reason)


@pytest.mark.clause("TF-R4")
@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (State.NEW, "START"),
        (State.LOADING, "LOADING"),
        (State.WARMING, "LOADING"),
        (State.READY, "AVAILABLE"),
        (State.DRAINING, "UNLOADING"),
        (State.UNLOADING, "UNLOADING"),
        (State.GONE, "END"),
        (State.FAILED, "END"),
    ],
)
def test_states(state: State, shown: str) -> None:
    (told,) = tfs_status.status("m", "", [_row("1", state, "broken")])
    assert told["state"] == shown
    is_bad = state is State.FAILED
    assert told["status"] == {
        "error_code": "UNKNOWN" if is_bad else "OK",
        "error_message": "broken" if is_bad else "",
    }


@pytest.mark.clause("TF-R4")
def test_versions_are_compared_as_numbers() -> None:
    rows = [
        _row("10", State.READY),
        _row("00000123", State.READY),
        _row("9", State.GONE),
        _row("v1", State.READY),
    ]
    assert [row["version"] for row in tfs_status.status("m", "", rows)] == ["9", "10", "123", "v1"]
    assert [row["version"] for row in tfs_status.status("m", "123", rows)] == ["123"]
    for version, text in (
        ("7", "Could not find version 7 of model m"),
        ("", "Could not find any versions of model m"),
    ):
        with pytest.raises(NotFound) as caught:
            tfs_status.status("m", version, rows if version else [])
        assert str(caught.value) == text


@pytest.mark.clause("TF-R4", "TF-R29")
def test_layout() -> None:
    body = tfs_status.printed(
        {"model_version_status": tfs_status.status("m", "", [_row("123", State.READY)])}
    )
    assert body.decode() == (
        '{\n "model_version_status": [\n  {\n   "version": "123",\n   "state": "AVAILABLE",\n'
        '   "status": {\n    "error_code": "OK",\n    "error_message": ""\n   }\n  }\n ]\n}\n'
    )


@pytest.mark.clause("TF-R5")
def test_metadata() -> None:
    signature = Signature(
        (TensorSpec("x", DataType.FP32, (-1, 2), tensor="serving_x:0"),),
        (TensorSpec("y", DataType.BYTES, ()),),
        others=(
            Signature((TensorSpec("i", DataType.INT64, (-1,), any_rank=True),), (), name="free", method="m"),
        ),
    )
    body = tfs_status.metadata(ModelId("m", "123"), signature)
    assert body.startswith(
        b'{\n"model_spec":{\n "name": "m",\n "signature_name": "",\n "version": "123"\n}\n,\n'
        b'"metadata": {"signature_def": {\n "signature_def": {\n  "serving_default": {\n   "inputs": {\n'
        b'    "x": {\n     "dtype": "DT_FLOAT",\n     "tensor_shape": {\n      "dim": [\n       {\n'
        b'        "size": "-1",\n'
    )
    assert body.endswith(b"}\n}\n}\n")
    told = json.loads(body)["metadata"]["signature_def"]["signature_def"]
    assert told["free"]["inputs"]["i"]["tensor_shape"] == {"dim": [], "unknown_rank": True}
    assert told["free"]["method_name"] == "m"
    assert told["serving_default"]["inputs"]["x"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {
            "dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}],
            "unknown_rank": False,
        },
        "name": "serving_x:0",
    }
    assert told["serving_default"]["outputs"]["y"]["tensor_shape"] == {"dim": [], "unknown_rank": False}


def _as_json(message: Any) -> Any:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


@pytest.mark.clause("TF-R4", "TF-R5")
def test_the_json_is_what_protobuf_makes_of_the_messages() -> None:
    signature = Signature(
        (
            TensorSpec("x", DataType.FP32, (-1, 2), tensor="serving_x:0"),
            TensorSpec("n", DataType.UINT8, (0,)),
        ),
        (TensorSpec("y", DataType.BYTES, ()), TensorSpec("z", DataType.BF16, (-1,), any_rank=True)),
        others=(Signature((TensorSpec("b", DataType.BOOL, (3,)),), (), name="other", method="m"),),
    )
    told = json.loads(tfs_status.metadata(ModelId("m", "123"), signature))
    message = tfs_metadata.metadata(ModelId("m", "123"), signature)
    signatures = build()["SignatureDefMap"]()
    assert message.metadata["signature_def"].Unpack(signatures)
    assert told["metadata"]["signature_def"] == _as_json(signatures)
    assert told["model_spec"] == _as_json(message.model_spec)
    rows = [_row("1", State.FAILED, "broken"), _row("2", State.READY), _row("3", State.GONE)]
    wanted = _as_json(tfs_metadata.status("m", None, rows))
    assert {"model_version_status": tfs_status.status("m", "", rows)} == wanted


def test_a_missing_model_is_told_to_two_kinds_of_clients() -> None:
    reply = model_fault(NotFound("Could not find any versions of model m"), "m")
    assert reply.status == 404
    assert json.loads(reply.body) == {
        "error": "Could not find any versions of model m",
        "code": 404,
        "type": "ModelNotFoundException",
        "message": "Model not found: m",
    }
