"""A real server whose models are told GPUs, with a library that reports a GPU which is not there."""

import os
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from salver.cli import main
from salver.testing.process import ServerProcess

MIB = 1 << 20
EACH, POOL = 1000 * MIB, 2500 * MIB  # of four models, two fit
LIBRARY = f"""
import os
from types import SimpleNamespace
from salver.features.memory.processes import tree

class NVMLError(Exception):
    pass

def nvmlInit():
    pass

def nvmlDeviceGetCount():
    return 1

def nvmlDeviceGetHandleByIndex(index):
    return index

def hosts():
    return tree(os.getpid())[1:]

def nvmlDeviceGetMemoryInfo(handle):
    total = 8000 << 20
    return SimpleNamespace(total=total, free=total - {EACH} * len(hosts()))

def nvmlDeviceGetComputeRunningProcesses(handle):
    return [SimpleNamespace(pid=pid, usedGpuMemory={EACH}) for pid in hosts()]
"""
MODEL = """import os
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.gpu = args["model_instance_kind"] + args["model_instance_device_id"]

    def execute(self, requests):
        assert self.gpu == "GPU0" and os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
        x = [pb_utils.get_input_tensor_by_name(request, "X").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", value * 2)]) for value in x]
"""
SETTINGS = """instances = { gpus = [0] }
memory = { residence = "lazy", min_s = 0.0 }
inputs = [{ name = "X", datatype = "FP32", shape = [-1, 2] }]
outputs = [{ name = "Y", datatype = "FP32", shape = [-1, 2] }]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("devices")
    (root / "pynvml.py").write_text(LIBRARY)
    for number in range(4):
        folder = root / "models" / f"m{number}"
        (folder / "1").mkdir(parents=True)
        (folder / "1" / "model.py").write_text(MODEL)
        (folder / "salver.toml").write_text(SETTINGS)
    path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH", ""))))
    options = ["--memory", f"4GiB,gpu0={POOL // MIB}MiB"]
    with ServerProcess([root / "models"], root / "log", options, env={"PYTHONPATH": path}) as server:
        yield server.wait_ready()


def told(server: ServerProcess) -> Any:
    return msgspec.json.decode(server.ask("GET", "/api/v1/memory")[1])


def test_models_on_a_device_take_turns_within_its_pool(server: ServerProcess) -> None:
    body = b'{"inputs":[{"name":"X","datatype":"FP32","shape":[1,2],"data":[1,2]}]}'
    for number in (0, 1, 2, 3, 0):
        status, reply = server.ask("POST", f"/v2/models/m{number}/infer", body)
        assert (status, msgspec.json.decode(reply).get("outputs", reply)[0]["data"]) == (200, [2, 4])
        _, pool = told(server)["pools"]
        assert pool["used"] <= pool["budget"] == POOL
    found = told(server)
    assert found["pools"][1]["used"] == 2 * EACH and found["pools"][1]["largest"] < EACH
    assert sum(row["evictions"] for row in found["models"]) == 3
    assert {row["devices"]["gpu0"] for row in found["models"]} == {int(EACH * 1.03)}
    page = server.ask("GET", "/metrics")[1].decode()
    assert 'salver_memory_device_used_bytes{device="gpu0"} 2.097152e+09' in page


def test_the_table_names_devices(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "--url", server.url]) == 0
    said = capsys.readouterr().out
    assert "MiB, gpu0 1.01 GiB" in said and "gpu0: 1.95 GiB of 2.44 GiB are used" in said
