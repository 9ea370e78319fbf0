"""SavedModels in TensorFlow Serving's base paths, run by TensorFlow in processes of their own."""

import json
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import savedmodels
from forked_hosts import EXECUTED
from waiting import until

from salver.testing.process import ServerProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("savedmodels")
    root = folder / "models"
    savedmodels.half_plus_three(root / "half_plus_three" / "00000123")
    savedmodels.stateful(root / "stateful" / "1")
    savedmodels.keras(root / "keras" / "0042")
    savedmodels.keras(root / "threaded" / "1")
    (root / "threaded" / "salver.toml").write_text('[instances]\nrunner = "thread"\n')
    (root / "keras" / "assets").mkdir()
    options = ["--control", "explicit", *(f"--load={path.name}" for path in root.iterdir())]
    with ServerProcess([root], folder / "log", [*options, "--state-dir", ""], EXECUTED) as server:
        yield server.wait_ready(120)


def ask(server: ServerProcess, model: str, name: str, shape: list[int], data: list[float]) -> list[Any]:
    body = {"inputs": [{"name": name, "datatype": "FP32", "shape": shape, "data": data}]}
    status, reply = server.post(f"/v2/models/{model}/infer", body)
    assert status == 200, reply
    return list(reply["outputs"][0]["data"])


def hosts(server: ServerProcess) -> list[psutil.Process]:
    return psutil.Process(server.pid).children(recursive=True)


@pytest.mark.clause("TF-L1")
def test_versions_with_leading_zeros_are_versions(server: ServerProcess) -> None:
    assert ask(server, "half_plus_three", "x", [2, 1], [1, -8]) == [3.5, -1]
    status, reply = server.get("/v2/models/half_plus_three/versions/00000123")
    assert status == 200
    metadata = json.loads(reply)
    assert metadata["versions"] == ["00000123"] and metadata["platform"] == "tensorflow_savedmodel"
    assert len(ask(server, "keras", "features", [1, 8], [0.5] * 8)) == 3


def test_declared_shapes_hold_for_callers_who_are_told_them(server: ServerProcess) -> None:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}
    status, reply = server.post("/v2/models/half_plus_three/infer", body)
    assert status == 400
    assert "unexpected shape for input 'x' for model 'half_plus_three'. Expected [-1,1], got [1]" in str(
        reply
    )


def test_a_model_that_counts_has_not_been_warmed_up(server: ServerProcess) -> None:
    assert [ask(server, "stateful", "by", [], [by]) for by in (2, 0.5)] == [[2], [2.5]]


def test_tensorflow_runs_elsewhere_unless_its_owner_says_so(server: ServerProcess) -> None:
    def has_it(process: psutil.Process) -> bool:
        return any("libtensorflow_framework" in region.path for region in process.memory_maps())

    children = hosts(server)  # three, and a process or two of which they are forks
    assert 3 < len(children) < 6 and all(map(has_it, children))
    assert has_it(psutil.Process(server.pid))  # for the one that is to run on a thread
    keras, threaded = (ask(server, m, "features", [1, 8], [0.25] * 8) for m in ("keras", "threaded"))
    assert keras == threaded


def test_an_unloaded_model_gives_its_memory_back(server: ServerProcess) -> None:
    before = hosts(server)
    assert server.post("/v2/repository/models/keras/unload", {})[0] == 200
    until(lambda: len(hosts(server)) == len(before) - 1)
    assert server.post("/v2/repository/models/keras/load", {})[0] == 200
    assert len(ask(server, "keras", "features", [1, 8], [0.5] * 8)) == 3
