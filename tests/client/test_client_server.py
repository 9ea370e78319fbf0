"""The client and the commands against the real server, with a backend that doubles numbers."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from salver import errors
from salver.app import FrontConfig, ServeConfig, Server
from salver.artifacts import Manifest
from salver.backends.protocol import LoadOptions, Traits
from salver.cli import main
from salver.client import Client
from salver.messages import Signature, TensorSpec
from salver.tensor import Array, DataType
from waiting import PATIENCE_S

pytestmark = pytest.mark.timeout(60)


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
    with capture_logs():  # else the server's log stands among the commands' output
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
