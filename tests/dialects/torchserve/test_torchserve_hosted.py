"""Handlers in host processes of their own, asked by their engine: they answer as they do by themselves."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from marfolder import TEXT, form, manifest_of, write

from salver.backends.protocol import LoadOptions
from salver.dialects.torchserve.engine.engine import HandlerEngine, HandlerTerms
from salver.dialects.torchserve.engine.worker_pool import WorkerFactory
from salver.kernel.engine.spawn import HostPlan
from salver.words.errors import HandlerFailed, NotReady
from salver.words.handlers import BODY, Form, HandlerReply, Workers, as_request, reply_of
from salver.words.messages import InferResponse, ModelId

KIND = "salver.dialects.torchserve.backend.backend:TorchServeBackend"
HANDLER = """
    import os
    import sys

    import numpy
    from ts.protocol.otf_message_handler import send_intermediate_predict_response

    class Own:
        def initialize(self, context):
            self.batch = context.system_properties["batch_size"]
            context.metrics.add_counter("Started", 1)
            print("it starts")

        def handle(self, data, context):
            if context.get_request_header(0, "describe") == "True":
                return [{"batch": self.batch}]
            ask = data[0]["body"]
            if ask == "exit":
                sys.exit(3)
            if ask == "die":
                os._exit(3)
            if ask == "break":
                raise ValueError("broken")
            if ask == "large":
                return [bytes(data[0]["body"], "ascii") * (1 << 20)] * len(data)
            if ask == "stream":
                for i in range(3):
                    parts = [f"{i} "] * len(data)
                    send_intermediate_predict_response(parts, context.request_ids, "", 200, context)
            context.set_response_header(0, "X-Host", str(os.getpid() != int(os.environ["TEST_PID"])))
            return [f"{ask} {len(data)}"] * len(data)
