"""KServe's end-to-end requests, sent by its own clients to pods of the runtime (test/e2e of KServe).

Its bucket of models is out of reach, so models of the same kind are trained here.
"""

import base64
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import grpc
import joblib
import kserve_sdk
import lightgbm
import marfolder
import numpy as np
import pandas as pd
import pytest
import savedmodels
import simplejpeg
import xgboost
import yaml
from kserve_pods import Pod, service
from kserve_router import Router
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from waiting import until
from zoo import mlp_answer, write_mlp

from salver.testing.process import free_port

ROWS = [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]
INPUT = {"name": "input-0", "shape": [2, 4], "datatype": "FP32", "data": ROWS}
FLAT = {"inputs": [{**INPUT, "data": np.ravel(ROWS).tolist()}]}
COLUMNS = ["sepal_length_(cm)", "sepal_width_(cm)", "petal_length_(cm)", "petal_width_(cm)"]
FLOWER = {name: [value] for name, value in zip(COLUMNS, [5.1, 3.5, 1.4, 0.2], strict=True)}
HOUSE = {"MSZoning": "RL", "LotArea": 8450, "LotShape": "Reg", "OverallQual": 7}
WINE = {"fixed acidity": 7.4, "citric acid": 0.0, "alcohol": 9.4}
PICTURE = {"shape": [1, 3, 32, 32], "datatype": "FP32", "data": [[[[x] * 32] * 32 for x in (0.1, 0.2, 0.9)]]}
RED = base64.b64encode(simplejpeg.encode_jpeg(np.full((8, 8, 3), (200, 30, 30), np.uint8))).decode()
#: Of Triton's repository: the model's scores are the means of the colours.
CIFAR = """name: "cifar10"
platform: "pytorch_libtorch"
input [{ name: "INPUT__0" data_type: TYPE_FP32 dims: [-1, 3, 32, 32] }]
output [{ name: "OUTPUT__0" data_type: TYPE_FP32 dims: [-1, 3] }]
"""
#: Of TorchServe's archive, behind KServe's envelope.
HANDLER = """
import base64

def handle(data, context):
    if data:
        return [2 if base64.b64decode(row["data"]).startswith(b"\\xff\\xd8") else 0 for row in data]
"""


#: Of KServe's example (docs/samples/v1beta1/torchserve/v1), with ports that are free here.
PROPERTIES = """
inference_address=http://0.0.0.0:8085
management_address=http://0.0.0.0:8085
metrics_address=http://0.0.0.0:{}
grpc_inference_port={}
grpc_management_port={}
enable_metrics_api=true
metrics_format=prometheus
number_of_netty_threads=4
job_queue_size=10
enable_envvars_config=true
install_py_dep_per_model=true
model_store=/mnt/models/model-store
model_snapshot={{"name":"startup.cfg","modelCount":1,"models":{{"mnist":{{"1.0":{{"defaultVersion":true,\
"marName":"mnist.mar","minWorkers":1,"maxWorkers":5,"batchSize":1,"maxBatchDelay":10,"responseTimeout":120}}}}}}}}
"""


def table(row: dict[str, Any], of_float: str = "FP32") -> dict[str, Any]:
    """Return a row as KServe's tests send a data frame."""
    types = {str: "BYTES", int: "INT32", float: of_float}
    return {
        "parameters": {"content_type": "pd"},
        "inputs": [
            {"name": name, "shape": [1], "datatype": types[type(value)], "data": [value]}
            for name, value in row.items()
        ],
    }


def likeliest(kind: int) -> Callable[[Any], bool]:
    """Return a check of scores: which is the highest."""
    return lambda answer: bool(np.argmax(answer[0]) == kind)


