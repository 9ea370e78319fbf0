"""The runtime for KServe, started as its controller would: same arguments, mounts and limits."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import yaml
from programs import program
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from waiting import until

import salver
from salver.cli.absent import wait_for
from salver.testing.process import free_port

RUNTIME = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "kserve" / "salver.yaml").read_text())
#: The programs and their source, which a clone in /tmp would else hide.
SEEN = [
    word for path in (sys.prefix, str(Path(salver.__file__).parents[1])) for word in ("--ro-bind", path, path)
]
#: Two flowers of KServe's own end-to-end tests, of the class 1.
ROWS = [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]


def rendered(service: dict[str, Any]) -> dict[str, Any]:
    """Return the container of an InferenceService (predictor.go:154, utils.go:253 and 325 of KServe)."""
    (container,) = RUNTIME["spec"]["containers"]
    model = service["spec"]["predictor"]["model"]
    container = {**container, "args": [*container["args"], *model.get("args", [])]}
    text = re.sub(r"\{\{\s*\.Name\s*\}\}", lambda _: str(service["metadata"]["name"]), json.dumps(container))
    named = {"name": "INFERENCE_SERVICE_NAME", "value": service["metadata"]["name"]}
    return {**json.loads(text), "env": [*container.get("env", []), named]}


def service(*args: str) -> dict[str, Any]:
    model = {"modelFormat": {"name": "sklearn"}, "runtime": "salver", "args": [*args]}
    return {"metadata": {"name": "iris"}, "spec": {"predictor": {"model": model}}}


class Pod:
    """A container without rights: another user, read-only root, small /tmp and /dev/shm, a mount at /mnt."""

    def __init__(self, folder: Path, container: dict[str, Any], variables: dict[str, str]) -> None:
        self.mount = folder / "mnt"
        self.mount.mkdir()
        self.log = folder / "log"
        ports = [word.removeprefix("--port=") for word in container["args"] if word.startswith("--port=")]
        self.port = int(ports[-1])
        limits = ["--size", str(64 << 20), "--tmpfs", "/dev/shm", "--size", str(64 << 20), "--tmpfs", "/tmp"]
        named = {each["name"]: each["value"] for each in container["env"]} | variables
        settings = [word for name, value in named.items() for word in ("--setenv", name, value)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(program("bwrap"), "--unshare-all", "--share-net", "--uid", "47123", "--gid", "0"),
                    *("--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", *limits),
                    *("--ro-bind", str(folder), str(folder), "--bind", str(self.mount), "/mnt", *SEEN),
                    *(
                        "--cap-drop",
                        "ALL",
                        "--die-with-parent",
                        "--new-session",
                        "--clearenv",
                        "--chdir",
                        "/",
                    ),
                    *("--setenv", "PATH", os.environ["PATH"], *settings),
                    *(str(Path(sys.executable).with_name("salver")), *container["args"]),
                ],
                stdout=log,
                stderr=log,
            )

    def ask(self, path: str, document: object = None) -> tuple[int, Any]:
        data = None if document is None else json.dumps(document).encode()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data, timeout=60) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")
        except OSError:
            return 0, None

    def text(self) -> str:
        return self.log.read_text()


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """A model as an init container or a ModelCar brings it: files of one model, without versions."""
    folder = tmp_path / "car" / "models"
    folder.mkdir(parents=True)
    joblib.dump(LogisticRegression(max_iter=500).fit(*load_iris(return_X_y=True)), folder / "model.joblib")
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Pod]]:
    pods: list[Pod] = []

    def started(*args: str, **variables: str) -> Pod:
        pods.append(
            Pod(tmp_path, rendered(service(*args, f"--port={free_port()}")), {"HOME": "/"} | variables)
        )
        return pods[-1]

    yield started
    for pod in pods:
        pod.process.kill()
        pod.process.wait()


def test_a_model_that_is_linked_after_the_start_answers_in_every_protocol(
    start: Callable[..., Pod], flowers: Path
) -> None:
    """ModelCar: /mnt/models is a link into another process's root (storage.go:364 of KServe)."""
    pod = start("--trust-pickle", "--drain-delay=0", MODEL_INIT_MODE="async")
    until(lambda: "waiting for /mnt/models" in pod.text(), pod.text)
    assert pod.ask("/v2/health/live")[0] == 0
    (pod.mount / "models").symlink_to(flowers)
    until(lambda: pod.ask("/v2/health/ready")[0] == 200, pod.text)
    assert pod.ask("/v1/models/iris:predict", {"instances": ROWS}) == (200, {"predictions": [1, 1]})
    given = {"name": "input", "datatype": "FP32", "shape": [2, 4], "data": ROWS}
    status, answer = pod.ask("/v2/models/iris/infer", {"inputs": [given]})
    assert status == 200 and answer["outputs"][0]["data"] == [1, 1]
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{pod.port}") as client:
        tensor = triton_grpc.InferInput("input", [2, 4], "FP32")
        tensor.set_data_from_numpy(np.array(ROWS, np.float32))
        answered = client.infer("iris", [tensor]).get_response().outputs[0].name
        assert client.infer("iris", [tensor]).as_numpy(answered).tolist() == [1, 1]
    inner = int(subprocess.check_output(["pgrep", "--parent", str(pod.process.pid)], text=True))
    server = int(subprocess.check_output(["pgrep", "--parent", str(inner)], text=True))
    os.kill(server, signal.SIGTERM)
    assert pod.process.wait(60) == 0, pod.text()


def test_a_pickle_is_loaded_only_if_its_owner_says_so(start: Callable[..., Pod], flowers: Path) -> None:
    pod = start()
    (pod.mount / "models").symlink_to(flowers)
    assert pod.process.wait(60) == 1
    assert "--trust-pickle" in pod.text()


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
