"""Decoupled models with sequences (TR-S4, TR-S8): several in a run, each over with its last response."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_engines import TRITON_PYTHON, hosted
from waiting import PATIENCE_S, auntil

from salver.kernel.engine.sequence_streams import SequenceStreamEngine
from salver.words.artifacts import Batching, Control, ModelConfig, Sequences
from salver.words.errors import DeadlineExceeded, HostDied, InvalidInput, ModelFailed, NotReady
from salver.words.events import BatchRan
from salver.words.messages import InferRequest, ModelId, TensorSpec
from salver.words.tensor import DataType, tensor

SOURCE = """
import os
import threading
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
AGAIN = pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE


class TritonPythonModel:
    '''Sums up what its sequences send; a request has as many responses as COUNT says.'''

    def initialize(self, args):
        self.folder = Path(args["model_repository"])
        self.sums, self.left = {}, {}

    def execute(self, requests):
        kinds = {self.text(request) for request in requests}
        self.mates = len(requests)
        if kinds == {"mixed"}:
            return self.mixed(requests)
        for request in requests:
            getattr(self, self.text(request) or "nobody")(request)

    def text(self, request):
        return pb_utils.get_input_tensor_by_name(request, "WHAT").as_numpy()[0, 0].decode()

    def take(self, request):
        '''Its number of responses; its own number is added to its sequence's.'''
        count = int(pb_utils.get_input_tensor_by_name(request, "COUNT").as_numpy()[0, 0])
        value = int(pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0, 0])
        id = request.correlation_id()
        if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
            self.sums[id] = 0
        self.sums[id] += value
        return count

    def send(self, request, index):
        said = np.array([[self.sums[request.correlation_id()], index, self.mates]])
        request.get_response_sender().send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", said)]))

    def end(self, request):
        request.get_response_sender().send(flags=FINAL)

    def plain(self, request):
        for index in range(self.take(request)):
            self.send(request, index)
        self.end(request)

    def nobody(self, request):
        '''An empty row: told so, and nobody hears what is said to it.'''
        assert not pb_utils.get_input_tensor_by_name(request, "READY").as_numpy().any()
        self.end(request)

    def mixed(self, requests):
        '''The first response of each, then the second of each, and so on, the last request first.'''
        counts = {request: self.take(request) for request in requests}
        for index in range(max(counts.values())):
            for request in reversed(requests):
                if index < counts[request]:
                    self.send(request, index)
        for request in requests:
            self.end(request)

    def later(self, request):
        '''On a thread, when ``execute`` has returned long since.'''
        count = self.take(request)

        def work():
            time.sleep(0.02)
            for index in range(count):
                self.send(request, index)
            (self.folder / "cancelled").write_text(str(request.get_response_sender().is_cancelled()))
            self.end(request)

        threading.Thread(target=work).start()

    def waits(self, request):
        '''On a thread, until a file is there.'''
        count = self.take(request)

        def work():
            while not (self.folder / "go").exists() and not request.is_cancelled():
                time.sleep(0.001)
            for index in range(count):
                self.send(request, index)
            self.end(request)

        threading.Thread(target=work).start()

    def iterates(self, request):
        id = request.correlation_id()
        if id not in self.left:
            self.left[id] = self.take(request)
        self.left[id] -= 1
        self.send(request, self.left[id])
        if self.left[id]:
            request.set_release_flags(AGAIN)
        else:
            del self.left[id]
            self.end(request)

    def hollow(self, request):
        '''Responses without outputs, and one with.'''
        sender = request.get_response_sender()
        self.take(request)
        sender.send(pb_utils.InferenceResponse([]))
        self.send(request, 1)
        sender.send(pb_utils.InferenceResponse([]), flags=FINAL)

    def raises(self, request):
        raise ValueError("asked to raise")

    def dies(self, request):
        os._exit(3)
