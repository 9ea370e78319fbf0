"""Decoupled models (TR-S8): any number of responses, errors among them, slow and vanished readers, deaths."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from host_engines import TRITON_PYTHON, hosted
from soaking import size
from waiting import PATIENCE_S

from salver.kernel.engine import decoupled
from salver.kernel.engine.decoupled import DecoupledEngine
from salver.kernel.engine.ports import StreamRunner
from salver.words.artifacts import Batching, ModelConfig
from salver.words.errors import (
    DeadlineExceeded,
    HostDied,
    InvalidInput,
    ModelFailed,
    NotReady,
    Overloaded,
    SalverError,
    Unsupported,
)
from salver.words.events import BatchRan
from salver.words.messages import InferRequest, InferResponse, RequestedOutput, TensorSpec
from salver.words.tensor import DataType, tensor

SOURCE = """
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def initialize(self, args):
        self.folder = Path(args["model_repository"])

    def execute(self, requests):
        (request,) = requests
        sender = request.get_response_sender()
        assert sender is request.get_response_sender()
        text = pb_utils.get_input_tensor_by_name(request, "what").as_numpy()[0].decode()
        count = int(pb_utils.get_input_tensor_by_name(request, "count").as_numpy()[0])
        return getattr(self, text)(request, sender, count)

    def response(self, index):
        texts = np.array([f"piece {index}"], dtype=object)
        return pb_utils.InferenceResponse([pb_utils.Tensor("text", texts),
                                           pb_utils.Tensor("index", np.array([index]))],
                                          parameters=json.dumps({"index": index}))

    def plain(self, request, sender, count):
        for index in range(count):
            sender.send(self.response(index))
        sender.send(flags=FINAL)
        try:
            sender.send(self.response(count))
        except pb_utils.TritonModelException:
            return None
        raise AssertionError

    def last(self, request, sender, count):
        for index in range(count):
            sender.send(self.response(index), flags=FINAL if index == count - 1 else 0)

    def error(self, request, sender, count):
        sender.send(self.response(0))
        error = pb_utils.TritonError("no second", pb_utils.TritonError.NOT_FOUND)
        sender.send(pb_utils.InferenceResponse(error=error))
        sender.send(self.response(2))
        sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("text", np.array([3]))]))
        sender.send(pb_utils.InferenceResponse([]))
        sender.send(flags=FINAL)

    def wrong(self, request, sender, count):
        for response, flags in ((None, 0), (self.response(0), 7)):
            try:
                sender.send(response, flags=flags)
            except pb_utils.TritonModelException:
                continue
            raise AssertionError
        sender.send(flags=FINAL)

    def raises(self, request, sender, count):
        sender.send(self.response(0))
        raise ValueError("asked to raise")

    def returns(self, request, sender, count):
        return []

    def forgets(self, request, sender, count):
        sender.send(self.response(0))

    def dies(self, request, sender, count):
        sender.send(self.response(0))
        os.kill(os.getpid(), 9)

    def threads(self, request, sender, count):
        def work():
            time.sleep(0.05)
            self.plain(request, sender, count)

        threading.Thread(target=work).start()

    def large(self, request, sender, count):
        def work():
            for index in range(8):
                texts = np.array([b"%d" % count * 1_500_000 if index % 2 else b"%d" % count], dtype=object)
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("text", texts),
                                                        pb_utils.Tensor("index", np.array([index]))]))
            sender.send(flags=FINAL)

        threading.Thread(target=work).start()

    def crowd(self, request, sender, count):
        def work(index):
            sender.send(self.response(index))

        def all():
            threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            sender.send(flags=FINAL)

        threading.Thread(target=all).start()

    def endless_aside(self, request, sender, count):
        threading.Thread(target=self.endless, args=(request, sender, count)).start()

    def endless(self, request, sender, count):
        index = 0
        while not request.is_cancelled():
            if index < count:
                sender.send(self.response(index))
                index += 1
            else:
                time.sleep(0.001)
        sender.send(self.response(index))
        sender.send(flags=FINAL)
        (self.folder / "cancelled").write_text(str(sender.is_cancelled()))
