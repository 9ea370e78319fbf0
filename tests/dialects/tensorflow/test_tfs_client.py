"""Unmodified client of TensorFlow Serving, with SavedModels and models of other frameworks."""

import asyncio
import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
import savedmodels
from waiting import until
from zoo import EXAMPLES, at_work, mlp_answer, write_identity, write_mlp, write_moody

from salver.testing.process import ServerProcess

REGRESS, CLASSIFY = "tensorflow/serving/regress", "tensorflow/serving/classify"
_WAIT_S = 60.0


def _pitch() -> Path:
    """A real SavedModel, which finds the notes in a recording."""
    found = importlib.util.find_spec("basic_pitch")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "saved_models" / "icassp_2022" / "nmp"


@pytest.fixture(scope="module")
def tf() -> Any:
    import tensorflow

    return tensorflow


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("serving")
    root = folder / "repository"
    savedmodels.half_plus_two(root / "half_plus_two" / "123")
    (root / "half_plus_two" / "salver.toml").write_text('[versions]\nall = true\n[labels]\nstable = "123"\n')
    savedmodels.half_plus_three(root / "half_plus_two" / "124")
    savedmodels.half_plus_two(root / "padded" / "00000123")
    others = ("ragged", "without_default", "moody", "squares", "keras_pair", "with_defaults")
    for name in others:
        getattr(savedmodels, name)(root / name / "1")
    write_mlp(root / "mlp", 3)
    write_moody(root, "slow")
    for datatype in EXAMPLES:
        write_identity(root, datatype)
    shutil.copytree(_pitch(), root / "pitch" / "1")
    savedmodels.in_the_server(*(root / name for name in ("pitch", *others)))
    with ServerProcess([root], folder / "log", env=savedmodels.SOONER) as server:
        yield server.wait_ready()


@pytest.fixture(scope="module")
def channel(serving: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(serving.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def predictions(channel: grpc.Channel) -> Any:
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def models(channel: grpc.Channel) -> Any:
    from tensorflow_serving.apis import model_service_pb2_grpc

    return model_service_pb2_grpc.ModelServiceStub(channel)


def _spec(spec: Any, model: str, signature: str = "", version: int | None = None, label: str = "") -> None:
    spec.name, spec.signature_name = model, signature
    if version is not None:
        spec.version.value = version
    if label:
        spec.version_label = label


def predict_request(tf: Any, model: str, inputs: dict[str, Any], **spec: Any) -> Any:
    from tensorflow_serving.apis.predict_pb2 import PredictRequest

    request = PredictRequest()
    _spec(request.model_spec, model, **spec)
    for name, value in inputs.items():
        strings = getattr(value, "dtype", None) == np.dtype(object)
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value, dtype=tf.string if strings else None))
    return request


def input_of(values: list[float], **context: float) -> Any:
    from tensorflow.core.example.example_pb2 import Example
    from tensorflow_serving.apis.input_pb2 import Input

    def example(**features: float) -> Any:
        made = Example()
        for name, value in features.items():
            made.features.feature[name].float_list.value.append(value)
        return made

    made = Input()
    if context:
        made.example_list_with_context.context.CopyFrom(example(**context))
        made.example_list_with_context.examples.extend(example(x=value) for value in values)
    else:
        made.example_list.examples.extend(example(x=value) for value in values)
    return made


