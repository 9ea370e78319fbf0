"""Callers who leave an ensemble: what has not begun never runs, and a decoupled step is told (TR-S6)."""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc.service_pb2 as pb
import tritonclient.grpc.service_pb2_grpc as pb_grpc
from forked_hosts import EXECUTED
from programs import program
from waiting import PATIENCE_S, until
from zoo import gauge

from salver.testing.process import ServerProcess

CONFIG = """
backend: "python"
input { name: "NAME" data_type: TYPE_STRING dims: 1 }
output { name: "OUT" data_type: TYPE_STRING dims: 1 }
"""
HEAD = """
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def name_of(request):
    return pb_utils.get_input_tensor_by_name(request, "NAME").as_numpy()[0].decode()


def said(text):
    return pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([text.encode()], object))])


class TritonPythonModel:
    def initialize(self, args):
        self.folder = Path(args["model_repository"]).parent.parent / "notes"
        self.name = args["model_name"]

    def note(self, what, text=""):
        (self.folder / f"{self.name} {what}").write_text(text)

    def execute(self, requests):
        return [self.answer(request, name_of(request)) for request in requests]
"""
GATE = (
    HEAD
    + """
    def answer(self, request, name):
        self.note(f"began {name}")
        while not (self.folder / f"go {name}").exists():
            time.sleep(0.005)
        return said(name)
"""
)
AFTER = (
    HEAD
    + """
    def answer(self, request, name):
        self.note(f"began {name}")
        return said(name)
"""
)
SOURCE = (
    HEAD.replace("return [", "[")
    + """
    def answer(self, request, name):
        self.note(f"began {name}")
        sender, count = request.get_response_sender(), 0
        while not request.is_cancelled():
            if count < 3 or name.startswith("endless"):
                sender.send(said(f"{name} {count}"))
                count += 1
            time.sleep(0.005)
        self.note(f"told {name}")
        sender.send(flags=FINAL)
"""
)
STEPS = """
platform: "ensemble"
input { name: "NAME" data_type: TYPE_STRING dims: 1 }
output { name: "OUT" data_type: TYPE_STRING dims: 1 }
ensemble_scheduling { step [
  { model_name: "%s" model_version: -1
    input_map { key: "NAME" value: "NAME" } output_map { key: "OUT" value: "between" } },
  { model_name: "after" model_version: -1
    input_map { key: "NAME" value: "between" } output_map { key: "OUT" value: "OUT" } } ] }
"""
#: With them all that wait are counted: no batch is made ready before a run ends.
LEVELS = "dynamic_batching { priority_levels: 2 default_priority_level: 1 }"
MODELS = ("gate", "after", "source", "chain", "many")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("leaving")
    (folder / "notes").mkdir()
    decoupled = CONFIG + "model_transaction_policy { decoupled: true }"
    for name, config, code in (
        ("gate", CONFIG + LEVELS, GATE),
        ("after", CONFIG, AFTER),
        ("source", decoupled, SOURCE),
        ("chain", STEPS % "gate", ""),
        ("many", STEPS % "source", ""),
    ):
        (folder / "models" / name / "1").mkdir(parents=True)
        (folder / "models" / name / "config.pbtxt").write_text(config)
        if code:
            (folder / "models" / name / "1" / "model.py").write_text(code)
    options = ["--state-dir=", "--control", "explicit", "--load", "*"]
    with ServerProcess([folder / "models"], folder / "log", options, EXECUTED) as server:
        yield server.wait_ready()


@pytest.fixture
def notes(server: ServerProcess) -> Iterator[Path]:
    folder = Path(server._log).parent / "notes"
    yield folder
    for note in folder.iterdir():
        note.unlink()


def message(model: str, name: str) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name=model, id=name)
    made.inputs.add(name="NAME", datatype="BYTES", shape=[1]).contents.bytes_contents.append(name.encode())
    return made


class Curl:
    """A caller by HTTP."""

    def __init__(self, server: ServerProcess, model: str, name: str, version: str, operation: str) -> None:
        url = f"{server.url}/v2/models/{model}/{operation}"
        command = [program("curl"), "-sSN", version, url, "-d", json.dumps({"NAME": name})]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)

    def first(self) -> bytes:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def leave(self) -> None:
        self._process.kill()
        self._process.communicate()

    def rest(self) -> bytes:
        return self._process.communicate(timeout=PATIENCE_S)[0]


