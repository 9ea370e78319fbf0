"""ModelStreamInfer over the ASGI application: order, errors, pieces, ends; no sockets."""

import asyncio
import gzip
import itertools
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
import tritonclient.grpc.service_pb2 as pb
from dialect_tables import grpc_front
from servables import Declaring
from waiting import PATIENCE_S

from salver.backends.protocol import Traits
from salver.dialects.oip.faults import grpc_status
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.thread import ThreadRunner
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.capabilities import Capabilities
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.exchange import RequestPath
from salver.transport.calls import RequestContext
from salver.transport.grpc_frames import FrameReader, frame
from salver.transport.grpc_stream import InferStream, StreamLimits
from salver.words.artifacts import ModelConfig
from salver.words.errors import DeadlineExceeded, ModelFailed, NotFound, NotReady, Overloaded
from salver.words.messages import InferResponse, ModelId, Signature, TensorSpec
from salver.words.tensor import DataType, tensor

PATH = "/inference.GRPCInferenceService/ModelStreamInfer"
FINAL = "triton_final_response"
ENABLE = "triton_enable_empty_final_response"
SIGNATURE = Signature((TensorSpec("do", DataType.BYTES, (1,)),), (TensorSpec("did", DataType.BYTES, (1,)),))


class Servable(Declaring):
    """Does what its input says; ``hold`` waits for the gate, ``fail`` raises."""

    id = ModelId("m", "1")
    signature = SIGNATURE

    def __init__(self):
        self.gate = asyncio.Event()
        self.running = self.most_running = self.closed = self.given = 0
        self.seen = []

    def release(self):
        pass

    def _reply(self, request, word, **more):
        return InferResponse(request.model, "1", (tensor("did", [word]),), request.id, **more)

    async def _do(self, word):
        if word == "hold":
            await self.gate.wait()
        elif word == "fail":
            raise ModelFailed("asked to fail")
        elif word == "late":
            raise DeadlineExceeded("Request timeout expired")
        elif word == "own kind":
            error = NotReady("asked for UNAVAILABLE")
            error.is_late = True
            raise error
        elif word == "full":
            raise Overloaded("Exceeds maximum queue size")
        elif word == "defect":
            raise ZeroDivisionError

    async def infer(self, request, deadline=None, sender=None, standing=None):
        self.seen.append(request)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            word = request.inputs[0].array[0].decode()
            await self._do(word)
            return self._reply(request, word)
        finally:
            self.running -= 1


class Decoupled(Servable):
    """A piece for each word; ``oops`` is an error among them, ``last`` knows that it is the last."""

    id = ModelId("d", "1")

    async def stream(self, request, deadline=None, standing=None):
        self.seen.append(request)
        try:
            for word in request.inputs[0].array[0].decode().split():
                await self._do(word)
                self.given += 1
                if word == "oops":
                    error = ModelFailed("negative element")
                    yield InferResponse(request.model, "1", (), request.id, error=error)
                else:
                    yield self._reply(request, word, is_last=word == "last")
        finally:
            self.closed += 1


