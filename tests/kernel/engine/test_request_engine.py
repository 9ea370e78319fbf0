"""Models that want their requests one by one (TR-A2): batches in a host process, and who is told what."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from host_engines import TRITON_PYTHON, hosted
from waiting import auntil

from salver.kernel.engine.engine import Engine
from salver.kernel.engine.process import ProcessRunner
from salver.words.artifacts import Batching, ModelConfig
from salver.words.errors import HostDied, InvalidInput, ModelFailed
from salver.words.events import BatchRan
from salver.words.messages import InferRequest, InferResponse, RequestedOutput, TensorSpec
from salver.words.tensor import DataType, tensor

SOURCE = '''
import json
import os
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Answers each request with its id, as many texts as its number says, the size of the run and its own name."""

    def initialize(self, args):
        self.name = args["model_instance_name"]

    def execute(self, requests):
        out = []
        for r in requests:
            x = pb_utils.get_input_tensor_by_name(r, "x").as_numpy()
            number = int(x[0, 0])
            if number == -1:
                raise ValueError("minus one")
            if number == -2:
                out.append(pb_utils.InferenceResponse(error=pb_utils.TritonError("minus two", pb_utils.TritonError.INVALID_ARG)))
                continue
            if number == -3:
                os.kill(os.getpid(), 9)
            if number == -4:
                time.sleep(0.1)
            texts = np.full((len(x), max(number, 1)), f"{r.request_id()} {json.loads(r.parameters())}", dtype=object)
            run = np.full((len(x), 1), f"{len(requests)} {self.name}", dtype=object)
            parameters = json.dumps({"id": r.request_id()})
            out.append(pb_utils.InferenceResponse([pb_utils.Tensor("texts", texts), pb_utils.Tensor("run", run)],
                                                  parameters=parameters))
        return out
