"""Sequences stay where they began, and answers in pieces come from one instance."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import numpy as np
import pytest

from salver.client.http import Http
from salver.features.routing.balancing import POLICIES
from salver.features.routing.budget import RetryBudget
from salver.features.routing.choosing import Router
from salver.features.routing.document import Document
from salver.features.routing.engine import RoutedModel
from salver.features.routing.instances import Instance
from salver.features.routing.sequences import SequenceHomes
from salver.features.routing.streaming import why_not
from salver.kernel.engine.admission import Admission
from salver.words.artifacts import ModelConfig
from salver.words.errors import DeadlineExceeded, InvalidInput, ModelFailed, NotReady, SalverError
from salver.words.messages import InferRequest, InferResponse, ModelId, Signature, TensorSpec
from salver.words.tensor import DataType, Tensor

SIGNATURE = Signature(
    (TensorSpec("x", DataType.FP32, (-1, 2)),),
    (TensorSpec("y", DataType.FP32, (-1, 2)), TensorSpec("text", DataType.BYTES, (-1,))),
    True,
)
X = Tensor("x", DataType.FP32, np.array([[1, 2], [3, 4]], np.float32))


def request(**parameters: Any) -> InferRequest:
    return InferRequest("m", (X,), id="r", parameters=parameters)


def test_a_sequence_stays_until_it_ends() -> None:
    homes = SequenceHomes("m")
    a, b = Instance("a"), Instance("b")
    assert homes.find(request(sequence_id=7, sequence_start=True), [a, b]) is None
    homes.keep(request(sequence_id=7, sequence_start=True), b)
    assert homes.find(request(sequence_id=7), [a, b]) is b
    assert homes.knows(request(sequence_id=7))
    assert not homes.knows(request(sequence_id=7, sequence_start=True))
    last = request(sequence_id=7, sequence_end=True)
    homes.keep(last, b)
    assert homes.find(last, [a, b]) is b  # it may be sent again until it is answered
    homes.answered(last)
    with pytest.raises(InvalidInput, match="must specify the START flag"):
        homes.find(request(sequence_id=7), [a, b])


def test_a_sequence_ends_with_its_instance() -> None:
    homes = SequenceHomes("m")
    homes.keep(request(sequence_id="s", sequence_start=True), Instance("b"))
    with pytest.raises(NotReady, match="was at b, which is gone with its state"):
        homes.find(request(sequence_id="s"), [Instance("a")])


def test_the_sequences_that_are_known_are_bounded() -> None:
    homes, instance = SequenceHomes("m", most=3), Instance("a")
    for id in (1, 2, 3, 1, 4, 5):
        homes.keep(request(sequence_id=id, sequence_start=True), instance)
    assert [id for id in range(1, 6) if homes.knows(request(sequence_id=id))] == [1, 4, 5]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (TensorSpec("y", DataType.FP16, (-1,)), "'y' is FP16"),
        (TensorSpec("y", DataType.FP32, (-1, -1)), "does not tell the shape of 'y'"),
        (TensorSpec("y", DataType.BYTES, (-1, 3)), ""),
    ],
)
def test_what_cannot_be_streamed(spec: TensorSpec, said: str) -> None:
    assert said in why_not(Signature((), (spec,))) and bool(said) == bool(why_not(Signature((), (spec,))))


class Back:
    """Server that answers each request with the next of these texts; None = it hangs up, or waits."""

    def __init__(self, *answers: list[bytes | None]) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []
        self.is_left = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        self.asked.append(json.loads(await reader.readexactly(length)))
        for part in self.answers.pop(0):
            if part is None:
                break
            writer.write(part)
            await writer.drain()
            if part is WAITS:
                await reader.read()  # until the other side closes
                self.is_left.set()
        writer.close()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
FULL = b'HTTP/1.1 503 No\r\ncontent-length: 16\r\n\r\n{"error":"full"}'
END, WAITS = b"0\r\n\r\n", b""


def chunk(data: object) -> bytes:
    event = b"data: " + json.dumps(data).encode() + b"\n\n"
    # An event may come in several chunks.
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (event[:9], event[9:]))


def event(y: float, text: str) -> bytes:
    return chunk({"model_name": "m", "y": [y, 1.5], "text": text})


@contextlib.asynccontextmanager
async def streaming(*backs: Back, attempt_s: float = 10) -> AsyncIterator[RoutedModel]:
    async with contextlib.AsyncExitStack() as stack:
        clients = {}
        for back in backs:
            server = await stack.enter_async_context(await asyncio.start_server(back.serve, "127.0.0.1", 0))
            http = Http(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            clients[http.url] = http
        document = Document(tuple(clients), attempt_s=attempt_s)
        policy = POLICIES["round-robin"](Random(1))
        budget = RetryBudget(0.1, 10)
        router = Router(list(map(Instance, clients)), policy, document.ejection, budget, Random(2).random)
        yield RoutedModel(
            ModelId("m", "1"),
            SIGNATURE,
            router,
            clients,
            document,
            ModelConfig(),
            clock=asyncio.get_running_loop().time,
            emit=lambda event: None,
        )
        assert [each.load.pending for each in router.instances] == [0] * len(backs)


async def pieces(model: RoutedModel, deadline: float | None = None) -> list[InferResponse]:
    return [piece async for piece in model.stream(request(max_tokens=3), deadline)]


async def test_pieces_come_as_they_are() -> None:
    failed = chunk({"error": "this piece failed"})
    back = Back([HEAD, event(1, "a"), failed, event(2, "ü"), END])
    async with streaming(back) as model:
        first, broken, last = await pieces(model)
    assert back.asked == [{"x": [[1, 2], [3, 4]], "id": "r", "parameters": {"max_tokens": 3}}]
    assert [output.array.tolist() for output in first.outputs] == [[[1, 1.5]], [b"a"]]
    assert isinstance(broken.error, ModelFailed) and broken.error.message == "this piece failed"
    assert last.outputs[1].array.tolist() == ["ü".encode()] and last.id == "r"


async def test_an_answer_may_be_whole() -> None:
    body = b'data: {"y":[1,2],"text":"a"}\n\n'
    async with streaming(Back([b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body), body])) as model:
        assert [piece.outputs[1].array.tolist() for piece in await pieces(model)] == [[b"a"]]


async def test_what_cannot_be_sent_leaves_nothing_behind() -> None:
    async with streaming(Back()) as model:
        with pytest.raises(SalverError, match="UTF-8"):
            model.signature = Signature((TensorSpec("x", DataType.BYTES, (-1,)),), SIGNATURE.outputs)
            model._admission = Admission("m", model.signature)
            raw = Tensor("x", DataType.BYTES, np.array([b"\xff"], object))
            await anext(model.stream(InferRequest("m", (raw,))))
        assert model.running == 0


async def test_another_instance_is_asked_before_the_first_piece_only() -> None:
    full, gone, good = Back([FULL]), Back([HEAD, None]), Back([HEAD, event(1, "a"), END])
    async with streaming(full, gone, good) as model:
        assert len(await pieces(model)) == 1
        assert model.router.retries == 2
    broken, unused = Back([HEAD, event(1, "a"), None]), Back()
    async with streaming(broken, unused) as model:
        found = []
        with pytest.raises(NotReady, match="closed the connection before its answer was whole"):
            async for piece in model.stream(request()):
                found.append(piece)
        assert len(found) == 1 and not unused.asked
        assert [each.load.failed for each in model.router.instances] == [1, 0]


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        ([HEAD, event(1, "a"), WAITS], NotReady, "no further piece within 1 s"),
        ([HEAD, chunk({"y": [1, 2]}), WAITS], ModelFailed, "a wrong piece"),
        ([HEAD, event(1, "a"), b"zz\r\n", WAITS], NotReady, "is not HTTP/1.1"),
        ([b"HTTP/1.1 400 No\r\ncontent-length: 15\r\n\r\n", b'{"error":"bad"}'], InvalidInput, "bad"),
    ],
)
async def test_errors(answer: list[bytes | None], error: type[SalverError], said: str) -> None:
    async with streaming(Back(answer), attempt_s=1 if error is NotReady else 10) as model:
        with pytest.raises(error, match=said):
            await pieces(model)


async def test_the_deadline_holds_for_each_piece() -> None:
    async with streaming(Back([HEAD, event(1, "a"), WAITS])) as model:
        with pytest.raises(DeadlineExceeded):
            await pieces(model, asyncio.get_running_loop().time() + 0.1)


async def test_a_caller_that_leaves_ends_the_request_at_the_instance() -> None:
    back = Back([HEAD, event(1, "a"), WAITS])
    async with streaming(back) as model:
        answer = model.stream(request())
        await anext(answer)
        await answer.aclose()
        await back.is_left.wait()
        assert model.running == 0