class Rig:
    """One server's method, and one call of it."""

    def __init__(self, max_message=10_000, **limits):
        self.plain, self.decoupled = Servable(), Decoupled()
        self.events = []
        self.bus = Bus((self,))
        ids = itertools.count(1)
        context = RequestContext(asyncio.get_running_loop().time, lambda: f"{next(ids):016x}")
        door = DataPlane(RequestPath(self, self.bus.emit, context.clock, context.new_id))
        self.methods = grpc_front(door, None, None, context, max_message=max_message)
        read = self.methods._streams[PATH].read
        self.streams = InferStream(door, context, read, StreamLimits(max_message, **limits), grpc_status)
        self.methods._streams = {PATH: self.streams}
        self.inbox = asyncio.Queue()
        self.received = 0
        self.sent = []
        self.room = asyncio.Event()
        self.room.set()
        self.broken = False

    def other(self, name, version, is_wanted):
        return None

    def acquire(self, name, version=""):
        if name not in ("m", "d") or version not in ("", "1"):
            raise NotFound(f"Request for unknown model: '{name}' is not found")
        lease = self.plain if name == "m" else self.decoupled
        lease.servable = lease
        return lease

    def observe(self, events):
        self.events += events

    def outcomes(self):
        self.bus.flush()
        return [(event.outcome, event.request_id) for event in self.events]

    def open(self, headers=(), path=PATH):
        async def receive():
            event = await self.inbox.get()
            self.received += 1
            return event

        async def send(message):
            await self.room.wait()
            if self.broken:
                raise ConnectionResetError("gone")
            self.sent.append(message)

        given = {b"content-type": b"application/grpc"} | dict(headers)
        work = self.methods.handle({"path": path}, given, receive, send)
        self.call = asyncio.create_task(work)
        return self

    def say(self, *messages, more=True):
        body = b"".join(frame(m if isinstance(m, bytes) else m.SerializeToString()) for m in messages)
        self.send_raw(body, more)

    def send_raw(self, body, more=True):
        self.inbox.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def hang_up(self):
        self.inbox.put_nowait({"type": "http.disconnect"})

    async def settle(self):
        for _ in range(50):
            await asyncio.sleep(0)

    async def ask(self, *messages, headers=()):
        """A whole call: the messages, and the end."""
        self.open(headers)
        self.say(*messages, more=False)
        await asyncio.wait_for(self.call, PATIENCE_S)
        return self.replies()

    def replies(self):
        reader = FrameReader(1 << 20)
        bodies = [m["body"] for m in self.sent if m["type"] == "http.response.body"]
        return [pb.ModelStreamInferResponse.FromString(x) for body in bodies for x in reader.feed(body)]

    def status(self):
        """Code and text of the call, which is over."""
        assert self.sent[0]["type"] == "http.response.start"
        trailers = dict(self.sent[-1]["headers"])
        return int(trailers[b"grpc-status"]), trailers.get(b"grpc-message", b"").decode()


def ask(word="ok", id="", model="m", enable=None, version="", datatype="BYTES"):
    message = pb.ModelInferRequest(model_name=model, model_version=version, id=id)
    entry = message.inputs.add(name="do", datatype=datatype, shape=[1])
    entry.contents.bytes_contents.append(word.encode())
    if enable is not None:
        message.parameters[ENABLE].bool_param = enable
    return message


def brief(reply):
    """id, what it did or what went wrong, and what it says of the end."""
    inner = reply.infer_response
    text = reply.error_message or "".join(raw[4:].decode() for raw in inner.raw_output_contents)
    final = inner.parameters[FINAL].bool_param if FINAL in inner.parameters else None
    return inner.id, text, final


@pytest.mark.clause("TR-G2", "TR-G11")
async def test_each_message_is_a_request_and_each_reply_says_that_it_is_the_last():
    rig = Rig()
    raw = pb.ModelInferRequest(model_name="m", id="b", raw_input_contents=[b"\3\0\0\0raw"])
    raw.inputs.add(name="do", datatype="BYTES", shape=[1])
    replies = await rig.ask(ask("ok", "a"), raw, ask("x", "c", version="1"))
    assert [brief(r) for r in replies] == [("a", "ok", True), ("b", "raw", True), ("c", "x", True)]
    first = replies[0].infer_response
    assert (first.model_name, first.model_version, first.outputs[0].name) == ("m", "1", "did")
    assert rig.status() == (0, "")
    start = rig.sent[0]
    assert (start["status"], start["trailers"]) == (200, True)
    assert dict(start["headers"])[b"content-type"] == b"application/grpc"
    assert [m.get("more_body", False) for m in rig.sent[1:-1]] == [True] * 4 + [False]
    assert [name for name, _ in rig.outcomes()] == ["ok"] * 3


async def test_headers_leave_before_the_first_request():
    rig = Rig().open()
    await rig.settle()
    assert [m["type"] for m in rig.sent] == ["http.response.start", "http.response.body"]
    rig.send_raw(b"", more=False)
    await rig.call
    assert (rig.replies(), rig.status()) == ([], (0, ""))