def refused(call: Any, request: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call(request, timeout=_WAIT_S)
    return raised.value.code().name, raised.value.details()


@pytest.mark.clause("TF-G1")
def test_predict(tf: Any, predictions: Any) -> None:
    x = np.array([1.0, 2.0, 5.0], np.float32)
    answer = predictions.Predict(predict_request(tf, "half_plus_two", {"x": x}, version=123), timeout=_WAIT_S)
    np.testing.assert_array_equal(tf.make_ndarray(answer.outputs["y"]), x / 2 + 2)
    spec = answer.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("half_plus_two", 123, "serving_default")


@pytest.mark.clause("TF-G1")
def test_predict_gives_what_tensorflow_gives(tf: Any, predictions: Any) -> None:
    random = np.random.default_rng(3)
    left, right = random.standard_normal((5, 2), np.float32), random.standard_normal((5, 3), np.float32)
    loaded = tf.saved_model.load(str(savedmodels.made() / "keras_pair")).signatures["serving_default"]
    wanted = loaded(left=tf.constant(left), right=tf.constant(right))
    answer = predictions.Predict(
        predict_request(tf, "keras_pair", {"left": left, "right": right}), timeout=_WAIT_S
    )
    assert set(answer.outputs) == {"sum", "gap"}
    for name, value in answer.outputs.items():
        assert tf.make_ndarray(value).tobytes() == wanted[name].numpy().tobytes()


@pytest.mark.clause("TF-G1")
def test_a_real_model_gives_what_tensorflow_gives(tf: Any, predictions: Any) -> None:
    audio = np.sin(np.linspace(0, 3000, 43844, dtype=np.float32)).reshape(1, -1, 1)
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(_pitch()))
        told = loaded.signature_def["serving_default"]
        (given,) = told.inputs
        fetches = {name: info.name for name, info in told.outputs.items()}
        wanted = session.run(fetches, {told.inputs[given].name: audio})
    answer = predictions.Predict(predict_request(tf, "pitch", {given: audio}), timeout=_WAIT_S)
    assert set(answer.outputs) == set(wanted)
    for name, value in wanted.items():
        found = tf.make_ndarray(answer.outputs[name])
        np.testing.assert_array_equal(found, value, strict=True)


@pytest.mark.clause("TF-G4")
def test_versions_and_labels(tf: Any, predictions: Any) -> None:
    x = np.array([[1.0]], np.float32)

    def ask(**spec: Any) -> tuple[int, float]:
        answer = predictions.Predict(predict_request(tf, "half_plus_two", {"x": x}, **spec), timeout=_WAIT_S)
        return answer.model_spec.version.value, float(tf.make_ndarray(answer.outputs["y"]).item())

    assert ask() == (124, 3.5)
    assert ask(version=123) == (123, 2.5)
    assert ask(version=124) == (124, 3.5)
    assert ask(label="stable") == (123, 2.5)
    request = predict_request(tf, "half_plus_two", {"x": x}, label="canary")
    assert refused(predictions.Predict, request) == (
        "INVALID_ARGUMENT",
        "Unrecognized servable version label: canary",
    )


def test_a_version_with_zeros_in_front_is_the_number(tf: Any, predictions: Any) -> None:
    x = np.array([1.0], np.float32)
    for spec in ({}, {"version": 123}):
        answer = predictions.Predict(predict_request(tf, "padded", {"x": x}, **spec), timeout=_WAIT_S)
        assert (answer.model_spec.version.value, answer.outputs["y"].float_val[0]) == (123, 2.5)


@pytest.mark.clause("TF-R21")
@pytest.mark.parametrize(
    ("model", "spec", "status"),
    [
        ("nobody", {}, ("NOT_FOUND", "Servable not found for request: Latest(nobody)")),
        (
            "half_plus_two",
            {"version": 7},
            ("NOT_FOUND", "Servable not found for request: Specific(half_plus_two, 7)"),
        ),
        ("mlp", {"version": -1}, ("NOT_FOUND", "Servable not found for request: Specific(mlp, -1)")),
        ("", {}, ("INVALID_ARGUMENT", "ModelSpec has no name specified.")),
        (
            "half_plus_two",
            {"signature": "nothing"},
            ("FAILED_PRECONDITION", 'Serving signature key "nothing" not found.'),
        ),
        (
            "without_default",
            {},
            ("FAILED_PRECONDITION", 'Serving signature key "serving_default" not found.'),
        ),
    ],
)
def test_texts(tf: Any, predictions: Any, model: str, spec: Any, status: tuple[str, str]) -> None:
    request = predict_request(tf, model, {"x": np.zeros(1, np.float32)}, **spec)
    assert refused(predictions.Predict, request) == status


