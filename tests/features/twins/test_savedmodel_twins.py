"""``--prefer onnx``: SavedModels are converted once, checked, and served without TensorFlow."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import savedmodels
from forked_hosts import EXECUTED

from salver.testing.process import ServerProcess

FEATURES = np.random.default_rng(6).normal(size=(4, 8)).astype("f4")


def ask(server: ServerProcess, model: str, name: str, array: np.ndarray) -> np.ndarray:
    data = [array.tolist()] if not array.ndim else array.ravel().tolist()
    tensor = {"name": name, "datatype": "FP32", "shape": list(array.shape), "data": data}
    status, reply = server.post(f"/v2/models/{model}/infer", {"inputs": [tensor]})
    assert status == 200, reply
    output: dict[str, Any] = reply["outputs"][0]
    return np.array(output["data"], "f4").reshape(output["shape"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twins")
    root = folder / "models"
    savedmodels.keras(root / "keras" / "1")
    savedmodels.half_plus_three(root / "half_plus_three" / "00000123")
    savedmodels.moody(root / "moody" / "1")
    savedmodels.keras(root / "loyal" / "1")
    (root / "loyal" / "salver.toml").write_text('[options]\nprefer = "tensorflow"\n')
    return folder


def start(folder: Path, models: list[str], log: str) -> ServerProcess:
    loads = [f"--load={name}" for name in models]
    state = ["--state-dir", str(folder / "state")]
    options = ["--prefer", "onnx", "--control", "explicit", *loads, *state, "--log-format", "json"]
    return ServerProcess([folder / "models"], folder / log, options, EXECUTED)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    with start(folder, ["keras", "half_plus_three", "moody", "loyal"], "first") as server:
        yield server.wait_ready(180)


def said(path: Path) -> list[str]:
    return [str(json.loads(line)["event"]) for line in path.read_text().splitlines() if line.startswith("{")]


def test_it_answers_as_tensorflow_does(server: ServerProcess) -> None:
    converted, original = (ask(server, model, "features", FEATURES) for model in ("keras", "loyal"))
    np.testing.assert_allclose(converted, original, rtol=1e-5, atol=1e-6)
    x = np.array([[1], [-8]], "f4")
    assert ask(server, "half_plus_three", "x", x).tolist() == [[3.5], [-1]]


def test_only_what_needs_tensorflow_has_a_process_with_it(server: ServerProcess, folder: Path) -> None:
    paths = {region.path for region in psutil.Process(server.pid).memory_maps()}
    assert not any("libtensorflow" in path for path in paths)
    assert any("onnxruntime" in path for path in paths)
    # One for the signatures of half_plus_three that parse Examples, one for moody, one for the loyal, and the
    # process of which they are forks.
    assert len(psutil.Process(server.pid).children(recursive=True)) == 4


def test_the_log_has_what_became_of_each_signature(server: ServerProcess, folder: Path) -> None:
    lines = said(folder / "first")
    whole = "keras:1: runs as ONNX: 'serving_default', 'serve'. Answers to 3 samples and more were at most"
    assert any(line.startswith(whole) for line in lines)
    start = "half_plus_three:00000123: still needs TensorFlow: 'classify_x_to_sign', "
    (kept,) = [line for line in lines if line.startswith(start)]
    assert kept.endswith("'regress_x_to_y', 'regress_x_to_y2', since the rank of an input is unknown")
    refusal = "it takes an input that TensorFlow refuses (assertion failed: [x must not be negative])"
    assert f"moody:1: still needs TensorFlow: 'serving_default', since {refusal}" in lines


def test_an_assertion_that_onnx_cannot_hold_holds(server: ServerProcess) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [-1]}
    status, reply = server.post("/v2/models/moody/infer", {"inputs": [tensor]})
    assert (status, reply) == (400, {"error": "assertion failed: [x must not be negative]"})


def test_it_is_converted_once(server: ServerProcess, folder: Path) -> None:
    assert sum("converted in" in line for line in said(folder / "first")) == 3
    before = ask(server, "keras", "features", FEATURES)
    with start(folder, ["keras"], "second") as again:
        again.wait_ready(60)
        assert ask(again, "keras", "features", FEATURES).tolist() == before.tolist()
        assert not psutil.Process(again.pid).children(recursive=True)
    assert not any("converted" in line for line in said(folder / "second"))
