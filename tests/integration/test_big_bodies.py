"""Requests of hundreds of megabytes: that they are answered, and what they cost in memory."""

import http.client
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from programs import program
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE_S

from salver.testing.process import ServerProcess

BODY, MESSAGE = 300_000_000, 200_000_000
MODEL = """
class Model:
    inputs = {"x": ("UINT8", [-1])}
    outputs = {"sum": ("UINT64", [1])}
    batched = False

    def predict(self, inputs):
        return {"sum": inputs["x"].sum(dtype="uint64", keepdims=True)}
"""


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("big")
    (folder / "total.py").write_text(MODEL)
    (folder / "body").write_bytes(bytes(range(250)) * (BODY // 250))
    options = ["--max-body-mb=320", "--max-message-mb=210", "--state-dir="]
    with ServerProcess([folder / "total.py"], folder / "log", options, cwd=folder) as server:
        yield server.wait_ready()


def high_water(server: ServerProcess) -> int:
    """Most bytes that the main process has had resident."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def total(size: int) -> int:
    return sum(range(250)) * (size // 250)


@pytest.mark.clause("TR-R29")
@pytest.mark.parametrize("way", ["of known size", "in chunks", "over HTTP/2"])
def test_a_body_of_300_megabytes(big: ServerProcess, way: str, tmp_path: Path) -> None:
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "UINT8",
                    "shape": [BODY],
                    "parameters": {"binary_data_size": BODY},
                }
            ]
        }
    ).encode()
    (tmp_path / "head").write_bytes(head)
    flags = {
        "of known size": ["--data-binary", f"@{tmp_path / 'whole'}"],
        "in chunks": ["-H", "Transfer-Encoding: chunked", "-X", "POST", "-T", "-"],
        "over HTTP/2": ["--http2-prior-knowledge", "--data-binary", f"@{tmp_path / 'whole'}"],
    }[way]
    with (tmp_path / "whole").open("wb") as file:
        subprocess.run(["cat", tmp_path / "head", big._cwd / "body"], stdout=file, check=True)
    before = high_water(big)
    with (tmp_path / "whole").open("rb") as file:
        done = subprocess.run(
            [
                program("curl"), "-sS", "-H", f"Inference-Header-Content-Length: {len(head)}", *flags,
                f"{big.url}/v2/models/total/infer",
            ],
            stdin=file, capture_output=True, timeout=150,
        )  # fmt: skip
    assert json.loads(done.stdout)["outputs"][0]["data"] == [total(BODY)], done.stderr
    # The body, and what is handed to the process of the model.
    assert high_water(big) - before < 2.4 * BODY


@pytest.mark.clause("TR-R37")
def test_a_body_over_the_limit_is_refused_before_it_is_sent(big: ServerProcess) -> None:
    connection = http.client.HTTPConnection(big.host, big.port, timeout=PATIENCE_S)
    connection.putrequest("POST", "/v2/models/total/infer")
    connection.putheader("Content-Length", str(400 << 20))
    connection.endheaders()
    connection.send(b"{")
    reply = connection.getresponse()
    assert reply.status == 400
    assert json.loads(reply.read())["error"].startswith(
        f"request JSON size of {400 << 20} bytes exceeds the maximum allowed input size of "
        f"{320 << 20} bytes. Use --max-body-mb to increase the limit."
    )
    connection.close()


@pytest.mark.clause("TR-G12")
def test_a_message_of_200_megabytes(big: ServerProcess) -> None:
    given = triton_grpc.InferInput("x", [MESSAGE], "UINT8")
    given.set_data_from_numpy(np.tile(np.arange(250, dtype=np.uint8), MESSAGE // 250))
    before = high_water(big)
    with triton_grpc.InferenceServerClient(big.address) as client:
        assert client.infer("total", [given]).as_numpy("sum").tolist() == [total(MESSAGE)]
    assert high_water(big) - before < 5 * MESSAGE


@pytest.mark.clause("TR-G12")
def test_a_message_over_the_limit(big: ServerProcess) -> None:
    given = triton_grpc.InferInput("x", [220 << 20], "UINT8")
    given.set_data_from_numpy(np.zeros(220 << 20, np.uint8))
    with triton_grpc.InferenceServerClient(big.address) as client:
        with pytest.raises(InferenceServerException, match="Received message larger than max") as raised:
            client.infer("total", [given])
        assert raised.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        assert client.is_server_live()


@pytest.mark.clause("TR-R29")
def test_the_default_limit_is_64_mib(tmp_path: Path) -> None:
    (tmp_path / "total.py").write_text(MODEL)
    with ServerProcess([tmp_path / "total.py"], tmp_path / "log", ["--state-dir="]) as server:
        server.wait_ready()
        given = triton_http.InferInput("x", [65 << 20], "UINT8")
        given.set_data_from_numpy(np.zeros(65 << 20, np.uint8))
        with (
            triton_http.InferenceServerClient(server.address, network_timeout=60) as client,
            pytest.raises(InferenceServerException, match=f"maximum allowed input size of {64 << 20} bytes"),
        ):
            client.infer("total", [given])