@pytest.mark.clause("TF-G5")
def test_only_wanted_outputs(tf: Any, predictions: Any) -> None:
    words = np.array(["a b", "", "c"], dtype=object)
    request = predict_request(tf, "ragged", {"text": words})
    whole = predictions.Predict(request, timeout=_WAIT_S)
    assert set(whole.outputs) == {"values", "splits", "count"}
    request.output_filter.extend(["count", "values"])
    answer = predictions.Predict(request, timeout=_WAIT_S)
    assert set(answer.outputs) == {"count", "values"}
    assert tf.make_ndarray(answer.outputs["count"]).tolist() == [2, 0, 1]
    assert tf.make_ndarray(answer.outputs["values"]).tolist() == [b"a", b"b", b"c"]
    request.output_filter.append("nothing")
    code, text = refused(predictions.Predict, request)
    assert code == "INVALID_ARGUMENT"
    assert text.startswith("output tensor alias not found in signature: nothing")


@pytest.mark.clause("TF-G5")
def test_inputs_with_defaults_may_be_left_out(tf: Any, predictions: Any, serving: ServerProcess) -> None:
    x = np.array([1.0, 3.0], np.float32)
    for more, wanted in (
        ({}, [2.5, 6.5]),
        ({"by": np.float32(3)}, [3.5, 9.5]),
        ({"plus": np.array([1, 2], np.float32)}, [3, 8]),
    ):
        request = predict_request(tf, "with_defaults", {"x": x, **more})
        answer = predictions.Predict(request, timeout=_WAIT_S)
        assert tf.make_ndarray(answer.outputs["y"]).tolist() == wanted
    status, reply = serving.post("/v1/models/with_defaults:predict", {"instances": [1.0, 3.0]})
    assert (status, reply) == (200, {"predictions": [2.5, 6.5]})
    code, text = refused(predictions.Predict, predict_request(tf, "with_defaults", {"by": np.float32(3)}))
    assert (code, text) == (
        "INVALID_ARGUMENT",
        "Signature input alias: x(feed name: serving_default_x:0) not found in request and no default value "
        "provided. Inputs expected to be in the request {by}, or default input alias set: by,plus",
    )


@pytest.mark.clause("TF-G6")
def test_other_signatures(tf: Any, predictions: Any) -> None:
    inputs = {"a": np.array([1, 2], np.float32), "b": np.array([3, 5], np.float32)}
    for signature, wanted in (("add", [4, 7]), ("times", [3, 10])):
        request = predict_request(tf, "without_default", inputs, signature=signature)
        answer = predictions.Predict(request, timeout=_WAIT_S)
        (value,) = answer.outputs.values()
        assert tf.make_ndarray(value).tolist() == wanted
        assert answer.model_spec.signature_name == signature


@pytest.mark.clause("TF-G7")
@pytest.mark.parametrize("datatype", EXAMPLES)
def test_every_datatype_comes_back_unchanged(tf: Any, predictions: Any, datatype: str) -> None:
    values = EXAMPLES[datatype]
    request = predict_request(tf, f"identity_{datatype.lower()}", {"x": values})
    (found,) = predictions.Predict(request, timeout=_WAIT_S).outputs.values()
    if datatype == "BYTES":
        assert tf.make_ndarray(found).tolist() == values.tolist()
    else:
        assert tf.make_ndarray(found).tobytes() == values.tobytes()
        assert tf.as_dtype(found.dtype).as_numpy_dtype == (
            ml_dtypes.bfloat16 if datatype == "BF16" else values.dtype
        )


@pytest.mark.clause("TF-G7")
def test_one_value_fills_a_shape(tf: Any, predictions: Any) -> None:
    request = predict_request(tf, "squares", {})
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(3.0, dtype=tf.float32, shape=[2, 2]))
    assert len(request.inputs["x"].float_val) == 1
    answer = predictions.Predict(request, timeout=_WAIT_S)
    assert tf.make_ndarray(answer.outputs["y"]).tolist() == [[9, 9], [9, 9]]