#: Model, protocol and data of a request, and its answer or a check of it.
REQUESTS: dict[str, tuple[str, str, Any, Any]] = {
    "sklearn-v1": ("sklearn", "v1", {"instances": ROWS}, [1, 1]),
    "xgboost-v1": ("xgboost", "v1", {"instances": ROWS}, [1, 1]),
    "sklearn-v2": ("sklearn", "v2", {"inputs": [INPUT]}, [1, 1]),
    "xgboost-v2": ("xgboost", "v2", {"inputs": [INPUT]}, [1.0, 1.0]),
    "output-in-binary": (
        "sklearn",
        "v2",
        {"inputs": [INPUT], "outputs": [{"name": "output-0", "parameters": {"binary_data": True}}]},
        [1, 1],
    ),
    "all-in-binary": (
        "sklearn",
        "v2",
        {"inputs": [INPUT], "parameters": {"binary_data_output": True}},
        [1, 1],
    ),
    "inputs-in-binary": ("sklearn", "raw", FLAT, [1, 1]),
    "sklearn-grpc": ("sklearn", "grpc", FLAT, [1, 1]),
    "xgboost-grpc": ("xgboost", "grpc", FLAT, [1.0, 1.0]),
    "lightgbm-columns": ("lightgbm", "v1", {"inputs": [FLOWER]}, likeliest(0)),
    "lightgbm-v2": ("lightgbm", "v2", {"inputs": [INPUT]}, likeliest(1)),
    "lightgbm-grpc": ("lightgbm", "grpc", FLAT, likeliest(1)),
    "mixed": ("mixed", "v2", table(HOUSE), pytest.approx([450.0])),
    "mixed-grpc": ("mixed", "grpc", table(HOUSE), pytest.approx([450.0])),
    "mlflow": ("mlflow", "v2", table(WINE), pytest.approx([5.0])),
    "tensorflow": (
        "tensorflow",
        "v1",
        {"instances": [{"image_bytes": {"b64": RED}, "key": "   1"}]},
        lambda answer: likeliest(0)([answer[0]["scores"]]),
    ),
    "triton": ("triton", "v2", {"inputs": [{"name": "INPUT__0", **PICTURE}]}, likeliest(2)),
    "pytorch-v1": ("pytorch", "v1", {"instances": [{"data": RED, "target": 0}]}, [2]),
    "torchserve-v1": ("torchserve", "v1", {"instances": [{"data": RED, "target": 0}]}, [2]),
    "onnx-v2": (
        "onnx",
        "v2",
        {"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [0.5] * 16}]},
        lambda answer: answer == pytest.approx(mlp_answer(np.full((1, 16), 0.5)), rel=1e-5),
    ),
    "event": (
        "sklearn",
        "event",
        {"instances": ROWS},
        ["io.kserve.inference.response", "io.kserve.inference.sklearn", [1, 1]],
    ),
    "health": ("sklearn", "health", None, [True] * 6),
}
#: Names of models that are not their service's.
MODELS = {"triton": "cifar10", "torchserve": "mnist"}


def _sklearn(folder: Path) -> None:
    joblib.dump(LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True)), folder / "model.joblib")


def _xgboost(folder: Path) -> None:
    flowers, kinds = load_iris(return_X_y=True)
    chosen = {"objective": "multi:softmax", "num_class": 3}
    xgboost.train(chosen, xgboost.DMatrix(flowers, kinds), 5).save_model(folder / "model.ubj")


def _lightgbm(folder: Path) -> None:
    flowers, kinds = load_iris(return_X_y=True)
    table = lightgbm.Dataset(pd.DataFrame(flowers, columns=COLUMNS), kinds)
    lightgbm.train({"objective": "multiclass", "num_class": 3, "verbose": -1}, table, 5).save_model(
        folder / "model.lgb"
    )


def _mixed(folder: Path) -> None:
    """Prices that are the area beyond 8,000."""
    table = pd.DataFrame(
        {
            "MSZoning": ["RL", "RM"] * 10,
            "LotArea": range(8000, 8020),
            "LotShape": ["Reg", "Reg", "IR1", "IR1"] * 5,
            "OverallQual": [5, 7, 6, 7] * 5,
        }
    )
    texts = ColumnTransformer([("texts", OneHotEncoder(), ["MSZoning", "LotShape"])], remainder="passthrough")
    joblib.dump(
        make_pipeline(texts, LinearRegression()).fit(table, table.LotArea - 8000.0), folder / "m.joblib"
    )


def _mlflow(folder: Path) -> None:
    """Grades of wines, as MLflow logs a model of scikit-learn."""
    wines = pd.DataFrame({name: [value, value + 1.0] for name, value in WINE.items()})
    joblib.dump(
        DummyRegressor(strategy="constant", constant=5.0).fit(wines, [5.0, 6.0]), folder / "model.pkl"
    )
    columns = [{"type": "double", "name": name, "required": True} for name in WINE]
    flavours = {
        "python_function": {"loader_module": "mlflow.sklearn"},
        "sklearn": {"pickled_model": "model.pkl"},
    }
    about = {"flavors": flavours, "signature": {"inputs": json.dumps(columns), "outputs": None}}
    (folder / "MLmodel").write_text(yaml.safe_dump(about))


