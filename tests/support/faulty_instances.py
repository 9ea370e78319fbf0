"""A server in front of three instances, and the faults that one or all of them can have. Not a suite itself.

One model says twice its input after ``TIME_MS`` and so many more for each row, another one says letters, a
piece each. Their instances fail as the faults say: by signals, by a relay between them and the server in
front, or by a word to the model.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Final

import msgspec
from relay import Relay, Trouble
from waiting import auntil

from salver.features.routing.operations import InstancesView
from salver.testing.process import ServerProcess

NAME: Final = "double"
LETTERS: Final = "letters"
#: Pieces of a stream, and the milliseconds of each.
PIECES, PIECE_MS = 12, 20.0
#: Rows of a run; its milliseconds, and those of each row.
ROWS, TIME_MS, ROW_MS = 16, 60.0, 2.0
#: Requests a second that an instance can answer.
CAPACITY: Final = ROWS / (TIME_MS + ROWS * ROW_MS) * 1e3
_SOURCE: Final = f"""
import os, time
from pathlib import Path

TOLD = Path(os.environ["FAULT_FILE"])


class Model:
    inputs = {{"x": ("FP32", [-1, 1])}}
    outputs = {{"y": ("FP32", [-1, 1])}}
    runs = 0

    def predict(self, inputs):
        fault = TOLD.read_text()
        self.runs += 1
        seconds = ({TIME_MS} + {ROW_MS} * len(inputs["x"])) / 1e3
        time.sleep(10 * seconds if fault == "slow" else seconds)
        if fault == "failing" or (fault == "erring" and self.runs % 2):
            raise RuntimeError("a fault on purpose")
        return {{"y": inputs["x"] * (3 if fault == "wrong" else 2)}}
"""


_LETTERS_SOURCE: Final = f"""
import time

import numpy as np


class Model:
    def step(self, slots, tokens):
        time.sleep({PIECE_MS / 1e3})
        return np.log(np.eye(256, dtype=np.float32)[(tokens + 1) % 128] + 1e-9)

    def release(self, slot):
        pass
"""
STREAM_PATH: Final = f"/v2/models/{LETTERS}/generate_stream"
STREAM_BODY: Final = b'{"text_input":"a","max_tokens":%d,"temperature":0}' % PIECES
#: The text that the pieces of a whole stream have.
STREAMED: Final = "".join(chr(ord("b") + place) for place in range(PIECES))


def request(value: float) -> bytes:
    """Return the JSON of a request for twice a number."""
    return b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1],"data":[%g]}]}' % value


class Cluster:
    """Three instances, the first behind a relay, and a server in front of them; use as a context manager.

    Attributes:
        returned: When each instance that was killed was ready again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = AsyncExitStack()
        self.backs: list[ServerProcess] = []
        self.returned: list[float] = []

    async def __aenter__(self) -> "Cluster":
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        version = self._folder / "models" / NAME / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(_SOURCE)
        (version.parent / "salver.toml").write_text(
            f'batching.max_rows = {ROWS}\ninstances.runner = "thread"\n'
        )
        letters = self._folder / "models" / LETTERS
        letters.mkdir()
        (letters / "model.py").write_text(_LETTERS_SOURCE)
        (letters / "salver.toml").write_text("[steps]\nvocabulary = 'bytes'\n")
        for number in range(3):
            self.tell(number, "")
            options = {"FAULT_FILE": str(self._told(number))}
            back = ServerProcess([self._folder / "models"], self._folder / f"{number}.log", env=options)
            self.backs.append(self._stack.enter_context(back))
        await asyncio.gather(*(asyncio.to_thread(back.wait_ready) for back in self.backs))
        port = self.backs[0].port
        self.relay = await self._stack.enter_async_context(
            Relay(lambda: asyncio.open_connection("127.0.0.1", port))
        )
        urls = [f"http://127.0.0.1:{self.relay.port}", self.backs[1].url, self.backs[2].url]
        instances = (
            f"instances = {msgspec.json.encode(urls).decode()}\nattempt_s = 1.0\ncheck_s = 0.5\n"
            "[ejection]\nbase_s = 1\n"
        )
        for name in (NAME, LETTERS):
            (self._folder / "front" / name).mkdir(parents=True)
        # So that the first one is asked, however it was measured before.
        letters = self._folder / "front" / LETTERS
        (letters / "instances.toml").write_text(f'policy = "round-robin"\n{instances}')
        model = self._folder / "front" / NAME
        (model / "probe.json").write_bytes(request(3.0))
        (model / "expected.json").write_bytes(
            request(6.0).replace(b'"inputs"', b'"outputs"').replace(b'"x"', b'"y"')
        )
        (model / "instances.toml").write_text(
            f'{instances}[probe]\nrequest = "probe.json"\nexpect = "expected.json"\nevery_s = 1\n'
        )
        front = ServerProcess([self._folder / "front"], self._folder / "front.log")
        self.front = self._stack.enter_context(front)
        await asyncio.to_thread(self.front.wait_ready)

    def _told(self, number: int) -> Path:
        return self._folder / f"{number}.fault"

    def tell(self, number: int, fault: str) -> None:
        """Have the model of an instance fail from its next run on; empty = not any more."""
        self._told(number).write_text(fault)

    async def view(self, model: str = NAME) -> InstancesView:
        """Return what the server in front tells of a model's instances."""
        path = f"/api/v1/models/{model}/instances"
        _, body = await asyncio.to_thread(self.front.get, path)
        return msgspec.json.decode(body, type=InstancesView)

    async def states(self) -> list[str]:
        """Return the instances' states."""
        return [each.state for each in (await self.view()).instances]

    async def until_all_available(self) -> None:
        """Wait until each instance gets requests; one that was ejected needs one for that."""

        async def is_whole() -> bool:
            path = f"/v2/models/{NAME}/infer"
            await asyncio.to_thread(self.front.ask, "POST", path, request(1.0))
            return set(await self.states()) == {"available"}

        await auntil(is_whole, self.front.output)


