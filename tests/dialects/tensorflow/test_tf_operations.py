"""``salver serve --compat tensorflow-serving`` as a process: ports, files, base paths, labels, batching."""

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import savedmodels
import trustme
from certificates import files_of
from forked_hosts import EXECUTED
from s3 import KEYS, s3_server
from waiting import PATIENCE_S, until
from zoo import gauge, mlp_answer, write_constant, write_mlp

from salver.testing.process import TensorFlowServingProcess

ROW = np.linspace(-1, 1, 16, dtype=np.float32)[None]
LIVE = "/inference.GRPCInferenceService/ServerLive"
SLOW = """
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        time.sleep(1.5)

    def execute(self, requests):
        return [pb_utils.InferenceResponse([]) for _ in requests]
"""
SLOW_CONFIG = """
backend: "python"
input { name: "IN" data_type: TYPE_INT32 dims: 1 }
output { name: "OUT" data_type: TYPE_INT32 dims: 1 }
"""


def listed(*models: str) -> str:
    """A ModelServerConfig."""
    each = (f"config {{ {model} model_platform: 'tensorflow' }}" for model in models)
    return f"model_config_list {{ {' '.join(each)} }}"


def infer(server: TensorFlowServingProcess, model: str, version: str = "", rows: int = 1) -> tuple[int, Any]:
    path = f"/v2/models/{model}{f'/versions/{version}' if version else ''}/infer"
    data = np.tile(ROW, (rows, 1))
    body = {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": list(data.shape), "data": data.ravel().tolist()}
        ]
    }
    return server.post(path, body)


def answer(server: TensorFlowServingProcess, model: str, version: str = "") -> tuple[str, float]:
    """Which version answered, and what."""
    status, reply = infer(server, model, version)
    assert status == 200, reply
    return reply["model_version"], reply["outputs"][0]["data"][0]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., TensorFlowServingProcess]]:
    running: list[TensorFlowServingProcess] = []

    def run(
        *options: str, path: str = "/v2/health/ready", env: dict[str, str] | None = None
    ) -> TensorFlowServingProcess:
        server = TensorFlowServingProcess(tmp_path / "log", ["--state_dir=", *options], env)
        server.start()
        running.append(server)
        server.wait_for(path)
        return server

    yield run
    for server in running:
        server.stop()


Start = Callable[..., TensorFlowServingProcess]


@pytest.mark.clause("TF-F4", "TF-L1")
def test_a_model_by_name_and_base_path(start: Start, tmp_path: Path) -> None:
    write_mlp(tmp_path / "any", 7)
    server = start("--model_name=mine", f"--model_base_path={tmp_path / 'any'}")
    status, reply = infer(server, "mine")
    assert (status, reply["model_version"]) == (200, "7")
    np.testing.assert_allclose(reply["outputs"][0]["data"], mlp_answer(ROW).ravel(), rtol=1e-5)
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        assert channel.unary_unary(LIVE)(b"", timeout=PATIENCE_S) == b"\x08\x01"
    with grpc.insecure_channel(server.address) as channel:
        assert channel.unary_unary(LIVE)(b"", timeout=PATIENCE_S) == b"\x08\x01", (
            "the REST port carries everything"
        )


@pytest.mark.clause("TF-F22")
def test_the_environment_names_the_model(start: Start, tmp_path: Path) -> None:
    write_mlp(tmp_path / "mlp", 1)
    server = start(env={"MODEL_NAME": "mlp", "MODEL_BASE_PATH": str(tmp_path)})
    assert infer(server, "mlp")[0] == 200