def test_models_of_other_frameworks(tf: Any, predictions: Any) -> None:
    x = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 16)
    answer = predictions.Predict(predict_request(tf, "mlp", {"x": x}), timeout=_WAIT_S)
    np.testing.assert_allclose(tf.make_ndarray(answer.outputs["y"]), mlp_answer(x), rtol=1e-5, atol=1e-6)
    assert answer.model_spec.version.value == 3
    code, text = refused(predictions.Predict, predict_request(tf, "mlp", {"x": x[:, :5]}))
    assert code == "INVALID_ARGUMENT"
    assert "'x'" in text


def test_a_models_own_refusal_is_the_callers_fault(tf: Any, predictions: Any) -> None:
    request = predict_request(tf, "moody", {"x": np.array([-1.0], np.float32)})
    code, text = refused(predictions.Predict, request)
    assert code == "INVALID_ARGUMENT"
    assert "x must not be negative" in text


@pytest.mark.clause("TF-G8")
def test_regress(predictions: Any) -> None:
    from tensorflow_serving.apis.regression_pb2 import RegressionRequest

    request = RegressionRequest(input=input_of([1.0, 2.0]))
    _spec(request.model_spec, "half_plus_two", "regress_x_to_y", 123)
    answer = predictions.Regress(request, timeout=_WAIT_S)
    assert [r.value for r in answer.result.regressions] == [2.5, 3.0]
    assert (answer.model_spec.version.value, answer.model_spec.signature_name) == (123, "regress_x_to_y")
    request.input.CopyFrom(input_of([1.0, 2.0], x2=4.0))
    request.model_spec.signature_name = "regress_x2_to_y3"
    assert [r.value for r in predictions.Regress(request, timeout=_WAIT_S).result.regressions] == [5.0, 5.0]
    request.model_spec.signature_name = "serving_default"
    code, text = refused(predictions.Regress, request)
    assert code == "FAILED_PRECONDITION"
    assert text.startswith("No regression inputs found in SignatureDef: ")
    request.model_spec.signature_name = "nothing"
    assert refused(predictions.Regress, request) == (
        "INVALID_ARGUMENT",
        "No signature was found with the name: nothing",
    )


@pytest.mark.clause("TF-G8")
def test_classify(predictions: Any) -> None:
    from tensorflow_serving.apis.classification_pb2 import ClassificationRequest

    request = ClassificationRequest(input=input_of([3.0, -2.0]))
    _spec(request.model_spec, "half_plus_two", "classify_x_to_sign")
    answer = predictions.Classify(request, timeout=_WAIT_S)
    rows = [[(c.label, c.score) for c in row.classes] for row in answer.result.classifications]
    assert rows == [[("plus", 3), ("minus", -3)], [("minus", 2), ("plus", -2)]]
    request.model_spec.signature_name = "classify_x_to_y"
    rows = predictions.Classify(request, timeout=_WAIT_S).result.classifications
    assert [[(c.label, c.score) for c in row.classes] for row in rows] == [[("", 4.5)], [("", 2.0)]]
    request.input.Clear()
    assert refused(predictions.Classify, request) == ("INVALID_ARGUMENT", "Input is empty.")


def _multi(*tasks: tuple[str, str, str]) -> Any:
    from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest

    request = MultiInferenceRequest(input=input_of([1.0, -4.0]))
    for model, signature, method in tasks:
        task = request.tasks.add(method_name=method)
        _spec(task.model_spec, model, signature)
    return request


@pytest.mark.clause("TF-G9")
def test_multi_inference(predictions: Any) -> None:
    request = _multi(
        ("half_plus_two", "regress_x_to_y", REGRESS),
        ("half_plus_two", "regress_x_to_y2", REGRESS),
        ("half_plus_two", "classify_x_to_sign", CLASSIFY),
    )
    request.tasks[0].model_spec.version.value = 123
    answer = predictions.MultiInference(request, timeout=_WAIT_S)
    first, second, third = answer.results
    assert [r.value for r in first.regression_result.regressions] == [2.5, 0.0]
    assert [r.value for r in second.regression_result.regressions] == [3.5, 1.0]
    assert third.classification_result.classifications[1].classes[0].label == "minus"
    assert {r.model_spec.version.value for r in answer.results} == {123}
    assert [r.model_spec.signature_name for r in answer.results] == [
        "regress_x_to_y",
        "regress_x_to_y2",
        "classify_x_to_sign",
    ]