"""
SPECS = (
    TensorSpec("IN", DataType.INT64, (-1, 1)),
    TensorSpec("COUNT", DataType.INT64, (-1, 1)),
    TensorSpec("WHAT", DataType.BYTES, (-1, 1)),
)
TOLD = """{"name": "m", "max_batch_size": 4, "model_transaction_policy": {"decoupled": true},
"input": [{"name": "IN", "data_type": "TYPE_INT64", "dims": [1]},
          {"name": "COUNT", "data_type": "TYPE_INT64", "dims": [1]},
          {"name": "WHAT", "data_type": "TYPE_STRING", "dims": [1]}],
"output": [{"name": "OUT", "data_type": "TYPE_INT64", "dims": [3]}]}"""
OLDEST = Sequences("oldest", candidates=8, idle_ms=600_000)
ITERATING = Sequences("oldest", candidates=4, idle_ms=600_000, iterative=True)
READY = Sequences("direct", idle_ms=600_000, controls=(Control("READY", "ready"),))


class Rig:
    def __init__(self, engine: SequenceStreamEngine, folder: Path, events: list[BatchRan]) -> None:
        self.engine, self.folder, self.events = engine, folder, events

    def request(self, id: int, value: int, flags: str, what: str, count: int) -> InferRequest:
        inputs = (
            tensor("IN", np.array([[value]])),
            tensor("COUNT", np.array([[count]])),
            tensor("WHAT", np.array([[what]], object)),
        )
        said = {"sequence_id": id, "sequence_start": "s" in flags, "sequence_end": "e" in flags}
        return InferRequest("m", inputs, "1", f"{id}", parameters=said)

    async def ask(
        self, id: int, value: int, flags: str = "", what: str = "plain", count: int = 1,
        deadline: float | None = None,
    ) -> list[list[int]]:  # fmt: skip
        """Of each response: the sum, which it is, and how many requests shared its run."""
        request = self.request(id, value, flags, what, count)
        async with aclosing(self.engine.stream(request, deadline)) as pieces:
            found = []
            async for piece in pieces:
                if piece.error is not None:
                    raise piece.error
                found.append(piece.outputs[0].array[0].tolist())
            return found

    async def until(self, slots: int = 0) -> None:
        """So many sequences are left, and the model wants more requests."""
        await asyncio.sleep(0.01)
        await auntil(lambda: self.engine.insight().sequences == slots and not self.engine.running)


@asynccontextmanager
async def rig(folder: Path, sequences: Sequences = OLDEST) -> AsyncIterator[Rig]:
    inputs = SPECS
    if sequences.controls:
        inputs = (*SPECS, TensorSpec("READY", DataType.INT32, (-1, 1)))
    config = ModelConfig(
        inputs=inputs,
        outputs=(TensorSpec("OUT", DataType.INT64, (-1, 3)),),
        batching=Batching(max_rows=4),
        sequences=sequences,
    )

    def engine(id: ModelId, runner: Any, *more: Any, **terms: Any) -> SequenceStreamEngine:
        return SequenceStreamEngine(id, [runner], *more, **terms)

    async with hosted(folder, SOURCE, engine, config, backend=TRITON_PYTHON, text=TOLD) as made:
        yield Rig(made.engine, folder, made.events)


@pytest.mark.clause("TR-S8")
@pytest.mark.parametrize("what", ["plain", "mixed", "later"])
async def test_sequences_share_a_run_and_each_hears_its_own(what: str, tmp_path: Path) -> None:
    """Responses in any order among requests, from ``execute`` or after it; of one request in their own."""
    async with rig(tmp_path) as talk:
        found = await asyncio.gather(*(talk.ask(id, id, "s", what, count=id) for id in (1, 2, 3, 4)))
        assert found == [[[id, index, 4] for index in range(id)] for id in (1, 2, 3, 4)]
        await talk.until(4)
        assert [event.requests for event in talk.events] == [4]
        found = await asyncio.gather(*(talk.ask(id, 10, "e", what, count=2) for id in (4, 1)))
        assert [piece[:2] for piece in found[0]] == [[14, 0], [14, 1]]
        assert [piece[:2] for piece in found[1]] == [[11, 0], [11, 1]]
        await talk.until(2)
        assert all(event.ok for event in talk.events)


@pytest.mark.clause("TR-S8")
async def test_rows_of_a_direct_model_that_nobody_has(tmp_path: Path) -> None:
    async with rig(tmp_path, READY) as talk:
        await asyncio.gather(*(talk.ask(id, id, "s") for id in (1, 2, 3)))
        assert await talk.ask(3, 4, "e", count=2) == [[7, 0, 3], [7, 1, 3]]  # it is in the third row
        await talk.until(2)


@pytest.mark.clause("TR-S8")
async def test_the_next_request_waits_for_the_last_response_and_others_do_not(tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        first = asyncio.ensure_future(talk.ask(1, 1, "s", "waits"))
        await talk.until(1)  # the model has returned, and answers later
        end = asyncio.ensure_future(talk.ask(1, 2, "e"))
        assert await talk.ask(2, 5, "se") == [[5, 0, 1]]
        await talk.until(1)
        assert not first.done() and not end.done()
        (tmp_path / "go").touch()
        assert (await first)[0][0] == 1
        assert (await end)[0][0] == 3
        await talk.until(0)


@pytest.mark.clause("TR-S4")
async def test_a_reader_that_leaves_early_does_not_let_its_sequence_overtake(tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        async with aclosing(talk.engine.stream(talk.request(1, 1, "s", "later", 1000))) as pieces:
            await anext(pieces)
        assert (await talk.ask(1, 2, "e"))[0][0] == 3  # the model had to end what it was at before
        assert (tmp_path / "cancelled").read_text() == "True"
        left = asyncio.ensure_future(talk.ask(2, 1, "s", "waits"))
        await talk.until(1)
        left.cancel()
        assert (await talk.ask(2, 2, "e"))[0][0] == 3
        await talk.until(0)


@pytest.mark.clause("TR-S8")
async def test_a_deadline_ends_one_and_not_its_mates(tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        soon = talk.engine._clock() + 0.1
        late = asyncio.ensure_future(talk.ask(1, 1, "s", "waits", deadline=soon))
        mate = asyncio.ensure_future(talk.ask(2, 2, "se", "waits"))
        with pytest.raises(DeadlineExceeded):
            await late
        (tmp_path / "go").touch()
        assert (await mate)[0][0] == 2
        await talk.until(1)
        assert (await talk.ask(1, 5, "e"))[0][0] == 6


async def test_what_execute_raises_is_everybodys_and_costs_no_sequence(tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        await asyncio.gather(*(talk.ask(id, id, "s") for id in (1, 2)))
        failed = await asyncio.gather(
            *(talk.ask(id, 9, what="raises") for id in (1, 2)), return_exceptions=True
        )
        assert [type(error) for error in failed] == [ModelFailed, ModelFailed]
        assert "ValueError: asked to raise" in str(failed[0]) and failed[0] is not failed[1]
        await talk.until(2)
        assert [event.ok for event in talk.events] == [True, False]
        assert (await talk.ask(1, 2, "e"))[0][0] == 3


async def test_a_host_that_dies_ends_what_it_knew_and_a_slow_reader_nothing_after_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        slow = talk.engine.stream(talk.request(1, 1, "s", "later", 10))
        assert (await anext(slow)).outputs[0].array[0, 1] == 0
        waiting = asyncio.ensure_future(talk.ask(2, 1, "s", "waits"))
        await talk.until(2)
        with pytest.raises(HostDied):
            await talk.ask(3, 1, "s", "dies")
        with pytest.raises(HostDied):
            await waiting
        for id in (2, 3):
            with pytest.raises(InvalidInput, match="The host process that knew it died"):
                await talk.ask(id, 1)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    assert (await talk.ask(4, 4, "s"))[0][0] == 4
                    break
                except NotReady:
                    await asyncio.sleep(0.01)
        with pytest.raises(HostDied):
            async for _ in slow:
                pass
        assert (await talk.ask(4, 1, "e"))[0][0] == 5
        await talk.until(0)


@pytest.mark.clause("TR-S5")
async def test_sequences_that_iterate_share_their_runs(tmp_path: Path) -> None:
    async with rig(tmp_path, ITERATING) as talk:
        found = await asyncio.gather(*(talk.ask(id, id, "s", "iterates", count=2 * id) for id in (1, 2, 3)))
        lefts = [[piece[1] for piece in pieces] for pieces in found]
        assert lefts == [[1, 0], [3, 2, 1, 0], [5, 4, 3, 2, 1, 0]]
        await talk.until(0)
        assert max(event.requests for event in talk.events) == 3
        assert len(talk.events) < 12


async def test_responses_may_lack_outputs(tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        async with aclosing(talk.engine.stream(talk.request(1, 5, "se", "hollow", 0))) as pieces:
            outputs = [piece.outputs async for piece in pieces]
        assert [len(each) for each in outputs] == [0, 1, 0]
        assert outputs[1][0].array.tolist() == [[5, 1, 1]]
        await talk.until(0)


async def test_an_unload_tells_the_model_at_once(tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        asked = [asyncio.ensure_future(talk.ask(id, 1, "s", "waits")) for id in (1, 2)]
        await talk.until(2)
        behind = asyncio.ensure_future(talk.ask(1, 1, "e"))
        await asyncio.sleep(0)
        await asyncio.wait_for(talk.engine.close(), PATIENCE_S)
        for each in (*asked, behind):
            with pytest.raises(NotReady, match="was unloaded"):
                await each


async def _client(talk: Rig, id: int, chance: random.Random) -> str:
    total, length = 0, chance.randint(1, 8)
    leaves = chance.randint(0, length - 1) if chance.random() < 0.3 else None
    for step in range(length):
        value = chance.randint(1, 1000)
        total += value
        flags = ("s" if step == 0 else "") + ("e" if step in (length - 1, leaves) else "")
        count = chance.randint(0, 3)
        request = talk.request(id, value, flags, chance.choice(["plain", "later"]), count)
        async with aclosing(talk.engine.stream(request)) as pieces:
            seen = 0
            async for piece in pieces:
                assert piece.outputs[0].array[0, :2].tolist() == [total, seen]
                seen += 1
                if step == leaves:
                    return "left"
            assert seen == count
        if step == leaves:
            return "left"
    return "ended"


@pytest.mark.clause("TR-S4")
async def test_hundreds_of_sequences_mixed(tmp_path: Path) -> None:
    """Callers that leave in the middle of an answer among them: no sum is another's, every slot is freed."""
    async with rig(tmp_path) as talk:
        room = asyncio.Semaphore(24)

        async def one(id: int) -> str:
            async with room:
                return await _client(talk, id, random.Random(id))

        outcomes = await asyncio.gather(*(one(id) for id in range(1, 301)))
        assert outcomes.count("ended") > 150 and outcomes.count("left") > 10
        await talk.until(0)
        assert max(event.requests for event in talk.events) > 1
        assert talk.engine.queued == 0
