"""Servers with several fronts: whichever process has a caller's connection, the answers are those of one."""

import http.client
import itertools
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from front_callers import ask, at, connected, fronts_of, grpc_at, infer_grpc
from soaking import one_in
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE_S, until
from zoo import infer_body, mlp_answer, write_constant, write_identity, write_mlp, write_moody

from salver.features.access.key_format import new_key
from salver.features.access.keys_file import KeyRecord, hash_of, written
from salver.features.access.limits import LimitRules
from salver.testing.process import ServerProcess

BODY = json.dumps(infer_body()).encode()
ROW = np.full((1, 16), 0.5, np.float32)


def binary_body(rows: int) -> tuple[bytes, dict[str, str]]:
    given = triton_http.InferInput("x", [rows, 16], "FP32")
    given.set_data_from_numpy(np.full((rows, 16), 0.5, np.float32))
    wanted = triton_http.InferRequestedOutput("y", binary_data=True)
    body, size = triton_http.InferenceServerClient.generate_request_body([given], outputs=[wanted])
    return body, {"Inference_Header_Content_Length": str(size)}


#: Sends numbers until its caller goes, and says when that was.
COUNTING = """
import threading, time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            notes = pb_utils.get_input_tensor_by_name(request, "notes").as_numpy()[0].decode()
            threading.Thread(target=self.answer, args=(request.get_response_sender(), notes)).start()

    def answer(self, sender, notes):
        number = 0
        while not sender.is_cancelled():
            tensor = pb_utils.Tensor("number", np.array([number], np.int32))
            sender.send(pb_utils.InferenceResponse([tensor]))
            number += 1
            time.sleep(0.005)
        open(notes, "w").write(str(number))
"""
COUNTING_CONFIG = """
backend: "python"
model_transaction_policy { decoupled: true }
input { name: "notes" data_type: TYPE_STRING dims: 1 }
output { name: "number" data_type: TYPE_INT32 dims: 1 }
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("fronts")
    root = folder / "models"
    write_copied(root / "mlp")
    write_mlp(root / "hosted", 1)
    (root / "hosted" / "salver.toml").write_text('instances.runner = "process"')
    write_constant(root, 1)
    (root / "constant" / "salver.toml").write_text(NOT_MEASURED)
    write_moody(root)
    write_identity(root, "FP32")
    (root / "count" / "1").mkdir(parents=True)
    (root / "count" / "1" / "model.py").write_text(COUNTING)
    (root / "count" / "config.pbtxt").write_text(COUNTING_CONFIG)
    options = ["--fronts", "2", "--control", "explicit", "--state-dir="]
    for name in ("mlp", "hosted", "constant", "moody", "identity_fp32", "count"):
        options += ["--load", name]
    with ServerProcess([root], folder / "log", options) as server:
        server.wait_ready()
        runs_copies(server)
        until(lambda: ways(server) == WAYS, lambda: ways(server))
        yield server


#: Fronts copy a model whose times are not measured.
NOT_MEASURED = "warmup.rounds = 0"


def write_copied(folder: Path) -> None:
    """Write the small network, to be copied however fast the machine is."""
    write_mlp(folder, 1)
    (folder / "salver.toml").write_text(NOT_MEASURED)


def runs_copies(server: ServerProcess, model: str = "mlp", count: int = 1) -> list[int]:
    """Wait until every front runs a model itself; return the fronts."""

    def look() -> list[int]:
        fronts = fronts_of(server)
        return fronts if len(fronts) == count and all(has_copy(server, pid, model) for pid in fronts) else []

    return until(look, server.output)


def has_copy(server: ServerProcess, pid: int, model: str) -> bool:
    """Whether a front answers while the home process stands still."""
    if not listens(server, pid):
        return False
    connection = at(server, pid)
    connection.timeout = 1.0
    connection.sock.settimeout(1.0)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        return ask(connection, "POST", f"/v2/models/{model}/infer", BODY)[0] == 200
    except TimeoutError:
        return False
    finally:
        os.kill(server.pid, signal.SIGCONT)
        connection.close()


def listens(server: ServerProcess, pid: int) -> bool:
    """Whether a process listens at the port."""
    try:
        links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if row[1].endswith(f":{server.port:04X}") and row[3] == "0A"}
    return any(link == f"socket:[{inode}]" for link in links for inode in inodes)


def both(server: ServerProcess) -> list[http.client.HTTPConnection]:
    """A connection to the home process, and one to each front."""
    return [at(server, pid) for pid in (server.pid, *fronts_of(server))]


#: Where fronts have the models run; others' requests are passed on.
WAYS = {"mlp": "copy", "constant": "copy", "hosted": "shared", "identity_fp32": "shared"}


def ways(server: ServerProcess) -> dict[str, str]:
    page = server.get("/metrics")[1].decode().splitlines()
    found = [
        re.fullmatch(r'salver_front_models{model="(\w+)",version="\d+",way="(\w+)"} 1.0', line)
        for line in page
    ]
    return {each[1]: each[2] for each in found if each}


BINARY, LENGTH = binary_body(3)
LARGE, LARGE_LENGTH = binary_body(20_000)
#: Asked of a model of which fronts have a copy, and of one that the home process runs for them.
DECODED: list[tuple[str, Any, dict[str, str]]] = [
    ("infer", infer_body(rows=3), {}),
    ("versions/1/infer", infer_body(), {}),
    ("versions/2/infer", infer_body(), {}),
    ("infer", {"id": "7", **infer_body()}, {}),
    ("infer", {"id": "7", **infer_body(columns=3)}, {}),
    ("infer", {"x": [[0.5] * 16]}, {}),
    ("infer", {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 16], "data": ["a"] * 16}]}, {}),
    ("infer", {**infer_body(), "outputs": [{"name": "none"}]}, {}),
    ("infer", {**infer_body(), "parameters": {"a": 2**70, "b": "c", "d": 1.5, "e": True}}, {}),
    ("infer", {**infer_body(), "parameters": {"timeout": -1}}, {}),
    ("infer", {**infer_body(), "parameters": {"timeout": 1}}, {}),
    ("infer", BINARY, LENGTH),
    ("infer", LARGE, LARGE_LENGTH),
    ("infer", b"{", {}),
]
REQUESTS: list[tuple[str, str, Any, dict[str, str]]] = [
    ("POST", "/v2/models/mlp/infer", infer_body(rows=3), {}),
    ("POST", "/v2/models/mlp/infer", infer_body(columns=3), {}),
    ("POST", "/v2/models/mlp/infer", b"{", {}),
    ("POST", "/v2/models/mlp/infer", infer_body(), {"Expect": "100-continue"}),
    ("POST", "/v2/models/mlp/infer", infer_body(), {"X_Tenant": "t"}),
    ("POST", "/v2/models/none/infer", infer_body(), {}),
    ("POST", "/v2/models/mlp/infer", infer_body(), {"Host": "evil.example"}),
    ("GET", "/v2/models/mlp/infer", None, {}),
    ("GET", "/v2/models/mlp", None, {}),
    ("HEAD", "/v2/models/mlp", None, {}),
    ("GET", "/v2/models/mlp/ready", None, {}),
    ("GET", "/v2/health/ready", None, {}),
    ("POST", "/v2/repository/index", {}, {}),
    ("GET", "/v1/models/mlp", None, {}),
    ("POST", "/v1/models/mlp:predict", {"instances": [[0.5] * 16]}, {}),
    ("GET", "/nowhere", None, {}),
    ("GET", "/openapi.json", None, {"Accept_Encoding": "gzip"}),
    ("GET", "/console/", None, {}),
    ("GET", "/v1/models", None, {}),
    ("POST", "/v2/models/identity_fp32/infer", {"x": [[1.0, 2.0]]}, {}),
]


@pytest.mark.parametrize(("verb", "path", "body", "headers"), REQUESTS)
def test_every_process_gives_the_same_answer(
    server: ServerProcess, verb: str, path: str, body: Any, headers: dict[str, str]
) -> None:
    home, front = (ask(each, verb, path, body, **headers) for each in both(server))
    assert front == home


@pytest.mark.parametrize("model", ["mlp", "hosted"])
@pytest.mark.parametrize(("path", "body", "headers"), DECODED)
def test_a_front_decodes_and_encodes_as_the_home_process_does(
    server: ServerProcess, model: str, path: str, body: Any, headers: dict[str, str]
) -> None:
    home, front = (ask(each, "POST", f"/v2/models/{model}/{path}", body, **headers) for each in both(server))
    assert front == home


@pytest.mark.parametrize("model", ["mlp", "hosted"])
def test_grpc_gives_the_same_answers(server: ServerProcess, model: str) -> None:
    (front,) = fronts_of(server)
    seen: list[list[Any]] = []
    for pid in (server.pid, front):
        with grpc_at(server, pid) as client:
            answers: list[Any] = [infer_grpc(client, model, rows) for rows in (1, 3, 20_000)]
            answers.append(client.get_model_metadata(model))
            with pytest.raises(InferenceServerException) as caught:
                infer_grpc(client, "none")
            answers.append((caught.value.status(), caught.value.message()))
            with pytest.raises(InferenceServerException) as caught:
                infer_grpc(client, model, version="9")
            seen.append([*answers, (caught.value.status(), caught.value.message())])
    assert seen[0] == seen[1]


def test_unmodified_clients_get_right_answers(server: ServerProcess) -> None:
    with ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(triton_http.InferenceServerClient(server.address))
            given = triton_http.InferInput("x", [1, 16], "FP32")
            given.set_data_from_numpy(ROW)
            np.testing.assert_allclose(client.infer("mlp", [given]).as_numpy("y"), mlp_answer(ROW), 1e-5)


def counters(server: ServerProcess, model: str) -> tuple[float, ...]:
    """Requests in Prometheus's metrics and in Triton's statistics, and the runs there."""
    page = server.get("/metrics")[1].decode().splitlines()
    ours = [line for line in page if line.startswith(f'salver_requests_total{{model="{model}",outcome="ok"')]
    rows = json.loads(server.get(f"/v2/models/{model}/stats")[1])["model_stats"]
    counted = sum(row["inference_stats"]["success"]["count"] for row in rows)
    runs = sum(row["execution_count"] for row in rows)
    return sum(float(line.rsplit(" ", 1)[1]) for line in ours), counted, runs


@pytest.mark.parametrize("model", ["constant", "hosted"])
def test_counters_add_up(server: ServerProcess, model: str) -> None:
    before = counters(server, model)
    for connection in both(server):
        for _ in range(20):
            assert ask(connection, "POST", f"/v2/models/{model}/infer", BODY)[0] == 200
    for pid in (server.pid, *fronts_of(server)):
        with grpc_at(server, pid) as client:
            for _ in range(5):
                infer_grpc(client, model)
    wanted = tuple(count + 50 for count in before)
    until(lambda: counters(server, model) == wanted, lambda: counters(server, model))


def test_nobody_meets_an_old_version_after_a_change_was_acknowledged(
    server: ServerProcess, tmp_path: Path
) -> None:
    root = Path(server.command()[2])
    connections = both(server)
    path = "/v2/models/constant/infer"
    stop, failures = threading.Event(), list[Any]()

    def call(connection: http.client.HTTPConnection) -> None:
        while not stop.is_set():
            status, _, body = ask(connection, "POST", path, BODY)
            if status != 200:
                failures.append((status, body))

    callers = [threading.Thread(target=call, args=(each,)) for each in both(server)]
    for caller in callers:
        caller.start()
    try:
        for version in range(2, 12):
            write_constant(root, version)
            # At either process, and asked for by itself or by another's connection.
            changer, other = connections if version % 2 else reversed(connections)
            assert ask(changer, "POST", "/v2/repository/models/constant/load")[0] == 200
            for each in (other, changer):
                status, _, body = ask(each, "POST", path, BODY)
                answer = json.loads(body)
                assert status == 200
                assert (answer["model_version"], answer["outputs"][0]["data"]) == (
                    f"{version}",
                    [version],
                )
            if version % 3 == 0:  # let the copy come, so that it has to go again
                until(lambda: has_copy(server, fronts_of(server)[0], "constant"))
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    assert failures == []
    for changer, other in (connections, connections[::-1]):
        until(lambda: has_copy(server, fronts_of(server)[0], "constant"))
        assert ask(changer, "POST", "/v2/repository/models/constant/unload")[0] == 200
        assert ask(other, "POST", path, BODY)[0] in (400, 404)
        assert ask(changer, "POST", "/v2/repository/models/constant/load")[0] == 200
        assert ask(other, "POST", path, BODY)[0] == 200


def test_a_front_that_does_not_listen_cannot_hold_up_a_change(server: ServerProcess) -> None:
    until(lambda: has_copy(server, fronts_of(server)[0], "constant"))
    (front,), home = fronts_of(server), at(server, server.pid)
    os.kill(front, signal.SIGSTOP)
    assert ask(home, "POST", "/v2/repository/models/constant/unload")[0] == 200
    assert front not in fronts_of(server)
    assert ask(home, "POST", "/v2/repository/models/constant/load")[0] == 200
    runs_copies(server)


def test_a_front_that_dies_takes_only_its_own_callers_and_comes_back(server: ServerProcess) -> None:
    (front,) = runs_copies(server)
    home, gone = both(server)
    os.kill(front, signal.SIGKILL)
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(gone, "POST", "/v2/models/mlp/infer", BODY)
    assert ask(home, "POST", "/v2/models/mlp/infer", BODY)[0] == 200
    (after,) = runs_copies(server)
    assert after != front


def test_what_runs_in_the_home_process_ends_if_its_caller_goes(server: ServerProcess, tmp_path: Path) -> None:
    (front,) = fronts_of(server)
    connection = at(server, front)
    gate = tmp_path / "gate"
    body = {"inputs": [{"name": "do", "datatype": "BYTES", "shape": [1, 1], "data": [f"hold {gate}"]}]}
    connection.request("POST", "/v2/models/moody/infer", json.dumps(body))
    until(lambda: gate.with_name("gate.begun").exists())
    connection.close()
    until(lambda: not connected(server, front))
    gate.touch()
    assert ask(at(server, front), "POST", "/v2/models/mlp/infer", BODY)[0] == 200


def test_who_leaves_a_stream_ends_it(server: ServerProcess, tmp_path: Path) -> None:
    (front,) = fronts_of(server)
    connection, notes = at(server, front), tmp_path / "notes"
    connection.request("POST", "/v2/models/count/generate_stream", json.dumps({"notes": str(notes)}))
    stream = connection.getresponse()
    assert stream.status == 200
    got = [stream.readline() for _ in range(60)]
    events = [json.loads(line.removeprefix(b"data: "))["number"] for line in got if line.strip()]
    assert events == list(range(len(events))) and len(events) >= 20
    stream.close()
    connection.close()
    until(notes.exists)


def test_streams_pass_through(server: ServerProcess) -> None:
    (front,) = fronts_of(server)
    got: list[Any] = []
    done = threading.Semaphore(0)

    def take(result: Any, error: Any) -> None:
        got.append(error or result.as_numpy("y"))
        done.release()

    with grpc_at(server, front) as client:
        client.start_stream(take)
        given = triton_grpc.InferInput("x", [1, 16], "FP32")
        given.set_data_from_numpy(ROW)
        for _ in range(5):
            client.async_stream_infer("mlp", [given])
            assert done.acquire(timeout=PATIENCE_S)
        client.stop_stream()
    assert len(got) == 5
    for each in got:
        np.testing.assert_allclose(each, mlp_answer(ROW), 1e-5)


def test_a_second_server_does_not_get_the_port(server: ServerProcess, tmp_path: Path) -> None:
    write_mlp(tmp_path / "mlp", 1)
    second = ServerProcess([tmp_path / "mlp"], tmp_path / "log", ["--fronts", "2"])
    second.start(server.port)
    assert second.wait() != 0
    assert "cannot listen on" in second.output()


def test_a_server_with_fronts_ends_as_one_without(tmp_path: Path) -> None:
    """What its fronts have begun is answered; afterwards no process is left."""
    write_copied(tmp_path / "models" / "mlp")
    write_moody(tmp_path / "models")
    with ServerProcess([tmp_path / "models"], tmp_path / "log", ["--fronts", "3"]) as server:
        server.wait_ready()
        fronts = runs_copies(server, count=2)
        connection, gate = at(server, fronts[0]), tmp_path / "gate"
        body = {"inputs": [{"name": "do", "datatype": "BYTES", "shape": [1, 1], "data": [f"hold {gate}"]}]}
        connection.request("POST", "/v2/models/moody/infer", json.dumps(body))
        until(lambda: gate.with_name("gate.begun").exists())
        server.signal(signal.SIGTERM)
        until(lambda: refuses(server))
        assert fronts[0] in server.family()
        gate.touch()
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("connection")) == (200, "close")
        assert server.wait() == 0, server.output()
        assert not any(Path(f"/proc/{pid}").exists() for pid in fronts)


def refuses(server: ServerProcess) -> bool:
    try:
        with socket.create_connection((server.host, server.port), timeout=0.2):
            return False
    except OSError:
        return True


def test_fronts_end_with_a_home_process_that_is_killed(tmp_path: Path) -> None:
    write_copied(tmp_path / "mlp")
    with ServerProcess([tmp_path / "mlp"], tmp_path / "log", ["--fronts", "2"]) as server:
        (front,) = runs_copies(server.wait_ready())
        server.signal(signal.SIGKILL)
        until(lambda: not Path(f"/proc/{front}").exists())


@pytest.mark.parametrize("count", one_in(2, [2, 4]))
def test_keys_and_their_limits_hold_over_all_fronts(tmp_path: Path, count: int) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    key = new_key()
    record = KeyRecord("k", "k", hash_of(key), ("infer",), limits=LimitRules(quotas=("12/day",)))
    (tmp_path / "keys.toml").write_text(written([record]))
    options = ["--fronts", f"{count}", "--keys-file", str(tmp_path / "keys.toml")]
    path = "/v2/models/mlp/infer"
    with ServerProcess([tmp_path / "models"], tmp_path / "log", options) as server:
        until(lambda: "ready in" in server.output(), server.output)
        until(lambda: sum(listens(server, pid) for pid in fronts_of(server)) == count - 1)
        processes = both(server)
        until(lambda: ask(processes[0], "POST", path, BODY, X_Api_Key=key)[0] == 200)
        assert {ask(each, "POST", path, BODY)[0] for each in processes} == {401}
        for each in itertools.islice(itertools.cycle(processes[::-1]), 11):
            assert ask(each, "POST", path, BODY, X_Api_Key=key)[0] == 200
        refused = [ask(each, "POST", path, BODY, X_Api_Key=key) for each in processes]
        assert {status for status, _, _ in refused} == {429}
        assert len({body for _, _, body in refused}) == 1


@pytest.mark.parametrize("count", one_in(3, [4, 1, 2]))
def test_any_number_of_fronts_is_one_server(tmp_path: Path, count: int) -> None:
    """Each process gives the right answers, and all are counted once."""
    root, models = tmp_path / "models", ("mlp", "hosted")
    for model in models:
        write_mlp(root / model, 1)
    (root / "hosted" / "salver.toml").write_text('instances.runner = "process"')
    rows = np.random.default_rng(1).standard_normal((8, 16)).astype(np.float32).round(3)
    with ServerProcess([root], tmp_path / "log", ["--fronts", f"{count}"]) as server:
        server.wait_ready()
        until(lambda: count == 1 or set(ways(server)) == set(models), server.output)
        until(lambda: sum(listens(server, pid) for pid in fronts_of(server)) == count - 1, server.output)
        processes = both(server)
        assert len(processes) == count
        for model, connection, row in itertools.product(models, processes, rows):
            body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": row.tolist()}]}
            status, _, said = ask(connection, "POST", f"/v2/models/{model}/infer", body)
            assert status == 200
            np.testing.assert_allclose(json.loads(said)["outputs"][0]["data"], mlp_answer(row[None])[0], 1e-4)
        for model in models:
            assert_counted(server, model, 8 * count)


def assert_counted(server: ServerProcess, model: str, requests: int) -> None:
    """Wait until each of the counters has that number."""
    until(lambda: counters(server, model) == (requests,) * 3, lambda: counters(server, model))
