"""A host that is killed in the middle of a batch costs the batch-mates nothing, where they may run again."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from host_engines import hosted
from waiting import auntil

from salver.kernel.engine.engine import Engine
from salver.kernel.engine.process import ProcessRunner
from salver.words.artifacts import Batching, ModelConfig
from salver.words.errors import DeadlineExceeded, HostDied
from salver.words.messages import InferRequest
from salver.words.tensor import tensor

SOURCE = """
import os, pathlib, signal, time

class Model:
    inputs = {"x": ("FP32", [-1, 1])}
    outputs = {"y": ("FP32", [-1, 1])}

    def load(self, context):
        self.folder = pathlib.Path(FOLDER)

    def predict(self, inputs):
        values = inputs["x"][:, 0].tolist()
        with (self.folder / "runs").open("a") as file:
            file.write(f"{os.getpid()} {' '.join(map(str, values))}\\n")
        if 1000.0 in values:
            while not (self.folder / "open").exists():
                time.sleep(0.005)
        if min(values) < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"y": inputs["x"] * 2}
"""


class Rig:
    def __init__(self, engine: Engine, runner: ProcessRunner, folder: Path) -> None:
        self.engine = engine
        self.runner = runner
        self.folder = folder

    async def ask(self, value: float, deadline: float | None = None) -> float:
        x = tensor("x", np.full((1, 1), value, "f4"))
        said = await self.engine.infer(InferRequest("m", (x,)), deadline)
        return float(said.outputs[0].array[0, 0])

    def runs(self) -> list[tuple[int, tuple[float, ...]]]:
        """Process and values of each."""
        file = self.folder / "runs"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(int(pid), tuple(map(float, rest))) for pid, *rest in map(str.split, lines)]

    def times(self, value: float) -> int:
        return Counter(each for _, values in self.runs() for each in values)[value]

    async def batch(self, *values: float) -> list[float | BaseException]:
        """Requests that share a run: they wait while another one holds the model."""
        held = asyncio.ensure_future(self.ask(1000))
        await auntil(lambda: self.times(1000))
        asked = [asyncio.ensure_future(self.ask(value)) for value in values]
        await auntil(lambda: self.engine.queued == len(values))
        (self.folder / "open").touch()
        assert await held == 2000
        return await asyncio.gather(*asked, return_exceptions=True)


@asynccontextmanager
async def rig(folder: Path, slots: int = 1, reruns: bool = True) -> AsyncIterator[Rig]:
    source, config = f"FOLDER = {str(folder)!r}\n{SOURCE}", ModelConfig(batching=Batching(max_rows=16))
    async with hosted(folder, source, Engine, config, slots=slots, first_s=0.01) as made:
        made.runner.reruns = reruns
        yield Rig(made.engine, made.runner, folder)


async def test_the_mates_of_a_request_that_kills_its_host_get_their_answers(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        *mates, culprit = await r.batch(1, 2, 3, -1)
        assert mates == [2, 4, 6]
        assert isinstance(culprit, HostDied)
        assert "SIGKILL" in culprit.message
        assert [values for _, values in r.runs()] == [(1000,), (1, 2, 3, -1), (1,), (2,), (3,), (-1,)]
        assert r.runner.deaths == 2, "the batch's host, and the culprit's own"
        await auntil(lambda: not r.runner.is_lost)
        assert await r.ask(5) == 10


async def test_a_culprit_in_front_keeps_nobody_from_an_answer(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        culprit, *mates = await r.batch(-1, 1, 2)
        assert mates == [2, 4]
        assert isinstance(culprit, HostDied)
        assert all(r.times(value) <= 2 for value in (-1, 1, 2))


async def test_several_culprits_cost_a_host_each(tmp_path: Path) -> None:
    async with rig(tmp_path, slots=1) as r:
        first, mate, second = await r.batch(-1, 1, -2)
        assert isinstance(first, HostDied) and isinstance(second, HostDied)
        assert mate == 2
        assert r.times(-1) == r.times(-2) == r.times(1) == 2
        assert r.runner.deaths == 3


async def test_a_host_that_somebody_kills_costs_nobody_an_answer(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        asked = asyncio.ensure_future(r.ask(1000))
        await auntil(lambda: r.times(1000))
        (pid,) = r.runner.pids
        os.kill(pid, signal.SIGKILL)
        await auntil(lambda: r.times(1000) == 2)
        (tmp_path / "open").touch()
        assert await asked == 2000
        assert len({pid for pid, _ in r.runs()}) == 2


@pytest.mark.parametrize("reruns", [True, False])
async def test_who_waits_behind_a_culprit_is_not_refused_for_it(tmp_path: Path, reruns: bool) -> None:
    async with rig(tmp_path, reruns=reruns) as r:
        held = asyncio.ensure_future(r.ask(1000))
        await auntil(lambda: r.times(1000))
        culprit = asyncio.ensure_future(r.ask(-1))
        await auntil(lambda: r.engine.queued == 1)
        (tmp_path / "open").touch()
        await auntil(lambda: r.times(-1))
        mates = [asyncio.ensure_future(r.ask(value)) for value in (1, 2, 3)]
        assert await held == 2000
        assert await asyncio.gather(*mates) == [2, 4, 6]
        with pytest.raises(HostDied):
            await culprit


async def test_arbitrary_code_does_not_run_twice(tmp_path: Path) -> None:
    async with rig(tmp_path, reruns=False) as r:
        said = await r.batch(1, 2, -1)
        assert all(isinstance(each, HostDied) for each in said)
        assert [r.times(value) for value in (1, 2, -1)] == [1, 1, 1]


async def test_what_the_model_has_not_seen_waits_for_its_next_host(tmp_path: Path) -> None:
    async with rig(tmp_path, reruns=False) as r:
        (pid,) = r.runner.pids
        os.kill(pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        assert await r.ask(4) == 8
        assert r.times(4) == 1


async def test_what_comes_while_the_host_restarts_waits_for_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        (pid,) = r.runner.pids
        os.kill(pid, signal.SIGKILL)
        await auntil(lambda: r.runner.is_lost)
        assert await r.ask(4) == 8


async def test_nobody_runs_again_past_its_deadline(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        asked = asyncio.ensure_future(r.ask(1000, deadline=time.monotonic() + 1.0))
        await auntil(lambda: r.times(1000))
        with pytest.raises(DeadlineExceeded):
            await asked
        (pid,) = r.runner.pids
        os.kill(pid, signal.SIGKILL)
        await auntil(lambda: r.runner.deaths == 1 and not r.runner.is_lost)
        assert await r.ask(3) == 6
        assert r.times(1000) == 1
