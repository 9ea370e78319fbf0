"""Models with a Python environment of their own (TR-A4)."""

import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from waiting import until

from salver.testing.process import ServerProcess

MODEL = """import os
import sys

import numpy as np
import only_there
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        facts = [sys.prefix, only_there.WORD, os.environ["VIRTUAL_ENV"]]
        text = pb_utils.Tensor("Y", np.array(facts, object))
        return [pb_utils.InferenceResponse([text]) for request in requests]
"""
CONFIG = """backend: "python"
input [ {{ name: "X" data_type: TYPE_INT32 dims: [ 1 ] }} ]
output [ {{ name: "Y" data_type: TYPE_STRING dims: [ 3 ] }} ]
instance_group [ {{ count: 2 kind: KIND_CPU }} ]
parameters {{ key: "EXECUTION_ENV_PATH" value: {{ string_value: "{path}" }} }}
parameters {{ key: "FORCE_CPU_ONLY_INPUT_TENSORS" value: {{ string_value: "no" }} }}
"""
X = {"name": "X", "shape": [1], "datatype": "INT32", "data": [0]}


def make(folder: Path, *, whole: bool = True) -> Path:
    """An environment; a whole one has numpy and msgspec, borrowed from this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "only_there.py").write_text("WORD = 'a word of its own'\n")
    if whole:
        borrowed = folder / "borrowed"
        borrowed.mkdir()
        for name in ("numpy", "numpy.libs", "msgspec"):
            module = {"msgspec": msgspec}.get(name, np).__path__[0]
            source = Path(module).with_name(name)
            if source.exists():
                (packages / name).symlink_to(source)
    return folder


def put(models: Path, name: str, path: str) -> Path:
    version = models / name / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL)
    (version.parent / "config.pbtxt").write_text(CONFIG.format(path=path))
    return version.parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("environments")
    models, cache = folder / "models", folder / "cache"
    cache.mkdir()
    whole = make(folder / "whole")
    put(models, "unpacked", str(whole))
    inside = make(folder / "packing", whole=False)
    packages = next(inside.glob("lib/python*/site-packages"))
    (packages / "lent.pth").write_text(f"{next(whole.glob('lib/python*/site-packages'))}\n")
    for name in ("packed", "twice"):
        put(models, name, "$$TRITON_MODEL_DIRECTORY/env.tar.gz")
    with tarfile.open(models / "packed" / "env.tar.gz", "w:gz") as tar:
        tar.add(inside, ".")
    (models / "twice" / "env.tar.gz").symlink_to(models / "packed" / "env.tar.gz")
    bare = make(folder / "bare", whole=False)
    put(models, "bare", str(bare))
    put(models, "missing", "/nowhere/env.tar.gz")
    put(models, "relative", "env.tar.gz")
    put(models, "empty", str(cache))
    broken = put(models, "broken", "$$TRITON_MODEL_DIRECTORY/env.tar.gz")
    (broken / "env.tar.gz").write_bytes(b"no archive")
    old = folder / "old" / "bin"
    old.mkdir(parents=True)
    (old / "python").write_text('#!/bin/sh\necho \'{"version": [3, 9], "tag": "cpython-39", "has": []}\'\n')
    (old / "python").chmod(0o755)
    put(models, "old", str(old.parent))
    options = ["--control", "explicit", "--load", "*"]
    env = {"XDG_DATA_HOME": str(cache)}
    with ServerProcess([models], folder / "log", options, env) as server:
        server.wait_for("/v2/health/live")
        until(lambda: has_settled(server))
        yield server


def has_settled(server: ServerProcess) -> bool:
    entries = server.post("/v2/repository/index", {})[1]
    return len(entries) == 9 and all(e["state"] == "READY" or e["reason"] for e in entries)


def unpacked(server: ServerProcess) -> list[Path]:
    cache = Path(server._env["XDG_DATA_HOME"], "salver", "environments")
    return list(cache.glob("*/bin"))


@pytest.mark.clause("TR-A4")
@pytest.mark.parametrize("model", ["unpacked", "packed", "twice"])
def test_a_model_runs_in_the_python_that_it_brings(model: str, server: ServerProcess) -> None:
    status, reply = server.post(f"/v2/models/{model}/infer", {"inputs": [X]})
    assert status == 200, reply
    prefix, word, variable = reply["outputs"][0]["data"]
    assert word == "a word of its own" and prefix == variable
    assert Path(prefix) != Path(sys.prefix)
    assert ("/salver/environments/" in prefix) == (model != "unpacked")


@pytest.mark.clause("TR-A4")
@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("bare", "lacks numpy. Add numpy to its packages."),
        ("missing", "there is no '/nowhere/env.tar.gz' to make its environment of"),
        ("relative", "Write an absolute path, or one that starts with $$TRITON_MODEL_DIRECTORY/."),
        ("empty", "has no bin/python. Pack it with conda-pack or venv-pack."),
        ("broken", "cannot be unpacked"),
        ("old", "has Python 3.9. Make it of Python 3.11 or newer, with numpy."),
    ],
)
def test_what_an_environment_must_have(model: str, text: str, server: ServerProcess) -> None:
    (entry,) = [e for e in server.post("/v2/repository/index", {})[1] if e["name"] == model]
    assert text in entry["reason"]


@pytest.mark.clause("TR-A4")
def test_an_archive_is_unpacked_once_for_all_loads(server: ServerProcess) -> None:
    (before,) = unpacked(server)
    made = before.stat().st_ctime_ns
    server.post("/v2/repository/models/packed/unload", {})
    until(lambda: server.get("/v2/models/packed/ready")[0] != 200)
    assert server.post("/v2/models/twice/infer", {"inputs": [X]})[0] == 200
    server.post("/v2/repository/models/twice/unload", {})
    until(lambda: server.get("/v2/models/twice/ready")[0] != 200)
    assert server.post("/v2/repository/models/packed/load", {})[0] == 200
    assert server.post("/v2/models/packed/infer", {"inputs": [X]})[0] == 200
    assert [path.stat().st_ctime_ns for path in unpacked(server)] == [made]