def _tensorflow(folder: Path) -> None:
    savedmodels.flowers(folder / "0001")


def _triton(folder: Path) -> None:
    import torch

    (folder / "cifar10" / "1").mkdir(parents=True)
    (folder / "cifar10" / "config.pbtxt").write_text(CIFAR)
    mean = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    torch.jit.script(mean).save(str(folder / "cifar10" / "1" / "model.pt"))


def _pytorch(folder: Path) -> None:
    (folder / "salver.toml").write_text('[options]\nenvelope = "kserve"\n')
    _archive(folder)


def _archive(folder: Path) -> None:
    packed = shutil.make_archive(
        str(folder / "mnist"), "zip", marfolder.write(folder.parent / "mar", HANDLER)
    )
    Path(packed).rename(folder / "mnist.mar")


def _torchserve(folder: Path) -> None:
    (folder / "config").mkdir()
    ports = (free_port() for _ in range(3))
    (folder / "config" / "config.properties").write_text(PROPERTIES.format(*ports))
    (folder / "model-store").mkdir()
    _archive(folder / "model-store")


class Kind(NamedTuple):
    """How a service asks for a model, and how the model is made.

    Attributes:
        source: How its files come: ``s3`` = by the storage initialiser, ``oci`` = as an image volume.
    """

    train: Callable[[Path], None]
    format: str
    protocol: str | None = None
    args: tuple[str, ...] = ("--trust-pickle", "--threads=1")
    runtime: str | None = None
    source: str = "s3"


KINDS = {
    "sklearn": Kind(_sklearn, "sklearn"),
    "xgboost": Kind(_xgboost, "xgboost"),
    "lightgbm": Kind(_lightgbm, "lightgbm"),
    "mixed": Kind(_mixed, "sklearn", "v2"),
    "mlflow": Kind(_mlflow, "mlflow", "v2"),
    "tensorflow": Kind(_tensorflow, "tensorflow"),
    "triton": Kind(_triton, "triton", args=("--name=", "--threads=1")),
    "pytorch": Kind(_pytorch, "pytorch", "v1"),
    "torchserve": Kind(_torchserve, "pytorch", args=(), runtime="salver-torchserve"),
    "onnx": Kind(lambda folder: write_mlp(folder, 1), "onnx", source="oci"),
}


