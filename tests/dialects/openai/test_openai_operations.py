"""OpenAI's routes over the ASGI application: streams that end early, errors with their status, lists."""

import asyncio
import json

import pytest
from dialect_tables import http_router
from event_streams import EventStreamRig, Speaker
from waiting import PATIENCE_S

from salver.dialects.openai.chat_template import ChatTemplate
from salver.dialects.openai.resolved_model import ChatSettings, ResolvedModel
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.exchange import RequestPath
from salver.transport.asgi import Front
from salver.transport.calls import RequestContext
from salver.words.errors import DeadlineExceeded, ModelFailed, NotFound, Overloaded
from salver.words.messages import InferResponse, ModelId, State, VersionStatus
from salver.words.tensor import tensor

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]
VOICE = ChatSettings(ChatTemplate("{{ messages[0].content }}"), lambda text: len(text.split()))


class Control:
    """Knows the model ``m``, its LoRA ``m+doll``, and ``gone``, which failed."""

    def __init__(self):
        self.calls = []

    def statuses(self):
        return (
            VersionStatus(ModelId("m", "1"), State.READY),
            VersionStatus(ModelId("gone", "2"), State.FAILED, "broken"),
        )

    def versions(self, model):
        return tuple(row for row in self.statuses() if row.id.name == model)

    async def is_ready(self, model="", version=""):
        return model == "m"

    def speech(self, name):
        if name not in ("m", "m+doll"):
            raise NotFound(f"Unknown model: {name}", field="model")
        return ResolvedModel("m", VOICE, name[2:], ("m", "m+doll"))

    async def load(self, model, order):
        self.calls.append(("load", model, order))

    async def unload(self, model, *, dependents=False, waits=False):
        self.calls.append(("unload", model, waits))


class Talk(EventStreamRig):
    def __init__(self, servable, max_body=10_000):
        super().__init__(servable)
        clock = asyncio.get_running_loop().time
        context = RequestContext(clock, lambda: "00000000000000ab", b"", "me")
        door = DataPlane(RequestPath(self.world, self.bus.emit, clock, context.new_id))
        self.control = Control()
        operations = http_router(door, self.control, None, context)
        self.front = Front(operations, None, context, max_body=max_body)

    async def chat(self, stream=True, fail_after=None, **more):
        asked = {"model": "m", "messages": HELLO, "stream": stream}
        return await self.post(CHAT, asked | more, fail_after)

    async def get(self, path):
        sent = []

        async def receive():
            return {"type": "http.request", "body": b""}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": path, "headers": [], "http_version": "2"}
        await self.front(scope, receive, send)
        return sent[0]["status"], json.loads(sent[1]["body"])


def body(sent):
    return b"".join(message.get("body", b"") for message in sent[1:])


def deltas(sent):
    events = body(sent).decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event[6:]) for event in events[:-2]]
    return [chunk["choices"][0] for chunk in chunks if chunk["choices"]], chunks


@pytest.mark.clause("TR-V5")
async def test_a_stream_is_written_piece_by_piece():
    rig = Talk(Speaker(["a ", "b"]))
    sent = await rig.chat(stream_options={"include_usage": True})
    assert sent[0]["status"] == 200
    assert dict(sent[0]["headers"])[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert len(sent) == 5
    choices, chunks = deltas(sent)
    assert [choice["delta"].get("content") for choice in choices] == ["", "a ", "b", None]
    assert choices[-1]["finish_reason"] == "length"
    assert chunks[-1]["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    (served,) = rig.world.events
    assert (served.protocol, served.outcome, served.model) == ("openai", "ok", "m")
    assert served.first > 0


@pytest.mark.clause("TR-V5")
async def test_without_a_stream_there_is_one_object():
    rig = Talk(Speaker(["a ", "b"]))
    start, end = await rig.chat(stream=False)
    assert start["status"] == 200
    told = json.loads(end["body"])
    assert told["choices"][0]["message"]["content"] == "a b"
    assert told["usage"]["total_tokens"] == 3
    assert rig.outcome() == "ok"


@pytest.mark.clause("TR-V6")
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (DeadlineExceeded("too late"), 504, "server_error"),
        (Overloaded("too many", retry_after=2), 503, "server_error"),
        (ModelFailed("broke"), 500, "server_error"),
        (ZeroDivisionError("secret"), 500, "server_error"),
    ],
)
async def test_an_error_before_the_first_piece_has_its_status(stream, error, status, kind):
    rig = Talk(Speaker([error]))
    start, end = await rig.chat(stream)
    assert start["status"] == status
    assert dict(start["headers"])[b"content-type"] == b"application/json"
    told = json.loads(end["body"])["error"]
    assert told["type"] == kind
    assert "secret" not in told["message"]
    assert rig.outcome() != "ok"