@pytest.mark.clause("TR-G12")
@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("encoding", [b"identity", b"gzip"])
async def test_messages_come_in_pieces_and_together(size, encoding):
    rig = Rig()
    messages = [ask("ok", str(n)).SerializeToString() for n in range(3)]
    if encoding == b"gzip":
        packed = [gzip.compress(m) for m in messages]
        body = b"".join(b"\1" + len(m).to_bytes(4, "big") + m for m in packed)
    else:
        body = b"".join(map(frame, messages))
    rig.open([(b"grpc-encoding", encoding)])
    for at in range(0, len(body), size):
        rig.send_raw(body[at : at + size], at + size < len(body))
    await asyncio.wait_for(rig.call, PATIENCE_S)
    assert [brief(r)[0] for r in rig.replies()] == ["0", "1", "2"]


@pytest.mark.clause("TR-G2")
async def test_requests_run_side_by_side_and_replies_keep_their_order():
    rig = Rig().open()
    rig.say(ask("hold", "slow"), ask("ok", "quick"), ask("ok", "unknown", model="nobody"))
    await rig.settle()
    assert len(rig.plain.seen) == 2
    assert rig.replies() == []
    rig.plain.gate.set()
    rig.send_raw(b"", more=False)
    await rig.call
    assert [brief(r)[0] for r in rig.replies()] == ["slow", "quick", "unknown"]


@pytest.mark.clause("TR-S8")
async def test_pieces_wait_for_nobody_and_nobody_for_them():
    rig = Rig().open()
    rig.say(ask("hold", "plain"), ask("a hold b", "pieces", "d"))
    await rig.settle()
    assert [brief(r) for r in rig.replies()] == [("pieces", "a", False)]
    rig.plain.gate.set()
    await rig.settle()
    assert [brief(r)[0] for r in rig.replies()] == ["pieces", "plain"]
    rig.decoupled.gate.set()
    rig.send_raw(b"", more=False)
    await rig.call
    assert [brief(r)[1] for r in rig.replies()] == ["a", "hold", "hold", "b"]


UNKNOWN = "Request for unknown model: 'nobody' is not found"


@pytest.mark.clause("TR-G9")
@pytest.mark.parametrize(
    ("bad", "text", "model", "final"),
    [
        (ask("ok", "a", "nobody", version="3"), UNKNOWN, "", None),
        (ask("ok", "a", datatype="INT32"), "unexpected explicit tensor data", "", None),
        (ask("full", "a"), "Exceeds maximum queue size", "", None),
        (ask("fail", "a"), "asked to fail", "m", True),
        (ask("own kind", "a"), "asked for UNAVAILABLE", "m", True),
        (ask("late", "a"), "Request timeout expired", "m", True),
        (ask("defect", "a"), "internal error, incident", "m", True),
        (ask("fail", "a", "d"), "asked to fail", "d", True),
        (ask("full", "a", "d", enable=True), "Exceeds maximum queue size", "", None),
    ],
    ids=["unknown", "datatype", "full", "fail", "own kind", "late", "defect", "pieces fail", "pieces full"],
)
async def test_an_error_is_a_reply_and_the_call_goes_on(bad, text, model, final):
    rig = Rig().open()
    rig.say(bad)
    await rig.settle()
    (reply,) = rig.replies()
    assert text in reply.error_message
    assert (reply.infer_response.model_name, brief(reply)[0], brief(reply)[2]) == (model, "a", final)
    assert reply.infer_response.model_version == ""
    rig.say(ask("ok", "b"), more=False)
    await rig.call
    assert brief(rig.replies()[1]) == ("b", "ok", True)
    assert len(rig.replies()) == 2
    assert rig.status() == (0, "")


