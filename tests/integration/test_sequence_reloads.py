"""Models that remember, loaded anew under callers in the middle of a sequence (TR-S4, TR-L4)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException
from waiting import until

from salver.testing.process import ServerProcess

CONFIG = """
backend: "python"
max_batch_size: 4
input { name: "IN" data_type: TYPE_INT32 dims: [1] }
output { name: "SUM" data_type: TYPE_INT32 dims: [1] }
parameters { key: "offset" value { string_value: "%d" } }
sequence_batching { max_sequence_idle_microseconds: 20000000 }
"""
MODEL = """
import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.offset = int(json.loads(args["model_config"])["parameters"]["offset"]["string_value"])
        self.sums = {}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        id = request.correlation_id()
        value = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy().item()
        if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
            self.sums[id] = self.offset
        self.sums[id] += value
        return pb_utils.InferenceResponse([pb_utils.Tensor("SUM", np.array([[self.sums[id]]], np.int32))])
"""


def write(root: Path, generation: int) -> None:
    """Sums that begin with so many thousands."""
    folder = root / "sums" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(MODEL)
    (root / "sums" / "config.pbtxt").write_text(CONFIG % (1000 * generation))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "repository", 0)
    return tmp_path / "repository"


@pytest.fixture
def server(root: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    options = ["--control", "explicit", "--load", "sums"]
    with ServerProcess([root], tmp_path / "log", options) as server:
        yield server.wait_ready()


def ask(client: Any, id: int, value: int, flags: str = "", version: str = "") -> int:
    module = triton_http if isinstance(client, triton_http.InferenceServerClient) else triton_grpc
    given = module.InferInput("IN", [1, 1], "INT32")
    given.set_data_from_numpy(np.array([[value]], np.int32))
    answer = client.infer(
        "sums",
        [given],
        version,
        sequence_id=id,
        sequence_start="s" in flags,
        sequence_end="e" in flags,
    )
    return int(answer.as_numpy("SUM").item())


@pytest.mark.clause("TR-S4")
def test_sequences_outlive_reloads_of_their_model(server: ServerProcess, root: Path) -> None:
    """Of three generations at once, each sequence is answered by its own, over either protocol."""
    address = server.address
    with (
        triton_http.InferenceServerClient(address) as http,
        triton_grpc.InferenceServerClient(address) as grpc,
    ):
        one = len(server.family())
        for generation in range(3):
            if generation:
                write(root, generation)
                http.load_model("sums")
                assert len(server.family()) == one + generation
            assert ask(http, 10 + generation, 1, "s") == 1000 * generation + 1
        for client in (http, grpc):
            for generation in range(3):
                assert ask(client, 10 + generation, 0) == 1000 * generation + 1
                assert ask(client, 10 + generation, 0, version="1") == 1000 * generation + 1
        assert ask(grpc, 11, 5, "e") == 1006
        with pytest.raises(InferenceServerException, match=r"sequence 11 .* must specify the START flag"):
            ask(http, 11, 5)
        assert ask(http, 10, 6, "e") == 7
        assert ask(http, 10, 6, "s") == 2006
        assert ask(grpc, 12, 7, "e") == 2008

        ask(http, 10, 0, "e")
        until(lambda: len(server.family()) == one)  # the host processes of the others have ended
        http.unload_model("sums")
        with pytest.raises(InferenceServerException, match="Request for unknown model: 'sums'"):
            ask(http, 10, 6)


@pytest.mark.clause("TR-L6")
def test_a_server_that_stops_does_not_wait_for_sequences(server: ServerProcess, root: Path) -> None:
    with triton_http.InferenceServerClient(server.address) as http:
        ask(http, 1, 1, "s")
        write(root, 1)
        http.load_model("sums")
        ask(http, 2, 1, "s")
    assert server.stop() == 0