'''  # noqa: E501
CONFIG = ModelConfig(
    inputs=(TensorSpec("x", DataType.INT32, (-1, 1)),),
    outputs=(TensorSpec("texts", DataType.BYTES, (-1, -1)), TensorSpec("run", DataType.BYTES, (-1, 1))),
    batching=Batching(max_rows=8),
)


class Rig:
    def __init__(self, engine: Engine, runner: ProcessRunner, events: list[BatchRan]) -> None:
        self.engine = engine
        self.runner = runner
        self.events = events

    async def ask(self, *numbers: int, id: str = "", wanted: tuple[str, ...] = ()) -> InferResponse:
        x = tensor("x", np.array(numbers, np.int32)[:, None])
        outputs = tuple(map(RequestedOutput, wanted))
        request = InferRequest("m", (x,), "1", id, outputs, {"of": id} if id else {})
        return await self.engine.infer(request)


@asynccontextmanager
async def rig(folder: Path, slots: int = 1) -> AsyncIterator[Rig]:
    async with hosted(folder, SOURCE, Engine, CONFIG, backend=TRITON_PYTHON, slots=slots) as made:
        yield Rig(*made)


def texts(response: InferResponse, index: int = 0) -> list[list[bytes]]:
    found: list[list[bytes]] = response.outputs[index].array.tolist()
    return found


async def test_each_gets_its_own_shape_id_and_parameters(tmp_path: Path) -> None:
    """In one run, though the answers could not be stacked."""
    async with rig(tmp_path) as talk:
        assert talk.engine.answers_each
        first, second = await asyncio.gather(talk.ask(2, id="a"), talk.ask(3, 3, id="b"))
        assert texts(first) == [[b"a {'of': 'a'}"] * 2]
        assert texts(second) == [[b"b {'of': 'b'}"] * 3] * 2
        assert [texts(r, 1)[0] for r in (first, second)] == [[b"2 m_0"]] * 2
        assert (first.parameters, second.parameters) == ({"id": "a"}, {"id": "b"})
        assert [(e.rows, e.requests, e.ok) for e in talk.events] == [(3, 2, True)]
        assert first.timing.batch_rows == 3 and first.timing.inference > 0


@pytest.mark.clause("TR-A3")
async def test_an_error_object_is_its_own_callers_alone(tmp_path: Path) -> None:
    """TR-A3: one run, two answers, one error."""
    async with rig(tmp_path) as talk:
        asked = [talk.ask(1, id="a"), talk.ask(-2, id="b"), talk.ask(1, id="c")]
        a, b, c = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(b, InvalidInput) and str(b) == "minus two"
        assert isinstance(a, InferResponse) and isinstance(c, InferResponse)
        assert [texts(r, 1) for r in (a, c)] == [[[b"3 m_0"]]] * 2
        assert len(talk.events) == 1


async def test_what_raises_is_found_and_the_others_are_answered(tmp_path: Path) -> None:
    """By halving, as for every model."""
    async with rig(tmp_path) as talk:
        asked = [talk.ask(1, id="a"), talk.ask(-1, id="b"), talk.ask(1, id="c"), talk.ask(-2, id="d")]
        a, b, c, d = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(b, ModelFailed) and "ValueError: minus one" in str(b)
        assert isinstance(d, InvalidInput) and str(d) == "minus two"
        assert isinstance(a, InferResponse) and isinstance(c, InferResponse)
        assert texts(a) == [[b"a {'of': 'a'}"]]


async def test_only_what_is_wanted_comes_back(tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        answer = await talk.ask(1, id="a", wanted=("run",))
        assert [tensor.name for tensor in answer.outputs] == ["run"]


async def test_a_request_larger_than_a_batch_is_cut_and_joined(tmp_path: Path) -> None:
    """Each part is a request to the model."""
    async with rig(tmp_path) as talk:
        answer = await talk.ask(*[1] * 20, id="a")
        assert texts(answer) == [[b"a {'of': 'a'}"]] * 20
        assert answer.parameters == {"id": "a"}
        assert max(event.rows for event in talk.events) == 8


async def test_a_death_is_told_to_all_of_a_run_and_mourned(tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        asked = [talk.ask(-3), talk.ask(1)]
        assert [type(e) for e in await asyncio.gather(*asked, return_exceptions=True)] == [HostDied] * 2
        await auntil(lambda: talk.runner.pids)
        assert texts(await talk.ask(1), 1) == [[b"1 m_0"]]


async def test_closing_waits_for_the_run_under_way(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        answer = asyncio.ensure_future(r.ask(-4, id="slow"))
        await auntil(lambda: r.engine.running)
        await r.engine.close()
        assert (await answer).id == "slow"


async def test_inputs_and_outputs_of_many_megabytes_come_whole(tmp_path: Path) -> None:
    async with rig(tmp_path) as r:
        answers = await asyncio.gather(r.ask(*[300_000] * 4), r.ask(*[300_000] * 4), r.ask(*range(8), id="x"))
        texts = [
            dict(zip(("texts", "run"), answer.outputs, strict=True))["texts"].array for answer in answers
        ]
        assert [text.shape for text in texts] == [(4, 300_000), (4, 300_000), (8, 1)]
        assert set(texts[0].ravel().tolist()) == {b" {}"}


@pytest.mark.clause("TR-A2", "TR-A4")
async def test_every_instance_has_a_name_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    """TR-A2, TR-A4: one process an instance; a new process of the same instance has the same name."""
    async with rig(tmp_path, slots=2) as talk:

        async def names() -> set[bytes]:
            """Two batches that are full, and so run beside each other."""
            answers = await asyncio.gather(*[talk.ask(*[-4] * 8) for _ in range(2)])
            return {texts(answer, 1)[0][0] for answer in answers}

        assert await names() == {b"1 m_0", b"1 m_1"}
        killed = set(talk.runner.pids)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        await auntil(lambda: len(set(talk.runner.pids) - killed) == 2)
        assert await names() == {b"1 m_0", b"1 m_1"}


@pytest.mark.parametrize("rows", [1, 3])
async def test_warm_up_and_benchmarks_ask_it_as_one_request(rows: int, tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        (outputs,) = await talk.engine.run_alone({"x": np.ones((rows, 1), np.int32)})
        assert outputs["run"].tolist() == [[b"1 m_0"]] * rows


@pytest.mark.clause("TR-C13")
async def test_each_instance_is_warmed_up_once(tmp_path: Path) -> None:
    async with rig(tmp_path, slots=3) as talk:
        outputs = await talk.engine.run_alone({"x": np.ones((1, 1), np.int32)})
        assert sorted(o["run"][0, 0] for o in outputs) == [b"1 m_0", b"1 m_1", b"1 m_2"]