@pytest.mark.clause("TR-G9")
@pytest.mark.parametrize("asked", ["true", "false", "1"])
async def test_a_status_ends_the_call_if_it_was_asked_for_and_the_model_failed(asked):
    rig = Rig().open([(b"triton_grpc_error", asked.encode())])
    rig.say(ask("ok", "a", "nobody"), ask("hold", "b"), ask("hold", "c", "d"), ask("fail", "e", "d"))
    await rig.settle()
    assert brief(rig.replies()[0]) == ("a", UNKNOWN, None)
    if asked != "true":
        assert [brief(r) for r in rig.replies()][1:] == [("e", "asked to fail", True)]
        rig.hang_up()
        await rig.call
        return
    await asyncio.wait_for(rig.call, PATIENCE_S)
    assert rig.status() == (13, "asked to fail")
    assert len(rig.replies()) == 1
    assert (rig.plain.running, rig.decoupled.closed) == (0, 2)


@pytest.mark.clause("TR-G9")
@pytest.mark.parametrize("wants_status", [b"true", b"false"])
async def test_an_error_of_the_models_own_kind_is_no_refusal(wants_status):
    class Model:
        signature = Signature(
            (TensorSpec("do", DataType.BYTES, (1,)),), (TensorSpec("did", DataType.BYTES, (1,)),)
        )

        def run(self, inputs):
            raise NotFound("asked for NOT_FOUND")

        def close(self):
            pass

    rig = Rig()
    runner = ThreadRunner([Model()], Traits(), slots=1)
    clock = asyncio.get_running_loop().time
    engine = Engine(ModelId("m", "1"), runner, ModelConfig(), clock=clock, emit=rig.bus.emit)
    rig.plain = SimpleNamespace(
        id=engine.id,
        infer=engine.infer,
        signature=engine.signature,
        capabilities=Capabilities(),
        release=lambda: None,
    )
    misfit = ask("ok", "misfit")
    misfit.inputs[0].name = "what"
    replies = await rig.ask(misfit, ask("ok", "a"), headers=[(b"triton_grpc_error", wants_status)])
    assert (brief(replies[0])[0], brief(replies[0])[2]) == ("misfit", None)
    if wants_status == b"true":
        assert (len(replies), rig.status()) == (1, (5, "asked for NOT_FOUND"))
    else:
        assert brief(replies[1]) == ("a", "asked for NOT_FOUND", True)
        assert rig.status() == (0, "")
    await engine.close()


@pytest.mark.clause("TR-G9")
async def test_an_error_among_pieces_becomes_the_status_too():
    rig = Rig()
    replies = await rig.ask(ask("a oops b", "r", "d"), headers=[(b"triton_grpc_error", b"true")])
    assert [brief(r) for r in replies] == [("r", "a", False)]
    assert rig.status() == (13, "negative element")


@pytest.mark.clause("TR-G11", "TR-S8")
@pytest.mark.parametrize(
    ("words", "enable", "wanted"),
    [
        ("a b c", None, [("a", False), ("b", False), ("c", False)]),
        ("a b", False, [("a", False), ("b", False)]),
        ("a b", True, [("a", False), ("b", False), ("", True)]),
        ("a last", True, [("a", False), ("last", True)]),
        ("", None, []),
        ("", True, [("", True)]),
        ("a oops b", None, [("a", False), ("negative element", False), ("b", False)]),
        ("a oops", True, [("a", False), ("negative element", False), ("", True)]),
        ("a fail b", True, [("a", False), ("asked to fail", True)]),
        ("a full b", True, [("a", False), ("Exceeds maximum queue size", True)]),
    ],
)
async def test_any_number_of_replies_and_which_is_the_last(words, enable, wanted):
    rig = Rig()
    replies = await rig.ask(ask(words, "r", "d", enable))
    assert [brief(r) for r in replies] == [("r", *w) for w in wanted]
    assert rig.status() == (0, "")
    assert rig.decoupled.closed == 1
    for reply in replies:
        assert reply.infer_response.model_name == "d"
        is_answer = bool(reply.infer_response.outputs)
        assert reply.infer_response.model_version == ("1" if is_answer else "")
    assert all(ENABLE not in request.parameters for request in rig.decoupled.seen)


@pytest.mark.clause("TR-S8")
async def test_ten_thousand_pieces():
    rig = Rig(max_message=200_000)
    replies = await rig.ask(ask("w " * 10_000, "r", "d", True))
    assert len(replies) == 10_001
    assert brief(replies[-1]) == ("r", "", True)


