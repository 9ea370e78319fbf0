"""The client and the commands against the real server, with a backend that doubles numbers."""

import asyncio
import inspect
import json
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from waiting import PATIENCE_S

from salver.app import Server
from salver.backends.protocol import LoadOptions, Traits
from salver.cli import main
from salver.client import Client, SyncClient
from salver.configuration import ServeConfig
from salver.transport.server import FrontConfig
from salver.words import errors
from salver.words.artifacts import Manifest
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import Array, DataType


class Doubler:
    """Doubles ``x`` and gives ``text`` back."""

    signature = Signature(
        (TensorSpec("x", DataType.FP32, (-1, 2)), TensorSpec("text", DataType.BYTES, (-1,))),
        (TensorSpec("y", DataType.FP32, (-1, 2)), TensorSpec("same", DataType.BYTES, (-1,))),
        batched=True,
    )

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        return {"y": inputs["x"] * 2, "same": inputs["text"]}

    def close(self) -> None: ...


class DoublerBackend:
    name = "doubler"
    extra = "doubler"
    modules = ()
    traits = Traits()

    def recognise(self, path: Path) -> str | None:
        return "doubler" if path.suffix == ".double" else None

    def load(self, manifest: Manifest, options: LoadOptions) -> Doubler:
        if manifest.path.read_text() == "broken":
            raise errors.LoadFailed(f"{manifest.path} is broken")
        return Doubler()


def config(folder: Path) -> ServeConfig:
    for name, content in (("good", "fine"), ("bad", "broken")):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.double").write_text(content)
    return ServeConfig(paths=(str(folder),), front=FrontConfig(port=0))


