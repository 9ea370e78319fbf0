"""Bodies that are hard to decode: others are answered meanwhile, and the memory has a bound.

A loop that decodes such a body itself answers nobody until it is done: not one health check, whatever the
machine. ``benchmarks/hostile_bodies.py`` has the times.
"""

import contextlib
import gzip
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc as triton
from waiting import PATIENCE_S
from zoo import infer_body, write_identity, write_mlp

from salver.testing.process import ServerProcess

MLP = "/v2/models/mlp/infer"
#: Answers to others while one hostile body is decoded: a blocked loop gives two, before and after.
LEAST = 6
#: How much bodies hold: they are decoded for long enough to prove the claim.
LISTS, VALUES, INPUTS = 1_000_000, 9_000_000, 2_000_000
NUMBERS = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[%b1]}]}'


def lists(name: str) -> bytes:
    return b'{"%b":[' % name.encode() + b"[]," * LISTS + b"[]]}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder: Path = tmp_path_factory.mktemp("hostile")
    write_mlp(folder / "models" / "mlp", 1)
    write_identity(folder / "models", "BYTES")
    options = ["--max-bodies-mb", "400", "--control", "none"]
    with ServerProcess([folder / "models"], folder / "log", options) as server:
        server.wait_ready()
        for count in (1 << 18, 5 << 20):  # the processes that decode are there
            assert server.ask("POST", MLP, b'{"inputs":[' + b" " * count + b"]}")[0] == 400
        yield server


class Attack(threading.Thread):
    """Sends one request, and says when all of it is sent."""

    def __init__(self, send: Callable[[], Callable[[], int]]) -> None:
        super().__init__()
        self._send = send
        self.is_sent = threading.Event()
        self.status = 0

    def run(self) -> None:
        answered = self._send()
        self.is_sent.set()
        self.status = answered()


def posted(server: ServerProcess, path: str, body: bytes) -> Callable[[], int]:
    """Send it; the result waits for its status."""
    # A busy machine decodes such a body for up to a minute, beside what the test itself asks.
    connection = http.client.HTTPConnection(server.host, server.port, timeout=4 * PATIENCE_S)
    connection.request("POST", path, body)

    def answered() -> int:
        with contextlib.closing(connection):
            return connection.getresponse().status

    return answered


def answers_meanwhile(server: ServerProcess, send: Callable[[], Callable[[], int]]) -> tuple[int, int]:
    """How often health and the tiny model were answered, both, between an attack and its answer; and that."""
    attack = Attack(send)
    attack.start()
    assert attack.is_sent.wait(PATIENCE_S)
    count = 0
    while attack.is_alive():
        assert server.get("/v2/health/live")[0] == 200
        assert server.post(MLP, infer_body())[0] == 200
        count += 1
        time.sleep(0.002)
    attack.join()
    return count, attack.status


@pytest.mark.parametrize(
    ("path", "make"),
    [
        (MLP, lambda: lists("inputs")),
        (MLP, lambda: NUMBERS % (b"1," * VALUES)),
        ("/v1/models/mlp:predict", lambda: lists("instances")),
        ("/v2/models/mlp/generate", lambda: lists("x")),
        ("/v1/chat/completions", lambda: lists("messages")),
        ("/v1/embeddings", lambda: lists("input")),
    ],
    ids=["lists", "numbers", "TensorFlow Serving", "generate", "chat", "embeddings"],
)
def test_others_are_answered_while_a_hostile_body_is_decoded(
    server: ServerProcess, path: str, make: Callable[[], bytes]
) -> None:
    body = make()
    count, status = answers_meanwhile(server, lambda: posted(server, path, body))
    assert 400 <= status < 500
    assert count >= LEAST


def test_many_names_are_refused(server: ServerProcess) -> None:
    names = [{"name": f"x{i}", "datatype": "FP32", "shape": [1], "data": [1]} for i in range(200_000)]
    status, reply = server.ask("POST", MLP, json.dumps({"inputs": names}).encode())
    assert status == 400
    assert b"at most 4096" in reply


def test_others_are_answered_while_a_dense_message_is_read(server: ServerProcess) -> None:
    hostile = b"\x0a\x03mlp" + b"".join([b"\x2a\x00"] * INPUTS)  # empty inputs

    def send() -> Callable[[], int]:
        channel = grpc.insecure_channel(server.address)
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer").future(hostile)

        def answered() -> int:
            with channel, pytest.raises(grpc.RpcError) as caught:
                call.result(PATIENCE_S)
            return int(caught.value.code().value[0])

        return answered

    count, status = answers_meanwhile(server, send)
    assert status in (3, 8)  # INVALID_ARGUMENT, RESOURCE_EXHAUSTED
    assert count >= LEAST


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_bombs_are_refused(server: ServerProcess, encoding: str) -> None:
    bomb = gzip.compress(bytes(63 << 20))
    status, reply = server.ask("POST", MLP, bomb, {"Content-Encoding": encoding})
    assert status == 400
    assert b"more than 100 times its size" in reply


def test_bombs_over_grpc_are_refused(server: ServerProcess) -> None:
    given = triton.InferInput("x", [1, 8_000_000], "FP32")
    given._get_content()
    given._raw_content = bytes(32_000_000)
    with (
        triton.InferenceServerClient(server.address) as client,
        pytest.raises(triton.InferenceServerException) as caught,
    ):
        client.infer("mlp", [given], compression_algorithm="gzip")
    assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    assert "times its size" in caught.value.message()


def resident(server: ServerProcess) -> int:
    """Bytes of memory that the server's main process holds, at most so far."""
    text = Path(f"/proc/{server.pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) << 10


def test_the_bodies_of_all_hold_no_more_than_they_may(server: ServerProcess) -> None:
    before = resident(server)
    page = bytes(range(256)) * 16 + bytes(60_000)  # shrinks to a fortieth at best
    body = gzip.compress((page * 1000)[: 60 << 20], 1)
    statuses: list[int] = []

    def attack() -> None:
        statuses.append(server.ask("POST", MLP, body, {"Content-Encoding": "gzip"})[0])

    attackers = [threading.Thread(target=attack) for _ in range(24)]
    for attacker in attackers:
        attacker.start()
    for attacker in attackers:
        attacker.join()
    assert set(statuses) <= {400, 503}
    assert 503 in statuses  # 24 times 60 MiB do not fit into 400
    assert server.post(MLP, infer_body())[0] == 200
    assert resident(server) - before < 800 << 20