"""


class Hosted:
    def __init__(self, folder: Path, workers: Workers) -> None:
        self.lines: list[str] = []
        manifest = manifest_of(folder, "m", workers)
        terms = HandlerTerms(time.monotonic, lambda event: None, self.hear, WorkerFactory())
        self.engine = HandlerEngine(HostPlan(KIND, manifest, LoadOptions()), workers, terms)

    def hear(self, id: ModelId, worker: int, lines: Sequence[str]) -> None:
        self.lines.extend(lines)

    async def ask(self, body: str | bytes, content_type: str = TEXT) -> HandlerReply:
        return replied(await self.engine.infer(as_request("m", form(body, content_type))))


def replied(response: InferResponse) -> HandlerReply:
    body = next((output.array for output in response.outputs if output.name == BODY), None)
    return msgspec.structs.replace(reply_of(body, response.parameters), metrics=())


@contextlib.asynccontextmanager
async def hosted(folder: Path, **workers: Any) -> AsyncIterator[Hosted]:
    world = Hosted(folder, Workers(**workers))
    try:
        async with asyncio.timeout(60):
            await world.engine.settled()
            yield world
    finally:
        await world.engine.close()


@pytest.fixture(autouse=True)
def _told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PID", str(os.getpid()))


@pytest.mark.clause("TS-B7", "TS-A3")
async def test_answers_come_from_another_process(tmp_path: Path) -> None:
    async with hosted(write(tmp_path, HANDLER), batch_size=2, max_batch_delay_ms=1) as world:
        assert await world.ask("fine") == HandlerReply(b"fine 1", headers={"X-Host": "True"})
        large = await world.ask("large")
        assert large.body == b"large" * (1 << 20)
        assert await world.engine.metadata() == {"batch": 2}
        names = [line.partition(".")[0] for line in world.lines]
        assert names[0] == "Started" and names.count("PredictionTime") == 3


@pytest.mark.clause("TS-R15")
async def test_pieces_come_one_by_one(tmp_path: Path) -> None:
    async with hosted(write(tmp_path, HANDLER)) as world:
        asked = as_request("m", form("stream", TEXT))
        pieces = [replied(piece) async for piece in world.engine.stream(asked)]
        assert [piece.body for piece in pieces] == [b"0 ", b"1 ", b"2 ", b"stream 1"]
        assert [piece.headers["ts_stream_next"] for piece in pieces] == ["true"] * 3 + ["false"]


@pytest.mark.clause("TS-R19", "TS-B7")
async def test_a_handler_fails_dies_and_ends_itself(tmp_path: Path) -> None:
    async with hosted(write(tmp_path, HANDLER)) as world:
        with pytest.raises(HandlerFailed, match="Prediction failed") as failed:
            await world.ask("break")
        assert failed.value.status == 503
        for end in ("die", "exit"):
            with pytest.raises(HandlerFailed, match="Worker died"):
                await world.ask(end)
            while (fine := await _whenever(world)) is None:
                await asyncio.sleep(0.05)
            assert fine.body == b"fine 1"


async def _whenever(world: Hosted) -> HandlerReply | None:
    try:
        return await world.ask("fine")
    except (NotReady, HandlerFailed):
        return None


@pytest.mark.clause("TS-B5")
async def test_steps_are_asked_until_each_is_done(tmp_path: Path) -> None:
    source = """
        def handle(data, context):
            if data is None:
                context.cache = {}
                return None
            out, criteria = [], []
            for i, row in enumerate(data):
                key = context.get_request_id(i)
                left = context.cache.setdefault(key, len(row["body"]) // 20000)
                context.cache[key] = left - 1
                criteria.append(lambda said, left=left: left == 1)
                out.append(f"{left}:{len(row['body'])} ")
            context.stopping_criteria = criteria
            return out
    """
    async with hosted(write(tmp_path, source), batch_size=2, is_continuous=True) as world:

        async def ask(length: int) -> list[str]:
            asked = as_request("m", form(b"x" * length))
            return [replied(piece).body.decode() async for piece in world.engine.stream(asked)]

        long, short = await asyncio.gather(ask(80_000), ask(40_000))
        assert long == [f"{left}:80000 " for left in (4, 3, 2, 1)]
        assert short == [f"{left}:40000 " for left in (2, 1)]


ASYNC = """
    import asyncio
    from ts.handler_utils.utils import send_intermediate_predict_response

    class Own:
        def initialize(self, context):
            self.there = asyncio.Event()

        async def handle(self, data, context):
            ask = data[0]["body"]
            if ask == "open":
                self.there.set()
            if ask == "wait":
                await self.there.wait()
            if ask == "break":
                raise ValueError("broken")
            if ask == "exit":
                raise SystemExit(3)
            if ask == "stream":
                for i in range(3):
                    send_intermediate_predict_response([f"{i} "], context.request_ids, "", 200, context)
                    await asyncio.sleep(0)
            context.set_response_header(0, "X-Asked", ask)
            return [ask + " " + str(len(data))]
"""


@pytest.mark.clause("TS-Y1")
async def test_an_asynchronous_handler_answers_when_it_likes_over_there(tmp_path: Path) -> None:
    async with hosted(write(tmp_path, ASYNC), batch_size=4, is_async=True) as world:
        waiting = asyncio.ensure_future(world.ask("wait"))
        assert await world.ask("fine") == HandlerReply(b"fine 1", headers={"X-Asked": "fine"})
        assert not waiting.done()
        await world.ask("open")
        assert (await waiting).body == b"wait 1"
        asked = as_request("m", form("stream", TEXT))
        pieces = [replied(piece).body async for piece in world.engine.stream(asked)]
        assert pieces == [b"0 ", b"1 ", b"2 ", b"stream 1"]
        with pytest.raises(HandlerFailed, match="Prediction failed"):
            await world.ask("break")
        with pytest.raises(HandlerFailed, match="Worker died"):
            await world.ask("exit")
        assert any(line.startswith("PredictionTime") for line in world.lines)


async def test_what_does_not_start_says_why(tmp_path: Path) -> None:
    source = """
        class Own:
            def initialize(self, context):
                raise RuntimeError("this model never starts")
            def handle(self, data, context):
                return data
    """
    async with hosted(write(tmp_path, source), max_retry_s=0) as world:
        with pytest.raises(NotReady, match="this model never starts"):
            await world.ask("x")


@pytest.mark.clause("TS-A3")
async def test_a_form_without_parts(tmp_path: Path) -> None:
    source = "def handle(data, context):\n    return data and [data]\n"
    async with hosted(write(tmp_path, source)) as world:
        assert replied(await world.engine.infer(as_request("m", Form()))).body == b"[\n  {}\n]"
