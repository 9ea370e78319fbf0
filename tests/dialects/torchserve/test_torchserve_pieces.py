"""Answers in pieces (TS-R15), in steps (TS-B5), and of asynchronous handlers."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from marfolder import form, opened, own_process, request, said, whole, write
from waiting import PATIENCE_S

from salver.backends.protocol import Answer, FormModel, StreamModel
from salver.words.errors import ModelFailed, SalverError
from salver.words.handlers import HandlerReply, Workers
from salver.words.messages import InferRequest
from salver.words.tensor import DataType, Tensor

STREAM = """
    from ts.protocol.otf_message_handler import create_predict_response, send_intermediate_predict_response

    def handle(data, context):
        if data is None:
            return None
        if not context.request_ids:
            return []
        counts = [int(row["body"]) for row in data]
        for i in range(max(counts)):
            parts = [f"part {i} of {n}\\n" for n in range(len(data))]
            send_intermediate_predict_response(parts, context.request_ids, "Intermediate", 200, context)
        return ["last\\n"] * len(data)
"""
COUNTDOWN = """
    class Stop:
        def __init__(self, cache, key):
            self.cache, self.key = cache, key

        def __call__(self, value):
            done = self.cache[self.key] <= 0
            if done:
                del self.cache[self.key]
            return done

    def handle(data, context):
        if data is None:
            return None
        if not hasattr(context, "cache"):
            context.cache = {}
        criteria, out = [], []
        for i, row in enumerate(data):
            key = context.get_request_id(i)
            if key not in context.cache:
                context.cache[key] = int(bytes(row["body"]).decode())
            context.cache[key] -= 1
            criteria.append(Stop(context.cache, key))
            out.append(f"{context.cache[key]}{bytes(row['body']).decode()} ")
        context.stopping_criteria = criteria
        return out
