"""Requests and answers of TensorFlow Serving's gRPC services, message by message."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.tensorflow import grpc_codec as wire
from salver.dialects.tensorflow.faults import TFS_GRPC
from salver.dialects.tensorflow.heads import CLASSIFY, REGRESS
from salver.dialects.tensorflow.predict_codec import Predict, PredictMessages
from salver.dialects.tensorflow.rules import TfsRules
from salver.dialects.tensorflow.tf_schema import build
from salver.testing.codecs import mutations
from salver.words.errors import (
    Code,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    NotReady,
    Overloaded,
    SalverError,
    TooLarge,
    Unsupported,
)
from salver.words.messages import InferResponse, RequestedOutput, Signature, TensorSpec
from salver.words.tensor import DataType, tensor

_RULES = TfsRules()
_EXAMPLES = (TensorSpec("inputs", DataType.BYTES, (-1,), tensor="tf_example:0"),)
_SIGNATURE = Signature(
    (
        TensorSpec("x", DataType.FP32, (-1, 2), tensor="x:0"),
        TensorSpec("n", DataType.INT64, (-1,), tensor="n:0"),
    ),
    (TensorSpec("y", DataType.FP32, (-1,)), TensorSpec("z", DataType.FP32, (-1,))),
    True,
    others=(
        Signature(
            _EXAMPLES, (TensorSpec("outputs", DataType.FP32, (-1,)),), True, name="regress", method=REGRESS
        ),
        Signature(
            _EXAMPLES, (TensorSpec("scores", DataType.FP32, (-1, 2)),), True, name="classify", method=CLASSIFY
        ),
        Signature(
            (TensorSpec("inputs", DataType.BYTES, (-1,), tensor="other:0"),),
            (TensorSpec("outputs", DataType.FP32, (-1,)),),
            True,
            name="from_elsewhere",
            method=REGRESS,
        ),
    ),
)


def _predict(**changes: Any) -> Any:
    made = build()["PredictRequest"](model_spec={"name": "m"})
    for name, kind, values, dims in (
        ("x", "DT_FLOAT", {"float_val": [1, 2, 3, 4]}, (2, 2)),
        ("n", "DT_INT64", {"int64_val": [5, -6]}, (2,)),
    ):
        made.inputs[name].CopyFrom(build()["TensorProto"](dtype=kind, **values))
        for size in dims:
            made.inputs[name].tensor_shape.dim.add(size=size)
    for name, value in changes.items():
        if name == "signature":
            made.model_spec.signature_name = value
        elif name == "filter":
            made.output_filter.extend(value)
        elif value is None:
            del made.inputs[name]
        else:
            made.inputs[name].CopyFrom(build()["TensorProto"](**value))
    return made


def _read(made: Any, signature: Signature = _SIGNATURE) -> Any:
    return _read_bytes(made.SerializeToString(), signature)


def _read_bytes(message: bytes, signature: Signature = _SIGNATURE) -> Any:
    messages = PredictMessages()
    spec, asked = messages.read(message)
    return Predict(spec, _RULES, messages).decode(asked, signature)


def _codec(spec: wire.ModelSpec, rules: TfsRules = _RULES) -> Predict:
    return Predict(spec, rules, PredictMessages())


@pytest.mark.clause("TF-G5")
def test_a_request() -> None:
    request = _read(_predict())
    assert (request.model, request.version, request.signature, request.outputs) == ("m", "", "", ())
    x, n = request.inputs
    assert (x.name, x.array.tolist(), n.name, n.array.tolist()) == ("x", [[1, 2], [3, 4]], "n", [5, -6])
    named = _read(_predict(signature="serving_default", filter=["z"]))
    assert (named.signature, named.outputs) == ("", (RequestedOutput("z"),))


@pytest.mark.clause("TF-G5")
def test_fields_of_streaming_and_of_the_future_change_nothing() -> None:
    made = _predict()
    made.predict_streamed_options.request_state = 1
    made.client_id = b"me"
    made.request_options.max_cache_length = 7
    message = made.SerializeToString() + bytes([0xFA, 0x3F, 3]) + b"new"  # field 1023
    assert _read_bytes(message).inputs[0].array.sum() == 10


@pytest.mark.clause("TF-G7")
def test_numbers_that_come_one_by_one_are_read() -> None:
    def unpacked(number: int, kind: int, raws: list[bytes]) -> bytes:
        return b"".join(bytes([number << 3 | kind]) + raw for raw in raws)

    shape = b"\x12\x08\x12\x02\x08\x02\x12\x02\x08\x02"
    floats = np.array([1, 2, 3, 4], "<f4")
    x = b"\x08\x01" + shape + unpacked(5, 5, [v.tobytes() for v in floats])
    n = b"\x08\x09\x12\x04\x12\x02\x08\x02" + unpacked(10, 0, [b"\x05", b"\x07"])
    entries = b"".join(
        b"\x12" + bytes([len(entry)]) + entry
        for entry in (
            b"\x0a\x01" + name + b"\x12" + bytes([len(t)]) + t for name, t in ((b"x", x), (b"n", n))
        )
    )
    request = _read_bytes(b"\x0a\x03\x0a\x01m" + entries)
    assert [t.array.tolist() for t in request.inputs] == [[[1, 2], [3, 4]], [5, 7]]


def test_numbers_of_which_one_is_broken_are_refused() -> None:
    tensor = b"\x1a\x03\n\x01\x01J\x0e\n\x0c\n\n\n\x01y\x12\x05\n\x03\n\x01a"  # what else a field 9 may be
    entry = b"\n\x01x\x12" + bytes([len(tensor)]) + tensor
    with pytest.raises(InvalidInput, match="the message is not a PredictRequest"):
        _read_bytes(b"\n\x03\n\x01m\x12" + bytes([len(entry)]) + entry)


@pytest.mark.clause("TF-R21")
@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        (
            {"signature": "nothing"},
            FailedPrecondition,
            'Serving signature key "nothing" not found.',
        ),
        (
            {"n": None},
            InvalidInput,
            "input size does not match signature: 1!=2 len({x}) != len({n,x}). Sent extra: {}. "
            "Missing but required: {n}.",
        ),
        (
            {"more": {}, "also": {}},
            InvalidInput,
            "input size does not match signature: 4!=2 len({also,more,n,x}) != len({n,x}). "
            "Sent extra: {also,more}. Missing but required: {}.",
        ),
        (
            {"n": None, "m": {}},
            InvalidInput,
            "Signature input alias: n(feed name: n:0) not found in request and no default value provided. "
            "Inputs expected to be in the request {m,x}, or default input alias set: ",
        ),
        (
            {"filter": ["q"]},
            InvalidInput,
            "output tensor alias not found in signature: q Outputs expected to be in the set {y,z}.",
        ),
        ({"filter": ["y", "y"]}, InvalidInput, "duplicate output tensor alias: y"),
        ({"x": {}}, InvalidInput, "tensor parsing error: x (dtype DT_INVALID is none)"),
        (
            {"x": {"dtype": "DT_DOUBLE", "double_val": [1.0]}},
            InvalidInput,
            "Expects arg[0] to be float but double is provided",
        ),
        (
            {"n": {"dtype": "DT_STRING", "string_val": [b"1"]}},
            InvalidInput,
            "Expects arg[1] to be int64 but string is provided",
        ),
        (
            {"x": {"dtype": "DT_COMPLEX64", "scomplex_val": [1, 0]}},
            Unsupported,
            "tensor parsing error: x (tensors of DT_COMPLEX64 are not supported)",
        ),
    ],
)
def test_requests_that_do_not_fit(changes: dict[str, Any], kind: type[SalverError], text: str) -> None:
    with pytest.raises(kind) as raised:
        _read(_predict(**changes))
    assert (type(raised.value), str(raised.value)) == (kind, text)


@pytest.mark.clause("TF-G5")
def test_inputs_with_defaults_may_be_left_out() -> None:
    x = TensorSpec("x", DataType.FP32, (-1, 2))
    signature = Signature((x, TensorSpec("n", DataType.INT64, (-1,), optional=True)), _SIGNATURE.outputs)
    request = _read(_predict(n=None), signature)
    assert [t.name for t in request.inputs] == ["x"]
    both = _read(_predict(), signature)
    assert [t.name for t in both.inputs] == ["x", "n"]
    wrong = _predict(n=None, q={"dtype": "DT_FLOAT"})
    with pytest.raises(InvalidInput) as raised:
        _read(wrong, signature)
    assert str(raised.value) == ("Inputs contains invalid name. Used request inputs: x, request input: q,x")


@pytest.mark.clause("TF-G4")
@pytest.mark.parametrize(
    ("spec", "read"),
    [
        ({"name": "m"}, wire.ModelSpec("m")),
        ({"name": "m", "version": {"value": 0}}, wire.ModelSpec("m", 0)),
        ({"name": "m", "version": {"value": 2**62}}, wire.ModelSpec("m", 2**62)),
        ({"name": "m", "version_label": "stable"}, wire.ModelSpec("m", None, "stable")),
        ({"name": "m", "signature_name": "s"}, wire.ModelSpec("m", None, "", "s")),
    ],
)
def test_whom_a_request_is_for(spec: dict[str, Any], read: wire.ModelSpec) -> None:
    assert wire.read_spec(build()["ModelSpec"](**spec)) == read


@pytest.mark.clause("TF-G4")
@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (build()["PredictRequest"](), "Missing ModelSpec"),
        (build()["PredictRequest"](model_spec={}), "ModelSpec has no name specified."),
    ],
)
def test_a_request_for_nobody(request_: Any, text: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        _read(request_)
    assert str(raised.value) == text


_RESPONSE = InferResponse(
    "m", "00000007", (tensor("y", np.array([1.5, 2], np.float32)), tensor("s", [b"a", b"\xff"]))
)


@pytest.mark.clause("TF-G6")
@pytest.mark.parametrize("as_content", [False, True])
def test_an_answer(as_content: bool) -> None:
    codec = _codec(wire.ModelSpec("m", signature="named"), TfsRules(answers_as_content=as_content))
    found = build()["PredictResponse"].FromString(codec.encode(_read(_predict()), _RESPONSE))
    spec = found.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("m", 7, "named")
    y, s = found.outputs["y"], found.outputs["s"]
    assert [dim.size for dim in y.tensor_shape.dim] == [2]
    if as_content:
        assert (y.tensor_content, list(y.float_val)) == (np.array([1.5, 2], "<f4").tobytes(), [])
        assert s.tensor_content == b"\x01\x01a\xff"
    else:
        assert (y.tensor_content, list(y.float_val)) == (b"", [1.5, 2])
        assert list(s.string_val) == [b"a", b"\xff"]


@pytest.mark.clause("TF-G4")
def test_an_answer_names_the_default_signature_and_no_version_that_is_no_number() -> None:
    made = _codec(wire.ModelSpec("m")).encode(_read(_predict()), InferResponse("m", "1.0", ()))
    spec = build()["PredictResponse"].FromString(made).model_spec
    assert (spec.signature_name, spec.HasField("version")) == ("serving_default", False)


# Errors.


@pytest.mark.clause("TF-R21")
@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (NotFound("whatever"), 5, "Servable not found for request: Specific(m, 3)"),
        (NotReady("it loads"), 5, "Servable not found for request: Specific(m, 3): it loads"),
        (FailedPrecondition("no"), 9, "no"),
        (InvalidInput("no"), 3, "no"),
        (TooLarge("no"), 8, "no"),
        (Unsupported("no"), 12, "no"),
        (DeadlineExceeded("late"), 4, "late"),
        (Overloaded("full"), 14, "The batch scheduling queue to which this task was submitted is full"),
        (Overloaded("too late", why="objective"), 14, "too late"),
    ],
)
def test_statuses(error: SalverError, code: int, text: str) -> None:
    status = _codec(wire.ModelSpec("m", 3)).fault(error)
    assert (status.code, status.message) == (code, text)


@pytest.mark.clause("TF-R21")
def test_the_newest_that_is_not_there() -> None:
    status = _codec(wire.ModelSpec("m")).fault(NotFound("whatever"))
    assert status.message == "Servable not found for request: Latest(m)"


def test_every_kind_of_error_has_a_status() -> None:
    assert set(TFS_GRPC) == set(Code)


def test_a_models_own_error_keeps_its_words() -> None:
    error = NotFound("the row is not in the table")
    error.is_late = True
    assert _codec(wire.ModelSpec("m")).fault(error).message == "the row is not in the table"


# Classify, Regress, MultiInference.


def _example(**features: float) -> Any:
    made = build()["Example"]()
    for name, value in features.items():
        made.features.feature[name].float_list.value.append(value)
    return made


def _request(kind: str, signature: str, examples: list[Any], context: Any = None) -> bytes:
    made = build()[kind](model_spec={"name": "m", "signature_name": signature})
    if context is None:
        made.input.example_list.examples.extend(examples)
    else:
        made.input.example_list_with_context.examples.extend(examples)
        made.input.example_list_with_context.context.CopyFrom(context)
    return made.SerializeToString()


def _decoded(kind: str, method: str, message: bytes) -> tuple[wire.HeadCodec, Any]:
    parsed = wire.parse(kind, message)
    codec = wire.HeadCodec(wire.spec_of(parsed), _RULES, method)
    return codec, codec.decode(parsed.input, _SIGNATURE)


@pytest.mark.clause("TF-G8")
def test_examples_become_strings() -> None:
    examples = [_example(x=1), _example(x=2)]
    _, request = _decoded("RegressionRequest", REGRESS, _request("RegressionRequest", "regress", examples))
    (inputs,) = request.inputs
    assert (inputs.name, inputs.datatype, inputs.shape) == ("inputs", DataType.BYTES, (2,))
    assert [build()["Example"].FromString(raw) for raw in inputs.array] == examples
    assert (request.signature, request.outputs) == ("regress", (RequestedOutput("outputs"),))


@pytest.mark.clause("TF-G8")
def test_the_context_is_merged_into_each_example() -> None:
    context = _example(user=7, x=9)
    message = _request("ClassificationRequest", "classify", [_example(x=1), _example(x=2)], context)
    _, request = _decoded("ClassificationRequest", CLASSIFY, message)
    first, second = (build()["Example"].FromString(raw).features.feature for raw in request.inputs[0].array)
    assert [first[k].float_list.value[-1] for k in ("user", "x")] == [7, 1]
    assert [second[k].float_list.value[-1] for k in ("user", "x")] == [7, 2]


@pytest.mark.clause("TF-G8")
@pytest.mark.parametrize("empty", [{}, {"example_list": {}}, {"example_list_with_context": {}}])
def test_no_examples(empty: dict[str, Any]) -> None:
    made = build()["RegressionRequest"](model_spec={"name": "m", "signature_name": "regress"}, input=empty)
    with pytest.raises(InvalidInput, match=r"^Input is empty\.$"):
        _decoded("RegressionRequest", REGRESS, made.SerializeToString())


@pytest.mark.clause("TF-G8")
def test_answers() -> None:
    examples = [_example(x=1), _example(x=2)]
    codec, request = _decoded(
        "RegressionRequest", REGRESS, _request("RegressionRequest", "regress", examples)
    )
    answer = InferResponse("m", "3", (tensor("outputs", np.array([[0.5], [1]], np.float32)),))
    made = build()["RegressionResponse"].FromString(codec.encode(request, answer))
    assert [r.value for r in made.result.regressions] == [0.5, 1]
    assert (made.model_spec.version.value, made.model_spec.signature_name) == (3, "regress")
    message = _request("ClassificationRequest", "classify", examples)
    codec, request = _decoded("ClassificationRequest", CLASSIFY, message)
    scores = tensor("scores", np.array([[0.25, 0.75], [1, 0]], np.float32))
    for outputs, labels in (
        ((scores,), ("", "")),
        ((scores, tensor("classes", [["a", "b"]] * 2)), ("a", "b")),
    ):
        made = build()["ClassificationResponse"].FromString(
            codec.encode(request, InferResponse("m", "3", outputs))
        )
        rows = [[(c.label, c.score) for c in row.classes] for row in made.result.classifications]
        assert rows == [[(labels[0], 0.25), (labels[1], 0.75)], [(labels[0], 1), (labels[1], 0)]]
    only = tensor("classes", [["a"], ["b"]])
    made = build()["ClassificationResponse"].FromString(
        codec.encode(request, InferResponse("m", "3", (only,)))
    )
    assert [row.classes[0].label for row in made.result.classifications] == ["a", "b"]


@pytest.mark.clause("TF-G8")
def test_labels_that_are_no_text_are_refused() -> None:
    message = _request("ClassificationRequest", "classify", [_example(x=1)])
    codec, request = _decoded("ClassificationRequest", CLASSIFY, message)
    with pytest.raises(Unsupported, match="is not UTF-8"):
        codec.encode(request, InferResponse("m", "3", (tensor("classes", np.array([[b"\xff"]])),)))


def _tasks(*tasks: tuple[str, str, str]) -> Any:
    return wire.parse(
        "MultiInferenceRequest",
        build()["MultiInferenceRequest"](
            tasks=[
                {"model_spec": {"name": name, "signature_name": signature}, "method_name": method}
                for name, signature, method in tasks
            ]
        ).SerializeToString(),
    )


@pytest.mark.clause("TF-G9")
@pytest.mark.parametrize(
    ("tasks", "kind", "text"),
    [
        ([], InvalidInput, "ModelSpec has no name specified."),
        ([("", "regress", REGRESS)], InvalidInput, "ModelSpec has no name specified."),
        (
            [("m", "regress", REGRESS), ("", "classify", CLASSIFY)],
            InvalidInput,
            "Found ModelSpec with an empty model name.",
        ),
        (
            [("m", "regress", REGRESS), ("n", "classify", CLASSIFY)],
            InvalidInput,
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        (
            [("m", "regress", REGRESS), ("m", "regress", REGRESS)],
            InvalidInput,
            "Duplicate evaluation of signature: regress",
        ),
        (
            [("m", "nothing", REGRESS)],
            InvalidInput,
            "Requested signature not found in model graph: nothing",
        ),
        (
            [("m", "regress", "tensorflow/serving/predict")],
            Unsupported,
            "Unsupported signature method_name: tensorflow/serving/predict",
        ),
        ([("m", "", REGRESS)], InvalidInput, "Expected one input Tensor."),
    ],
)
def test_tasks_that_do_not_go_together(
    tasks: list[tuple[str, str, str]], kind: type[SalverError], text: str
) -> None:
    with pytest.raises(kind) as raised:
        wire.check_tasks(wire.tasks_of(_tasks(*tasks)), _SIGNATURE, _RULES)
    assert str(raised.value) == text


@pytest.mark.clause("TF-G9")
def test_signatures_may_have_inputs_of_their_own() -> None:
    tasks = wire.tasks_of(_tasks(("m", "regress", REGRESS), ("m", "from_elsewhere", REGRESS)))
    wire.check_tasks(tasks, _SIGNATURE, _RULES)


@pytest.mark.clause("TF-G9")
def test_results() -> None:
    tasks = wire.tasks_of(_tasks(("m", "regress", REGRESS), ("m", "classify", CLASSIFY)))
    wire.check_tasks(tasks, _SIGNATURE, _RULES)
    given = build()["Input"]()
    given.example_list.examples.append(_example(x=1))
    results = []
    for (spec, method), outputs in zip(
        tasks,
        (tensor("outputs", np.array([2], np.float32)), tensor("scores", np.array([[3]], np.float32))),
        strict=True,
    ):
        task = wire.TaskCodec(spec, _RULES, method)
        request = task.decode(given, _SIGNATURE)
        results.append(task.encode(request, InferResponse("m", "5", (outputs,))))
    made = build()["MultiInferenceResponse"].FromString(wire.encode_results(results))
    assert [r.model_spec.signature_name for r in made.results] == ["regress", "classify"]
    assert made.results[0].regression_result.regressions[0].value == 2
    assert made.results[1].classification_result.classifications[0].classes[0].score == 3
    assert {r.model_spec.version.value for r in made.results} == {5}


# The other methods.


@pytest.mark.clause("TF-G10")
def test_what_may_be_asked() -> None:
    made = build()["GetModelMetadataRequest"](model_spec={"name": "m"}, metadata_field=["signature_def"])
    assert wire.decode_metadata_request(made.SerializeToString()) == wire.ModelSpec("m")


@pytest.mark.clause("TF-G10")
@pytest.mark.parametrize(
    ("made", "text"),
    [
        ({"metadata_field": ["signature_def"]}, "Missing ModelSpec"),
        (
            {"model_spec": {"name": "m"}},
            "GetModelMetadataRequest must specify at least one metadata_field",
        ),
        (
            {"model_spec": {"name": "m"}, "metadata_field": ["signature_def", "other"]},
            "Metadata field other is not supported",
        ),
        ({"model_spec": {}, "metadata_field": ["signature_def"]}, "ModelSpec has no name specified."),
    ],
)
def test_what_may_not_be_asked(made: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        wire.decode_metadata_request(build()["GetModelMetadataRequest"](**made).SerializeToString())
    assert str(raised.value) == text


@pytest.mark.clause("TF-G11")
def test_requests() -> None:
    made = build()["GetModelStatusRequest"](model_spec={"name": "m", "version": {"value": 3}})
    assert wire.decode_status_request(made.SerializeToString()) == wire.ModelSpec("m", 3)
    with pytest.raises(InvalidInput, match=r"^Missing ModelSpec$"):
        wire.decode_status_request(b"")


@pytest.mark.clause("TF-G12")
def test_requests_and_answers() -> None:
    made = build()["ReloadConfigRequest"](
        config={"model_config_list": {"config": [{"name": "m", "base_path": "/m"}]}}, metric_names=["a"]
    )
    config, metrics = wire.decode_reload(made.SerializeToString())
    assert build()["ModelServerConfig"].FromString(config) == made.config
    assert metrics == ["a"]
    answer = build()["ReloadConfigResponse"].FromString(wire.encode_reload({"a": 3}))
    assert (answer.status.error_code, answer.HasField("status")) == (0, True)
    assert [(m.name, m.int64_value_increase) for m in answer.metric] == [("a", 3)]


@pytest.mark.clause("TF-G12")
@pytest.mark.parametrize("config", [{}, {"custom_model_config": {"type_url": "x"}}])
def test_only_lists_of_models(config: dict[str, Any]) -> None:
    made = build()["ReloadConfigRequest"](config=config)
    with pytest.raises(InvalidInput) as raised:
        wire.decode_reload(made.SerializeToString())
    assert str(raised.value) == (
        "ServerModelConfig type not supported by HandleReloadConfigRequest. "
        "Only ModelConfigList is currently supported"
    )


# Whatever comes.


def _ask_all(message: bytes) -> None:
    for kind, method in (("ClassificationRequest", CLASSIFY), ("RegressionRequest", REGRESS)):
        _decoded(kind, method, message)
    tasks = wire.tasks_of(wire.parse("MultiInferenceRequest", message))
    wire.check_tasks(tasks, _SIGNATURE, _RULES)


@pytest.mark.parametrize("count", [300])
def test_broken_messages_are_refused_and_nothing_else(count: int) -> None:
    seeds = (
        _predict().SerializeToString(),
        _request("RegressionRequest", "regress", [_example(x=1)]),
        _request("ClassificationRequest", "classify", [_example(x=1)], _example(y=2)),
    )
    for seed in seeds:
        for message in mutations(seed, seed=11, count=count):
            for ask in (_read_bytes, _ask_all, wire.decode_reload):
                try:
                    ask(message)
                except SalverError as error:
                    assert error.code is not Code.INTERNAL


@given(st.binary(max_size=60))
def test_any_bytes_are_a_request_or_refused(message: bytes) -> None:
    for ask in (
        PredictMessages().read,
        wire.decode_status_request,
        wire.decode_metadata_request,
        wire.decode_reload,
    ):
        try:
            ask(message)
        except InvalidInput as error:
            assert str(error)