@pytest.mark.clause("TR-G11")
async def test_the_wish_for_a_last_reply_is_a_boolean():
    rig = Rig()
    bad = ask("a", "r", "d")
    bad.parameters[ENABLE].int64_param = 1
    (reply,) = await rig.ask(bad)
    assert "expected bool_param" in reply.error_message
    assert ENABLE in reply.error_message
    assert rig.decoupled.seen == []


async def test_no_more_than_so_many_are_under_way_and_the_rest_is_not_read():
    rig = Rig(most=3).open()
    for number in range(5):
        rig.say(ask("hold", str(number)), ask("hold", f"{number}b"))
    await rig.settle()
    assert rig.plain.running == 3
    assert rig.received == 2
    rig.plain.gate.set()
    rig.send_raw(b"", more=False)
    await rig.call
    assert rig.plain.most_running == 3
    assert [brief(r)[0] for r in rig.replies()] == [f"{n}{b}" for n in range(5) for b in ("", "b")]


@pytest.mark.parametrize("most_bytes", [1, 250])
async def test_large_requests_are_fewer(most_bytes):
    rig = Rig(most_bytes=most_bytes).open()
    for number in range(9):
        rig.say(ask("hold", f"{number:060}"))
    await rig.settle()
    assert rig.plain.running == (1 if most_bytes == 1 else 3)
    rig.plain.gate.set()
    rig.send_raw(b"", more=False)
    await asyncio.wait_for(rig.call, PATIENCE_S)
    assert len(rig.replies()) == 9


async def test_replies_that_wait_for_their_turn_count_too():
    rig = Rig(most_bytes=2000).open()
    rig.say(ask("hold", "slow"))
    for number in range(30):
        rig.say(ask("ok", f"{number:060}"))
        await rig.settle()
    assert 3 < len(rig.plain.seen) < 15
    rig.plain.gate.set()
    rig.send_raw(b"", more=False)
    await asyncio.wait_for(rig.call, PATIENCE_S)
    assert len(rig.replies()) == 31


async def test_a_slow_reader_holds_the_model_back_and_no_more():
    rig = Rig(most=2).open()
    await rig.settle()
    rig.room.clear()
    rig.say(ask("w " * 1000, "r", "d"))
    for number in range(9):
        rig.say(ask("ok", str(number)))
    await rig.settle()
    assert rig.decoupled.given == 1
    assert (len(rig.plain.seen), rig.received) == (1, 3)
    rig.room.set()
    rig.send_raw(b"", more=False)
    await asyncio.wait_for(rig.call, PATIENCE_S)
    assert len(rig.replies()) == 1009


@pytest.mark.clause("TR-G14")
@pytest.mark.parametrize("how", ["disconnect", "cancel", "write", "no room", "after the last request"])
async def test_a_caller_who_leaves_leaves_nothing_under_way(how):
    rig = Rig(patience=0.05).open()
    await rig.settle()
    rig.say(ask("hold", "a"), ask("hold", "b"), ask("a hold", "c", "d"), more=how != "after the last request")
    await rig.settle()
    assert rig.plain.running == 2
    count = len(rig.sent)
    if how in ("disconnect", "after the last request"):
        rig.hang_up()
    elif how == "cancel":
        rig.call.cancel()
    elif how == "write":
        rig.broken = True
        rig.say(ask("ok", "d", "d"))
    else:
        rig.room.clear()
        rig.say(ask("ok", "d", "d"))
    with suppress(asyncio.CancelledError):
        await asyncio.wait_for(rig.call, PATIENCE_S)
    assert (rig.plain.running, rig.decoupled.given - rig.decoupled.closed) == (0, 0)
    assert len(rig.sent) == count
    assert {name for name, _ in rig.outcomes()} == {"cancelled"}
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.clause("TR-G14")
async def test_a_caller_who_leaves_while_nothing_is_read_leaves_nothing_either():
    rig = Rig(most=1).open()
    rig.say(ask("hold", "a"), ask("hold", "b"))
    await rig.settle()
    rig.call.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.wait_for(rig.call, PATIENCE_S)
    assert (rig.plain.running, len(rig.plain.seen)) == (0, 1)