@pytest.mark.clause("TF-G9")
@pytest.mark.parametrize(
    ("tasks", "status"),
    [
        (
            [("half_plus_two", "regress_x_to_y", REGRESS)] * 2,
            ("INVALID_ARGUMENT", "Duplicate evaluation of signature: regress_x_to_y"),
        ),
        (
            [("half_plus_two", "regress_x_to_y", REGRESS), ("mlp", "", REGRESS)],
            (
                "INVALID_ARGUMENT",
                "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
            ),
        ),
        ([("nobody", "a", REGRESS)], ("NOT_FOUND", "Servable not found for request: Latest(nobody)")),
        (
            [("half_plus_two", "serving_default", "tensorflow/serving/predict")],
            ("UNIMPLEMENTED", "Unsupported signature method_name: tensorflow/serving/predict"),
        ),
    ],
)
def test_refusals_of_tasks(
    predictions: Any, tasks: list[tuple[str, str, str]], status: tuple[str, str]
) -> None:
    assert refused(predictions.MultiInference, _multi(*tasks)) == status


@pytest.mark.clause("TF-G10")
def test_metadata_is_what_the_savedmodel_says(tf: Any, predictions: Any) -> None:
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
    from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, SignatureDefMap

    request = GetModelMetadataRequest(metadata_field=["signature_def"])
    _spec(request.model_spec, "half_plus_two", version=123)
    answer = predictions.GetModelMetadata(request, timeout=_WAIT_S)
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("half_plus_two", 123)
    told = SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(told)
    written = (savedmodels.made() / "half_plus_two" / "saved_model.pb").read_bytes()
    wanted = SavedModel.FromString(written).meta_graphs[0].signature_def
    assert dict(told.signature_def) == dict(wanted)


@pytest.mark.clause("TF-G10")
def test_refusals_of_metadata(predictions: Any) -> None:
    from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest

    request = GetModelMetadataRequest(metadata_field=["signature_def"])
    assert refused(predictions.GetModelMetadata, request) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    _spec(request.model_spec, "nobody")
    assert refused(predictions.GetModelMetadata, request) == (
        "NOT_FOUND",
        "Servable not found for request: Latest(nobody)",
    )


@pytest.mark.clause("TF-G2", "TF-G11")
def test_status(models: Any) -> None:
    from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest

    request = GetModelStatusRequest()
    _spec(request.model_spec, "half_plus_two")
    rows = models.GetModelStatus(request, timeout=_WAIT_S).model_version_status
    assert [(r.version, r.state, r.status.error_code) for r in rows] == [(123, 30, 0), (124, 30, 0)]
    request.model_spec.version.value = 124
    (row,) = models.GetModelStatus(request, timeout=_WAIT_S).model_version_status
    assert row.version == 124
    request.model_spec.version.value = 5
    assert refused(models.GetModelStatus, request) == (
        "NOT_FOUND",
        "Could not find version 5 of model half_plus_two",
    )


@pytest.mark.clause("TF-G3", "TF-G14")
def test_services_that_there_are_not(channel: grpc.Channel) -> None:
    for path in (
        "/tensorflow.serving.SessionService/SessionRun",
        "/tensorflow.ProfilerService/Profile",
        "/tensorflow.serving.PredictionService/PredictStreamed",
    ):
        call = channel.unary_unary(path, lambda message: message, lambda message: message)
        assert refused(call, b"")[0] == "UNIMPLEMENTED"