@pytest.mark.clause("TF-L5")
def test_doors_open_when_each_model_is_there_or_has_failed(tmp_path: Path) -> None:
    (tmp_path / "slow" / "1").mkdir(parents=True)
    (tmp_path / "slow" / "1" / "model.py").write_text(SLOW)
    (tmp_path / "slow" / "config.pbtxt").write_text(SLOW_CONFIG)
    (tmp_path / "torn" / "1").mkdir(parents=True)
    (tmp_path / "torn" / "1" / "model.onnx").write_bytes(b"\x08\x09torn")
    names = ("slow", "torn", "nowhere")
    models = listed(*(f"name: '{name}' base_path: '{tmp_path / name}'" for name in names))
    (tmp_path / "models.config").write_text(models)
    server = TensorFlowServingProcess(
        tmp_path / "log", [f"--model_config_file={tmp_path / 'models.config'}", "--state_dir="]
    )
    server.start()
    try:
        server.wait_for("/v2/health/live")
        assert server.get("/v2/models/slow/ready")[0] == 200, "nobody was answered before it was there"
        assert server.get("/v2/models/torn/ready")[0] != 200
        assert "Could not find base path" in server.output()
    finally:
        server.stop()


@pytest.mark.clause("TF-L3")
def test_a_model_whose_base_path_is_not_there_keeps_the_server_unready(start: Start, tmp_path: Path) -> None:
    write_constant(tmp_path, 1)
    (tmp_path / "late").mkdir()
    places = (("c", tmp_path / "constant"), ("late", tmp_path / "late" / "constant"))
    (tmp_path / "models.config").write_text(
        listed(*(f"name: '{n}' base_path: '{path}'" for n, path in places))
    )
    server = start(
        f"--model_config_file={tmp_path / 'models.config'}",
        "--file_system_poll_wait_seconds=0.2",
        path="/v2/models/c/ready",
    )
    assert server.get("/v2/health/ready")[0] == 400
    assert server.get("/v1/models/late")[0] == 404
    write_constant(tmp_path / "late", 1)
    until(lambda: server.get("/v2/health/ready")[0] == 200, server.output)
    assert answer(server, "late") == ("1", 1)


def test_a_signal_while_models_load_ends_it(tmp_path: Path) -> None:
    (tmp_path / "slow" / "1").mkdir(parents=True)
    (tmp_path / "slow" / "1" / "model.py").write_text(SLOW.replace("1.5", "60"))
    (tmp_path / "slow" / "config.pbtxt").write_text(SLOW_CONFIG)
    options = [
        "--model_name=slow",
        f"--model_base_path={tmp_path / 'slow'}",
        "--grace_seconds=0",
        "--state_dir=",
    ]
    server = TensorFlowServingProcess(tmp_path / "log", options, EXECUTED)
    server.start()
    until(lambda: len(server.family()) > 1)
    assert server.stop() == 0


@pytest.mark.clause("TF-L3", "TF-L4")
def test_new_versions_are_found_and_take_over(start: Start, tmp_path: Path) -> None:
    write_constant(tmp_path, 1)
    server = start(
        "--model_name=c", f"--model_base_path={tmp_path / 'constant'}", "--file_system_poll_wait_seconds=0.2"
    )
    assert answer(server, "c") == ("1", 1)
    write_constant(tmp_path, 2)
    until(lambda: answer(server, "c") == ("2", 2), server.output)
    until(lambda: infer(server, "c", "1")[0] == 404, server.output)


