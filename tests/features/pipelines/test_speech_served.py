"""Directories for sounds and sequences on a real server: every protocol, and callers who go away."""

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from speech_directories import in_base64, sound, speech_cases, speech_directory

from salver.testing.process import ServerProcess

pytest.importorskip("soundfile")
CASES = {case["id"]: case for case in speech_cases()}
CTC, WHISPER = CASES["asr-ctc/mono-0.5s-16k.wav"], CASES["asr-whisper/mono-0.5s-16k.wav"]
WAV = sound(0.5)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("served")
    for name in ("asr-ctc", "asr-whisper", "bart-ends"):
        path = speech_directory(folder, name)
    (path / "salver.toml").write_text('[options]\ntask = "summarization"\n')
    with ServerProcess([folder], folder.with_suffix(".log")) as running:
        yield running.wait_ready()


def post(server: ServerProcess, path: str, body: Any, kind: str = "application/json") -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.url}/v1/models/{path}", data, {"content-type": kind})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_sounds_in_every_form(server: ServerProcess) -> None:
    for kind in ("audio/wav", "audio/x-wav", "application/octet-stream", "application/x-www-form-urlencoded"):
        assert post(server, "asr-ctc", WAV, kind) == (200, CTC["output"]), kind
    assert post(server, "asr-whisper", WAV, "audio/wav") == (200, WHISPER["output"])
    two = {"inputs": [in_base64(WAV)] * 2}
    assert post(server, "asr-ctc", two) == (200, [CTC["output"]] * 2)
    status, got = post(server, "asr-ctc:predict", {"instances": [{"b64": in_base64(WAV)}]})
    assert status == 200 and json.loads(got["predictions"][0]) == CTC["output"]
    given = triton.InferInput("sound", [1], "BYTES")
    given.set_data_from_numpy(np.array([WAV], object))
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        rows = client.infer("asr-whisper", [given]).as_numpy("output")
    assert json.loads(rows[0]) == WHISPER["output"]


def test_summaries(server: ServerProcess) -> None:
    case = CASES["bart-ends/summary/1"]
    assert post(server, "bart-ends", {"inputs": case["input"]}) == (200, case["output"])
    assert post(server, "bart-ends", {"inputs": [case["input"]] * 2}) == (200, case["output"] * 2)


@pytest.mark.parametrize(
    ("model", "body", "kind", "text"),
    [
        ("asr-ctc", b"hello", "text/plain", "the model takes sounds, not text/plain"),
        ("asr-ctc", b"x", "image/png", "the model takes sounds, not image/png"),
        ("asr-ctc", WAV[:4000], "audio/wav", "cut off"),
        ("asr-whisper", b"", "audio/wav", "an empty sound"),
        ("asr-whisper", {"inputs": "https://x/y.wav"}, "application/json", "a URL"),
        ("asr-whisper", {"inputs": "", "parameters": {"language": 5}}, "application/json", "a text or null"),
        ("asr-whisper", {"inputs": []}, "application/json", "inputs is an empty list"),
        ("bart-ends", WAV, "audio/wav", "the model takes texts, not audio/wav"),
        ("bart-ends", {"inputs": "a", "parameters": {"num_beams": 0}}, "application/json", "from 1 to 16"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    server: ServerProcess, model: str, body: Any, kind: str, text: str
) -> None:
    status, told = post(server, model, body, kind)
    assert status == 400 and text in told["error"], told


def test_the_page_of_the_api_knows_the_form(server: ServerProcess) -> None:
    with urllib.request.urlopen(f"{server.url}/openapi.json") as answer:
        paths = json.loads(answer.read())["paths"]
    for model in ("asr-ctc", "asr-whisper", "bart-ends"):
        content = paths[f"/v1/models/{model}"]["post"]["requestBody"]["content"]
        assert ("audio/wav" in content) == model.startswith("asr")
        assert post(server, model, content["application/json"]["example"])[0] == 200


def test_a_caller_who_goes_away_frees_the_model(server: ServerProcess) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({"inputs": "a" * 40, "parameters": {"max_new_tokens": 500, "num_beams": 16}}).encode()
    for _ in range(3):
        with socket.create_connection((host, int(port))) as caller:
            head = f"POST /v1/models/bart-ends HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
            caller.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + body)
    assert post(server, "bart-ends", {"inputs": "a", "parameters": {"max_new_tokens": 2}})[0] == 200
