"""A real server whose cache sizes itself: equal requests at once, updates under load, and what it tells."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc.aio as triton_grpc
from soaking import size

from salver.cli import main
from salver.testing.process import ServerProcess

pytestmark = pytest.mark.timeout(size(900, 300))
SLOW = """
import time
from pathlib import Path


class Model:
    inputs = {"x": ("FP32", [-1])}
    outputs = {"runs": ("INT64", [-1])}
    runs = 0

    def predict(self, inputs):
        if inputs["x"].any():  # not in the warm-up
            self.runs += 1
            while not Path(__file__).with_name("go").exists():
                time.sleep(0.01)
        return {"runs": inputs["x"].astype("int64") * 0 + self.runs}
"""
#: Its answer is the number of the update.
NUMBERED = """
class Model:
    inputs = {"x": ("FP32", [-1])}
    outputs = {"number": ("INT64", [-1])}

    def predict(self, inputs):
        return {"number": inputs["x"].astype("int64") * 0 + NUMBER}
"""
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}]}).encode()
HEAD = b"POST /v2/models/MODEL/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(BODY)


def write(root: Path, name: str, code: str) -> Path:
    folder = root / name / "1"
    folder.mkdir(parents=True)
    (root / name / "salver.toml").write_text('response_cache = true\n[instances]\nrunner = "thread"\n')
    (folder / "model.py").write_text(code)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sized") / "models"
    write(root, "slow", SLOW)
    write(root, "numbered", NUMBERED.replace("NUMBER", "0"))
    return root


@pytest.fixture(scope="module")
def served(models: Path) -> Iterator[ServerProcess]:
    options = ("--response-cache", "local,size=auto,max=16m,policy=sieve", "--control", "explicit")
    options += ("--load", "slow", "--load", "numbered")
    with ServerProcess([models], models.parent / "log", options) as server:
        yield server.wait_ready()


@pytest.fixture
def explain(served: ServerProcess, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def explained(*words: str) -> str:
        assert main(["cache", "explain", *words, "--url", f"http://{served.address}"]) == 0
        return capsys.readouterr().out

    return explained


class Caller:
    """One connection."""

    async def open(self, server: ServerProcess) -> "Caller":
        self.reader, self.writer = await asyncio.open_connection(server.host, server.port)
        return self

    def send(self, model: str) -> None:
        self.writer.write(HEAD.replace(b"MODEL", model.encode()) + BODY)

    async def answer(self) -> int:
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n", 1)[0], head
        (length,) = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = json.loads(await self.reader.readexactly(int(length.split(b":")[1])))
        (number,) = body["outputs"][0]["data"]
        return int(number)

    def close(self) -> None:
        self.writer.close()


async def test_a_thousand_equal_requests_at_once_run_the_model_once(
    served: ServerProcess, models: Path, explain: Callable[..., str]
):
    callers = [await Caller().open(served) for _ in range(1000)]
    for caller in callers:
        caller.send("slow")
    leaving, staying = callers[:200], callers[200:]  # the one who started the model is among them
    await asyncio.sleep(0.3)
    for caller in leaving:
        caller.close()
    (models / "slow" / "1" / "go").touch()
    assert set(await asyncio.gather(*(caller.answer() for caller in staying))) == {1}
    async with triton_grpc.InferenceServerClient(f"{served.host}:{served.port}") as client:
        given = triton_grpc.InferInput("x", [1], "FP32")
        given.set_data_from_numpy(np.ones(1, np.float32))
        assert (await client.infer("slow", [given])).as_numpy("runs").tolist() == [1]
    for caller in staying:
        caller.close()
    told = await asyncio.to_thread(explain, "slow", "--json")
    (row,) = [json.loads(line) for line in told.splitlines()]
    assert row["misses"] == 1 and row["joined"] > 0  # those that a busy server read later are hits
    assert row["model"] == "slow" and row["chosen"] and row["state"] in ("learning", "on")


@pytest.mark.soak
async def test_no_answer_is_older_than_the_update_before_it(served: ServerProcess, models: Path):
    """Whoever sends after an update was acknowledged gets its answer, or a later one."""
    updates, done = size(1000, 15), threading.Event()
    acknowledged, asked = 0, 0

    async def ask() -> None:
        nonlocal asked
        caller = await Caller().open(served)
        while not done.is_set():
            before = acknowledged
            caller.send("numbered")
            assert await caller.answer() >= before
            asked += 1
            await asyncio.sleep(0.005)  # more of them only wait for the processor
        caller.close()

    callers = [asyncio.create_task(ask()) for _ in range(4)]
    client = triton_grpc.InferenceServerClient(f"{served.host}:{served.port}")
    for number in range(1, updates + 1):
        (models / "numbered" / "1" / "model.py").write_text(NUMBERED.replace("NUMBER", str(number)))
        await client.load_model("numbered")
        acknowledged = number
        await asyncio.sleep(0.02)
    done.set()
    await asyncio.gather(*callers)
    await client.close()
    assert asked > 4 * updates


def test_explain_shows_every_model_and_the_curve_of_one(explain: Callable[..., str]):
    lines = explain().splitlines()
    assert {line.split()[0] for line in lines[1:]} == {"slow", "numbered"}
    text = explain("slow")
    assert "slow 1: hit ratio by size" in text and "█" in text
    assert text.splitlines()[-1].strip()
    assert explain("nobody").strip() == "nobody is not served with a response cache"
