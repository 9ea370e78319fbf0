"""Logs of requests, and lists of models that a client replaces, with a server process."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import savedmodels
from waiting import until
from zoo import infer_body, write_mlp

from salver.dialects.tensorflow.tf_schema import build
from salver.dialects.tensorflow.tfrecord import records
from salver.testing.process import ServerProcess, TensorFlowServingProcess

_WAIT_S = 60.0


def _written(folder: Path, prefix: str) -> list[Any]:
    """All that stands in the files, in order."""
    files = sorted(folder.glob(f"{prefix}-*.tfrecord"))
    return [build()["PredictionLog"].FromString(raw) for file in files for raw in records(file.read_bytes())]


def _example(**features: float) -> Any:
    made = build()["Example"]()
    for name, value in features.items():
        made.features.feature[name].float_list.value.append(value)
    return made


class Client:
    """Methods of TensorFlow Serving by name, over one channel."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)

    def call(self, method: str, request: Any, answer: str) -> Any:
        service = (
            "ModelService"
            if method in ("GetModelStatus", "HandleReloadConfigRequest")
            else "PredictionService"
        )
        path = f"/tensorflow.serving.{service}/{method}"
        stub = self.channel.unary_unary(path, type(request).SerializeToString, build()[answer].FromString)
        return stub(request, timeout=_WAIT_S)

    def predict(self, model: str, x: np.ndarray) -> Any:
        request = build()["PredictRequest"](model_spec={"name": model})
        tensor = request.inputs["x"]
        tensor.dtype, tensor.tensor_content = 1, x.tobytes()
        for size in x.shape:
            tensor.tensor_shape.dim.add(size=size)
        return self.call("Predict", request, "PredictResponse")

    def states(self, model: str) -> dict[int, int]:
        request = build()["GetModelStatusRequest"](model_spec={"name": model})
        found = self.call("GetModelStatus", request, "GetModelStatusResponse")
        return {row.version: row.state for row in found.model_version_status}


@pytest.mark.clause("TF-G18")
def test_requests_of_every_protocol_are_written_down(tmp_path: Path) -> None:
    root, folder = tmp_path / "repository", tmp_path / "log"
    savedmodels.half_plus_two(root / "half_plus_two" / "7")
    write_mlp(root / "mlp", 1)
    write_mlp(root / "quiet", 1)
    (root / "half_plus_two" / "salver.toml").write_text('[logging]\nrate = 1.0\nprefix = "half"\n')
    (root / "mlp" / "salver.toml").write_text("[logging]\nrate = 1.0\n")
    with ServerProcess([root], tmp_path / "out", ["--prediction-log", str(folder)]) as server:
        client = Client(server.wait_ready().address)
        client.predict("half_plus_two", np.array([4.0], np.float32))
        for kind, signature in (("Classif", "classify_x_to_sign"), ("Regress", "regress_x_to_y")):
            request = build()[f"{'Classification' if kind == 'Classif' else 'Regression'}Request"](
                model_spec={"name": "half_plus_two", "signature_name": signature}
            )
            request.input.example_list.examples.append(_example(x=6.0))
            method = "Classify" if kind == "Classif" else "Regress"
            client.call(method, request, type(request).DESCRIPTOR.name.replace("Request", "Response"))
        tasks = build()["MultiInferenceRequest"](
            tasks=[
                {
                    "model_spec": {"name": "half_plus_two", "signature_name": "regress_x_to_y2"},
                    "method_name": "tensorflow/serving/regress",
                }
            ]
        )
        tasks.input.example_list.examples.append(_example(x=8.0))
        client.call("MultiInference", tasks, "MultiInferenceResponse")
        status, reply = server.post(
            "/v1/models/half_plus_two:classify",
            {"signature_name": "classify_x_to_y", "examples": [{"x": 10.0}, {"x": 12.0}]},
        )
        assert status == 200, reply
        for model in ("mlp", "quiet"):
            status, _ = server.post(f"/v2/models/{model}/infer", infer_body())
            assert status == 200
        client.channel.close()
    predict, classify, regress, multi, over_rest = _written(folder, "half")
    assert predict.predict_log.request.inputs["x"].float_val == [4]
    assert predict.predict_log.response.outputs["y"].float_val == [4]
    assert predict.log_metadata.model_spec.version.value == 7
    rows = classify.classify_log.response.result.classifications
    assert [(c.label, c.score) for c in rows[0].classes] == [("plus", 6), ("minus", -6)]
    assert regress.regress_log.request.input.example_list.examples[0] == _example(x=6.0)
    assert regress.regress_log.response.result.regressions[0].value == 5
    assert multi.multi_inference_log.response.results[0].regression_result.regressions[0].value == 7
    assert over_rest.classify_log.request.input.example_list.examples[1] == _example(x=12.0)
    rows = over_rest.classify_log.response.result.classifications
    assert [[c.score for c in row.classes] for row in rows] == [[7], [8]]
    (over_http,) = _written(folder, "mlp")
    assert over_http.predict_log.response.outputs["y"].dtype == 1
    assert {path.name.split("-")[0] for path in folder.iterdir()} == {"half", "mlp"}
    _warms_up(tmp_path / "next", next(folder.glob("half-*")), records=5)


