"""A model that writes without end fills neither the log nor the event loop, and what is missing is told."""

import logging
import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import auntil

from salver.backends.protocol import LoadOptions
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.output_limit import LONGEST_LINE, OutputLimit
from salver.kernel.engine.process import ProcessRunner
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.messages import InferRequest, ModelId
from salver.words.tensor import tensor

SOURCE = """
import sys

class Model:
    inputs = {"x": ("INT64", [-1, 1])}
    outputs = {"y": ("INT64", [-1, 1])}

    def predict(self, inputs):
        what = int(inputs["x"][0, 0])
        if what == 1:
            for index in range(60_000):
                print("noise", index)
        elif what == 2:
            sys.stdout.write("x" * 1_000_000)
            sys.stdout.flush()
            print()
        elif what == 4:
            sys.stdout.write("\\n" * 300_000)
        elif what == 3:
            print("y" * 40_000)
        print("done", what)
        return {"y": inputs["x"]}
"""


@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.floats(0, 0.2)), max_size=400))
def test_no_more_passes_than_the_rate_and_a_burst(lines: list[tuple[int, float]]) -> None:
    limit, now, passed, size = OutputLimit(), 0.0, 0, 0
    for length, pause in lines:
        now += pause
        if limit.takes(length, now):
            passed += 1
            size += min(length, LONGEST_LINE)
    assert passed <= 2000 + 200 * now + 1
    assert size <= (256 << 10) * (10 + now) + 1


def test_the_clock_of_a_machine_that_is_set_back_takes_nothing_away() -> None:
    limit = OutputLimit()
    assert limit.takes(1, 100.0) and limit.takes(1, 50.0)


async def test_a_flood_is_cut_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "model.py"
    path.write_text(SOURCE)
    manifest = Manifest(ModelId("m", "1"), path, "python", "python")
    caplog.set_level(logging.INFO)
    runner = await ProcessRunner.start("salver.backends.python:PythonBackend", manifest, LoadOptions())
    engine = Engine(manifest.id, runner, ModelConfig(), clock=time.monotonic, emit=lambda _: None)

    async def ask(what: int) -> None:
        await engine.infer(InferRequest("m", (tensor("x", np.array([[what]])),)))

    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "salver.engine.host"]

    def dropped() -> int:
        return sum(int(found[1]) for line in lines() if (found := re.search(r"\] (\d+) lines dropped", line)))

    try:
        await ask(3)
        await auntil(lambda: any("done 3" in line for line in lines()))
        (long,) = (line for line in lines() if "yyy" in line)
        assert long.endswith(f"… ({40_000 - LONGEST_LINE} bytes more)")
        await ask(2)
        await auntil(lambda: any("done 2" in line for line in lines()))
        assert all(len(line) < LONGEST_LINE + 100 for line in lines())
        await ask(4)  # blank lines are nothing to log, and cost the loop no more
        await auntil(lambda: any("done 4" in line for line in lines()) or dropped())
        await ask(1)
        await auntil(lambda: any("noise" in line for line in lines()))
        said = re.compile("noise|done 1")
        await auntil(lambda: dropped() + sum(bool(said.search(line)) for line in lines()) >= 60_001)
        assert sum("noise" in line for line in lines()) < 10_000
    finally:
        await engine.close()
