"""What callers read when a plain ``salver serve`` refuses them: Salver's own words, and none of Triton's."""

import json
import queue
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE_S
from zoo import write_identity, write_mlp

from salver.testing.process import ServerProcess, TritonProcess

TRITONS = re.compile(
    r"request id:|id_unknown|max_batch_size|model config|config\.pbtxt|--http-|poll from model repository"
    r"|compat|polling is enabled|transaction policy|attempt to access JSON|--log_format"
)
ONE = np.zeros((1, 16), np.float32)
#: Inputs of the model ``mlp`` that it does not take, and what is said of them.
WRONG: list[tuple[dict[str, np.ndarray], str]] = [
    ({"x": ONE[0]}, "Axis 0 counts the rows of the batch. For one row send the shape [1, 16]."),
    ({"x": ONE[:, :5]}, "Expected [-1,16], got [1,5]. Axis 0 counts the rows of the batch."),
    ({"x": ONE[:0]}, "batch-size must be >= 1"),
    ({"x": ONE.astype("i4")}, "data-type is 'INT32'"),
    ({"y": ONE}, "unexpected inference input 'y' for model 'mlp'. It takes: x FP32[-1,16]"),
    ({"x": ONE, "y": ONE}, "Got input(s) ['y','x']"),
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("plain")
    write_mlp(folder / "models" / "mlp", 1)
    write_identity(folder / "models", "BYTES")
    with ServerProcess([folder / "models"], folder / "log", ["--max-body-mb", "1"]) as server:
        yield server.wait_ready()


def told(call: Any) -> str:
    with pytest.raises(InferenceServerException) as caught:
        call()
    return str(caught.value.message())


def asked(triton: Any, arrays: dict[str, np.ndarray], **form: bool) -> list[Any]:
    kinds = {"f": "FP32", "i": "INT32"}
    inputs = []
    for name, array in arrays.items():
        given = triton.InferInput(name, list(array.shape), kinds[array.dtype.kind])
        given.set_data_from_numpy(array, **form)
        inputs.append(given)
    return inputs


@pytest.mark.parametrize("way", ["json", "binary", "grpc", "stream"])
@pytest.mark.parametrize(("arrays", "text"), WRONG)
def test_what_does_not_fit_the_model(
    way: str, arrays: dict[str, np.ndarray], text: str, plain: ServerProcess
) -> None:
    if way == "stream":
        found: queue.Queue[Any] = queue.Queue()
        with tritonclient.grpc.InferenceServerClient(plain.address) as client:
            client.start_stream(lambda result, error: found.put(error or result))
            client.async_stream_infer("mlp", asked(tritonclient.grpc, arrays))
            said = str(found.get(timeout=PATIENCE_S))
            client.stop_stream()
    else:
        triton = tritonclient.grpc if way == "grpc" else tritonclient.http
        form = {} if way == "grpc" else {"binary_data": way == "binary"}
        with triton.InferenceServerClient(plain.address) as client:
            said = told(lambda: client.infer("mlp", asked(triton, arrays, **form), request_id="r"))
    assert text in said
    assert not TRITONS.search(said)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v2/models/mlp/infer", {"inputs": []}, 400),
        ("/v2/models/mlp/infer", {"inputs": [1] * 600_000}, 400),
        ("/v2/models/mlp/generate", {"x": "1"}, 400),
        ("/v2/models/nosuch/infer", {"inputs": []}, 404),
        ("/v2/repository/models/mlp/load", {}, 503),
        ("/v2/repository/models/mlp/unload", {}, 503),
        ("/v2/logging", {"log_info": 1}, 400),
        ("/v2/logging", {"log_format": "fancy"}, 400),
        ("/v2/trace/setting", {"trace_level": 1}, 400),
        ("/v2/trace/setting", {"trace_rate": 1}, 400),
        ("/v1/models/mlp:predict", {"instances": [[1]]}, 400),
    ],
)
def test_what_the_server_does_not_do(path: str, body: Any, status: int, plain: ServerProcess) -> None:
    found, reply = plain.post(path, body)
    assert found == status, reply
    assert not TRITONS.search(json.dumps(reply))


@pytest.mark.clause("TR-R30")
def test_under_compat_triton_they_are_tritons(tmp_path: Any) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    with TritonProcess([tmp_path / "models"], tmp_path / "log", ["--http-max-input-size=2000"]) as server:
        server.wait_ready()
        with tritonclient.grpc.InferenceServerClient(f"{server.host}:{server.ports['grpc']}") as client:
            said = told(lambda: client.infer("mlp", asked(tritonclient.grpc, {"x": ONE[0]})))
        assert said.startswith("[request id: <id_unknown>] unexpected shape for input 'x' for model 'mlp'.")
        assert "NOTE: Setting a non-zero max_batch_size in the model config" in said
        status, reply = server.post("/v2/models/mlp/infer", {"inputs": [1] * 2000})
        assert status == 400
        assert reply["error"].endswith("bytes. Use --http-max-input-size to increase the limit.")
