"""``model_warmup`` on a real server: first requests of each instance, and loads that fail."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException
from waiting import until
from zoo import write_mlp

from salver.testing.process import ServerProcess, TritonProcess

#: Says what it was asked before this request: for each run, each input.
DIARY = """
import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.seen = []

    def execute(self, requests):
        told = np.array([json.dumps(self.seen).encode()], object)
        answers = []
        for request in requests:
            n = pb_utils.get_input_tensor_by_name(request, "N").as_numpy()
            s = pb_utils.get_input_tensor_by_name(request, "S").as_numpy()
            self.seen.append([n.tolist(), [x.decode() for x in s.ravel().tolist()]])
            if n.max() > 99:
                answers.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("An Error Occurred")))
                continue
            answer = pb_utils.Tensor("TOLD", np.repeat(told[None], len(n), 0))
            answers.append(pb_utils.InferenceResponse([answer]))
        return answers
"""
CONFIG = """
backend: "python" max_batch_size: 8
input [ { name: "N" data_type: TYPE_FP32 dims: -1 }, { name: "S" data_type: TYPE_STRING dims: 1 } ]
output { name: "TOLD" data_type: TYPE_STRING dims: 1 }
instance_group { count: 2 }
"""


def told(name: str, dims: str, source: str, kind: str = "FP32") -> str:
    return f'inputs {{ key: "{name}" value {{ data_type: TYPE_{kind} dims: [{dims}] {source} }} }}'


def file(name: str, dims: str) -> str:
    return told("N", dims, f'input_data_file: "{name}"')


S = told("S", "1", "zero_data: true", "STRING")
#: By model: its samples; and the text of the load that fails, or none.
SAMPLES: dict[str, tuple[str, str]] = {
    "diary": (
        f'model_warmup [ {{ name: "zeros" batch_size: 2 {told("N", "2", "zero_data: true")} {S} }},'
        f' {{ name: "skipped" batch_size: 0 {told("N", "9", "zero_data: true")} {S} }},'
        ' { name: "files" batch_size: 1 count: 2 '
        + file("numbers.bin", "3")
        + told("S", "1", 'input_data_file: "deep/texts.bin"', "STRING")
        + " } ]",
        "",
    ),
    "random": (f'model_warmup {{ name: "r" batch_size: 1 {told("N", "4", "random_data: true")} {S} }}', ""),
    "failing": (
        'model_warmup { name: "zero sample" batch_size: 1 ' + file("large.bin", "1") + S + " }",
        "failed to run warmup sample 'zero sample': An Error Occurred;",
    ),
    "short": (
        'model_warmup { name: "s" batch_size: 1 ' + file("numbers.bin", "9") + S + " }",
        "warmup setting expects 36 bytes, but the data provided from numbers.bin only has 16 bytes",
    ),
    "absent": (
        'model_warmup { name: "s" batch_size: 1 ' + file("none.bin", "1") + S + " }",
        "No such file or directory",
    ),
    "outside": (
        'model_warmup { name: "s" batch_size: 1 ' + file("../1/model.py", "1") + S + " }",
        "leads out of the store",
    ),
    "free": (
        f'model_warmup {{ name: "s" batch_size: 1 {told("N", "-1", "zero_data: true")} {S} }}',
        "warmup setting expects all variable-size dimensions are specified for input 'N'",
    ),
    "unset": (
        f'model_warmup {{ name: "s" batch_size: 1 {told("N", "1", "")} {S} }}',
        "warmup setting expects input 'N' to have input_data_type set",
    ),
    "lacking": (
        f'model_warmup {{ name: "s" batch_size: 1 {told("N", "1", "zero_data: true")} }}',
        "are missing",
    ),
    "typed": (
        f'model_warmup {{ name: "s" batch_size: 1 {told("N", "1", "zero_data: true", "INT32")} {S} }}',
        "data-type is 'INT32', but model 'typed' expects 'FP32'",
    ),
}


def packed(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    folder = tmp_path_factory.mktemp("warm")
    root = folder / "models"
    for name, (samples, _) in SAMPLES.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.py").write_text(DIARY)
        (root / name / "config.pbtxt").write_text(CONFIG + samples)
        (root / name / "warmup" / "deep").mkdir(parents=True)
        (root / name / "warmup" / "numbers.bin").write_bytes(np.array([1, 2, 3, 4], "<f4").tobytes())
        (root / name / "warmup" / "large.bin").write_bytes(np.array([100], "<f4").tobytes())
        (root / name / "warmup" / "deep" / "texts.bin").write_bytes(packed(b"hello"))
    options = ("--model-control-mode=explicit",)
    with TritonProcess([root], folder / "log", options) as server:
        yield server.wait_ready()


def ask(server: ServerProcess, model: str) -> list[Any]:
    inputs = [triton_http.InferInput("N", [1, 1], "FP32"), triton_http.InferInput("S", [1, 1], "BYTES")]
    inputs[0].set_data_from_numpy(np.ones((1, 1), np.float32))
    inputs[1].set_data_from_numpy(np.array([["x"]], object))
    with triton_http.InferenceServerClient(server.address) as client:
        found: list[Any] = json.loads(client.infer(model, inputs).as_numpy("TOLD")[0, 0])
        return found


def load(server: ServerProcess, model: str) -> None:
    with triton_http.InferenceServerClient(server.address, network_timeout=60) as client:
        client.load_model(model)


@pytest.mark.clause("TR-C13", "TR-S13")
def test_every_instance_runs_every_sample(triton: TritonProcess) -> None:
    """In their order, as often and in as many rows as they say; a batch of 0 is none."""
    load(triton, "diary")
    zeros = [[[0, 0], [0, 0]], ["", ""]]
    files = [[[1, 2, 3]], ["hello"]]
    own = [[[1]], ["x"]]
    assert ask(triton, "diary") == [zeros, files, files]
    second = ask(triton, "diary")
    assert second in ([zeros, files, files], [zeros, files, files, own])  # of the other instance or this


@pytest.mark.clause("TR-C13")
def test_random_data_are_numbers(triton: TritonProcess) -> None:
    load(triton, "random")
    (((row,), texts),) = ask(triton, "random")
    assert len(set(row)) == 4
    assert all(0 <= value < 1 for value in row)
    assert texts == [""]


@pytest.mark.clause("TR-C13")
@pytest.mark.parametrize("name", [name for name, (_, error) in SAMPLES.items() if error])
def test_a_sample_that_cannot_be_run_fails_the_load(name: str, triton: TritonProcess) -> None:
    with pytest.raises(InferenceServerException) as caught:
        load(triton, name)
    assert SAMPLES[name][1] in caught.value.message()
    with triton_http.InferenceServerClient(triton.address) as client:
        assert not client.is_model_ready(name)


@pytest.mark.clause("TR-S13")
@pytest.mark.parametrize(
    ("shape", "error"),
    [([16], ""), ([4], "unexpected shape for input 'x' for model 'mlp'. Expected [-1,16]")],
)
def test_salvers_own_samples(shape: list[int], error: str, tmp_path: Path) -> None:
    for name in ("mlp", "other"):  # a server ends if none of its models has loaded
        write_mlp(tmp_path / "models" / name, 1)
    given = f'{{ datatype = "FP32", shape = {shape} }}'
    sample = f'[[warmup.samples]]\nname = "own"\nrows = 3\ninputs.x = {given}\n'
    (tmp_path / "models" / "mlp" / "salver.toml").write_text(sample)
    with ServerProcess([tmp_path / "models"], tmp_path / "log") as server:
        server.wait_for("/v2/health/live")
        if not error:
            server.wait_ready()
            return

        def reason() -> str:
            rows = json.loads(server.ask("POST", "/v2/repository/index")[1])
            return "".join(row.get("reason", "") for row in rows if row["state"] == "UNAVAILABLE")

        assert f"failed to run warmup sample 'own': {error}" in until(reason)
