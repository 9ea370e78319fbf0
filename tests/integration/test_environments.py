"""Models in Python environments of their own, beside models in the server's."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from programs import program
from waiting import until
from zoo import write_mlp

from salver.testing.process import ServerProcess

#: Another version than the server's, which Python 3.11 and 3.13 have.
NUMPY = "2.3.5"
MODEL = """
import os, sys
import numpy as np

class Model:
    inputs = {"x": ("FP32", [-1])}
    outputs = {"facts": ("BYTES", [-1])}

    def predict(self, inputs):
        facts = f"{np.__version__} {sys.version_info[1]} {os.getpid()} {sys.prefix}"
        return {"facts": np.full(len(inputs["x"]), facts, object)}
"""
MADE = "made an environment of"


def put(models: Path, name: str, requirements: str = "", python: str = "") -> None:
    folder = models / name
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(MODEL)
    if requirements:
        (folder / "requirements.txt").write_text(requirements)
        config = f'[environment]\npath = "requirements.txt"\npython = "{python}"\n'
        (folder / "salver.toml").write_text(config)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    assert np.__version__ != NUMPY
    folder = tmp_path_factory.mktemp("environments")
    models = folder / "models"
    put(models, "own")
    for name in ("pinned", "twin"):
        put(models, name, f"numpy=={NUMPY}\n", "3.13")
    put(models, "missing", "numpy==0.0.1\n")
    put(models, "bare", "# nothing\n")
    write_mlp(models / "data", 1)
    (models / "data" / "salver.toml").write_text('[environment]\npath = "/usr"\n')
    options = ["--control", "explicit", "--load", "*"]
    with ServerProcess([models], folder / "log", options, {"XDG_DATA_HOME": str(folder / "data")}) as server:
        server.wait_for("/v2/health/live")
        until(lambda: has_settled(server), server.output)
        yield server


def index(server: ServerProcess) -> list[dict[str, str]]:
    entries: list[dict[str, str]] = server.post("/v2/repository/index", {})[1]
    return entries


def has_settled(server: ServerProcess) -> bool:
    entries = index(server)
    return len(entries) == 6 and all(e["state"] == "READY" or e["reason"] for e in entries)


def facts(server: ServerProcess, model: str) -> list[str]:
    """NumPy's version, Python's minor version, process, and folder of the environment."""
    status, reply = server.post(f"/v2/models/{model}/infer", {"x": [0.0]})
    assert status == 200, reply
    found: list[str] = reply["facts"][0].split()
    return found


def test_models_with_equal_requirements_share_an_environment_beside_the_servers(
    server: ServerProcess,
) -> None:
    program("python3.13")
    pinned, twin, own = (facts(server, name) for name in ("pinned", "twin", "own"))
    assert pinned[:2] == twin[:2] == [NUMPY, "13"]
    assert own[:2] == [np.__version__, "11"]
    assert pinned[3] == twin[3] != own[3]
    assert server.output().count(MADE) == 2  # the other one is that of `bare`


def test_a_host_that_dies_and_a_second_load_take_no_build(server: ServerProcess) -> None:
    program("python3.13")
    before = facts(server, "pinned")
    os.kill(int(before[2]), signal.SIGKILL)
    until(lambda: server.post("/v2/models/pinned/infer", {"x": [0.0]})[0] == 200)
    server.post("/v2/repository/models/pinned/unload", {})
    until(lambda: server.get("/v2/models/pinned/ready")[0] != 200)
    assert server.post("/v2/repository/models/pinned/load", {})[0] == 200
    after = facts(server, "pinned")
    assert (after[0], after[3]) == (before[0], before[3])
    assert server.output().count(MADE) == 2


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("missing", "'requirements.txt' cannot be installed: "),
        ("missing", "numpy==0.0.1"),
        ("bare", "lacks numpy. Add numpy to its packages."),
        ("data", "If you trust it, start with --allow-environments."),
    ],
)
def test_what_an_environment_needs_is_the_reason_of_the_failed_load(
    model: str, told: str, server: ServerProcess
) -> None:
    (entry,) = [e for e in index(server) if e["name"] == model]
    assert told in entry["reason"]
