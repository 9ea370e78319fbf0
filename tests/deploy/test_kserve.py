"""The runtime for KServe, started as its controller would: same arguments, mounts and limits."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from crds import custom_resource
from kserve_pods import Pod, Start, service
from kserve_runtimes import SALVER, TORCHSERVE
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from waiting import until

from salver.cli.absent import wait_for

#: Two flowers of KServe's own end-to-end tests, of the class 1.
ROWS = [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]
CAR = "oci://models/iris"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a pod whose model is one file, without versions."""
    model = tmp_path / "bucket"
    model.mkdir()
    joblib.dump(LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True)), model / "model.joblib")
    pods: list[Pod] = []

    def started(*args: str, uri: str = CAR) -> Pod:
        pods.append(Pod(tmp_path / "pod", service("iris", uri, *args), model))
        return pods[-1]

    yield started
    for pod in pods:
        pod.kill()


@pytest.mark.parametrize("runtime", [SALVER, TORCHSERVE], ids=["salver", "torchserve"])
def test_runtimes_are_within_the_schema_of_kserve(runtime: dict[str, Any]) -> None:
    assert not [error.message for error in custom_resource("ClusterServingRuntime").iter_errors(runtime)]


def test_a_model_that_is_linked_after_the_start_answers_in_every_protocol(start: Start) -> None:
    """ModelCar: /mnt/models is a link into another process's root (storage.go:364 of KServe)."""
    pod = start("--trust-pickle", "--drain-delay=0")
    until(lambda: "waiting for /mnt/models" in pod.text(), pod.text)
    assert not pod.probe("startupProbe")
    pod.link()
    pod.await_ready()
    assert pod.ask("/v1/models/iris:predict", {"instances": ROWS}) == (200, {"predictions": [1, 1]})
    given = {"name": "input", "datatype": "FP32", "shape": [2, 4], "data": ROWS}
    status, answer = pod.ask("/v2/models/iris/infer", {"inputs": [given]})
    assert status == 200 and answer["outputs"][0]["data"] == [1, 1]
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{pod.port}") as client:
        tensor = triton_grpc.InferInput("input", [2, 4], "FP32")
        tensor.set_data_from_numpy(np.array(ROWS, np.float32))
        answered = client.infer("iris", [tensor]).get_response().outputs[0].name
        assert client.infer("iris", [tensor]).as_numpy(answered).tolist() == [1, 1]
    assert pod.terminate() == 0, pod.text()


def test_a_pickle_is_loaded_only_if_its_owner_says_so(start: Start) -> None:
    pod = start()
    pod.link()
    assert pod.process.wait(60) == 1
    assert "--trust-pickle" in pod.text()


def test_the_agents_puller_loads_and_unloads_models(start: Start, tmp_path: Path) -> None:
    """It fills a folder that the server sees read-only, and deletes a model before it is unloaded."""
    pod = start(
        *("--trust-pickle", "--name=", "--control=explicit", "--allow-remote-control"), uri="pvc://models/all"
    )
    pod.await_ready()
    for name in ("one", "two"):
        shutil.copytree(tmp_path / "bucket", pod.volume / name)
        assert pod.ask(f"/v2/repository/models/{name}/load", {})[0] == 200
    assert pod.ask("/v1/models/one:predict", {"instances": ROWS}) == (200, {"predictions": [1, 1]})
    shutil.rmtree(pod.volume / "one")
    assert pod.ask("/v2/repository/models/one/unload", {})[0] == 200
    assert pod.ask("/v1/models/one:predict", {"instances": ROWS})[0] == 404
    assert pod.ask("/v1/models/two:predict", {"instances": ROWS})[0] == 200


def test_who_waits_for_models_looks_until_all_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] > 5:
            (tmp_path / "late").touch()

    wait_for([str(tmp_path / "late"), "s3://bucket/model"], 60, lambda: now[0], sleep)
    assert 5 < now[0] < 6 and "late, 60 s at most" in capsys.readouterr().err
    wait_for([str(tmp_path / "late")], 60, lambda: now[0], sleep)
    assert capsys.readouterr().err == ""
    wait_for([str(tmp_path / "never")], 10, lambda: now[0], sleep)
    assert 15 < now[0] < 17
