"""Models from an S3 bucket, with unmodified tritonclient (TR-L2, TR-F2)."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from s3 import KEYS, S3, s3_server
from triton_repository import ask, index
from tritonclient.utils import InferenceServerException
from waiting import until
from zoo import write_constant, write_mlp

from salver.testing.process import ServerProcess, TritonProcess


@pytest.fixture
def s3() -> Iterator[S3]:
    with s3_server() as server:
        yield server


def put_constant(s3: S3, folder: Path, version: int) -> None:
    write_constant(folder, version)
    s3.put_folder("bucket", f"models/constant/{version}", folder / "constant" / str(version))


def copies(mount: Path) -> list[str]:
    """Files of versions that lie here whole, by path below their model, while the server may remove some."""
    found = (f"{folder}/{file}" for folder, _, files in os.walk(mount) for file in files)
    copied = (path.partition("/bucket/models/") for path in found if "/copies/" in path)
    return sorted(path for _, below, path in copied if below)


@pytest.mark.clause("TR-L2")
def test_a_bucket_is_followed_and_outlived(s3: S3, tmp_path: Path) -> None:
    """Polled together with a folder: new versions come, old copies go, and an absent server stops nothing."""
    put_constant(s3, tmp_path / "made", 1)
    s3.put(
        "bucket", {"models/constant/salver.toml": b"[versions]\nlatest = 1\n", "models/notes.txt": b"hello"}
    )
    write_mlp(tmp_path / "local" / "mlp", 1)
    mount = tmp_path / "mount"
    mount.mkdir()
    environment = {**KEYS, "TRITON_AWS_MOUNT_DIRECTORY": str(mount)}
    paths = [s3.url("bucket/models"), tmp_path / "local"]
    options = ["--poll-seconds", "0.2"]
    with ServerProcess(paths, tmp_path / "log", options, environment) as server:
        server.wait_ready()
        with http_client.InferenceServerClient(server.address) as client:
            assert ask(client, http_client, "constant") == 1
            assert {name for name, _ in index(client, http_client)} == {"constant", "mlp"}
            assert copies(mount) == ["constant/1/model.onnx", "constant/salver.toml"]
            put_constant(s3, tmp_path / "made", 2)
            until(lambda: ask(client, http_client, "constant") == 2)
            until(lambda: copies(mount) == ["constant/2/model.onnx", "constant/salver.toml"])
            s3.stop()
            until(lambda: "the models that were found there before stay as they are" in server.output())
            assert ask(client, http_client, "constant") == 2
            assert client.is_server_ready()
            write_mlp(tmp_path / "local" / "other", 1)
            until(lambda: client.is_model_ready("other"))
    assert list(mount.iterdir()) == []


@pytest.mark.clause("TR-F2")
def test_models_are_loaded_by_name_with_the_credentials_of_a_file(s3: S3, tmp_path: Path) -> None:
    """Nothing but what was asked for is copied; an absent server is the reason that a client reads."""
    put_constant(s3, tmp_path / "made", 1)
    write_mlp(tmp_path / "made" / "mlp", 1)
    s3.put_folder("bucket", "models/mlp", tmp_path / "made" / "mlp")
    entry = {"key_id": KEYS["AWS_ACCESS_KEY_ID"], "secret_key": KEYS["AWS_SECRET_ACCESS_KEY"], "region": "x"}
    file = tmp_path / "credentials.json"
    file.write_text(json.dumps({"s3": {s3.url("bucket"): entry}}))
    mount = tmp_path / "mount"
    mount.mkdir()
    environment = {"TRITON_CLOUD_CREDENTIAL_PATH": str(file), "TRITON_AWS_MOUNT_DIRECTORY": str(mount)}
    options = ["--model-control-mode=explicit", "--load-model=mlp"]
    with TritonProcess([s3.url("bucket/models/")], tmp_path / "log", options, environment) as server:
        server.wait_ready()
        address = f"{server.host}:{server.ports['grpc']}"
        with grpc_client.InferenceServerClient(address) as client:
            assert copies(mount) == ["mlp/1/model.onnx"]
            client.load_model("constant")
            assert ask(client, grpc_client, "constant") == 1
            client.unload_model("mlp")
            until(lambda: copies(mount) == ["constant/1/model.onnx"])
            s3.put("bucket", {"models/broken/1/model.onnx": b"\x08\x08" + bytes(100)})
            with pytest.raises(InferenceServerException, match=f"s3://{s3.host}/bucket/models/broken"):
                client.load_model("broken")
            s3.stop()
            with pytest.raises(InferenceServerException, match="failed to poll from model repository"):
                client.load_model("mlp")
            values = np.zeros((1, 16), np.float32)
            given = grpc_client.InferInput("x", [1, 16], "FP32")
            given.set_data_from_numpy(values)
            assert client.infer("constant", [given]).as_numpy("y")[0, 0] == 1


PYTHON = b"""import os

import beside
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        with open(os.path.join(args["model_repository"], "factor.txt")) as file:
            self.factor = int(file.read()) * beside.TWO

    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "X").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("Y", x * self.factor)]) for x in inputs]
"""
PYTHON_CONFIG = b"""backend: "python"
input { name: "X" data_type: TYPE_FP32 dims: 2 }
output { name: "Y" data_type: TYPE_FP32 dims: 2 }
model_warmup { name: "w" inputs { key: "X" value { data_type: TYPE_FP32 dims: 2 input_data_file: "raw" } } }
"""
ENSEMBLE = b"""platform: "ensemble"
input { name: "A" data_type: TYPE_FP32 dims: 2 }
output { name: "B" data_type: TYPE_FP32 dims: 2 }
ensemble_scheduling {
  step { model_name: "py" input_map { key: "X" value: "A" } output_map { key: "Y" value: "B" } }
}
"""


@pytest.mark.clause("TR-L2")
def test_whatever_lies_in_a_model_folder_comes_along(s3: S3, tmp_path: Path) -> None:
    """Modules and files beside a Python model, data of its warm-up; an ensemble's empty version folder."""
    files = {
        "py/1/model.py": PYTHON,
        "py/1/beside.py": b"TWO = 2",
        "py/factor.txt": b"5",
        "py/config.pbtxt": PYTHON_CONFIG,
        "py/warmup/raw": bytes(8),
        "whole/1/": b"",
        "whole/config.pbtxt": ENSEMBLE,
    }
    s3.put("bucket", {f"models/{path}": content for path, content in files.items()})
    with TritonProcess([s3.url("bucket/models")], tmp_path / "log", env=KEYS) as server:
        server.wait_ready()
        with http_client.InferenceServerClient(server.address) as client:
            given = http_client.InferInput("A", [2], "FP32")
            given.set_data_from_numpy(np.array([1, 2], np.float32))
            assert client.infer("whole", [given]).as_numpy("B").tolist() == [10, 20]
    assert "skipped" not in server.output()


@pytest.mark.clause("TR-L2")
def test_a_store_that_does_not_answer_at_the_start_is_told(s3: S3, tmp_path: Path) -> None:
    s3.stop()
    with TritonProcess([s3.url("bucket/models")], tmp_path / "log", env=KEYS) as server:
        assert server.wait() != 0
        assert f"s3://{s3.host}/bucket/models cannot be read" in server.output()
