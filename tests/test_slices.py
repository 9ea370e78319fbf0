"""Each dialect and each feature can be taken out: the server starts without it, and serves a model."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from zoo import write_mlp

import salver

SOURCE = Path(salver.__file__).parent
#: Still imported by what lies beside or below them.
ENTANGLED: frozenset[str] = frozenset()
SLICES = sorted(
    path.relative_to(SOURCE).as_posix()
    for group in ("dialects", "features")
    for path in (SOURCE / group).iterdir()
    if (path / "__init__.py").exists()
)
PROGRAM = """
import asyncio, importlib, json, pkgutil, sys, urllib.request
import salver
from salver.app import ServeConfig, Server
from salver.backends.onnx import OnnxBackend
from salver.transport.server import FrontConfig

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [0.5] * 16}]})

async def main():
    config = ServeConfig(paths=(sys.argv[1],), front=FrontConfig(port=0))
    async with Server(config, {"onnx": OnnxBackend()}) as server:
        url = f"{server.url}/v2/models/mlp/infer" if sys.argv[2] == "oip" else f"{server.url}/v1/models/mlp"
        body = BODY.encode() if sys.argv[2] == "oip" else None
        print(await asyncio.to_thread(lambda: urllib.request.urlopen(url, body).status))

asyncio.run(main())
removed = "salver." + sys.argv[3].replace("/", ".")
for module in pkgutil.walk_packages(salver.__path__, "salver.", onerror=lambda name: None):
    if module.name.endswith("__main__") or ".shim" in module.name:
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        # What may build on it goes with it; a program that embeds a server asks it in Triton's forms.
        package = module.name.split(".")[1]
        if error.name != removed or package not in ("dialects", "features", "testing", "embed"):
            raise
"""


@pytest.mark.parametrize("name", [name for name in SLICES if name not in ENTANGLED])
def test_the_server_serves_without(name: str, tmp_path: Path) -> None:
    tree = tmp_path / "salver"
    shutil.copytree(SOURCE, tree, copy_function=os.link)  # with what is compiled, which is valid for links
    shutil.rmtree(tree / name)
    write_mlp(tmp_path / "models" / "mlp", 1)
    protocol = "tfs" if name in ("dialects/oip", "dialects/triton") else "oip"
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "models"), protocol, name]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("200")
