"""Answers in pieces whose key is revoked end, in the words of their protocol."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import openai
import pytest
from waiting import PATIENCE_S, until

from salver.features.access.key_format import new_key
from salver.features.access.keys_file import KeyRecord, editing, hash_of
from salver.testing.process import ServerProcess

#: Continues the alphabet: a letter in 50 ms, for as long as it is asked; or three, and then nothing for long.
MODEL = """
import time
import numpy as np

class Model:
    def step(self, slots, tokens):
        time.sleep({pause})
        following = np.where(tokens == ord("z"), ord("a"), (tokens + 1) % 256)
        return np.log(np.eye(256, dtype=np.float32)[following] + 1e-9)

    def release(self, slot):
        pass
"""
HANDLER = """
import time
from ts.handler_utils.utils import send_intermediate_predict_response

def handle(data, context):
    if data:
        for number in range(2000):
            send_intermediate_predict_response([f"{number} "], context.request_ids, "", 200, context)
            time.sleep(0.05)
    return ["last"] * len(data or ())
"""
PAUSES = {"steady": "0.05", "stuck": '5 if (np.asarray(tokens) == ord("d")).any() else 0.05'}
LONG = 2000


class World(NamedTuple):
    server: ServerProcess
    keys: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("streams")
    for name, pause in PAUSES.items():
        model = folder / "models" / name
        (model / "1").mkdir(parents=True)
        (model / "salver.toml").write_text('[steps]\nvocabulary = "bytes"\n')
        (model / "1" / "model.py").write_text(MODEL.replace("{pause}", pause))
    with editing(folder / "keys.toml"):
        pass
    (folder / "models" / "pieces" / "1").mkdir(parents=True)
    manifest = {"model": {"modelName": "pieces", "handler": "handler.py:handle", "modelVersion": "1"}}
    with zipfile.ZipFile(folder / "models" / "pieces" / "1" / "pieces.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", **manifest}))
        archive.writestr("handler.py", HANDLER)
    options = ["--keys-file", str(folder / "keys.toml")]
    with ServerProcess([folder / "models"], folder / "log", options=options) as server:
        until(lambda: server.output().count("model ready") == len(PAUSES) + 1, server.output)
        yield World(server, folder / "keys.toml")


def made(world: World, name: str) -> str:
    """Make a key, and wait until the server knows it."""
    key = new_key()
    with editing(world.keys) as records:
        records.append(KeyRecord(name, name, hash_of(key), ("infer",)))
    until(lambda: httpx.get(f"{world.server.url}/v2", headers={"x-api-key": key}).status_code == 200)
    return key


def revoke(world: World, name: str) -> None:
    with editing(world.keys) as records:
        records[:] = [record for record in records if record.id != name]


@pytest.mark.parametrize("model", PAUSES)
def test_a_stream_of_events(world: World, model: str) -> None:
    key = made(world, f"events-{model}")
    body = {"text_input": "a", "max_tokens": LONG, "temperature": 0}
    with httpx.stream(
        "POST",
        f"{world.server.url}/v2/models/{model}/generate_stream",
        json=body,
        headers={"x-api-key": key},
        timeout=PATIENCE_S,
    ) as answer:
        assert answer.status_code == 200
        events = (json.loads(line[6:]) for line in answer.iter_lines() if line)
        assert next(events)["text_output"] == "b"
        revoke(world, f"events-{model}")
        *_, last = events
    assert last["error"].startswith("the key is not valid")


@pytest.mark.parametrize("model", PAUSES)
def test_openais_client(world: World, model: str) -> None:
    name = f"openai-{model}"
    client = openai.OpenAI(api_key=made(world, name), base_url=f"{world.server.url}/v1", max_retries=0)
    chunks = client.completions.create(model=model, prompt="a", max_tokens=LONG, temperature=0, stream=True)
    assert next(chunks).choices[0].text == "b"
    revoke(world, name)
    with pytest.raises(openai.APIError, match="the key is not valid") as caught:
        for _ in chunks:
            pass
    assert caught.value.type == "authentication_error"


def test_an_answer_of_torchserve(world: World) -> None:
    """Which is cut off, as TorchServe does it after an error in the middle."""
    key = made(world, "torchserve")
    with httpx.stream(
        "POST",
        f"{world.server.url}/predictions/pieces",
        content=b"x",
        headers={"x-api-key": key},
        timeout=PATIENCE_S,
    ) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_text()
        assert next(pieces).startswith("0 ")
        revoke(world, "torchserve")
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
            for _ in pieces:
                pass


def test_the_end_is_recorded_once_and_the_model_goes_on(world: World) -> None:
    name = "recorded"
    key, other = made(world, name), made(world, "other")
    client = openai.OpenAI(api_key=key, base_url=f"{world.server.url}/v1", max_retries=0)
    chunks = client.completions.create(model="steady", prompt="a", max_tokens=LONG, stream=True)
    next(chunks)
    revoke(world, name)
    with pytest.raises(openai.APIError):
        list(chunks)
    lines = [json.loads(line) for line in world.server.output().splitlines() if "request refused" in line]
    assert [line["reason"] for line in lines if line.get("key") == name] == ["invalid_key"]
    mine = openai.OpenAI(api_key=other, base_url=f"{world.server.url}/v1", max_retries=0)
    assert mine.completions.create(model="steady", prompt="a", max_tokens=2, temperature=0).choices[0].text


def test_a_key_that_gets_another_scope_ends_only_what_it_may_not_do(world: World) -> None:
    name = "changing"
    key = made(world, name)
    client = openai.OpenAI(api_key=key, base_url=f"{world.server.url}/v1", max_retries=0)
    chunks = client.completions.create(model="steady", prompt="a", max_tokens=LONG, stream=True)
    next(chunks)
    with editing(world.keys) as records:
        records[-1] = KeyRecord(name, name, hash_of(key), ("infer:steady", "read"))
    until(lambda: httpx.get(f"{world.server.url}/metrics", headers={"x-api-key": key}).status_code == 200)
    for _ in range(20):  # longer than between two looks
        next(chunks)
    with editing(world.keys) as records:
        records[-1] = KeyRecord(name, name, hash_of(key), ("infer:other",))
    with pytest.raises(openai.APIError, match="no scope 'infer' for model 'steady'"):
        list(chunks)