"""
CONFIG = ModelConfig(
    inputs=(TensorSpec("what", DataType.BYTES, (1,)), TensorSpec("count", DataType.INT64, (1,))),
    outputs=(TensorSpec("text", DataType.BYTES, (1,)), TensorSpec("index", DataType.INT64, (1,))),
    batching=Batching(False, max_queue=2),
)
TOLD = """{"name": "m", "max_batch_size": 0, "model_transaction_policy": {"decoupled": true},
"input": [{"name": "what", "data_type": "TYPE_STRING", "dims": [1]},
          {"name": "count", "data_type": "TYPE_INT64", "dims": [1]}],
"output": [{"name": "text", "data_type": "TYPE_STRING", "dims": [1]},
           {"name": "index", "data_type": "TYPE_INT64", "dims": [1]}]}"""


class Rig:
    def __init__(self, engine: DecoupledEngine, folder: Path, events: list[BatchRan]) -> None:
        self.engine = engine
        self.folder = folder
        self.events = events

    def request(self, what: str, count: int, wanted: tuple[str, ...] = ()) -> InferRequest:
        inputs = tensor("what", np.array([what], object)), tensor("count", np.array([count]))
        return InferRequest("m", inputs, "1", "me", tuple(map(RequestedOutput, wanted)))

    async def ask(self, what: str, count: int = 0, deadline: float | None = None) -> list[InferResponse]:
        async with aclosing(self.engine.stream(self.request(what, count), deadline)) as pieces:
            return [piece async for piece in pieces]

    async def until_idle(self) -> None:
        """The instance answers again."""
        async with asyncio.timeout(PATIENCE_S):
            assert texts(await self.ask("plain", 1)) == [b"piece 0"]


@asynccontextmanager
async def rig(folder: Path, slots: int = 1) -> AsyncIterator[Rig]:
    backend = TRITON_PYTHON
    async with hosted(
        folder, SOURCE, DecoupledEngine, CONFIG, backend=backend, text=TOLD, slots=slots
    ) as made:
        assert isinstance(made.runner, StreamRunner)
        yield Rig(made.engine, folder, made.events)


def texts(pieces: list[InferResponse]) -> list[bytes]:
    return [piece.outputs[0].array[0] for piece in pieces]


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_as_many_responses_as_the_model_sends(count: int, tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        pieces = await talk.ask("plain", count)
        assert [p.outputs[1].array.tolist() for p in pieces] == [[n] for n in range(count)]
        assert texts(pieces) == [b"piece %d" % n for n in range(count)]
        assert [p.parameters for p in pieces] == [{"index": n} for n in range(count)]
        assert all(p.id == "me" and p.version == "1" and not p.is_last for p in pieces)
        assert [(e.requests, e.ok) for e in talk.events] == [(1, True)]


@pytest.mark.soak
async def test_thousands_of_responses_in_their_order(tmp_path: Path) -> None:
    count = size(10_000, 2_000)
    async with rig(tmp_path) as talk:
        pieces = await talk.ask("plain", count)
        assert [int(p.outputs[1].array[0]) for p in pieces] == list(range(count))


async def test_the_last_one_may_say_that_it_is(tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        assert [p.is_last for p in await talk.ask("last", 3)] == [False, False, True]
        await talk.until_idle()


async def test_errors_among_the_responses(tmp_path: Path) -> None:
    """Others follow; a response of another datatype is an error, too, and one without outputs is none."""
    async with rig(tmp_path) as talk:
        first, second, third, fourth, fifth = await talk.ask("error")
        assert texts([first, third]) == [b"piece 0", b"piece 2"]
        assert str(second.error) == "no second" and second.outputs == ()
        assert isinstance(fourth.error, ModelFailed) and "'text'" in str(fourth.error)
        assert (fifth.error, fifth.outputs) == (None, ())
        assert await talk.ask("wrong") == []


async def test_only_what_is_wanted_comes(tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        pieces = [piece async for piece in talk.engine.stream(talk.request("plain", 2, ("index",)))]
        assert [[t.name for t in piece.outputs] for piece in pieces] == [["index"]] * 2


@pytest.mark.parametrize(
    ("what", "before", "kind", "said"),
    [
        ("raises", 1, ModelFailed, "ValueError: asked to raise"),
        ("returns", 0, ModelFailed, "must return None"),
        ("dies", 1, HostDied, "SIGKILL"),
    ],
)
async def test_what_ends_a_request_early(
    what: str, before: int, kind: type[SalverError], said: str, tmp_path: Path
) -> None:
    """What was sent before arrives; and the instance, or a new one, goes on."""
    async with rig(tmp_path) as talk:
        pieces = []
        with pytest.raises(kind, match=said):
            async for piece in talk.engine.stream(talk.request(what, 0)):
                pieces.append(piece)
        assert len(pieces) == before
        assert [e.ok for e in talk.events] == [False]
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    assert len(await talk.ask("plain", 2)) == 2
                    break
                except NotReady:
                    await asyncio.sleep(0.01)


async def test_a_sender_that_is_forgotten_ends_the_request(tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        assert texts(await talk.ask("forgets")) == [b"piece 0"]


async def test_responses_from_a_thread_after_execute_has_returned(tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        assert texts(await talk.ask("threads", 3)) == [b"piece 0", b"piece 1", b"piece 2"]


@pytest.mark.clause("TR-S8")
async def test_an_instance_that_has_returned_takes_the_next_request(tmp_path: Path) -> None:
    """As many answers under way at once as the model likes, each at its own reader's pace."""
    async with rig(tmp_path) as talk:
        async with AsyncExitStack() as stack:
            slow = [
                await stack.enter_async_context(
                    aclosing(talk.engine.stream(talk.request("endless_aside", 1_000_000)))
                )
                for _ in range(20)
            ]
            for pieces in slow:
                assert texts([await anext(pieces)]) == [b"piece 0"]
            assert (talk.engine.running, talk.engine.queued) == (20, 0)
            assert texts(await talk.ask("plain", 2)) == [b"piece 0", b"piece 1"]
            for pieces in reversed(slow):
                assert texts([await anext(pieces)]) == [b"piece 1"]
            with pytest.raises(ModelFailed, match="asked to raise"):
                await talk.ask("raises")
            for pieces in slow:
                assert texts([await anext(pieces)]) == [b"piece 2"]
        assert (talk.engine.running, talk.engine.queued) == (0, 0)


