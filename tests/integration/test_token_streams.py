"""A real language model, trained here, served step by step by two frameworks, asked over real sockets."""

import asyncio
import http.client
import importlib.util
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tritonclient.grpc as triton
from programs import program
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE_S, until
from zoo import gauge

from salver.testing.process import ServerProcess

ROOT = Path(__file__).parents[2]
BOTH = ["letters_onnx", "letters_torch"]
SLOW = """
import time
from pathlib import Path
import numpy as np
class Model:
    def step(self, slots, tokens):
        time.sleep(0.02)
        while (tokens == ord("m")).any() and Path("HOLD").exists():
            time.sleep(0.005)
        return np.eye(256, dtype="f4")[np.where(tokens == 122, 97, tokens + 1) % 256]
    def release(self, slot):
        pass
"""


@pytest.fixture(scope="module")
def letters() -> ModuleType:
    spec = importlib.util.spec_from_file_location("letters", ROOT / "examples" / "letters.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def network(letters):
    """Trained for a moment: it need not be good, it must only be the same everywhere."""
    return letters.train((ROOT / "LICENSE").read_bytes(), steps=8, size=48)


@pytest.fixture(scope="module")
def stepping(letters, network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("steps")
    letters.write(network, folder / "repository")
    write_slow(folder / "repository")
    with ServerProcess([folder / "repository"], folder / "log") as server:
        yield server.wait_ready()


def write_slow(repository: Path) -> None:
    """Says the alphabet; as long as there is a file ``hold`` beside the repository, nothing after an m."""
    slow = repository / "slow"
    (slow / "1").mkdir(parents=True)
    (slow / "1" / "model.py").write_text(SLOW.replace("HOLD", str(repository.parent / "hold")))
    (slow / "salver.toml").write_text('[steps]\nvocabulary = "bytes"\nmax_sequences = 2\n')


def alone(network, text: str, count: int) -> str:
    """What the network itself says, a token at a time."""
    import torch

    out = b""
    with torch.inference_mode():
        scores, state = network(torch.tensor([list(text.encode())]), torch.zeros(1, network.size))
        for _ in range(count):
            out += bytes([int(scores.argmax())])
            scores, state = network(torch.tensor([[out[-1]]]), state)
    return out.decode("utf-8", "replace")


def events(body: bytes) -> list[dict]:
    return [json.loads(line[6:]) for line in body.split(b"\n\n") if line]


def until_idle(server: ServerProcess, model: str) -> None:
    until(lambda: gauge(server, model, "running_batches") == 0)


@pytest.mark.parametrize("model", BOTH)
def test_both_frameworks_say_what_the_network_itself_says(stepping, network, model):
    for text in ("You may ", "Li", "conditions of the License, and so on and so forth, "):
        ask = {"text_input": text, "max_tokens": 40, "temperature": 0}
        status, reply = stepping.post(f"/v2/models/{model}/generate", ask)
        assert (status, reply["text_output"]) == (200, alone(network, text, 40))
        assert (reply["model_name"], reply["model_version"]) == (model, "1")
        assert reply["finish_reason"] == "length"


@pytest.mark.parametrize("model", BOTH)
async def test_thirty_callers_at_once_get_what_each_would_get_alone(stepping, network, model):
    texts = [f"{'Licensor ' * (n % 5)}{n} " for n in range(30)]

    async def one(number: int) -> str:
        await asyncio.sleep(0.004 * (number % 10))
        ask = {"text_input": texts[number], "max_tokens": 10 + number, "temperature": 0}
        path = f"/v2/models/{model}/generate_stream"
        _, body = await asyncio.to_thread(stepping.ask, "POST", path, json.dumps(ask).encode())
        return "".join(event["text_output"] for event in events(body))

    got = await asyncio.gather(*map(one, range(30)))
    assert got == [alone(network, text, 10 + n) for n, text in enumerate(texts)]


def test_a_seed_draws_the_same_text_on_both(stepping):
    ask = {"text_input": "The ", "max_tokens": 30, "temperature": 0.9, "top_k": 30, "seed": 11}
    first, second = (stepping.post(f"/v2/models/{model}/generate", ask)[1]["text_output"] for model in BOTH)
    assert first == second
    other = stepping.post(f"/v2/models/{BOTH[0]}/generate", ask | {"seed": 12})[1]["text_output"]
    assert other != first


def test_tokens_arrive_one_by_one(stepping):
    hold = Path(stepping._log).parent / "hold"
    hold.touch()
    connection = http.client.HTTPConnection(stepping.host, stepping.port, timeout=PATIENCE_S)
    body = json.dumps({"text_input": "a", "max_tokens": 40, "temperature": 0})
    connection.request("POST", "/v2/models/slow/generate_stream", body)
    reply = connection.getresponse()
    assert (reply.status, reply.getheader("content-length")) == (200, None)
    assert reply.getheader("content-type") == "text/event-stream; charset=utf-8"
    texts = []
    while line := reply.readline():
        if line.startswith(b"data: "):
            texts.append(json.loads(line[6:])["text_output"])
            if texts[-1] == "m":  # these are here, and no other has been made
                hold.unlink(missing_ok=True)
    connection.close()
    assert "".join(texts) == ("abcdefghijklmnopqrstuvwxyz" * 2)[1:41]


@pytest.mark.parametrize("protocol", ["http/1.1", "http/2"])
def test_a_caller_who_leaves_frees_the_slot(stepping, protocol):
    ask = json.dumps({"text_input": "a", "max_tokens": 2000, "temperature": 0})
    command = [program("curl"), "-sN", f"{stepping.url}/v2/models/slow/generate_stream", "-d", ask]
    command += ["--http2-prior-knowledge"] if protocol == "http/2" else []
    caller = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert caller.stdout is not None
    caller.stdout.readline()
    assert gauge(stepping, "slow", "running_batches") == 1
    caller.kill()
    caller.communicate()
    until_idle(stepping, "slow")


def test_streams_dropped_at_random_hurt_nobody(stepping, network):
    """Sockets closed before, in and after an answer; then everything is as before."""
    ask = json.dumps({"text_input": "You may ", "max_tokens": 60, "temperature": 0}).encode()
    head = b"POST /v2/models/letters_onnx/generate_stream HTTP/1.1\r\n"
    head += b"host: localhost\r\ncontent-length: %d\r\n\r\n"
    for number in range(60):
        with socket.create_connection((stepping.host, stepping.port)) as caller:
            caller.sendall(head % len(ask) + ask)
            if number % 3:
                caller.recv(1 + 200 * (number % 7))
    until_idle(stepping, "letters_onnx")
    status, reply = stepping.post("/v2/models/letters_onnx/generate", json.loads(ask))
    assert (status, reply["text_output"]) == (200, alone(network, "You may ", 60))


def test_infer_names_the_streaming_route(stepping):
    tensor = {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["a"]}
    status, reply = stepping.post("/v2/models/slow/infer", {"inputs": [tensor]})
    assert status == 501
    assert "answers token by token" in reply["error"]
    assert "/v2/models/slow/generate_stream" in reply["error"]
    with triton.InferenceServerClient(stepping.address) as client:
        text = triton.InferInput("text_input", [1], "BYTES")
        text.set_data_from_numpy(np.array([b"a"], dtype=object))
        with pytest.raises(InferenceServerException, match="generate_stream") as refused:
            client.infer("slow", [text])
    assert refused.value.status() == "StatusCode.UNIMPLEMENTED"


def test_a_deadline_ends_a_stream_with_an_error_event(stepping):
    ask = {"text_input": "a", "max_tokens": 500, "temperature": 0, "timeout": 200_000}
    status, body = stepping.ask("POST", "/v2/models/slow/generate_stream", json.dumps(ask).encode())
    assert status == 200
    assert events(body)[0]["text_output"] == "b"
    assert events(body)[-1] == {"error": "Request timeout expired"}


def test_unloading_lets_a_stream_end(tmp_path: Path):
    write_slow(tmp_path / "repository")
    options = ["--control", "explicit", "--load", "slow"]
    with ServerProcess([tmp_path / "repository"], tmp_path / "log", options) as server:
        server.wait_ready()
        (tmp_path / "hold").touch()
        connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)
        ask = {"text_input": "a", "max_tokens": 60, "temperature": 0}
        connection.request("POST", "/v2/models/slow/generate_stream", json.dumps(ask))
        reply = connection.getresponse()
        body = reply.readline()
        assert server.post("/v2/repository/models/slow/unload", {})[0] == 200
        refused, _ = server.post("/v2/models/slow/generate", ask)
        (tmp_path / "hold").unlink()
        body += reply.read()
        connection.close()
    assert refused in (404, 503)
    assert "".join(event["text_output"] for event in events(body)) == ("abcdefghijklmnopqrstuvwxyz" * 3)[1:61]
    assert events(body)[-1]["finish_reason"] == "length"