@pytest.mark.clause("TR-G14")
async def test_the_deadline_ends_the_call():
    rig = Rig().open([(b"grpc-timeout", b"50m")])
    rig.say(ask("ok", "a"), ask("hold", "b"))
    await asyncio.wait_for(rig.call, PATIENCE_S)
    assert [brief(r)[0] for r in rig.replies()] == ["a"]
    assert rig.status() == (4, "Deadline Exceeded")
    assert rig.plain.running == 0


@pytest.mark.parametrize(
    ("body", "more", "code", "text"),
    [
        (frame(b"\x0a\xff"), True, 3, "not a ModelInferRequest"),
        (frame(b"x" * 10_001), True, 8, "larger than max"),
        (b"\7\0\0\0\0", True, 3, "prefix"),
        (b"\0\0\0\0\5ab", False, 3, "before its message was complete"),
        (b"\1\0\0\0\1a", True, 3, "no grpc-encoding"),
    ],
)
async def test_what_cannot_be_read_ends_the_call(body, more, code, text):
    rig = Rig().open()
    rig.say(ask("ok", "a"), ask("hold", "b"))
    await rig.settle()
    rig.send_raw(body, more)
    await asyncio.wait_for(rig.call, PATIENCE_S)
    assert [brief(r)[0] for r in rig.replies()] == ["a"]
    assert rig.status()[0] == code
    assert text in rig.status()[1]
    assert rig.plain.running == 0


async def test_a_server_that_stops_lets_what_is_under_way_end():
    rig = Rig().open()
    rig.say(ask("hold", "a"))
    await rig.settle()
    rig.methods.stop()
    rig.say(ask("ok", "too late"))
    await rig.settle()
    assert not rig.call.done()
    rig.plain.gate.set()
    await asyncio.wait_for(rig.call, PATIENCE_S)
    assert [brief(r)[0] for r in rig.replies()] == ["a"]
    assert rig.status()[0] == 14
    assert "shutting down" in rig.status()[1]
    again = rig.sent = []
    await asyncio.wait_for(rig.open().call, PATIENCE_S)
    assert rig.status()[0] == 14
    assert len(again) == 4


async def test_a_server_that_stops_ends_a_call_that_is_over_as_ever():
    rig = Rig().open()
    rig.say(ask("hold", "a"), more=False)
    await rig.settle()
    rig.methods.stop()
    rig.plain.gate.set()
    await asyncio.wait_for(rig.call, PATIENCE_S)
    assert rig.status() == (0, "")


async def test_each_request_has_an_id_and_a_span_of_its_own():
    rig = Rig()
    trace = b"00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
    await rig.ask(ask(), ask(), headers=[(b"x-request-id", b"mine"), (b"traceparent", trace)])
    assert [id for _, id in rig.outcomes()] == ["mine-1", "mine-2"]
    spans = {event.traceparent for event in rig.events}
    assert len(spans) == 2
    assert all(span[:35] == trace[:35].decode() for span in spans)


@pytest.mark.clause("TR-R27")
async def test_outputs_of_any_datatype_and_their_classes():
    class Numbers(Servable):
        async def infer(self, request, deadline=None, sender=None, standing=None):
            return InferResponse("m", "1", (tensor("y", np.arange(6, dtype="f4").reshape(2, 3)),), request.id)

    rig = Rig()
    rig.plain = Numbers()
    scores = TensorSpec("y", DataType.FP32, (-1, 3))
    rig.plain.signature = Signature(SIGNATURE.inputs, (scores,), batched=True)
    best = ask("ok", "b")
    best.outputs.add(name="y").parameters["classification"].int64_param = 1
    reply, classes = await rig.ask(ask("ok", "a"), best)
    assert classes.infer_response.raw_output_contents[0] == b"\x0a\0\0\x002.000000:2\x0a\0\0\x005.000000:2"
    (output,) = reply.infer_response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", "FP32", [2, 3])
    assert reply.infer_response.raw_output_contents[0] == np.arange(6, dtype="f4").tobytes()
