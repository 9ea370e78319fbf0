"""Answers in pieces over the ASGI application: events, errors before and after the first, hang-ups."""

import asyncio
import json

import numpy as np
import pytest
from event_streams import EventStreamRig, Speaker
from servables import Declaring
from waiting import PATIENCE_S

from salver.encoding.bodies import HttpReply
from salver.kernel.serving.dataplane import joined
from salver.transport.event_stream import EventStream
from salver.words.errors import Cancelled, DeadlineExceeded, ModelFailed
from salver.words.messages import Call, InferResponse, Signature, TensorSpec
from salver.words.tensor import DataType, tensor

PATH = "/v2/models/m/generate_stream"


class Whole(Declaring):
    """A servable that answers once, with as many rows as were asked for."""

    signature = Signature(
        (TensorSpec("x", DataType.FP32, (-1, 2)),), (TensorSpec("y", DataType.FP32, (-1,)),), batched=True
    )

    async def infer(self, request, deadline=None, sender=None, standing=None):
        return InferResponse("m", "1", (tensor("y", request.inputs[0].array.sum(axis=1)),))


def documents(sent):
    """The events' documents; each message is one event."""
    bodies = [m["body"] for m in sent[1:-1]]
    assert all(body.startswith(b"data: ") and body.endswith(b"\n\n") for body in bodies)
    assert sent[-1] == {"type": "http.response.body", "body": b""}
    return [json.loads(body[6:]) for body in bodies]


async def test_each_piece_is_an_event_of_its_own():
    rig = EventStreamRig(Speaker(["a ", "b ", "c"]))
    trace = b"00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
    sent = await rig.post(
        PATH, {"text_input": "x"}, headers=[(b"traceparent", trace), (b"accept-encoding", b"gzip")]
    )
    headers = dict(sent[0]["headers"])
    assert sent[0]["status"] == 200
    assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert headers[b"x-request-id"] == b"00000000000000ab"
    assert headers[b"traceparent"].startswith(trace[:35])
    assert b"content-length" not in headers and b"content-encoding" not in headers
    assert [d["text_output"] for d in documents(sent)] == ["a ", "b ", "c"]
    assert [d.get("finish_reason") for d in documents(sent)] == [None, None, "length"]
    assert all(message["more_body"] for message in sent[1:-1])
    (served,) = rig.world.events
    assert (served.protocol, served.outcome, served.model, served.rows) == ("generate", "ok", "m", 1)


async def test_generate_joins_the_pieces():
    rig = EventStreamRig(Speaker(["a ", "ü ", "c"]))
    start, end = await rig.post("/v2/models/m/versions/1/generate", {"text_input": "x"})
    assert start["status"] == 200
    assert dict(start["headers"])[b"content-length"]
    assert json.loads(end["body"]) == {
        "model_name": "m",
        "model_version": "1",
        "finish_reason": "length",
        "text_output": "a ü c",
    }
    assert rig.outcome() == "ok"


async def test_an_error_before_the_first_piece_has_its_status():
    rig = EventStreamRig(Speaker([DeadlineExceeded("Request timeout expired")]))
    start, end = await rig.post(PATH, {"text_input": "x"})
    assert start["status"] == 503
    assert dict(start["headers"])[b"content-type"] == b"application/json"
    assert json.loads(end["body"]) == {"error": "Request timeout expired"}
    assert rig.outcome() == "deadline_exceeded"


@pytest.mark.parametrize(
    ("path", "document", "status"),
    [("/v2/models/n/generate_stream", {"text_input": "x"}, 404), (PATH, {"text_input": 3}, 400)],
)
async def test_a_wrong_request_has_its_status(path, document, status):
    rig = EventStreamRig(Speaker([]))
    start, _ = await rig.post(path, document)
    assert start["status"] == status


async def test_an_error_after_the_first_piece_is_an_event():
    rig = EventStreamRig(Speaker(["a", DeadlineExceeded("Request timeout expired")]))
    sent = await rig.post(PATH, {"text_input": "x"})
    assert sent[0]["status"] == 200
    assert documents(sent)[1] == {"error": "Request timeout expired"}
    assert rig.outcome() == "deadline_exceeded"


