"""TensorFlow Serving's gRPC methods without a socket: models, deadlines and reloads."""

import asyncio
from typing import Any

import pytest

from salver.dialects.tensorflow.grpc_methods import TensorFlowServingMethods
from salver.dialects.tensorflow.rules import TfsRules
from salver.dialects.tensorflow.tf_schema import build
from salver.encoding.bodies import GrpcStatus
from salver.kernel.serving.decoding import Decoders
from salver.words.errors import InvalidInput, NotFound, NotReady, SalverError, TooLarge
from salver.words.messages import Call, InferResponse, ModelId, Signature, State, TensorSpec, VersionStatus
from salver.words.tensor import DataType

_SIGNATURE = Signature(
    (TensorSpec("x", DataType.FP32, (-1,)),), (TensorSpec("x", DataType.FP32, (-1,)),), True
)
_PAGE = b"""# TYPE :tensorflow:serving:request_count counter
:tensorflow:serving:request_count{model_name="a",status="OK"} 3.0
:tensorflow:serving:request_count{model_name="b",status="OK"} 4.0
:tensorflow:serving:request_count_total 9.0
salver_events_dropped_total 2.0
"""


class Behind:
    """Door, control and exposition of one model with a padded version and one that loads."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.configs: list[bytes] = []
        self.gate = asyncio.Event()
        self.error: SalverError | None = None
        self.pages = [_PAGE, _PAGE.replace(b" 4.0", b" 6.0")]

    def signature(self, model: str, version: str = "") -> tuple[ModelId, Signature]:
        if version == "8":
            raise NotReady("'m' version 8 loads")
        if model != "m" or version not in ("", "00000007", "stable"):
            raise NotFound("unknown")
        return ModelId(model, "00000007"), _SIGNATURE

    async def infer(self, codec: Any, body: Any, model: str, version: str, call: Call) -> Any:
        self.asked.append(version)
        try:
            id, signature = self.signature(model, version)
            request = codec.decode(body, signature)
            return codec.encode(request, InferResponse(id.name, id.version, request.inputs))
        except SalverError as error:
            return codec.fault(error)

    def versions(self, model: str) -> tuple[VersionStatus, ...]:
        rows = ((ModelId("m", "00000007"), State.READY), (ModelId("m", "8"), State.LOADING))
        return tuple(VersionStatus(id, state) for id, state in rows if model == "m")

    def version_of_label(self, model: str, label: str) -> str:
        if label != "stable":
            raise InvalidInput(f"Unrecognized servable version label: {label}")
        return "00000007"

    async def reload_config(self, config: bytes) -> None:
        await self.gate.wait()
        self.configs.append(config)
        if self.error is not None:
            raise self.error

    def metrics(self, accept: str) -> tuple[bytes, str]:
        return self.pages.pop(0) if len(self.pages) > 1 else self.pages[0], "text/plain"


async def _call(behind: Any, method: str, request: Any) -> bytes | GrpcStatus:
    methods = (
        TensorFlowServingMethods(behind, behind, behind, behind.reload_config, TfsRules()).table().methods
    )
    (found,) = (work for path, work in methods.items() if path.endswith(f"/{method}"))
    call = Call("tfs-grpc", 0.0)
    reply = await found(request.SerializeToString(), call)
    assert call.api in ("", method)
    return reply


def _predict(**spec: Any) -> Any:
    request = build()["PredictRequest"](model_spec={"name": "m", **spec})
    request.inputs["x"].CopyFrom(build()["TensorProto"](dtype=1, float_val=[1]))
    request.inputs["x"].tensor_shape.dim.add(size=1)
    return request


@pytest.mark.parametrize(
    ("spec", "asked"),
    [
        ({}, ""),
        ({"version": {"value": 7}}, "00000007"),
        ({"version_label": "stable"}, "stable"),
    ],
)
async def test_versions_are_asked_for_as_they_are_spelled(spec: dict[str, Any], asked: str) -> None:
    behind = Behind()
    reply = await _call(behind, "Predict", _predict(**spec))
    assert behind.asked == [asked]
    assert isinstance(reply, bytes)
    answer = build()["PredictResponse"].FromString(reply)
    assert (answer.model_spec.version.value, list(answer.outputs["x"].float_val)) == (7, [1])


async def test_a_large_message_of_unknown_form_is_copied_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both to read it, and to decode it; the next of its form is only viewed."""
    threads, to_thread = list[str](), asyncio.to_thread

    async def counted(function: Any, *given: Any) -> Any:
        threads.append(function.__name__)
        return await to_thread(function, *given)

    async def infer(codec: Any, body: Any, model: str, version: str, call: Call) -> Any:
        _, signature = behind.signature(model, version)
        if call.is_large:
            return await Decoders().decode(codec, body, signature)
        return codec.decode(body, signature)

    behind = Behind()
    monkeypatch.setattr(asyncio, "to_thread", counted)
    monkeypatch.setattr(behind, "infer", infer)
    table = TensorFlowServingMethods(behind, behind, behind, behind.reload_config, TfsRules()).table()
    (predict,) = (work for path, work in table.methods.items() if path.endswith("/Predict"))
    request = _predict()
    request.inputs["x"].float_val.extend([1.0] * 299_999)
    request.inputs["x"].tensor_shape.dim[0].size = 300_000
    for _ in range(2):
        decoded: Any = await predict(request.SerializeToString(), Call("tfs-grpc", 0.0, is_large=True))
        assert decoded.inputs[0].array.tolist() == [1.0] * 300_000
        assert threads == ["read", "decode"]