class _Sink(BaseHTTPRequestHandler):
    """What gets the events of the pods."""

    got: ClassVar[list[tuple[dict[str, str], bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(202)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture(scope="module")
def sink() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Sink) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory, sink: str) -> Iterator[dict[str, Pod]]:
    """One pod for each model, whose files an init container has brought."""
    started: dict[str, Pod] = {}
    for name, kind in KINDS.items():
        folder = tmp_path_factory.mktemp(name)
        (folder / "bucket").mkdir()
        kind.train(folder / "bucket")
        args = [*kind.args]
        if name == "mixed":
            args.append(f"--log-url={sink}")
        asked: dict[str, object] = {"modelFormat": {"name": kind.format}}
        if kind.protocol:
            asked["protocolVersion"] = kind.protocol
        if kind.runtime:
            asked["runtime"] = kind.runtime
        told = service(name, f"{kind.source}://models/{name}", *args, **asked)
        started[name] = Pod(folder / "pod", told, folder / "bucket", native=kind.source == "oci")
    for pod in started.values():
        pod.await_ready()
    yield started
    for pod in started.values():
        pod.kill()


@pytest.fixture(scope="module")
def answers(pods: dict[str, Pod]) -> dict[str, Any]:
    """What KServe's clients got, in one process that imports them once."""
    if not kserve_sdk.PYTHON.exists():
        pytest.skip("make it first: make .envs/kserve/requirements.txt")
    calls = [
        {"how": how, "port": pods[name].port, "model": MODELS.get(name, name), "data": data}
        for name, how, data, _ in REQUESTS.values()
    ]
    return dict(zip(REQUESTS, kserve_sdk.answers(calls), strict=True))


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_of_kserves_own_tests(answers: dict[str, Any], name: str) -> None:
    wanted = REQUESTS[name][3]
    if callable(wanted):
        assert wanted(answers[name]), answers[name]
    else:
        assert answers[name] == wanted


def test_clients_of_tensorflow_serving_find_their_service(pods: dict[str, Pod]) -> None:
    """The protocol ``grpc-v1`` of KServe; its own package has no client of it."""
    asked = b"\n\x0c\n\ntensorflow\x12\rsignature_def"  # GetModelMetadataRequest
    with grpc.insecure_channel(f"127.0.0.1:{pods['tensorflow'].port}") as channel:
        told = channel.unary_unary("/tensorflow.serving.PredictionService/GetModelMetadata")(asked)
    assert b"image_bytes" in told


def test_a_pod_sends_requests_and_answers_as_events(pods: dict[str, Pod]) -> None:
    request = REQUESTS["mixed"][2]
    status, answer = pods["mixed"].ask("/v2/models/mixed/infer", request, **{"ce-id": "one"})
    assert status == 200

    def events() -> list[tuple[dict[str, str], bytes]]:
        return [each for each in _Sink.got if each[0]["ce-id"] == "one"]

    until(lambda: len(events()) == 2)
    found = {headers["ce-type"].rpartition(".")[2]: json.loads(body) for headers, body in events()}
    assert found == {"request": request, "response": answer}
    assert {headers["ce-inferenceservicename"] for headers, _ in events()} == {"mixed"}
    assert 'salver_cloudevents_total{outcome="sent"}' in pods["mixed"].page("/metrics")


def test_pods_are_nodes_of_an_inference_graph(pods: dict[str, Pod]) -> None:
    """The router posts to the URLs as they stand, with no header of the caller's."""

    def step(model: str, verb: str = "predict", **more: object) -> dict[str, Any]:
        url = f"http://127.0.0.1:{pods[model].port}/v1/models/{model}:{verb}"
        return {"name": model, "serviceUrl": url, **more}

    def ask(kind: str, *steps: dict[str, Any], point: int = 0, **body: Any) -> tuple[int, Any]:
        asked = body or {"instances": ROWS}
        return Router({"root": {"routerType": kind, "steps": steps}}, point).ask(asked)

    sklearn, xgboost = {"predictions": [1, 1]}, {"predictions": [1.0, 1.0]}
    both = (step("sklearn"), step("xgboost"))
    assert ask("Ensemble", *both) == (200, {"sklearn": sklearn, "xgboost": xgboost})
    halves = (step("sklearn", weight=50), step("xgboost", weight=50))
    assert ask("Splitter", *halves, point=49) == (200, sklearn)
    assert ask("Splitter", *halves, point=50) == (200, xgboost)
    switch = (
        step("lightgbm", condition="inputs.0.sepal_length_(cm)"),
        step("sklearn", condition="instances"),
    )
    assert ask("Switch", *switch) == (200, sklearn)
    status, answer = ask("Switch", *switch, inputs=[FLOWER])
    assert status == 200 and np.argmax(answer["predictions"][0]) == 0
    chain = (step("sklearn"), step("xgboost", condition="predictions.0"))
    assert ask("Sequence", *chain) == (200, xgboost)
    assert ask("Sequence", step("sklearn"), step("xgboost", condition="predictions.2")) == (200, sklearn)
    # Chances of three classes are no row of four columns: the error reaches the caller as it is.
    mapped = step("xgboost", data="$response", mapPredictionsToInstances=True, dependency="Hard")
    status, answer = ask("Sequence", step("lightgbm"), mapped)
    assert status == 400 and "shape" in answer["error"]
    # Answers are objects also when they are errors, so that an ensemble with a failing node has an answer.
    status, answer = ask("Ensemble", step("sklearn"), step("xgboost", verb="nothing"))
    assert status == 200 and answer["sklearn"] == sklearn and "error" in answer["xgboost"]
    nested = {
        "root": {"routerType": "Sequence", "steps": [{"nodeName": "two"}]},
        "two": {"routerType": "Ensemble", "steps": both},
    }
    assert Router(nested).ask({"instances": ROWS})[1].keys() == {"sklearn", "xgboost"}