async def _restart(cluster: Cluster, number: int) -> None:
    back = cluster.backs[number]
    back.start(back.port)
    await asyncio.to_thread(back.wait_ready)
    cluster.returned.append(time.monotonic())


@contextlib.asynccontextmanager
async def _killed(cluster: Cluster, numbers: Sequence[int] = (0,)) -> AsyncIterator[None]:
    for number in numbers:
        cluster.backs[number].signal(signal.SIGKILL)
        cluster.backs[number].wait()
    yield
    await asyncio.gather(*(_restart(cluster, number) for number in numbers))


@contextlib.asynccontextmanager
async def _stopped(cluster: Cluster) -> AsyncIterator[None]:
    cluster.backs[0].signal(signal.SIGSTOP)
    try:
        yield
    finally:
        cluster.backs[0].signal(signal.SIGCONT)


def _told(fault: str, numbers: Sequence[int] = (0,)) -> "Fault":
    @contextlib.asynccontextmanager
    async def told(cluster: Cluster) -> AsyncIterator[None]:
        for number in numbers:
            cluster.tell(number, fault)
        yield
        for number in numbers:
            cluster.tell(number, "")

    return told


def _relayed(trouble: Trouble) -> "Fault":
    @contextlib.asynccontextmanager
    async def relayed(cluster: Cluster) -> AsyncIterator[None]:
        cluster.relay.be(trouble)
        yield
        cluster.relay.be("")

    return relayed


@contextlib.asynccontextmanager
async def _flapping(cluster: Cluster) -> AsyncIterator[None]:
    async def flap() -> None:
        while True:
            cluster.relay.be("refused")
            await asyncio.sleep(0.3)
            cluster.relay.be("")
            await asyncio.sleep(0.3)

    flapping = asyncio.create_task(flap())
    yield
    flapping.cancel()
    cluster.relay.be("")


Fault = Callable[[Cluster], AbstractAsyncContextManager[None]]
#: Faults of one instance, which hold inside of their context.
FAULTS: Final[dict[str, Fault]] = {
    "killed": _killed,
    "stopped": _stopped,
    "slow": _told("slow"),
    "every second run fails": _told("erring"),
    "black hole": _relayed("silent"),
    "no answer to SYN": _relayed("dropped"),
    "answers reset in the middle": _relayed("torn"),
    "half-open connections": _relayed("forgotten"),
    "wrong answers": _told("wrong"),
    "flapping": _flapping,
}
#: Faults of streams, which cannot be repeated once a piece has come.
STREAM_FAULTS: Final[dict[str, Fault]] = {"streams reset in the middle": _relayed("torn")}
#: Faults of all instances.
OUTAGES: Final[dict[str, Fault]] = {
    "all killed": lambda cluster: _killed(cluster, range(3)),
    "all failing": _told("failing", range(3)),
}