def _warms_up(base: Path, file: Path, records: int) -> None:
    """Such a file is the warm-up of the next version (TF-L9)."""
    extra = savedmodels.half_plus_two(base / "8") / "assets.extra"
    extra.mkdir()
    shutil.copy(file, extra / "tf_serving_warmup_requests")
    options = [f"--model_base_path={base}", "--model_name=half_plus_two", "--state_dir="]
    with TensorFlowServingProcess(base.parent / "next.out", options) as server:
        server.wait_ready()
        page = server.get("/monitoring/prometheus/metrics")[1].decode()
    assert "salver_records_lost_total 0.0" in page
    (read,) = re.findall(r"^:tensorflow:serving:model_warmup_records_read\S* (\S+)$", page, re.M)
    assert float(read) == records


def test_a_wish_without_a_folder_is_told(tmp_path: Path) -> None:
    write_mlp(tmp_path / "repository" / "mlp", 1)
    (tmp_path / "repository" / "mlp" / "salver.toml").write_text("[logging]\nrate = 1.0\n")
    with ServerProcess([tmp_path / "repository"], tmp_path / "out") as server:
        server.wait_ready()
        assert server.post("/v2/models/mlp/infer", infer_body())[0] == 200
        assert "requests to mlp:1 are not logged: set --prediction-log to a folder" in server.output()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[tuple[TensorFlowServingProcess, Client]]:
    write_mlp(tmp_path / "mlp", 1)
    write_mlp(tmp_path / "new", 3)
    config = tmp_path / "models.config"
    config.write_text(
        f"model_config_list {{ config {{ name: 'mlp' base_path: '{tmp_path / 'mlp'}' "
        "model_platform: 'tensorflow' logging_config { sampling_config { sampling_rate: 1 } "
        "log_collector_config { filename_prefix: '/somewhere/else/asked' } } } }"
    )
    options = [f"--model_config_file={config}", f"--prediction_log={tmp_path / 'log'}", "--state_dir="]
    with TensorFlowServingProcess(tmp_path / "out", options) as server:
        client = Client(f"127.0.0.1:{server.wait_ready().grpc_port}")
        yield server, client
        client.channel.close()


def _config(tmp_path: Path, *names: str, rate: float = 0.0) -> Any:
    request = build()["ReloadConfigRequest"]()
    for name in names:
        model = request.config.model_config_list.config.add(
            name=name, base_path=str(tmp_path / name), model_platform="tensorflow"
        )
        if rate:
            model.logging_config.sampling_config.sampling_rate = rate
    return request


