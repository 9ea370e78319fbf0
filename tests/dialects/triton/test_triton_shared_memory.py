"""Shared memory with unmodified tritonclient, over HTTP and gRPC.

Rows TR-R14, TR-R15, TR-R21, TR-R22, TR-G4, TR-F11.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException, serialize_byte_tensor
from waiting import PATIENCE_S, until
from zoo import gauge, mlp_answer, wide, write_identity, write_mlp, write_two

from salver.testing.process import ServerProcess, free_port

ROWS = 5
X = np.linspace(-1, 1, ROWS * 16, dtype=np.float32).reshape(ROWS, 16)


@pytest.fixture(scope="module")
def sharing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder: Path = tmp_path_factory.mktemp("sharing")
    root = folder / "repository"
    write_mlp(root / "mlp", 1)
    write_two(root)
    write_identity(root, "BYTES")
    with ServerProcess([root], folder / "log", ["--allow-client-shm=true"]) as server:
        yield server.wait_ready()


@pytest.fixture(params=["http", "grpc"])
def triton(request: pytest.FixtureRequest) -> Any:
    return getattr(tritonclient, request.param)


@pytest.fixture
def client(triton: Any, sharing: ServerProcess) -> Iterator[Any]:
    with triton.InferenceServerClient(sharing.address) as client:
        yield client
        client.unregister_system_shared_memory()


class Segment:
    """One that tritonclient has made, with a name that nobody else has."""

    def __init__(self, size: int) -> None:
        self.key = f"/salver_{uuid.uuid4().hex[:12]}"
        self.handle = shm.create_shared_memory_region("s", self.key, size, create_only=True)
        self.path = Path("/dev/shm") / self.key[1:]


@pytest.fixture
def segment() -> Iterator[Segment]:
    segment = Segment(16_384)
    yield segment
    if segment.path.exists():
        shm.destroy_shared_memory_region(segment.handle)


def statuses(client: Any) -> list[dict[str, Any]]:
    """What is registered, in HTTP's form and by name: gRPC's is a map, which has no order."""
    found = client.get_system_shared_memory_status()
    if not isinstance(found, list):
        keys = ("name", "key", "offset", "byte_size")
        found = [{key: getattr(region, key) for key in keys} for region in found.regions.values()]
    return sorted(found, key=lambda region: region["name"])


def ask_mlp(triton: Any, client: Any, input_at: tuple[Any, ...], output_at: tuple[Any, ...]) -> Any:
    given = triton.InferInput("x", [ROWS, 16], "FP32")
    given.set_shared_memory(*input_at)
    wanted = triton.InferRequestedOutput("y")
    wanted.set_shared_memory(*output_at)
    return client.infer("mlp", [given], outputs=[wanted], request_id="i")


@pytest.mark.clause("TR-R14", "TR-G4")
def test_register_infer_read_and_let_go(triton: Any, client: Any, segment: Segment) -> None:
    shm.set_shared_memory_region(segment.handle, [X])
    client.register_system_shared_memory("in", segment.key, 8192)
    client.register_system_shared_memory("out", segment.key, 4096, offset=8192)
    assert statuses(client) == [
        {"name": "in", "key": segment.key, "offset": 0, "byte_size": 8192},
        {"name": "out", "key": segment.key, "offset": 8192, "byte_size": 4096},
    ]
    result = ask_mlp(triton, client, ("in", X.nbytes), ("out", ROWS * 3 * 4, 64))
    output = result.get_output("y")
    assert (output["shape"] if isinstance(output, dict) else list(output.shape)) == [ROWS, 3]
    found = shm.get_contents_as_numpy(segment.handle, np.float32, [ROWS, 3], offset=8192 + 64)
    np.testing.assert_allclose(found, mlp_answer(X), rtol=1e-5, atol=1e-6)
    client.unregister_system_shared_memory("in")
    assert [s["name"] for s in statuses(client)] == ["out"]
    with pytest.raises(InferenceServerException, match="Unable to find shared memory region: 'in'"):
        ask_mlp(triton, client, ("in", X.nbytes), ("out", ROWS * 3 * 4))
    client.unregister_system_shared_memory()
    assert statuses(client) == []


def test_an_output_beside_its_reply(triton: Any, client: Any, segment: Segment) -> None:
    """One output in shared memory and one in the body; the input comes as it always does."""
    values, given = wide(triton)
    client.register_system_shared_memory("r", segment.key, 16_384)
    same, double = triton.InferRequestedOutput("same"), triton.InferRequestedOutput("double")
    same.set_shared_memory("r", values.nbytes)
    result = client.infer("two", [given], outputs=[same, double])
    np.testing.assert_array_equal(result.as_numpy("double"), values * 2)
    found = shm.get_contents_as_numpy(segment.handle, values.dtype, values.shape)
    np.testing.assert_array_equal(found, values)


def test_strings(triton: Any, client: Any, segment: Segment) -> None:
    values = np.array([b"a", b"", "grüße".encode()], dtype=object)
    serialized = serialize_byte_tensor(values)
    shm.set_shared_memory_region(segment.handle, [serialized])
    client.register_system_shared_memory("r", segment.key, 8192)
    size = len(serialized.item())
    given = triton.InferInput("x", [1, 3], "BYTES")
    given.set_shared_memory("r", size)
    wanted = triton.InferRequestedOutput("y")
    wanted.set_shared_memory("r", 100, 4096)
    client.infer("identity_bytes", [given], outputs=[wanted])
    found = shm.get_contents_as_numpy(segment.handle, np.object_, [3], offset=4096)
    assert found.tolist() == values.tolist()


def test_errors_of_registering(client: Any, segment: Segment) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.register_system_shared_memory("r", "/salver_no_such_segment", 8)
    text = caught.value.message()
    assert text.startswith("Unable to open shared memory region: '/salver_no_such_segment'. Region 'r' ")
    assert "8 bytes" in text and "not in this server's /dev/shm" in text and "--ipc=host" in text
    assert caught.value.status() in ("500", "StatusCode.INTERNAL")
    with pytest.raises(InferenceServerException, match=r"failed to register .* region 'r': invalid args"):
        client.register_system_shared_memory("r", segment.key, 16_385)
    client.register_system_shared_memory("r", segment.key, 64)
    with pytest.raises(InferenceServerException, match="region 'r' already in manager") as caught:
        client.register_system_shared_memory("r", segment.key, 64)
    assert caught.value.status() in ("400", "StatusCode.ALREADY_EXISTS")
    with pytest.raises(InferenceServerException, match="key of shared memory region 'p'"):
        client.register_system_shared_memory("p", "/../proc/self/mem", 64)
    with pytest.raises(InferenceServerException, match=r"Unable to find system .*: 'nosuch'"):
        client.get_system_shared_memory_status("nosuch")
    client.unregister_system_shared_memory("nosuch")


@pytest.mark.clause("TR-R14", "TR-G4")
def test_segments_that_shrink_vanish_or_lie_never_end_the_server(
    triton: Any, client: Any, segment: Segment, sharing: ServerProcess
) -> None:
    shm.set_shared_memory_region(segment.handle, [X])
    client.register_system_shared_memory("r", segment.key, 16_384)
    os.truncate(segment.path, 100)  # a mapping would now end the process with SIGBUS
    for places in ((("r", X.nbytes), ("r", 60, 8192)), (("r", X.nbytes, 8192), ("r", 60))):
        with pytest.raises(InferenceServerException, match="region 'r' is not whole any more") as caught:
            ask_mlp(triton, client, *places)
        assert segment.key in caught.value.message() and "100 bytes now" in caught.value.message()
    assert segment.path.stat().st_size == 100
    os.truncate(segment.path, 16_384)
    with pytest.raises(InferenceServerException, match="should be at least 60 bytes to hold the results"):
        ask_mlp(triton, client, ("r", X.nbytes), ("r", 59, 8192))
    segment.path.unlink()  # the server holds it open
    ask_mlp(triton, client, ("r", X.nbytes), ("r", 60, 8192))
    assert client.is_server_ready()
    client.unregister_system_shared_memory("r")
    held = Path(f"/proc/{sharing.pid}/fd").iterdir()
    assert not [fd for fd in held if "/dev/shm" in str(fd.readlink())]


@pytest.mark.clause("TR-R15")
def test_there_is_no_cuda_memory(triton: Any, client: Any) -> None:
    found = client.get_cuda_shared_memory_status()
    assert not (found if isinstance(found, list) else found.regions)
    with pytest.raises(InferenceServerException, match="Unable to find cuda shared memory region: 'r'"):
        client.get_cuda_shared_memory_status("r")
    text = "failed to register CUDA shared memory region: 'r', GPUs not supported"
    with pytest.raises(InferenceServerException, match=text) as caught:
        client.register_cuda_shared_memory("r", b"AAAA", 0, 8)
    assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")
    client.unregister_cuda_shared_memory("r")
    client.unregister_cuda_shared_memory()


def test_it_is_an_extension_where_it_is_allowed(client: Any, sharing: ServerProcess) -> None:
    found = client.get_server_metadata()
    assert "system_shared_memory" in (found["extensions"] if isinstance(found, dict) else found.extensions)
    status, body = sharing.ask("POST", "/v2/systemsharedmemory/region/r/register", b'{"key":"/k","offset":0}')
    assert (status, json.loads(body)["error"]) == (
        400,
        "Shared memory register request has no 'byte_size' field",
    )
    assert sharing.ask("POST", "/v2/systemsharedmemory/unregister") == (200, b"")


@pytest.mark.clause("TR-F11")
def test_it_is_off_unless_asked_for(triton: Any, server: ServerProcess, segment: Segment) -> None:
    text = "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
    with triton.InferenceServerClient(server.address) as client:
        assert statuses(client) == []
        for use in (
            lambda: client.register_system_shared_memory("r", segment.key, 64),
            lambda: client.unregister_system_shared_memory(),
            lambda: ask_mlp(triton, client, ("r", X.nbytes), ("r", 60)),
        ):
            with pytest.raises(InferenceServerException) as caught:
                use()
            assert caught.value.message() == text
            assert caught.value.status() in ("501", "StatusCode.UNIMPLEMENTED")
        found = client.get_server_metadata()
        extensions = found["extensions"] if isinstance(found, dict) else found.extensions
        assert "system_shared_memory" not in extensions


GATED = """
import os
import time
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        while os.path.exists("GATE"):
            time.sleep(0.002)
        xs = [pb_utils.get_input_tensor_by_name(r, "x").as_numpy() for r in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", x * 2)]) for x in xs]
"""
FP32 = '[{ name: "%s" data_type: TYPE_FP32 dims: [-1] }]'


@pytest.mark.clause("TR-R14", "TR-G4")
@pytest.mark.parametrize("way", ["http", "grpc", "stream"])
def test_what_is_unregistered_while_requests_use_it_stays_until_they_end(
    way: str, tmp_path: Path, segment: Segment
) -> None:
    gate = tmp_path / "gate"
    (tmp_path / "models" / "gated" / "1").mkdir(parents=True)
    (tmp_path / "models" / "gated" / "1" / "model.py").write_text(GATED.replace("GATE", str(gate)))
    config = f'backend: "python"\ninput {FP32 % "x"}\noutput {FP32 % "y"}\n'
    (tmp_path / "models" / "gated" / "config.pbtxt").write_text(config)
    gate.touch()
    triton = tritonclient.http if way == "http" else tritonclient.grpc
    shm.set_shared_memory_region(segment.handle, [X])
    given = triton.InferInput("x", [4], "FP32")
    given.set_shared_memory("in", 16)
    wanted = triton.InferRequestedOutput("y")
    wanted.set_shared_memory("out", 16)
    found: queue.Queue[Any] = queue.Queue()
    server = ServerProcess([tmp_path / "models"], tmp_path / "log", ["--allow-client-shm=true"])
    with (
        server,
        tritonclient.grpc.InferenceServerClient(server.wait_ready().address) as admin,
        triton.InferenceServerClient(
            server.address, **({"concurrency": 2} if way == "http" else {})
        ) as client,
    ):
        admin.register_system_shared_memory("in", segment.key, 4096)
        admin.register_system_shared_memory("out", segment.key, 4096, offset=8192)
        asking = []
        if way == "stream":
            client.start_stream(lambda result, error: found.put(error or result))
        for _ in range(2):
            if way == "http":
                asking.append(client.async_infer("gated", [given], outputs=[wanted]))
            elif way == "grpc":
                tell = lambda result, error: found.put(error or result)  # noqa: E731
                client.async_infer("gated", [given], tell, outputs=[wanted])
            else:
                client.async_stream_infer("gated", [given], outputs=[wanted])
            until(lambda: gauge(server, "gated", "running_batches") == 1, server.output)
        until(lambda: gauge(server, "gated", "queue_depth") == 1, server.output)
        admin.unregister_system_shared_memory()
        assert [s["name"] for s in statuses(admin)] == ["in", "out"]
        gate.unlink()
        results = [each.get_result() for each in asking] or [found.get(timeout=PATIENCE_S) for _ in range(2)]
        assert not any(isinstance(result, Exception) for result in results)
        until(lambda: statuses(admin) == [], server.output)
        if way == "stream":
            client.stop_stream()
    answer = shm.get_contents_as_numpy(segment.handle, np.float32, [4], offset=8192)
    np.testing.assert_array_equal(answer, X.ravel()[:4] * 2)


def test_over_a_stream(sharing: ServerProcess, segment: Segment) -> None:
    shm.set_shared_memory_region(segment.handle, [X])
    found: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(sharing.address) as client:
        client.register_system_shared_memory("r", segment.key, 16_384)
        client.start_stream(lambda result, error: found.put((result, error)))
        given = tritonclient.grpc.InferInput("x", [ROWS, 16], "FP32")
        given.set_shared_memory("r", X.nbytes)
        for region in ("r", "nosuch"):
            wanted = tritonclient.grpc.InferRequestedOutput("y")
            wanted.set_shared_memory(region, 60, 8192)
            client.async_stream_infer("mlp", [given], outputs=[wanted])
        result, error = found.get(timeout=PATIENCE_S)
        assert error is None and list(result.get_output("y").shape) == [ROWS, 3]
        result, error = found.get(timeout=PATIENCE_S)
        assert "Unable to find shared memory region: 'nosuch'" in str(error)
        client.stop_stream()
        client.unregister_system_shared_memory()
    answer = shm.get_contents_as_numpy(segment.handle, np.float32, [ROWS, 3], offset=8192)
    np.testing.assert_allclose(answer, mlp_answer(X), rtol=1e-5, atol=1e-6)


@pytest.mark.clause("TR-F11")
def test_with_tritonservers_flags(tmp_path: Path, segment: Segment) -> None:
    """TR-F11 as tritonserver spells it."""
    write_mlp(tmp_path / "repository" / "mlp", 1)
    port = free_port()
    ports = [f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false"]
    command = [str(Path(sys.executable).with_name("salver")), "serve", "--compat", "triton", *ports]
    command += [f"--model-repository={tmp_path / 'repository'}", "--allow-client-shm=true", "--state-dir="]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            with tritonclient.http.InferenceServerClient(f"127.0.0.1:{port}") as client:

                def is_ready() -> bool:
                    with contextlib.suppress(OSError):
                        return bool(client.is_server_ready())
                    return False

                until(is_ready)
                client.register_system_shared_memory("r", segment.key, 64)
                assert [s["name"] for s in statuses(client)] == ["r"]
        finally:
            server.terminate()
        assert server.wait() == 0