"""
LAST = {"ts_stream_next": "false"}
STEPS = Workers(batch_size=2, is_continuous=True)


@pytest.fixture(autouse=True)
def _own_process() -> Iterator[None]:
    with own_process():
        yield


@pytest.mark.clause("TS-R15")
def test_pieces_go_to_their_requests_recorded(tmp_path: Path) -> None:
    model = opened(write(tmp_path, STREAM))
    pieces: list[tuple[int, HandlerReply]] = []
    answers = model.reply(
        [request(form("2", "text/plain")), request(form("1", "text/plain"))],
        lambda index, piece: pieces.append((index, said(piece))),
    )
    more = {"ts_stream_next": "true"}
    assert pieces == [
        (n, HandlerReply(f"part {i} of {n}\n".encode(), headers=more)) for i in range(2) for n in range(2)
    ]
    assert [said(each) for each in answers] == [HandlerReply(b"last\n", headers=LAST)] * 2
    assert not any(answer.again for answer in answers)


@pytest.mark.clause("TS-R15")
def test_without_pieces_nothing_is_said_of_them(tmp_path: Path) -> None:
    model = opened(write(tmp_path, STREAM))
    pieces: list[Any] = []
    (answer,) = model.reply([request(form("0", "text/plain"))], lambda *piece: pieces.append(piece))
    assert said(answer) == HandlerReply(b"last\n") and pieces == []


@pytest.mark.clause("TS-R15")
def test_pieces_of_one_request_of_a_batch(tmp_path: Path) -> None:
    """As handlers do whose requests go on one by one."""
    source = """
        from ts.protocol.otf_message_handler import create_predict_response

        def handle(data, context):
            if data is None:
                return None
            ids = {1: context.request_ids[1]}
            context.set_response_content_type(1, "text/event-stream")
            context.cl_socket.sendall(create_predict_response({1: "hers"}, ids, "", 200, context, True))
            context.cl_socket.sendall(create_predict_response({0: "x"}, {0: "nobody"}, "", 200))
            return ["his", "hers, too"]
    """
    model = opened(write(tmp_path, source))
    pieces: list[tuple[int, HandlerReply]] = []
    answers = model.reply(
        [request(form("")), request(form(""))], lambda index, piece: pieces.append((index, said(piece)))
    )
    assert [(index, piece.body, piece.content_type) for index, piece in pieces] == [
        (1, b"hers", "text/event-stream")
    ]
    assert said(answers[0]) == HandlerReply(b"his") and said(answers[1]).headers == LAST


@pytest.mark.clause("TS-R15")
def test_after_the_run_nobody_listens(tmp_path: Path) -> None:
    source = """
        KEPT = []

        def handle(data, context):
            if data is None:
                return None
            KEPT.append(context.cl_socket)
            if len(KEPT) == 2:
                KEPT[0].sendall([(context.request_ids[0], None)])
            return ["fine"]
    """
    model = opened(write(tmp_path, source))
    for _ in range(2):
        (answer,) = model.reply([request(form(""))], None)
        assert said(answer).body == b"fine"


@pytest.mark.clause("TS-R19")
def test_an_error_after_pieces_is_the_last_one(tmp_path: Path) -> None:
    source = STREAM.replace('return ["last\\n"] * len(data)', "raise ValueError('midway')")
    assert "midway" in source
    model = opened(write(tmp_path, source))
    pieces: list[Answer] = []
    (answer,) = model.reply([request(form("1", "text/plain"))], lambda index, piece: pieces.append(piece))
    assert len(pieces) == 1 and said(answer) == HandlerReply(b"Prediction failed", 503, is_error=True)


def goes_on(id: str) -> InferRequest:
    return InferRequest("m", (), id=id)


def step(model: Any, *requests: InferRequest) -> list[tuple[str, bool]]:
    return [(said(each).body.decode(), each.again) for each in model.reply(requests, None)]


@pytest.mark.clause("TS-B5")
def test_steps_recorded(tmp_path: Path) -> None:
    model = opened(write(tmp_path, COUNTDOWN), workers=STEPS)
    assert isinstance(model, FormModel)
    assert step(model, request(form("4"), "a")) == [("34 ", True)]
    assert step(model, goes_on("a"), request(form("2"), "b")) == [("24 ", True), ("12 ", True)]
    assert step(model, goes_on("a"), goes_on("b")) == [("14 ", True), ("02 ", False)]
    assert step(model, goes_on("a"), request(form("1"), "c")) == [("04 ", False), ("01 ", False)]
    assert step(model, request(form("1"), "a")) == [("01 ", False)], "an id may come again"


@pytest.mark.clause("TS-B5")
def test_headers_say_whether_more_follows(tmp_path: Path) -> None:
    model = opened(write(tmp_path, COUNTDOWN), workers=STEPS)
    (first,) = model.reply([request(form("2"), "a")], None)
    (last,) = model.reply([goes_on("a")], None)
    assert [said(each).headers for each in (first, last)] == [
        {"ts_stream_next": "true"}, {"ts_stream_next": "false"},
    ]  # fmt: skip


@pytest.mark.clause("TS-B5")
def test_who_has_gone_is_forgotten(tmp_path: Path) -> None:
    model = opened(write(tmp_path, COUNTDOWN), workers=STEPS)
    step(model, request(form("4"), "a"), request(form("3"), "b"))
    assert step(model, goes_on("b")) == [("13 ", True)]
    lost, found = model.reply([goes_on("a"), goes_on("b")], None)
    assert said(lost).is_error and said(lost).status == 503 and not lost.again
    assert said(found).body == b"03 "


@pytest.mark.clause("TS-B5")
def test_an_id_that_comes_again_is_asked_anew(tmp_path: Path) -> None:
    source = COUNTDOWN.replace("key not in context.cache", "True")
    model = opened(write(tmp_path, source), workers=STEPS)
    assert step(model, request(form("4"), "a")) == [("34 ", True)]
    assert step(model, request(form("3"), "a")) == [("23 ", True)]
    assert step(model, goes_on("a")) == [("23 ", True)]


def test_tensors_are_no_form(tmp_path: Path) -> None:
    model = opened(write(tmp_path, COUNTDOWN))
    tensors = (Tensor("x", DataType.FP32, np.zeros((1, 2), np.float32)),)
    (answer,) = model.reply([InferRequest("m", tensors)], None)
    assert said(answer).is_error and said(answer).status == 400 and b"no tensors" in said(answer).body


@pytest.mark.clause("TS-B5")
def test_bytes_of_a_request_outlive_the_memory_they_came_in(tmp_path: Path) -> None:
    model = opened(write(tmp_path, COUNTDOWN), workers=STEPS)
    memory = bytearray(b"3")
    first = request(form(b""), "a")
    asked = msgspec.structs.replace(form(memory).parts[0])
    from salver.words.handlers import Form, as_request

    first = msgspec.structs.replace(as_request("m", Form((asked,))), id="a")
    assert step(model, first) == [("23 ", True)]
    memory[0] = ord("9")
    assert step(model, goes_on("a")) == [("13 ", True)]


@pytest.mark.clause("TS-B5")
def test_a_step_that_fails_is_the_last_of_all_of_them(tmp_path: Path) -> None:
    model = opened(write(tmp_path, COUNTDOWN), workers=STEPS)
    step(model, request(form("4"), "a"))
    assert step(model, goes_on("a"), request(form("x"), "b")) == [("Prediction failed", False)] * 2
    (answer,) = model.reply([goes_on("a")], None)
    assert said(answer).is_error


@pytest.mark.clause("TS-B5")
def test_elsewhere_criteria_change_nothing(tmp_path: Path) -> None:
    model = opened(write(tmp_path, COUNTDOWN))
    assert step(model, request(form("4"), "a")) == [("34 ", False)]


class Ear:
    """A listener that hears what is said to one request."""

    def __init__(self) -> None:
        self.heard: list[tuple[HandlerReply, bool]] = []
        self.over = threading.Event()

    def send(self, answer: Answer | SalverError, is_last: bool) -> None:
        assert isinstance(answer, Answer)
        self.heard.append((whole(answer), is_last))

    def is_cancelled(self) -> bool:
        return False

    def end(self) -> None:
        self.over.set()

    def bodies(self) -> list[str]:
        assert self.over.wait(PATIENCE_S)
        assert [last for _, last in self.heard] == [False] * (len(self.heard) - 1) + [True]
        return [reply.body.decode() for reply, _ in self.heard]


ASYNC = """
    import asyncio
    from ts.protocol.otf_message_handler import send_intermediate_predict_response
    from ts.utils.util import PredictionException

    class Own:
        def initialize(self, context):
            self.there = asyncio.Event()

        async def handle(self, data, context):
            ask = bytes(data[0]["body"]).decode()
            if ask == "open":
                self.there.set()
            if ask == "wait":
                await self.there.wait()
            if ask == "fail":
                raise PredictionException("asked for it", 418)
            if ask == "cancel":
                raise asyncio.CancelledError
            if ask == "stream":
                for i in range(3):
                    send_intermediate_predict_response([f"{i} "], context.request_ids, "", 200, context)
                    await asyncio.sleep(0)
            context.set_response_header(0, "X-Asked", ask)
            return [ask + " " + context.get_request_id(0)]
