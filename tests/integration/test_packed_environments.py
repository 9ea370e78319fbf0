"""Models of another version of their framework, in environments that two servers share from the start."""

import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import conda_pack
import pytest
from waiting import until

from salver.testing.process import ServerProcess

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
PROJECT = f"""[project]
name = "model"
version = "1"
requires-python = "=={VERSION}.*"
dependencies = ["scikit-learn==1.6.1", "skops==0.13.0", "numpy==2.3.5", "scipy==1.15.3"]
"""
#: Models that this version wrote.
TRAINED = Path(__file__).parents[1] / "support" / "old_sklearn"
PROGRAM = """
import sys
from pathlib import Path

import numpy as np

class Model:
    inputs = {"x": ("FP32", [-1])}
    outputs = {"facts": ("BYTES", [-1])}

    def predict(self, inputs):
        facts = f"{sys.prefix} {(Path(sys.prefix) / 'share' / 'place').read_text()}"
        return {"facts": np.full(len(inputs["x"]), facts, object)}
"""
#: What the trees say of the rows in their own version.
CHANCES = [0.5943247863706251, 0.4056752136293749, 0.40567521362937486, 0.5943247863706251]
ROWS = [[16.0, 17.0, 18.0, 19.0], [20.0, 21.0, 22.0, 23.0]]


def conda_prefix(folder: Path) -> Path:
    """Make what conda makes, but of a virtual environment: conda's channels are out of reach.

    ``share/place`` names the folder, as files of packages do, and NumPy is that of the tests.
    """
    venv.create(folder, symlinks=False)
    numpy = find_spec("numpy")
    assert numpy is not None and numpy.origin is not None
    packages = folder / "lib" / f"python{VERSION}" / "site-packages"
    (packages / "lent.pth").write_text(f"{Path(numpy.origin).parents[1]}\n")
    (folder / "share").mkdir(exist_ok=True)
    (folder / "share" / "place").write_text(str(folder))
    about = {"name": "python", "version": f"{VERSION}.0", "url": "", "link": {"source": ""}}
    files = ["bin/python", f"bin/python{VERSION}", "share/place"]
    (folder / "conda-meta").mkdir()
    (folder / "conda-meta" / f"python-{VERSION}.json").write_text(json.dumps({**about, "files": files}))
    (folder / "conda-meta" / "history").touch()
    return folder


def put(models: Path, name: str, environment: str = "") -> Path:
    folder = models / name
    folder.mkdir(parents=True)
    if environment:
        (folder / "salver.toml").write_text(f'[environment]\npath = "{environment}"\n')
    return folder


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServerProcess]]:
    """Two servers of one user, started at once."""
    folder = tmp_path_factory.mktemp("packed")
    models = folder / "models"
    (folder / "pyproject.toml").write_text(PROJECT)
    uv = [str(Path(sys.executable).with_name("uv")), "lock", "--quiet", "--python", sys.executable]
    subprocess.run(uv, check=True, cwd=folder)
    for name, file in (("trees", "trees.joblib"), ("newer", "trees.joblib"), ("line", "line.skops")):
        home = put(models, name, "uv.lock" if name != "newer" else "")
        for each in (TRAINED / file, folder / "uv.lock", folder / "pyproject.toml"):
            shutil.copy(each, home)
    # MLServer's folder, with Salver's word for its parameter environment_tarball.
    packed = put(models, "packed", "environment.tar.gz")
    (packed / "model-settings.json").write_text(
        '{"parameters": {"environment_tarball": "environment.tar.gz"}}'
    )
    (packed / "model.py").write_text(PROGRAM)
    prefix = conda_prefix(folder / "prefix")
    conda_pack.pack(prefix=str(prefix), output=str(packed / "environment.tar.gz"), compress_level=1)
    both = []
    for own in ((), ("trees", "newer")):
        wanted = [word for name in ("packed", *own) for word in ("--load", name)]
        options = ["--control", "explicit", *wanted, "--trust-pickle", "--allow-environments"]
        both.append(
            ServerProcess([models], folder / f"log-{len(own)}", options, {"XDG_DATA_HOME": str(folder)})
        )
    for server in both:
        server.start()
    for server, loaded in zip(both, (1, 3), strict=True):
        server.wait_for("/v2/health/live")
        until(lambda server=server, loaded=loaded: len(settled(server)) == loaded, server.output)
    yield both
    for server in both:
        server.stop()


def settled(server: ServerProcess) -> dict[str, str]:
    """Return the reasons of models that are ready or have failed."""
    entries = server.post("/v2/repository/index", {})[1]
    return {e["name"]: e["reason"] for e in entries if e["state"] == "READY" or e["reason"]}


def first(server: ServerProcess, model: str, body: Any) -> Any:
    status, reply = server.post(f"/v2/models/{model}/infer", body)
    assert status == 200, reply
    return reply


def test_models_of_an_older_framework_answer_as_they_did_in_it(servers: list[ServerProcess]) -> None:
    asked = {"inputs": [{"name": "input", "shape": [2, 4], "datatype": "FP32", "data": ROWS}]}
    server = servers[1]
    assert "_loss" in settled(server)["newer"]
    outputs = {each["name"]: each["data"] for each in first(server, "trees", asked)["outputs"]}
    assert outputs["probabilities"] == pytest.approx(CHANCES)
    assert server.post("/v2/repository/models/line/load", {})[0] == 200
    assert first(server, "line", asked)["outputs"][0]["data"] == pytest.approx([70.0, 86.0], rel=1e-5)


def test_servers_that_start_at_once_and_models_of_one_lock_share_an_environment(
    servers: list[ServerProcess],
) -> None:
    told = "".join(server.output() for server in servers)
    assert told.count("made an environment of") == told.count("unpacking") == 1


def test_an_archive_of_conda_pack_is_told_where_it_is(servers: list[ServerProcess]) -> None:
    prefixes = set()
    for server in servers:
        prefix, place = first(server, "packed", {"x": [0.0]})["facts"][0].split()
        assert place == prefix
        prefixes.add(prefix)
    assert len(prefixes) == 1
