"""KServe's end-to-end requests, sent by its own clients to pods of the runtime (test/e2e of KServe).

Its bucket of models is out of reach, so models of the same kind are trained here.
"""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import joblib
import kserve_sdk
import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from kserve_pods import Pod, service
from kserve_router import Router
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from waiting import until

ROWS = [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]
INPUT = {"name": "input-0", "shape": [2, 4], "datatype": "FP32", "data": ROWS}
COLUMNS = ["sepal_length_(cm)", "sepal_width_(cm)", "petal_length_(cm)", "petal_width_(cm)"]
FLOWER = {name: [value] for name, value in zip(COLUMNS, [5.1, 3.5, 1.4, 0.2], strict=True)}
HOUSE = {"MSZoning": "RL", "LotArea": 8450, "LotShape": "Reg", "OverallQual": 7}
#: Model, protocol and data of a request, and what it answers.
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
    "inputs-in-binary": ("sklearn", "raw", [INPUT], [1, 1]),
    "grpc": ("sklearn", "grpc", [{**INPUT, "data": np.ravel(ROWS).tolist()}], [1, 1]),
    "lightgbm-columns": ("lightgbm", "v1", {"inputs": [FLOWER]}, 0),
    "mixed": (
        "mixed",
        "v2",
        {
            "parameters": {"content_type": "pd"},
            "inputs": [
                {
                    "name": name,
                    "shape": [1],
                    "datatype": "INT32" if isinstance(value, int) else "BYTES",
                    "data": [value],
                }
                for name, value in HOUSE.items()
            ],
        },
        [450.0],
    ),
    "event": (
        "sklearn",
        "event",
        {"instances": ROWS},
        ["io.kserve.inference.response", "io.kserve.inference.sklearn", [1, 1]],
    ),
    "health": ("sklearn", "health", None, [True] * 6),
}


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


TRAINED: dict[str, Callable[[Path], None]] = {
    "sklearn": _sklearn,
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "mixed": _mixed,
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
    for name, train in TRAINED.items():
        folder = tmp_path_factory.mktemp(name)
        (folder / "bucket").mkdir()
        train(folder / "bucket")
        args = ["--trust-pickle", "--threads=1"]
        if name == "mixed":
            args.append(f"--log-url={sink}")
        asked = service(name, f"s3://models/{name}", *args)
        started[name] = Pod(folder / "pod", asked, folder / "bucket")
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
        {"how": how, "port": pods[model].port, "model": model, "data": data}
        for model, how, data, _ in REQUESTS.values()
    ]
    return dict(zip(REQUESTS, kserve_sdk.answers(calls), strict=True))


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_of_kserves_own_tests(answers: dict[str, Any], name: str) -> None:
    wanted = REQUESTS[name][3]
    if name == "lightgbm-columns":
        assert np.argmax(answers[name][0]) == wanted
    elif name == "mixed":
        assert answers[name] == pytest.approx(wanted)
    else:
        assert answers[name] == wanted


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