@pytest.mark.clause("TF-C3", "TF-L7", "TF-F8")
def test_policies_and_labels_of_a_file(start: Start, tmp_path: Path) -> None:
    for version in (1, 2, 3):
        write_constant(tmp_path, version)
    model = f"name: 'c' base_path: '{tmp_path / 'constant'}'"
    policy = "model_version_policy { specific { versions: [1, 3] } }"
    file = tmp_path / "models.config"
    file.write_text(listed(f"{model} {policy} version_labels {{ key: 'stable' value: 1 }}"))
    options = (f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=0.1")
    refused = TensorFlowServingProcess(tmp_path / "refused", [*options, "--state_dir="])
    refused.start()
    assert refused.wait() == 1
    assert "Request to assign label to version 1 of model c" in refused.output()
    server = start(*options, "--allow_version_labels_for_unavailable_models=true")
    assert answer(server, "c", "stable") == ("1", 1)
    assert answer(server, "c") == ("3", 3)
    assert infer(server, "c", "2")[0] == 404
    assert infer(server, "c", "canary")[0] == 404, "there is no such label"
    file.write_text(listed(f"{model} {policy} version_labels {{ key: 'canary' value: 3 }}"))
    until(lambda: infer(server, "c", "canary")[0] == 200, server.output)
    assert answer(server, "c", "canary") == ("3", 3)
    assert infer(server, "c", "stable")[0] == 404


@pytest.mark.clause("TF-R27", "TF-F11", "TF-M1")
def test_the_metrics_page(start: Start, tmp_path: Path) -> None:
    write_mlp(tmp_path / "mlp", 1)
    file = tmp_path / "monitoring"
    file.write_text("prometheus_config { enable: true path: '/own/page' }")
    server = start(
        "--model_name=mlp", f"--model_base_path={tmp_path / 'mlp'}", f"--monitoring_config_file={file}"
    )
    assert infer(server, "mlp")[0] == 200
    assert infer(server, "other")[0] == 404
    pages = [server.get(path) for path in ("/own/page", "/metrics", "/monitoring/prometheus/metrics")]
    assert {status for status, _ in pages} == {200}
    for _, page in pages:
        assert b':tensorflow:serving:request_count{model_name="mlp",status="OK"} 1' in page
        assert b"nv_inference_request_success" in page
        assert b"salver_requests_total" in page
    assert b"process_start_time_seconds" in pages[0][1]


@pytest.mark.clause("TF-F12", "TF-C7")
def test_an_ssl_file_encrypts_grpc(start: Start, tmp_path: Path) -> None:
    authority = trustme.CA()
    cert, key = files_of(authority, tmp_path)
    root = (tmp_path / "ca.pem").read_text()

    def quoted(text: str) -> str:
        return '"' + text.replace("\n", "\\n") + '"'

    file = tmp_path / "ssl"
    file.write_text(
        f"server_key: {quoted(key.read_text())}\nserver_cert: {quoted(cert.read_text())}\n"
        f"custom_ca: {quoted(root)}\nclient_verify: true\n"
    )
    write_mlp(tmp_path / "mlp", 1)
    server = start("--model_name=mlp", f"--model_base_path={tmp_path / 'mlp'}", f"--ssl_config_file={file}")
    address = f"127.0.0.1:{server.grpc_port}"
    mine = authority.issue_cert("caller@example.org")
    known = grpc.ssl_channel_credentials(
        root.encode(), mine.private_key_pem.bytes(), mine.cert_chain_pems[0].bytes()
    )
    with grpc.secure_channel(address, known) as channel:
        assert channel.unary_unary(LIVE)(b"", timeout=PATIENCE_S) == b"\x08\x01"
    stranger = grpc.ssl_channel_credentials(root.encode())
    with grpc.secure_channel(address, stranger) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(LIVE)(b"", timeout=5)
    assert infer(server, "mlp")[0] == 200, "REST is as it was"


@pytest.mark.clause("TF-F2", "TF-G16")
def test_a_unix_socket_answers_grpc(start: Start, tmp_path: Path) -> None:
    write_mlp(tmp_path / "mlp", 1)
    path = tmp_path / "grpc.sock"
    flags = ("--model_name=mlp", f"--model_base_path={tmp_path / 'mlp'}", f"--grpc_socket_path={path}")
    path.write_text("no socket")
    blocked = TensorFlowServingProcess(tmp_path / "blocked", [*flags, "--state_dir="])
    blocked.start()
    assert (blocked.wait(), path.read_text()) == (1, "no socket")
    assert f"cannot listen on {path}: Address already in use" in blocked.output()
    path.unlink()
    for before in ("nothing", "a socket in use", "a socket that is left over"):
        server = start(*flags)
        with grpc.insecure_channel(f"unix:{path}") as channel:
            assert channel.unary_unary(LIVE)(b"", timeout=PATIENCE_S) == b"\x08\x01"
        if before != "nothing":
            server.stop()
    assert server.output().count("is taken from a server that listens there") == 1  # of one log


@pytest.mark.clause("TF-B1", "TF-C5", "TF-M2")
def test_batches_have_the_sizes_of_the_file(start: Start, tmp_path: Path) -> None:
    write_mlp(tmp_path / "mlp", 1)
    file = tmp_path / "batching"
    file.write_text(
        "max_batch_size { value: 8 } batch_timeout_micros { value: 20000 } allowed_batch_sizes: [4, 8] "
        "max_enqueued_batches { value: 100 } num_batch_threads { value: 1 } thread_pool_name { value: 'p' }"
    )
    server = start(
        "--model_name=mlp",
        f"--model_base_path={tmp_path / 'mlp'}",
        "--enable_batching=true",
        f"--batching_parameters_file={file}",
    )
    wrong: list[object] = []

    def ask(rows: int) -> None:
        for _ in range(5):
            status, reply = infer(server, "mlp", rows=rows)
            expected = mlp_answer(np.tile(ROW, (rows, 1))).ravel()
            if status != 200 or not np.allclose(reply["outputs"][0]["data"], expected, rtol=1e-5):
                wrong.append(reply)

    threads = [threading.Thread(target=ask, args=(rows,)) for rows in (1, 1, 1, 2, 3, 5, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    status, reply = infer(server, "mlp", rows=9)
    assert (status, reply["error"]) == (400, "Task size 9 is larger than maximum input batch size 8")
    page = server.get("/metrics")[1].decode()
    sizes = {line.split('"')[1] for line in page.splitlines() if "padding_size_count" in line}
    assert sizes <= {"4", "8"}
    assert sizes
    assert ':tensorflow:serving:batching_session:queuing_latency_count{thread_pool_name="p"}' in page


@pytest.mark.clause("TF-F9")
def test_batching_parameters_that_cannot_be_end_the_start(tmp_path: Path) -> None:
    file = tmp_path / "batching"
    file.write_text("allowed_batch_sizes: [4, 8]")
    server = TensorFlowServingProcess(
        tmp_path / "log",
        ["--model_base_path=/m", "--enable_batching", f"--batching_parameters_file={file}"],
    )
    server.start()
    assert server.wait() == 1
    assert "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 8; expected 1000" in (
        server.output()
    )


@pytest.mark.clause("TF-L6")
def test_a_file_that_cannot_be_parsed_ends_the_start(tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text("model_config_list { config { name 'x' } }")
    server = TensorFlowServingProcess(tmp_path / "log", [f"--model_config_file={file}"])
    server.start()
    assert server.wait() == 1
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig: 1:" in server.output()


@pytest.mark.clause("TF-L2")
def test_a_base_path_in_a_bucket(start: Start, tmp_path: Path) -> None:
    with s3_server() as s3:
        write_constant(tmp_path / "made", 1)
        s3.put_folder("bucket", "models/c/1", tmp_path / "made" / "constant" / "1")
        server = start(
            "--model_name=c",
            f"--model_base_path={s3.url('bucket/models/c')}",
            "--file_system_poll_wait_seconds=0.2",
            env=KEYS,
        )
        assert answer(server, "c") == ("1", 1)
        write_constant(tmp_path / "made", 2)
        s3.put_folder("bucket", "models/c/2", tmp_path / "made" / "constant" / "2")
        until(lambda: answer(server, "c") == ("2", 2), server.output)
        s3.stop()
        until(lambda: "models/c" in server.output() and "cannot be read" in server.output(), server.output)
        assert answer(server, "c") == ("2", 2), "a bucket that is away takes nothing away"


@pytest.mark.clause("TF-L8", "TF-O3")
def test_nobody_loads_by_request_and_nobody_connects_from_elsewhere(start: Start, tmp_path: Path) -> None:
    write_mlp(tmp_path / "mlp", 1)
    server = start("--model_name=mlp", f"--model_base_path={tmp_path / 'mlp'}")
    status, reply = server.post("/v2/repository/models/mlp/load", {})
    assert status == 503
    assert "not loaded and unloaded by request" in reply["error"]
    until(lambda: "only this machine can connect" in server.output(), server.output)
    listening = {
        line.split()[1]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
        and line.split()[1].endswith((f":{server.port:04X}", f":{server.grpc_port:04X}"))
    }
    assert {address.partition(":")[0] for address in listening} == {"0100007F"}


GATED = """
import time
from pathlib import Path

class Model:
    inputs = {"x": ("FP32", [-1, 1])}
    outputs = {"y": ("FP32", [-1, 1])}
    def predict(self, inputs):
        while Path("GATE").exists():
            time.sleep(0.005)
        return {"y": inputs["x"]}
"""


def write_gated(folder: Path) -> Path:
    """No run of the model ends as long as there is a file ``gate`` in the folder."""
    (folder / "gated" / "1").mkdir(parents=True)
    (folder / "gated" / "1" / "model.py").write_text(GATED.replace("GATE", str(folder / "gate")))
    return folder / "gated"


@pytest.mark.clause("TF-L11")
def test_what_is_in_flight_ends_well_when_it_is_told_to_stop(start: Start, tmp_path: Path) -> None:
    server = start("--model_name=gated", f"--model_base_path={write_gated(tmp_path)}")
    gate = tmp_path / "gate"
    gate.touch()
    found: list[int] = []
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}
    caller = threading.Thread(target=lambda: found.append(server.post("/v2/models/gated/infer", body)[0]))
    caller.start()
    until(lambda: gauge(server, "gated", "running_batches") == 1, server.output)
    server.signal(signal.SIGTERM)
    until(lambda: "stopping: no new requests" in server.output(), server.output)
    gate.unlink()
    assert server.wait() == 0
    caller.join()
    assert found == [200]


@pytest.mark.clause("TF-B1")
def test_a_queue_that_is_full_is_unavailable(start: Start, tmp_path: Path) -> None:
    import tensorflow
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    file = tmp_path / "batching"
    file.write_text(
        "max_batch_size { value: 1 } max_enqueued_batches { value: 1 } num_batch_threads { value: 1 }"
    )
    server = start(
        "--model_name=gated",
        f"--model_base_path={write_gated(tmp_path)}",
        "--enable_batching",
        f"--batching_parameters_file={file}",
    )
    gate = tmp_path / "gate"
    gate.touch()
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "gated"
        request.inputs["x"].CopyFrom(tensorflow.make_tensor_proto(np.full((1, 1), 0.5, np.float32)))
        calls = [stub.Predict.future(request, timeout=PATIENCE_S) for _ in range(6)]
        until(lambda: sum(call.done() for call in calls) >= 3)
        gate.unlink()
        codes = [(call.code(), call.details()) for call in calls]
    refused = [details for code, details in codes if code is not grpc.StatusCode.OK]
    assert 3 <= len(refused) <= 5
    assert set(refused) == {"The batch scheduling queue to which this task was submitted is full"}
    assert {code for code, _ in codes} == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    found: list[tuple[int, Any]] = []

    def ask() -> None:
        found.append(server.post("/v1/models/gated:predict", {"instances": [[0.5]]}))

    gate.touch()
    callers = [threading.Thread(target=ask) for _ in range(6)]
    for caller in callers:
        caller.start()
    until(lambda: len(found) >= 3)
    gate.unlink()
    for caller in callers:
        caller.join()
    assert {status for status, _ in found} == {200, 503}
    assert {reply["error"] for status, reply in found if status == 503} == set(refused)


@pytest.mark.clause("TF-B2", "TF-C9", "TF-F16")
def test_savedmodels_under_the_flags(start: Start, tmp_path: Path) -> None:
    savedmodels.batching_inside(tmp_path / "inside" / "1")
    savedmodels.tagged(tmp_path / "tagged" / "00000005")
    file = tmp_path / "models.config"
    names = ("inside", "tagged")
    file.write_text(listed(*(f"name: '{name}' base_path: '{tmp_path / name}'" for name in names)))
    server = start(
        f"--model_config_file={file}", "--saved_model_tags=serve", "--tensorflow_session_parallelism=1"
    )
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [3, 2], "data": rows.ravel().tolist()}]}
    status, reply = server.post("/v2/models/inside/infer", body)
    assert status == 200, reply
    outputs = {output["name"]: output["data"] for output in reply["outputs"]}
    assert outputs["y"] == (2 * rows).ravel().tolist()
    assert set(outputs["size"]) == {4.0}, "the graph fills its batches up by itself"
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}]}
    status, reply = server.post("/v2/models/tagged/infer", body)
    assert (status, reply["model_version"], reply["outputs"][0]["data"]) == (200, "00000005", [2, 3])