"""


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Any]:
    opened_model = opened(write(tmp_path, ASYNC), workers=Workers(is_async=True))
    yield opened_model
    opened_model.close()


def ask(model: Any, body: str, id: str) -> Ear:
    ear = Ear()
    model.stream([request(form(body), id)], [ear])
    return ear


@pytest.mark.clause("TS-Y1")
def test_an_asynchronous_handler_answers_when_it_likes(model: Any) -> None:
    assert isinstance(model, StreamModel) and not isinstance(model, FormModel)
    waiting = ask(model, "wait", "a")
    assert ask(model, "other", "b").bodies() == ["other b"]
    assert not waiting.over.is_set()
    assert ask(model, "open", "c").bodies() == ["open c"]
    assert waiting.bodies() == ["wait a"]
    (only,) = waiting.heard
    assert only[0].headers == {"X-Asked": "wait"}, "and its words are of its own request"
    assert any(line.startswith("PredictionTime") and line.endswith(",a") for line in only[0].metrics)


@pytest.mark.clause("TS-R15")
def test_an_asynchronous_handler_answers_in_pieces(model: Any) -> None:
    ear = ask(model, "stream", "a")
    assert ear.bodies() == ["0 ", "1 ", "2 ", "stream a"]
    assert [reply.headers["ts_stream_next"] for reply, _ in ear.heard] == ["true"] * 3 + ["false"]


@pytest.mark.clause("TS-R19")
@pytest.mark.parametrize(("body", "status"), [("fail", 418), ("cancel", 503)])
def test_an_asynchronous_handler_fails(model: Any, body: str, status: int) -> None:
    ear = ask(model, body, "a")
    ear.bodies()
    assert ear.heard[0][0].is_error and ear.heard[0][0].status == status
    assert ask(model, "other", "b").bodies() == ["other b"]


def test_an_asynchronous_handler_is_asked_by_forms_alone(model: Any) -> None:
    with pytest.raises(ModelFailed, match="forms alone"):
        model.run({})


@pytest.mark.clause("TS-Y1")
def test_whoever_listens_slowly_holds_nobody_up(model: Any) -> None:
    slow = Ear()
    go_on = threading.Event()

    def send(answer: Any, is_last: bool) -> None:
        assert go_on.wait(PATIENCE_S)
        Ear.send(slow, answer, is_last)

    slow.send = send  # type: ignore[method-assign]
    model.stream([request(form("stream"), "a")], [slow])
    assert ask(model, "other", "b").bodies() == ["other b"]
    assert slow.heard == []  # it has not been waited for
    go_on.set()
    assert slow.bodies() == ["0 ", "1 ", "2 ", "stream a"]
