"""Each dialect and each feature can be taken out: the server serves without it, and the other tests go on."""

import multiprocessing
from pathlib import Path

import pytest
import slices
from soaking import IS_SOAK
from zoo import write_mlp

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
        if error.name != removed or package not in ("dialects", "features", "testing", "embed", "pipelines"):
            raise
"""


#: What tests import beside Salver, once for all trees.
THIRD_PARTY = [
    "google.protobuf",
    "grpc",
    "hypothesis.extra.numpy",
    "onnxruntime",
    "orjson",
    "pytest",
    "sqlalchemy",
]
#: What test files import at their top; half of what it takes to import these files.
OF_TESTS = [
    "lightgbm",
    "pandas",
    "schemathesis",
    "scipy.optimize",
    "scipy.stats",
    "sklearn.calibration",
    "sklearn.linear_model",
    "skops.io",
    "tensorflow",
    "torchvision.transforms.v2",
    "transformers",
    "tritonclient.grpc",
    "tritonclient.http",
    "xgboost",
]
#: Of the fast tests a tree runs one in so many, and imports one in so many files: other ones than its
#: neighbours, for what all trees have in common is broken in each.
_FAST_IN, _FILES_IN = 4, 8
#: Seconds that a tree may take, below the limit of a test; it takes a few.
_MOST_S = 280
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([*THIRD_PARTY, *(OF_TESTS if IS_SOAK else ())])


@pytest.mark.soak
@pytest.mark.parametrize("name", slices.SLICES)
def test_the_server_serves_without_and_tests_of_the_others_go_on(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """It serves a model, and all modules are imported; in full, fast tests pass and files are imported.

    The process has imported third-party packages, once for all trees.
    """
    slices.write_tree(tmp_path, name)
    write_mlp(tmp_path / "models" / "mlp", 1)
    left = slices.left_without(name)
    smoke = [path for path in left if path.relative_to(slices.TESTS).as_posix() in slices.SMOKE]
    assert len(smoke) > 10
    number = slices.SLICES.index(name)
    tests = (smoke[number % _FAST_IN :: _FAST_IN], left[number % _FILES_IN :: _FILES_IN])
    protocol = "tfs" if name in ("dialects/oip", "dialects/triton") else "oip"
    arguments = [str(tmp_path / "models"), protocol, name]
    output = tmp_path / "output"
    chosen = tests if IS_SOAK else ([], [])
    process = FORKS.Process(
        target=slices.run, args=(request.node.nodeid, tmp_path, output, PROGRAM, arguments, *chosen)
    )
    process.start()
    process.join(_MOST_S)
    process.kill()  # unless it has ended: a test in it hangs
    process.join()
    said = output.read_text()
    assert process.exitcode == 0, said[-4000:]
    assert "\n200\n" in f"\n{said}"


def test_tests_import_no_slice_that_they_do_not_need() -> None:
    """What a test file imports beyond the needs of its own folder is in the table, and nothing else."""
    beyond = {}
    for path in slices.tests():
        needed = slices.needs().get(slices.folder_of(path), set())
        if foreign := slices.imported(path) - needed:
            beyond[path.relative_to(slices.TESTS).as_posix()] = foreign
    assert beyond == slices.TOGETHER