@pytest.mark.clause("TF-G12")
def test_a_client_replaces_the_list_of_models(
    serving: tuple[TensorFlowServingProcess, Client], tmp_path: Path
) -> None:
    _, client = serving
    assert client.states("mlp") == {1: 30}
    request = _config(tmp_path, "mlp", "new")
    request.metric_names.extend(["/tensorflow/serving/request_count", "/no/such/metric"])
    answer = client.call("HandleReloadConfigRequest", request, "ReloadConfigResponse")
    assert answer.status.error_code == 0
    assert [(m.name, m.int64_value_increase) for m in answer.metric] in (
        [],
        [("/tensorflow/serving/request_count", 0)],
    )
    assert client.states("new") == {3: 30}  # it waits for them
    client.call("HandleReloadConfigRequest", _config(tmp_path, "new"), "ReloadConfigResponse")
    with pytest.raises(grpc.RpcError) as raised:
        client.predict("mlp", np.zeros((1, 16), np.float32))
    assert raised.value.details() == "Servable not found for request: Latest(mlp)"
    assert set(client.states("mlp")) == {1}


@pytest.mark.clause("TF-G12")
@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ("empty", "INVALID_ARGUMENT", "ServerModelConfig type not supported by HandleReloadConfigRequest."),
        ("platform", "INVALID_ARGUMENT", "Illegal to change a model's platform."),
        ("nowhere", "UNKNOWN", "1 model(s) did not become available"),
    ],
)
def test_lists_that_cannot_be(
    serving: tuple[TensorFlowServingProcess, Client], tmp_path: Path, change: str, code: str, text: str
) -> None:
    _, client = serving
    request = build()["ReloadConfigRequest"]() if change == "empty" else _config(tmp_path, "mlp")
    if change == "platform":
        request.config.model_config_list.config[0].model_platform = "other"
    elif change == "nowhere":
        request.config.model_config_list.config.add(
            name="gone", base_path=str(tmp_path / "gone"), model_platform="tensorflow"
        )
    with pytest.raises(grpc.RpcError) as raised:
        client.call("HandleReloadConfigRequest", request, "ReloadConfigResponse")
    assert raised.value.code().name == code
    assert raised.value.details().startswith(text)
    assert client.states("mlp") == {1: 30}


@pytest.mark.clause("TF-C4", "TF-M1")
def test_the_list_says_what_is_written_down_and_its_place_stays_the_servers(
    serving: tuple[TensorFlowServingProcess, Client], tmp_path: Path
) -> None:
    server, client = serving
    x = np.zeros((1, 16), np.float32)

    def counted() -> float:
        page = server.get("/monitoring/prometheus/metrics")[1].decode()
        found = re.search(
            r'^:tensorflow:serving:request_log_count{model_name="mlp",status_code="OK"} (.*)$', page, re.M
        )
        return float(found[1]) if found else 0.0

    client.predict("mlp", x)
    until(lambda: counted() == 1, server.output)  # what is written is not waited for
    loads = server.output().count("model ready")
    client.call("HandleReloadConfigRequest", _config(tmp_path, "mlp"), "ReloadConfigResponse")
    client.predict("mlp", x)
    client.call("HandleReloadConfigRequest", _config(tmp_path, "mlp", rate=1.0), "ReloadConfigResponse")
    for _ in range(2):
        client.predict("mlp", x)
    until(lambda: counted() == 3, server.output)
    server.stop()
    assert len(_written(tmp_path / "log", "asked")) == 1
    assert len(_written(tmp_path / "log", "mlp")) == 2
    assert server.output().count("model ready") == loads  # nothing was loaded anew


def test_answers_as_content_under_its_flag(tmp_path: Path) -> None:
    write_mlp(tmp_path / "mlp", 1)
    options = [f"--model_base_path={tmp_path / 'mlp'}", "--model_name=mlp", "--state_dir="]
    with TensorFlowServingProcess(
        tmp_path / "out", [*options, "--enable_serialization_as_tensor_content=true"]
    ) as server:
        client = Client(f"127.0.0.1:{server.wait_ready().grpc_port}")
        y = client.predict("mlp", np.zeros((1, 16), np.float32)).outputs["y"]
        assert (len(y.tensor_content), len(y.float_val)) == (12, 0)
        assert json.loads(server.get("/v2/models/mlp")[1])["name"] == "mlp"
        client.channel.close()