@pytest.mark.clause("TF-G13")
@pytest.mark.parametrize("service", ["PredictionService", "ModelService", "tensorflow.serving.ModelService"])
def test_health(channel: grpc.Channel, service: str) -> None:
    call = channel.unary_unary("/grpc.health.v1.Health/Check", lambda m: m, lambda m: m)
    asked = b"\x0a" + bytes([len(service)]) + service.encode()
    assert call(asked, timeout=_WAIT_S) == b"\x08\x01"


@pytest.mark.clause("TF-G15")
def test_large_messages(tf: Any, serving: ServerProcess) -> None:
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    x = np.arange(17 << 20, dtype=np.float32).reshape(-1, 16) % 1000  # more than a body over REST may have
    with grpc.insecure_channel(serving.address, options) as channel:
        stub = PredictionServiceStub(channel)
        content = predict_request(tf, "squares", {"x": x})
        assert content.inputs["x"].tensor_content
        fields = predict_request(tf, "squares", {})
        small = x[: 1 << 17]
        fields.inputs["x"].CopyFrom(tf.make_tensor_proto(small))
        fields.inputs["x"].tensor_content = b""
        fields.inputs["x"].float_val.extend(small.ravel())
        for request, sent in ((content, x), (fields, small)):
            answer = stub.Predict(request, timeout=_WAIT_S)
            np.testing.assert_array_equal(tf.make_ndarray(answer.outputs["y"]), sent * sent)


@pytest.mark.clause("TF-G17")
def test_who_waits_too_long_is_told_so_and_not_run(
    tf: Any, predictions: Any, serving: ServerProcess, tmp_path: Path
) -> None:
    def counts() -> tuple[int, int]:
        """Runs, and requests that failed."""
        status, body = serving.get("/v2/models/slow/stats")
        assert status == 200
        (row,) = json.loads(body)["model_stats"]
        return row["execution_count"], row["inference_stats"]["fail"]["count"]

    def ask(command: bytes) -> Any:
        return predict_request(tf, "slow", {"do": np.array([[command]], dtype=object)})

    runs, failed = counts()
    with at_work(serving, tmp_path / "gate", "slow"):
        waiting = predictions.Predict.future(ask(b"sleep 0"), timeout=0.5)
        assert waiting.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: counts()[1] > failed, counts)  # the server learns of it later than the client
    assert predictions.Predict(ask(b"sleep 0"), timeout=_WAIT_S)
    assert counts() == (runs + 2, failed + 1)


def test_compressed_calls(tf: Any, serving: ServerProcess) -> None:
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

    x = np.zeros((64, 16), np.float32)
    with grpc.insecure_channel(serving.address, compression=grpc.Compression.Gzip) as channel:
        answer = PredictionServiceStub(channel).Predict(
            predict_request(tf, "squares", {"x": x}), timeout=_WAIT_S
        )
    np.testing.assert_array_equal(tf.make_ndarray(answer.outputs["y"]), x)


@pytest.mark.clause("TF-G1")
def test_asyncio(tf: Any, serving: ServerProcess) -> None:
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

    async def ask() -> list[float]:
        async with grpc.aio.insecure_channel(serving.address) as channel:
            stub = PredictionServiceStub(channel)
            requests = [
                predict_request(tf, "half_plus_two", {"x": np.array([[i]], np.float32)}, version=123)
                for i in range(50)
            ]
            answers = await asyncio.gather(*(stub.Predict(request, timeout=_WAIT_S) for request in requests))
        return [tf.make_ndarray(answer.outputs["y"]).item() for answer in answers]

    assert asyncio.run(ask()) == [i / 2 + 2 for i in range(50)]


def test_messages_that_are_none(channel: grpc.Channel) -> None:
    for method in ("Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata"):
        path = f"/tensorflow.serving.PredictionService/{method}"
        call = channel.unary_unary(path, lambda message: message, lambda message: message)
        for message in (b"\xff", b"\x0a\x7f", b"\x0a\x03\x0a\x01\xff", b"", b"\x0a\x00"):
            assert refused(call, message)[0] == "INVALID_ARGUMENT"