@pytest.mark.clause("TR-S8")
async def test_large_responses_of_several_threads_keep_apart(tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        found = await asyncio.gather(*(talk.ask("large", number) for number in (1, 2, 3)))
        for number, pieces in enumerate(found, 1):
            sizes = [1, 1_500_000] * 4
            assert texts(pieces) == [b"%d" % number * size for size in sizes]


@pytest.mark.clause("TR-S8")
async def test_many_threads_send_to_one_request(tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        pieces = await talk.ask("crowd", 30)
        assert sorted(int(piece.outputs[1].array[0]) for piece in pieces) == list(range(30))


async def test_a_death_is_told_to_everybody_whom_it_concerns(tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        waiting = [asyncio.ensure_future(talk.ask("endless_aside", 0)) for _ in range(3)]
        while talk.engine.running < 3:
            await asyncio.sleep(0.001)
        with pytest.raises(HostDied):
            await talk.ask("dies")
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in errors] == [HostDied] * 3
        assert len({id(error) for error in errors}) == 3


async def test_how_many_are_answered_at_a_time_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoupled, "_MOST_RUNNING", 2)
    async with rig(tmp_path) as talk:
        waiting = [asyncio.ensure_future(talk.ask("endless_aside", 0)) for _ in range(2)]
        while talk.engine.running < 2:
            await asyncio.sleep(0.001)
        with pytest.raises(Overloaded, match=r"maximum queue size\. 2 requests are being answered"):
            await talk.ask("plain", 1)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        await talk.until_idle()


async def test_a_reader_that_leaves_is_told_to_the_model(tmp_path: Path) -> None:
    """Between two responses, and while none comes; later ones are dropped and the instance is free again."""
    async with rig(tmp_path) as talk:
        for count in (1_000_000, 1):
            async with aclosing(talk.engine.stream(talk.request("endless", count))) as pieces:
                assert texts([await anext(pieces)]) == [b"piece 0"]
                if count == 1:
                    waiting = asyncio.ensure_future(anext(pieces))
                    await asyncio.sleep(0.02)
                    waiting.cancel()
                    await asyncio.wait([waiting])
            await talk.until_idle()
            assert (tmp_path / "cancelled").read_text() == "True"
            (tmp_path / "cancelled").unlink()
        assert (talk.engine.running, talk.engine.queued) == (0, 0)


async def test_a_last_piece_and_the_end_may_come_in_one_go_when_the_reader_has_left(tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        pieces = talk.engine.stream(talk.request("plain", 2))
        assert texts([await anext(pieces)]) == [b"piece 0"]
        waiting = asyncio.ensure_future(anext(pieces))
        for _ in range(5):
            await asyncio.sleep(0)  # the order for the next one leaves
        waiting.cancel()
        for _ in range(5):
            await asyncio.sleep(0)  # the reader leaves, and the host is told
        time.sleep(0.3)  # noqa: ASYNC251 - the loop hears nothing until both are there
        await asyncio.wait([waiting])
        await pieces.aclose()  # should the second have been there before its reader left
        assert len(await asyncio.wait_for(talk.ask("plain", 1), PATIENCE_S)) == 1


async def test_a_deadline_ends_it(tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        with pytest.raises(DeadlineExceeded):
            await talk.ask("endless", 1, talk.engine._clock() + 0.05)
        await talk.until_idle()
        with pytest.raises(DeadlineExceeded):
            await talk.ask("plain", 1, talk.engine._clock() - 1)


async def test_the_oldest_goes_first_and_the_queue_is_bounded(tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        order: list[str] = []

        async def ask(name: str) -> None:
            await talk.ask("plain", 1)
            order.append(name)

        async with aclosing(talk.engine.stream(talk.request("endless", 1))) as pieces:
            await anext(pieces)
            assert repr(talk.engine) == "<DecoupledEngine m:1, 0 queued, 1 running>"
            waiting = [asyncio.ensure_future(ask(name)) for name in "ab"]
            while talk.engine.queued < 2:
                await asyncio.sleep(0)
            with pytest.raises(Overloaded, match="maximum queue size"):
                await talk.ask("plain", 1)
        await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE_S)
        assert order == ["a", "b"]


async def test_an_answer_that_unloading_cut_short_is_no_whole_answer(tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        pieces = talk.engine.stream(talk.request("endless", 1_000_000))
        assert texts([await anext(pieces)]) == [b"piece 0"]
        closing = asyncio.ensure_future(talk.engine.close())
        with pytest.raises(NotReady, match="was unloaded"):
            async for _ in pieces:
                await asyncio.sleep(0)
        await closing


async def test_instances_answer_beside_each_other(tmp_path: Path) -> None:
    async with (
        rig(tmp_path, slots=2) as talk,
        aclosing(talk.engine.stream(talk.request("endless", 1))) as one,
    ):
        await anext(one)
        assert len(await asyncio.wait_for(talk.ask("plain", 5), PATIENCE_S)) == 5


async def test_what_it_refuses(tmp_path: Path) -> None:
    async with rig(tmp_path) as talk:
        with pytest.raises(Unsupported, match="'m' gives any number of responses"):
            await talk.engine.infer(talk.request("plain", 1))
        with pytest.raises(InvalidInput):
            await anext(talk.engine.stream(InferRequest("m", (), "1")))
        await talk.engine.run_alone({t.name: t.array for t in talk.request("plain", 2).inputs})
        with pytest.raises(SalverError, match="no second"):
            await talk.engine.run_alone({t.name: t.array for t in talk.request("error", 2).inputs})
    with pytest.raises(NotReady):
        await talk.ask("plain", 1)