@pytest.mark.parametrize("path", [PATH, "/v2/models/m/generate"])
async def test_an_error_among_the_pieces_leaves_the_others_their_turn(path):
    wrong = InferResponse("m", "1", (), error=ModelFailed("negative element"))
    rig = EventStreamRig(Speaker(["a", wrong, "b"]))
    sent = await rig.post(path, {"text_input": "x"})
    if path == PATH:
        said = [d.get("text_output", d.get("error")) for d in documents(sent)]
        assert said == ["a", "negative element", "b"]
    else:
        assert (sent[0]["status"], json.loads(sent[1]["body"])) == (400, {"error": "negative element"})
    assert rig.outcome() == "model_failed"


async def test_a_defect_in_the_middle_is_an_incident(caplog):
    rig = EventStreamRig(Speaker(["a", ZeroDivisionError("secret")]))
    sent = await rig.post(PATH, {"text_input": "x"})
    error = documents(sent)[1]["error"]
    assert "incident" in error and "secret" not in error
    assert rig.outcome() == "internal"


async def test_a_caller_who_hangs_up_ends_the_stream():
    rig = EventStreamRig(Speaker(["a", "wait"]))
    call = asyncio.ensure_future(rig.post(PATH, {"text_input": "x"}))
    while len(rig.sent) < 2:
        await asyncio.sleep(0)
    call.cancel()  # as the connection does whose caller has gone
    await asyncio.wait_for(call, PATIENCE_S)
    assert rig.world.servable.closed == 1
    assert rig.outcome() == "cancelled"


async def test_a_connection_that_takes_no_more_ends_the_stream():
    rig = EventStreamRig(Speaker(["a", "b", "c", "d"]))
    await rig.post(PATH, {"text_input": "x"}, fail_after=2)
    assert rig.world.servable.closed == 1
    assert rig.outcome() == "cancelled"


async def test_a_caller_who_reads_nothing_counts_as_gone():
    async def never(message):
        await asyncio.Event().wait()

    with pytest.raises(Cancelled):
        await EventStream(never, Call("test", 0.0), patience=0.01).write(HttpReply(200, b"{}"))


async def test_a_stream_without_a_piece_is_an_empty_stream():
    rig = EventStreamRig(Speaker([]))
    sent = await rig.post(PATH, {"text_input": "x"})
    assert sent[0]["status"] == 200
    assert documents(sent) == []


async def test_generate_of_no_piece_at_all_is_the_models_failure():
    start, end = await EventStreamRig(Speaker([])).post("/v2/models/m/generate", {"text_input": "x"})
    assert start["status"] == 400
    assert json.loads(end["body"]) == {"error": "the model gave no answer"}


@pytest.mark.clause("TR-R6")
@pytest.mark.parametrize("script", [[], ["a", "b"], ["a", ModelFailed("no")], ["a", "wait"]])
async def test_generate_of_none_or_several_responses(script):
    if "wait" in script:
        script[1:] = ["b", "wait"]  # nobody waits for what comes after the second
    rig = EventStreamRig(Speaker(script, gives_parts=False))
    start, end = await rig.post("/v2/models/m/generate", {"text_input": "x"})
    failed = bool(script) and isinstance(script[-1], Exception)
    assert start["status"] == (400 if failed else 200)
    text = json.loads(end["body"])["error"]
    assert text == "no" if failed else text.startswith("generate expects model to produce exactly 1 response")
    assert rig.world.servable.closed == 1


@pytest.mark.clause("TR-R6")
async def test_an_error_that_comes_first_is_the_status_of_the_stream():
    rig = EventStreamRig(Speaker([InferResponse("m", "1", (), error=ModelFailed("no")), "a"]))
    sent = await rig.post(PATH, {"text_input": "x"})
    assert sent[0]["status"] == 400
    assert dict(sent[0]["headers"])[b"content-type"].startswith(b"text/event-stream")
    assert [document.get("error") for document in documents(sent)] == ["no", None]


async def test_a_model_that_answers_once_does_so_on_both_routes():
    for path in ("/v2/models/m/generate", PATH):
        rig = EventStreamRig(Whole())
        sent = await rig.post(path, {"x": [1.5, 2]})
        body = sent[1]["body"].removeprefix(b"data: ")
        assert json.loads(body) == {"model_name": "m", "model_version": "1", "y": 3.5}
        assert rig.outcome() == "ok"


def test_pieces_of_numbers_are_appended():
    pieces = [InferResponse("m", "1", (tensor("y", np.array([n, n + 1])),)) for n in (1, 5)]
    assert joined(pieces).outputs[0].array.tolist() == [1, 2, 5, 6]