@pytest.mark.clause("TR-V6")
@pytest.mark.parametrize(
    "wrong", [ModelFailed("broke"), InferResponse("m", "1", (), error=ModelFailed("broke"))]
)
async def test_an_error_after_it_is_the_last_event(wrong):
    rig = Talk(Speaker(["a", wrong, "b"]))
    sent = await rig.chat()
    events = body(sent).decode().split("\n\n")
    assert json.loads(events[-2][6:])["error"]["message"] == "broke"
    assert "[DONE]" not in body(sent).decode()
    assert rig.outcome() == "model_failed"
    assert rig.world.servable.closed == 1
    rig = Talk(Speaker(["a", wrong, "b"]))
    start, end = await rig.chat(stream=False)
    assert (start["status"], json.loads(end["body"])["error"]["message"]) == (500, "broke")


@pytest.mark.clause("TR-V5")
@pytest.mark.parametrize("sent", range(7))
async def test_a_connection_that_takes_no_more_ends_the_stream_wherever(sent):
    rig = Talk(Speaker(["a", "b", "c"]))
    await rig.chat(fail_after=sent)
    assert len(rig.sent) == min(sent, 6)
    assert rig.world.servable.closed == 1
    assert rig.outcome() == ("ok" if sent >= 4 else "cancelled")


@pytest.mark.clause("TR-V5")
@pytest.mark.parametrize("stream", [True, False])
async def test_who_hangs_up_ends_the_work(stream):
    rig = Talk(Speaker(["a", "wait"]))
    call = asyncio.ensure_future(rig.chat(stream))
    for _ in range(50):
        await asyncio.sleep(0.001)
    call.cancel()  # as the connection does whose caller has gone
    await asyncio.wait_for(call, PATIENCE_S)
    assert rig.world.servable.closed == 1
    assert rig.outcome() == "cancelled"


async def test_an_answer_without_any_piece():
    choices, _ = deltas(await Talk(Speaker([])).chat())
    assert [choice["finish_reason"] for choice in choices] == [None, "stop"]
    _, end = await Talk(Speaker([])).chat(stream=False)
    assert json.loads(end["body"])["choices"][0]["message"]["content"] == ""


async def test_a_request_that_does_not_fit_is_counted_and_one_of_nobody_is_not():
    rig = Talk(Speaker(["a"]))
    start, _ = await rig.chat(frequency_penalty=1)
    assert start["status"] == 400
    assert rig.outcome() == "invalid_input"
    rig = Talk(Speaker(["a"]))
    start, end = await rig.post(CHAT, {"model": "nobody", "messages": HELLO})
    assert (start["status"], json.loads(end["body"])["error"]["code"]) == (404, "model_not_found")
    assert rig.world.events == []


async def test_a_body_over_the_limit_and_a_large_one_below_it():
    rig = Talk(Speaker(["a"]), max_body=1 << 20)
    start, end = await rig.post(CHAT, {"model": "m", "messages": HELLO, "user": "x" * (1 << 20)})
    assert (start["status"], json.loads(end["body"])["error"]["code"]) == (413, "content_too_large")
    rig = Talk(Speaker(["a"]), max_body=1 << 20)
    start, end = await rig.post(CHAT, {"model": "m", "messages": HELLO, "user": "x" * 300_000})
    assert json.loads(end["body"])["choices"][0]["message"]["content"] == "a"
    assert rig.outcome() == "ok"


@pytest.mark.clause("TR-V5")
async def test_what_the_model_routes_tell():
    rig = Talk(Speaker([]))
    status, listed = await rig.get("/v1/models")
    assert status == 200
    assert [(entry["id"], entry["ready"], entry["owned_by"]) for entry in listed["data"]] == [
        ("gone", False, "me"),
        ("m", True, "me"),
        ("m+doll", True, "me"),
    ]
    assert listed["models"] == ["m", "m+doll"]
    status, told = await rig.get("/v1/models/m+doll")
    assert (status, told["id"], told["ready"], told["object"]) == (200, "m+doll", True, "model")
    status, told = await rig.get("/v1/models/gone")
    assert (status, told["ready"]) == (200, False)
    assert told["model_version_status"] == [
        {"version": "2", "state": "END", "status": {"error_code": "UNKNOWN", "error_message": "broken"}}
    ]
    status, told = await rig.get("/v1/models/nobody")
    assert (status, told["error"]) == (404, "Could not find any versions of model nobody")


@pytest.mark.clause("TR-V5")
async def test_load_and_unload_answer_as_tritons_front_end():
    rig = Talk(Speaker([]))
    _, end = await rig.post("/v1/models/m/load", {})
    assert json.loads(end["body"])["object"] == "model"
    rig.sent = []
    _, end = await rig.post("/v1/models/org/m/unload", {})
    assert json.loads(end["body"]) == {"status": "success", "model": "org/m"}
    assert [call[:2] for call in rig.control.calls] == [("load", "m"), ("unload", "org/m")]


async def test_pieces_that_say_nothing_are_not_written():
    held = [InferResponse("m", "1", (tensor("text_output", [text]),)) for text in ("{", '"a"', "}")]
    rig = Talk(Speaker(held))
    rig.control.speech = lambda name: ResolvedModel("m", ChatSettings(VOICE.template, tools="llama3"))
    tool = {"type": "function", "function": {"name": "f"}}
    sent = await rig.chat(tools=[tool])
    choices, _ = deltas(sent)
    assert [choice["delta"].get("content") for choice in choices] == ["", '{"a"}', None]
    assert len(sent) == 5