@pytest.mark.clause("TF-R21")
@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"version": {"value": 9}}, "Servable not found for request: Specific(m, 9)"),
        ({"version": {"value": 8}}, "Servable not found for request: Specific(m, 8): 'm' version 8 loads"),
        ({"name": "n"}, "Servable not found for request: Latest(n)"),
    ],
)
async def test_versions_that_are_not_there(spec: dict[str, Any], text: str) -> None:
    reply = await _call(Behind(), "Predict", _predict(**spec))
    assert reply == GrpcStatus(5, text)
    request = build()["GetModelMetadataRequest"](
        model_spec={"name": "m", **spec}, metadata_field=["signature_def"]
    )
    with pytest.raises(NotFound) as raised:
        await _call(Behind(), "GetModelMetadata", request)
    assert str(raised.value) == text


async def test_a_version_below_0_is_none() -> None:
    with pytest.raises(NotFound, match=r"Specific\(m, -1\)"):
        await _call(Behind(), "Predict", _predict(version={"value": -1}))


async def test_a_label_that_is_none() -> None:
    with pytest.raises(InvalidInput, match="Unrecognized servable version label: canary"):
        await _call(Behind(), "Predict", _predict(version_label="canary"))


def _reload(*metrics: str) -> Any:
    config = {"model_config_list": {"config": [{"name": "m"}]}}
    return build()["ReloadConfigRequest"](config=config, metric_names=metrics)


async def test_a_list_of_models_is_no_longer_than_thousands_of_them() -> None:
    with pytest.raises(TooLarge, match="at most 524288 are taken"):
        await _call(Behind(), "HandleReloadConfigRequest", _reload("a" * (1 << 19)))


@pytest.mark.clause("TF-G12")
async def test_metrics_that_a_reload_changed() -> None:
    behind = Behind()
    behind.gate.set()
    names = ("/tensorflow/serving/request_count", "salver_events_dropped_total", "nothing")
    reply = await _call(behind, "HandleReloadConfigRequest", _reload(*names))
    assert isinstance(reply, bytes)
    answer = build()["ReloadConfigResponse"].FromString(reply)
    assert {m.name: m.int64_value_increase for m in answer.metric} == {names[0]: 2, names[1]: 0}
    assert len(behind.configs) == 1


@pytest.mark.clause("TF-G12")
async def test_a_reload_goes_on_when_its_caller_has_gone(caplog: pytest.LogCaptureFixture) -> None:
    behind = Behind()
    behind.error = InvalidInput("two models of one name")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await _call(behind, "HandleReloadConfigRequest", _reload())
    assert not behind.configs
    behind.gate.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(behind.configs) == 1
    assert "the list of models in a request was not loaded: two models of one name" in caplog.text


async def test_a_task_that_fails_is_the_answer_to_all() -> None:
    request = build()["MultiInferenceRequest"](
        tasks=[{"model_spec": {"name": "m"}, "method_name": "tensorflow/serving/regress"}]
    )
    with pytest.raises(InvalidInput, match="No regression inputs found"):
        await _call(Behind(), "MultiInference", request)