def asked(url: str, body: object) -> tuple[int, dict[str, Any]]:
    """The status and the answer of a body of JSON."""
    request = urllib.request.Request(f"{url}/v2/models/good/infer", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest_asyncio.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    server = Server(config(tmp_path), {"doubler": DoublerBackend()})
    async with server, Client(server.url) as client:
        yield client


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A server on a thread of its own, for the commands, which bring their own event loop."""
    started, told = threading.Event(), {}

    async def run() -> None:
        async with Server(config(tmp_path), {"doubler": DoublerBackend()}) as server:
            told["stop"], told["loop"] = asyncio.Event(), asyncio.get_running_loop()
            told["url"] = server.url
            started.set()
            await told["stop"].wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert started.wait(PATIENCE_S)
    yield told["url"]
    told["loop"].call_soon_threadsafe(told["stop"].set)
    thread.join(PATIENCE_S)


INPUTS = {"x": np.array([[1, 2], [3, 4]], "f4"), "text": ["a", "ä"]}


async def test_infer(client: Client) -> None:
    answer = await client.infer("good", INPUTS)
    assert answer["y"].tolist() == [[2, 4], [6, 8]]
    assert answer["same"].tolist() == [b"a", "ä".encode()]
    assert list(await client.infer("good", INPUTS, outputs=["same"], version="1", id="7")) == ["same"]


async def test_many_at_once(client: Client) -> None:
    answers = await asyncio.gather(
        *(client.infer("good", {"x": np.full((1, 2), i, "f4"), "text": [str(i)]}) for i in range(100))
    )
    for i, answer in enumerate(answers):
        assert answer["y"].tolist() == [[2 * i, 2 * i]]
        assert answer["same"].tolist() == [str(i).encode()]


async def test_what_the_server_says_of_itself(client: Client) -> None:
    assert await client.live()
    assert not await client.ready()  # one model that should serve cannot
    assert await client.ready("good")
    assert (await client.metadata())["name"] == "salver"
    described = await client.metadata("good")
    assert described["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
    index = {entry["name"]: entry for entry in await client.index()}
    assert index["good"]["state"] == "READY"
    assert "is broken" in index["bad"]["reason"]
    await client.infer("good", INPUTS)
    stats = (await client.statistics("good"))["model_stats"][0]
    assert stats["inference_stats"]["success"]["count"] == 1


async def test_refusals(client: Client) -> None:
    with pytest.raises(errors.NotFound, match="nosuch"):
        await client.infer("nosuch", INPUTS)
    with pytest.raises(errors.InvalidInput):
        await client.infer("good", {"x": np.zeros((1, 3), "f4"), "text": ["a"]})
    with pytest.raises(errors.InvalidInput):
        await client.infer("good", {"x": np.zeros((1, 2), "f4")})


def test_models_list(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--url", url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "version", "state", "reason"]
    assert any("good" in text and "READY" in text for text in lines)
    assert any("bad" in text and "is broken" in text for text in lines)
    assert main(["models", "list", "--json", "--url", url]) == 0
    entries = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert {entry["name"] for entry in entries} == {"good", "bad"}


def test_infer_command(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["infer", "good", "-i", "x=[1,2]", "-i", "text=hello", "--url", url]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.startswith("y FP32[1, 2]\n[[2. 4.]]\nsame BYTES[1]\n['hello']\n")
    assert main([*words, "--json", "--output", "y"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == {"y": [[2.0, 4.0]]}
    assert main(["infer", "good", "--url", url]) == 1
    assert "It wants: x FP32[-1, 2], text BYTES[-1]" in capsys.readouterr().err


def test_bench_command(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "good", "--rate", "50", "100", "--seconds", "0.3", "--arrivals", "constant"]
    words += ["--url", url]
    assert main([*words, "--json"]) == 0
    first, second = (json.loads(text) for text in capsys.readouterr().out.splitlines())
    assert (first["offered"], first["ok"], first["sent"] + first["unsent"]) == (50, first["sent"], 15)
    assert (second["offered"], second["sent"] + second["unsent"]) == (100, 30)
    assert first["compute_ms"] is not None
    assert not first["p99_is_sound"]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0].startswith("offered/s")
    assert len(captured.out.splitlines()) == 3
    assert "~ marks a p99" in captured.err


def test_bench_refuses_what_fails_alone(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "nosuch", "--url", url]) == 1
    assert "nosuch" in capsys.readouterr().err


async def test_lists_get_the_datatypes_of_the_model(client: Client) -> None:
    answer = await client.infer("good", {"x": [[1, 2], (3, 4)], "text": ["a", "b"]})
    assert answer["y"].tolist() == [[2, 4], [6, 8]]
    assert answer["y"].dtype == np.float32
    assert answer["same"].tolist() == [b"a", b"b"]
    answer = await client.infer("good", {"x": [[1.5, 2]], "text": np.array(["a"])})
    assert answer["y"].tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"z": [1]}, "'good' has no input 'z'. It takes: x FP32[-1,2], text BYTES[-1]"),
        (
            [[1, 2]],
            "the inputs of 'good' are wanted as {name: values}. It takes: x FP32[-1,2], text BYTES[-1]",
        ),
        ({"x": [["a", "b"]], "text": ["a"]}, "input 'x' must hold numbers, since it is FP32"),
        ({"x": [[1, 2], [3]], "text": ["a"]}, "input 'x': "),
        ({"x": [[1, 2]], "text": [1]}, "input 'text': "),
    ],
)
async def test_lists_that_fit_no_datatype(inputs: dict[str, object], said: str, client: Client) -> None:
    with pytest.raises(errors.InvalidInput) as info:
        await client.infer("good", inputs)
    assert said in str(info.value)


async def test_the_values_alone_of_a_model_with_one_input() -> None:
    client = Client("http://nowhere")
    client._known["one", ""] = {"x": TensorSpec("x", DataType.FP32, (-1, 2))}
    for values in ([[1, 2]], np.ones((1, 2), np.float32)):
        assert list(await client._typed("one", "", values)) == ["x"]


async def test_inputs_by_name_over_http(client: Client) -> None:
    url = client._http.url
    ask = asyncio.to_thread
    assert await ask(asked, url, {"x": [[1, 2]], "text": ["a"]}) == (200, {"y": [[2.0, 4.0]], "same": ["a"]})
    status, answer = await ask(asked, url, {"z": [[1, 2]], "text": ["a"]})
    assert (status, answer["error"]) == (
        400,
        "'good' has no input 'z'. It takes: x FP32[-1,2], text BYTES[-1]",
    )
    status, answer = await ask(asked, url, {"x": [1, 2], "text": ["a"]})
    assert status == 400
    assert "unexpected shape for input 'x'" in answer["error"]


def test_the_synchronous_face(tmp_path: Path) -> None:
    started, end = threading.Event(), threading.Event()
    found: list[str] = []

    async def live() -> None:
        async with Server(config(tmp_path), {"doubler": DoublerBackend()}) as server:
            found.append(server.url)
            started.set()
            await asyncio.to_thread(end.wait)

    thread = threading.Thread(target=lambda: asyncio.run(live()))
    thread.start()
    try:
        assert started.wait(PATIENCE_S)
        with SyncClient(found[0]) as client:
            assert client.live()
            assert not client.ready("bad")
            assert client.infer("good", {"x": [[1, 2]], "text": ["a"]})["y"].tolist() == [[2, 4]]
            assert client.metadata("good")["name"] == "good"
            with pytest.raises(errors.NotFound):
                client.infer("none", {"x": [[1, 2]]})
            with pytest.raises(errors.InvalidInput):
                client.infer("good", {"x": np.zeros(3), "text": ["a"]})
            answers = [
                t.result()
                for t in [
                    ThreadPoolExecutor(4).submit(client.infer, "good", {"x": [[i, i]], "text": ["a"]})
                    for i in range(8)
                ]
            ]
            assert sorted(a["y"][0, 0] for a in answers) == [2 * i for i in range(8)]
            assert {m["name"] for m in client.index()} == {"good", "bad"}
        with pytest.raises(errors.NotReady, match="is closed"):
            client.live()
    finally:
        end.set()
        thread.join()


async def test_the_synchronous_face_inside_an_event_loop(client: Client) -> None:
    """As in a notebook: its loop is its own."""
    with SyncClient(client._http.url) as sync:
        assert await asyncio.to_thread(sync.live)


def test_both_faces_have_the_same_methods() -> None:
    def faces(kind: type) -> dict[str, inspect.Signature]:
        return {
            name: inspect.signature(method)
            for name, method in vars(kind).items()
            if not name.startswith("_") and inspect.isfunction(method)
        }

    assert faces(SyncClient) == faces(Client)