class Grpc:
    """A caller by gRPC, on a connection of its own."""

    def __init__(self, server: ServerProcess, model: str, name: str, streams: bool) -> None:
        self._channel = grpc.insecure_channel(server.address)
        stub = pb_grpc.GRPCInferenceServiceStub(self._channel)
        if streams:
            self._call = stub.ModelStreamInfer(iter([message(model, name)]))
        else:
            self._call = stub.ModelInfer.future(message(model, name))

    def first(self) -> bytes:
        response = next(self._call).infer_response
        return bytes(response.raw_output_contents[0])

    def leave(self) -> None:
        self._call.cancel()
        self._channel.close()

    def rest(self) -> bytes:
        said = self._call.result(PATIENCE_S).raw_output_contents[0]
        self._channel.close()
        return bytes(said)


def cancelled(server: ServerProcess) -> float:
    """Requests to ``chain`` that were given up so far."""
    page = server.get("/metrics")[1].decode()
    wanted = 'salver_requests_total{model="chain",outcome="cancelled"'
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(wanted))


PROTOCOLS = pytest.mark.parametrize("protocol", ["--http1.1", "--http2-prior-knowledge", "grpc"])


def caller(server: ServerProcess, model: str, name: str, protocol: str, streams: bool = False) -> Curl | Grpc:
    if protocol == "grpc":
        return Grpc(server, model, name, streams)
    return Curl(server, model, name, protocol, "generate_stream" if streams else "generate")


@pytest.mark.clause("TR-S6", "TR-R35", "TR-G14")
@PROTOCOLS
def test_steps_of_who_has_left_never_run(server: ServerProcess, notes: Path, protocol: str) -> None:
    """One leaves while its first step runs, one while it waits for that; one stays."""
    runs = caller(server, "chain", "runs", protocol)
    until((notes / "gate began runs").exists)
    waits, stays = (caller(server, "chain", name, protocol) for name in ("waits", "stays"))
    until(lambda: gauge(server, "gate", "queue_depth") == 2)  # they stand behind it
    before = cancelled(server)
    runs.leave()
    waits.leave()
    until(lambda: cancelled(server) == before + 2)  # it may notice it by looking
    for name in ("runs", "waits", "stays"):
        (notes / f"go {name}").touch()
    assert b"stays" in stays.rest()
    assert (notes / "after began stays").exists()
    time.sleep(0.2)
    left = sorted(note.name for note in notes.iterdir() if note.name.partition(" ")[2].startswith("began"))
    assert left == ["after began stays", "gate began runs", "gate began stays"]


@pytest.mark.clause("TR-S6", "TR-S8")
@PROTOCOLS
@pytest.mark.parametrize("name", ["endless", "quiet"])
def test_a_decoupled_step_is_told_who_has_left(
    server: ServerProcess, notes: Path, protocol: str, name: str
) -> None:
    """While responses come, and while none does."""
    left = caller(server, "many", name, protocol, streams=True)
    assert f"{name} 0".encode() in left.first()
    time.sleep(0.3)
    assert not (notes / f"source told {name}").exists()
    left.leave()
    until((notes / f"source told {name}").exists)
    ran = len(list(notes.glob("after began *")))
    time.sleep(0.3)
    assert len(list(notes.glob("after began *"))) <= ran + 1


def test_nothing_is_left_of_those_who_left(server: ServerProcess) -> None:
    """No request, and no right to a model: each can be unloaded to the end."""
    _, index = server.post("/v2/repository/index", {})
    assert {row["name"] for row in index if row["state"] == "READY"} == set(MODELS)
    for model in MODELS:
        server.post(f"/v2/repository/models/{model}/unload", {})

    def states() -> set[str]:
        return {row["state"] for row in server.post("/v2/repository/index", {})[1]}

    until(lambda: states() == {"UNAVAILABLE"})
    assert len(server.family()) <= 2  # a fork server waits a while for the next host
