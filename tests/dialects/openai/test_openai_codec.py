"""OpenAI's codecs: requests to inputs of a model, responses to answers."""

import base64
import json
from typing import Any

import numpy as np
import pytest

from salver.dialects.openai.answers import Usage
from salver.dialects.openai.chat_template import ChatTemplate
from salver.dialects.openai.codec import EmbeddingCodec, GenerationCodec, embeddings, rows_of
from salver.dialects.openai.faults import OPENAI, openai_fault
from salver.dialects.openai.logprobs import of_chat, of_completion
from salver.dialects.openai.requests import parse_chat, parse_completion, parse_embedding
from salver.dialects.openai.resolved_model import ChatSettings, ResolvedModel
from salver.encoding.bodies import HttpBody
from salver.words.errors import (
    Code,
    InvalidInput,
    ModelFailed,
    Overloaded,
    SalverError,
    Unauthenticated,
    UnknownError,
)
from salver.words.messages import InferRequest, InferResponse, Signature, TensorSpec
from salver.words.tensor import DataType, Tensor, tensor

TEMPLATE = ChatTemplate(
    "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}{{ tools | length }}"
)
VOICE = ChatSettings(template=ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}"))
HELLO = [{"role": "user", "content": "Hello"}]
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "x": 1}}}
NAMED = {"type": "function", "function": {"name": "add"}}
BODY = HttpBody("", "", b"")


def spec(name: str, datatype: str = "BYTES", *shape: int, optional: bool = True) -> TensorSpec:
    return TensorSpec(name, DataType(datatype), shape or (1,), optional)


def signature(*inputs: TensorSpec, outputs: tuple[TensorSpec, ...] = (spec("text_output"),)) -> Signature:
    return Signature(inputs, outputs)


TEXT = spec("text_input", optional=False)
VLLM = signature(
    TEXT,
    spec("stream", "BOOL"),
    spec("sampling_parameters"),
    spec("exclude_input_in_output", "BOOL"),
    spec("return_finish_reason", "BOOL"),
    spec("return_logprobs", "BOOL"),
    spec("return_num_input_tokens", "BOOL"),
    spec("return_num_output_tokens", "BOOL"),
)
#: As an ensemble of TensorRT-LLM has them, with a batch dimension.
TRTLLM = Signature(
    (
        spec("text_input", "BYTES", -1, 1, optional=False),
        spec("max_tokens", "INT32", -1, 1, optional=False),
        spec("stop_words", "BYTES", -1, -1),
        spec("top_p", "FP32", -1, 1),
        spec("temperature", "FP32", -1, 1),
        spec("frequency_penalty", "FP32", -1, 1),
        spec("presence_penalty", "FP32", -1, 1),
        spec("seed", "UINT64", -1, 1),
        spec("stream", "BOOL", -1, 1),
        spec("guided_decoding_guide_type", "BYTES", -1, 1),
        spec("guided_decoding_guide", "BYTES", -1, 1),
        spec("end_id", "INT32", -1, 1),
    ),
    (spec("text_output", "BYTES", -1, -1),),
    batched=True,
)
MESSAGES = signature(
    spec("messages", optional=False), spec("tools"), spec("tool_choice"), spec("temperature", "FP64")
)


def codec(settings: ChatSettings = VOICE, lora: str = "", **asked: Any) -> GenerationCodec:
    asked = {"model": "m"} | asked
    parse: Any = parse_completion if "prompt" in asked else parse_chat
    if "prompt" not in asked:
        asked = {"messages": HELLO} | asked
    resolved = ResolvedModel("m", settings, lora, ("m",), 16, 1000)
    ids = iter(f"{n:016x}" for n in range(100))
    return GenerationCodec(parse(json.dumps(asked).encode()), resolved, "id-1", 1700000000, lambda: next(ids))


def inputs_of(one: GenerationCodec, into: Signature) -> dict[str, Any]:
    return {t.name: t.array.tolist() for t in one.decode(BODY, into).inputs}


def response(text: str | bytes | None = None, **more: Any) -> InferResponse:
    data = (
        [] if text is None else [tensor("text_output", [text if isinstance(text, bytes) else text.encode()])]
    )
    for name, value in more.items():
        data.append(tensor(name, [value.encode() if isinstance(value, str) else np.uint32(value)]))
    return InferResponse("m", "1", tuple(data))


def events(body: bytes) -> list[Any]:
    lines = body.decode().split("\n\n")
    assert lines.pop() == ""
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line[6:]) for line in lines if line != "data: [DONE]"]


ASKED = InferRequest("m", ())


def said(one: GenerationCodec, *responses: InferResponse) -> dict[str, Any]:
    for each in responses:
        assert one.encode(ASKED, each).body == b""
    found: dict[str, Any] = json.loads(one.whole(None).body)
    return found


def streamed(one: GenerationCodec, *responses: InferResponse) -> list[Any]:
    body = b"".join(one.encode(ASKED, each).body for each in responses) + one.end(None).body
    assert body.endswith(b"data: [DONE]\n\n")
    return events(body)


@pytest.mark.clause("TR-V5")
def test_the_inputs_of_the_vllm_backend() -> None:
    got = inputs_of(codec(prompt="Hello", stop="x", seed=7, max_tokens=5), VLLM)
    sampling = json.loads(got.pop("sampling_parameters")[0])
    assert sampling == {
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "ignore_eos": False,
        "n": 1,
        "seed": 7,
        "stop": "x",
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 5,
    }
    assert got == {
        "text_input": [b"Hello"],
        "stream": [False],
        "exclude_input_in_output": [True],
        "return_finish_reason": [True],
        "return_logprobs": [False],
        "return_num_input_tokens": [True],
        "return_num_output_tokens": [True],
    }


@pytest.mark.clause("TR-V5")
def test_max_tokens_are_16_where_nothing_is_said() -> None:
    for asked in ({"prompt": "Hello"}, {}):
        assert json.loads(inputs_of(codec(**asked), VLLM)["sampling_parameters"][0])["max_tokens"] == 16


@pytest.mark.clause("TR-V5")
def test_the_inputs_of_an_ensemble_of_tensorrt_llm() -> None:
    got = inputs_of(codec(prompt="Hello", stop=["x", "yz"], seed=7, temperature=0.5, stream=True), TRTLLM)
    assert got == {
        "text_input": [[b"Hello"]],
        "max_tokens": [[16]],
        "stop_words": [[b"x", b"yz"]],
        "top_p": [[1.0]],
        "temperature": [[0.5]],
        "frequency_penalty": [[0.0]],
        "presence_penalty": [[0.0]],
        "seed": [[7]],
        "stream": [[True]],
    }
    guided = inputs_of(codec(tools=[ADD], tool_choice=NAMED), TRTLLM)
    assert guided["guided_decoding_guide_type"] == [[b"json_schema"]]
    assert json.loads(guided["guided_decoding_guide"][0][0]) == ADD["function"]["parameters"]
    with pytest.raises(InvalidInput) as caught:
        codec(prompt="Hello", seed=-1).decode(BODY, TRTLLM)
    assert caught.value.field == "seed"


def test_a_model_of_messages_gets_the_conversation_tools_and_all() -> None:
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
    got = inputs_of(codec(messages=picture, tools=[ADD], tool_choice=NAMED, temperature=0.25), MESSAGES)
    assert json.loads(got["messages"][0]) == picture
    assert json.loads(got["tools"][0]) == [ADD]
    assert json.loads(got["tool_choice"][0]) == NAMED
    assert got["temperature"] == [0.25]
    assert "tools" not in inputs_of(codec(), MESSAGES)


@pytest.mark.clause("TR-V5")
def test_a_conversation_becomes_a_prompt() -> None:
    one = codec(ChatSettings(TEMPLATE), messages=[*HELLO, {"role": "assistant", "content": "Hi"}], tools=[])
    assert inputs_of(one, signature(TEXT)) == {"text_input": [b"user:Hello;assistant:Hi;0"]}
    assert one.prompt == "user:Hello;assistant:Hi;0"


@pytest.mark.clause("TR-V6")
@pytest.mark.parametrize(
    ("into", "asked", "field", "says"),
    [
        (signature(TEXT, outputs=(spec("y", "FP32"),)), {}, "model", "returns no text"),
        (signature(spec("x", optional=False)), {}, "model", "accepts no conversation"),
        (MESSAGES, {"prompt": "Hello"}, "model", "POST to /v1/chat/completions"),
        (signature(TEXT, spec("weight", "FP32", optional=False)), {}, "weight", "needs the input 'weight'"),
        (signature(TEXT), {"frequency_penalty": 1}, "frequency_penalty", "no input for frequency_penalty"),
        (signature(TEXT), {"min_tokens": 1}, "min_tokens", "no input for min_tokens"),
        (signature(TEXT), {"ignore_eos": True}, "ignore_eos", "no input for ignore_eos"),
        (signature(TEXT), {"stop": "x"}, "stop", "no input for stop"),
        (
            VLLM,
            {"response_format": {"type": "json_object"}},
            "response_format",
            "no input for response_format",
        ),
        (VLLM, {"functions": [{"name": "f"}]}, "functions", "no input for functions"),
        (signature(TEXT), {"logprobs": True}, "logprobs", "has no input return_logprobs"),
        (signature(TEXT), {"prompt": "x", "logprobs": 2}, "logprobs", "has no input return_logprobs"),
        (
            VLLM,
            {"tools": [ADD]},
            "tools",
            "having tools in the request requires --tool-call-parser to be set",
        ),
        (
            VLLM,
            {"tools": [ADD], "tool_choice": "auto"},
            "tool_choice",
            '"auto" tool choice requires --tool-call',
        ),
        (signature(TEXT), {"tools": [ADD], "tool_choice": NAMED}, "tool_choice", "cannot be held to a tool"),
        (
            signature(spec("text_input", "BYTES", 2, optional=False)),
            {"prompt": "x"},
            "text_input",
            "shape [2]",
        ),
        (
            VLLM,
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
            "",
        ),
    ],
)
def test_what_a_model_cannot_do_is_refused(
    into: Signature, asked: dict[str, Any], field: str, says: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        codec(**asked).decode(BODY, into)
    assert caught.value.field == field
    assert says in str(caught.value)


@pytest.mark.clause("TR-V5")
def test_without_a_template_a_conversation_is_refused_with_the_setting_to_give() -> None:
    with pytest.raises(InvalidInput, match=r"--chat-template FILE, --tokenizer FOLDER, or chat\.template"):
        codec(ChatSettings()).decode(BODY, VLLM)
    assert inputs_of(codec(ChatSettings(), prompt="x"), signature(TEXT)) == {"text_input": [b"x"]}


@pytest.mark.clause("TR-V8")
def test_a_lora_goes_to_the_model() -> None:
    got = inputs_of(codec(lora="doll", prompt="x"), VLLM)
    assert json.loads(got["sampling_parameters"][0])["lora_name"] == "doll"
    named = signature(TEXT, spec("lora_name"))
    assert inputs_of(codec(lora="doll", prompt="x"), named)["lora_name"] == [b"doll"]
    with pytest.raises(InvalidInput, match="accepts no LoRA"):
        codec(lora="doll", prompt="x").decode(BODY, signature(TEXT))


@pytest.mark.clause("TR-V6")
def test_a_tool_that_has_to_be_called_guides_the_model() -> None:
    got = inputs_of(codec(tools=[ADD], tool_choice="required"), VLLM)
    sampling = json.loads(got["sampling_parameters"][0])
    assert json.loads(sampling["structured_outputs"]) == {"json": ADD["function"]["parameters"]}
    answer = said(codec(tools=[ADD], tool_choice=NAMED), response('{"a": '), response("1}"))
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == ""
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "add", "arguments": '{"a": 1}'}
    assert (call["type"], call["id"][:5]) == ("function", "call_")
    first, *rest = streamed(
        codec(tools=[ADD], tool_choice=NAMED, stream=True), response('{"a": '), response("1}")
    )
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    deltas = [event["choices"][0]["delta"]["tool_calls"][0] for event in rest[:2]]
    assert deltas[0]["function"] == {"name": "add", "arguments": '{"a": '}
    assert deltas[1] == {"index": 0, "function": {"arguments": "1}"}}


@pytest.mark.clause("TR-V5")
def test_an_answer_to_a_text() -> None:
    answer = said(codec(prompt="Hello"), response(" wor"), response("ld", finish_reason="length"))
    assert answer == {
        "id": "id-1",
        "created": 1700000000,
        "model": "m",
        "system_fingerprint": None,
        "object": "text_completion",
        "choices": [{"index": 0, "finish_reason": "length", "logprobs": None, "text": " world"}],
        "usage": None,
    }
    assert said(codec(prompt="Hello", echo=True), response(" world"))["choices"][0]["text"] == "Hello world"
    assert said(codec(prompt="Hello"))["choices"][0]["text"] == ""


@pytest.mark.clause("TR-V5")
def test_an_answer_to_a_text_as_a_stream() -> None:
    got = streamed(codec(prompt="Hello", stream=True, echo=True), response(" wor"), response("ld"))
    assert {event["object"] for event in got} == {"text_completion"}
    choices = [event["choices"][0] for event in got]
    assert [(c["text"], c["finish_reason"]) for c in choices] == [
        ("Hello wor", None),
        ("ld", None),
        ("", "stop"),
    ]
    assert streamed(codec(prompt="Hello", stream=True, echo=True))[0]["choices"][0]["text"] == "Hello"


@pytest.mark.clause("TR-V5")
def test_an_answer_to_a_conversation() -> None:
    answer = said(codec(), response("Hi", finish_reason="stop"))
    assert answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    assert choice == {
        "index": 0,
        "finish_reason": "stop",
        "logprobs": None,
        "message": {"role": "assistant", "content": "Hi"},
    }
    got = streamed(codec(stream=True), response("H"), response("i"))
    assert {event["object"] for event in got} == {"chat.completion.chunk"}
    assert [event["choices"][0]["delta"] for event in got] == [
        {"role": "assistant", "content": ""},
        {"content": "H"},
        {"content": "i"},
        {},
    ]
    assert [event["choices"][0]["finish_reason"] for event in got] == [None, None, None, "stop"]
    nothing = streamed(codec(stream=True))
    assert [event["choices"][0]["delta"] for event in nothing] == [{"role": "assistant", "content": ""}, {}]


def test_characters_that_come_in_parts_are_whole() -> None:
    halves = "ä€".encode()
    got = streamed(codec(prompt="x", stream=True), *(response(halves[n : n + 1]) for n in range(len(halves))))
    assert "".join(event["choices"][0]["text"] for event in got) == "ä€"
    assert said(codec(prompt="x"), response(halves[:4]))["choices"][0]["text"] == "ä\ufffd"


@pytest.mark.clause("TR-V6")
def test_usage_is_counted_once_for_the_prompt_and_summed_for_the_answer() -> None:
    told = [response("a", num_input_tokens=5, num_output_tokens=n) for n in (1, 0, 2)]
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    assert said(codec(prompt="x"), *told)["usage"] == usage
    got = streamed(codec(prompt="x", stream=True, stream_options={"include_usage": True}), *told)
    assert got[-1]["choices"] == []
    assert got[-1]["usage"] == usage
    assert {event["usage"] for event in got[:-1] if event["usage"] is None} == {None}
    assert all(event["choices"] for event in streamed(codec(prompt="x", stream=True), *told))
    engine = InferResponse("m", "1", (), tokens=(4, 2))
    assert said(codec(prompt="x"), response("a"), engine)["usage"]["total_tokens"] == 6


def test_texts_are_counted_here_where_the_model_does_not() -> None:
    settings = ChatSettings(VOICE.template, len)
    one = codec(settings, prompt="Hello")
    assert one.uncounted is None
    one.decode(BODY, VLLM)
    one.encode(ASKED, response("ab"))
    assert one.uncounted == ("Hello", "ab")
    assert json.loads(one.whole(Usage(5, 2)).body)["usage"]["total_tokens"] == 7
    silent = codec(settings, prompt="Hello", stream=True)
    silent.decode(BODY, VLLM)
    assert silent.uncounted is None
    counted = codec(settings, prompt="Hello")
    counted.decode(BODY, VLLM)
    counted.encode(ASKED, response("ab", num_input_tokens=1, num_output_tokens=1))
    assert counted.uncounted is None


PLACES = [
    {
        "7": {"logprob": -1.5, "rank": 2, "decoded_token": "b"},
        "5": {"logprob": -0.5, "rank": 1, "decoded_token": "a"},
    },
    {"9": {"logprob": -float("inf"), "rank": 1, "decoded_token": "ö"}},
]


@pytest.mark.clause("TR-V6")
def test_probabilities_of_vllm_as_openai_has_them() -> None:
    first, second = of_chat(PLACES)
    assert (first["token"], first["logprob"], first["bytes"]) == ("b", -1.5, [98])
    assert [(t["token"], t["logprob"]) for t in first["top_logprobs"]] == [("a", -0.5), ("b", -1.5)]
    assert (second["logprob"], second["bytes"]) == (-9999.0, [195, 182])
    assert of_completion(PLACES, 3) == {
        "text_offset": [3, 4],
        "token_logprobs": [-1.5, -9999.0],
        "tokens": ["b", "ö"],
        "top_logprobs": [{"a": -0.5, "b": -1.5}, {"ö": -9999.0}],
    }
    for wrong in (5, [5], [{"7": {}}], [{"7": {"logprob": "x", "decoded_token": ""}}]):
        with pytest.raises(ModelFailed):
            of_chat(wrong)


@pytest.mark.clause("TR-V6")
def test_probabilities_go_with_their_text() -> None:
    first, second = (json.dumps([place]) for place in PLACES)
    told = [response("b", logprobs=first), response("", logprobs="null"), response("ö", logprobs=second)]
    got = inputs_of(codec(prompt="x", logprobs=2), VLLM)
    assert got["return_logprobs"] == [True]
    assert json.loads(got["sampling_parameters"][0])["logprobs"] == 2
    assert json.loads(inputs_of(codec(logprobs=True), VLLM)["sampling_parameters"][0])["logprobs"] == 1
    choice = said(codec(prompt="x", logprobs=2), *told)["choices"][0]
    assert (choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]) == (["b", "ö"], [0, 1])
    chunks = [e["choices"][0] for e in streamed(codec(prompt="x", logprobs=2, stream=True), *told)]
    assert [c["logprobs"] and c["logprobs"]["text_offset"] for c in chunks] == [[0], None, [1], None]
    chat = said(codec(logprobs=True, top_logprobs=2), *told)["choices"][0]
    assert [place["token"] for place in chat["logprobs"]["content"]] == ["b", "ö"]
    with pytest.raises(ModelFailed, match="not JSON"):
        codec(prompt="x", logprobs=2).encode(ASKED, response("b", logprobs="{"))
    assert said(codec(prompt="x"), *told)["choices"][0]["logprobs"] is None


CALL = '{"name": "add", "arguments": {"a": 1}}'


@pytest.mark.clause("TR-V6")
def test_calls_in_the_text() -> None:
    settings = ChatSettings(VOICE.template, tools="llama3")
    choice = said(codec(settings, tools=[ADD]), response(CALL[:9]), response(CALL[9:]))["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", "")
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    plain = said(codec(settings, tools=[ADD]), response("Hi"))["choices"][0]
    assert plain == {
        "index": 0,
        "finish_reason": "stop",
        "logprobs": None,
        "message": {"role": "assistant", "content": "Hi"},
    }
    unasked = said(codec(settings, tools=[ADD], tool_choice="none"), response(CALL))["choices"][0]
    assert unasked["message"] == {"role": "assistant", "content": CALL}
    broken = said(codec(settings, tools=[ADD]), response(CALL[:-1]))["choices"][0]
    assert (broken["message"]["content"], broken["finish_reason"]) == (CALL[:-1], "stop")


@pytest.mark.clause("TR-V6")
def test_calls_in_a_stream() -> None:
    settings = ChatSettings(VOICE.template, tools="mistral")
    text = f"[TOOL_CALLS][{CALL}, {CALL}]"
    got = streamed(codec(settings, tools=[ADD], stream=True), *(response(c) for c in text))
    deltas = [event["choices"][0]["delta"] for event in got]
    assert [call["index"] for delta in deltas for call in delta.get("tool_calls", ())] == [0, 1]
    assert "".join(delta.get("content", "") for delta in deltas) == ""
    assert got[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert len(got) == 4
    ids = [call["id"] for delta in deltas for call in delta.get("tool_calls", ())]
    assert len(set(ids)) == 2
    assert all(len(id) == 9 for id in ids)
    plain = streamed(codec(settings, tools=[ADD], stream=True), response("[to"), response(" be]"))
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in plain) == "[to be]"
    held = streamed(codec(settings, tools=[ADD], stream=True), response('[{"a'))
    assert [e["choices"][0]["delta"].get("content") for e in held] == ["", '[{"a', None]


def test_calls_that_the_model_gives_as_such() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    told = [response("Let me see"), response(None, tool_calls=json.dumps([call]))]
    choice = said(codec(tools=[ADD]), *told)["choices"][0]
    assert (choice["finish_reason"], choice["message"]["tool_calls"]) == ("tool_calls", [call])
    assert choice["message"]["content"] == "Let me see"
    got = streamed(codec(tools=[ADD], stream=True), *told)
    assert [e["choices"][0]["delta"].get("tool_calls") for e in got][-2] == [{"index": 0, **call}]
    for wrong in ("{", "5", '["a"]'):
        with pytest.raises(ModelFailed, match="tool_calls"):
            codec(tools=[ADD]).encode(ASKED, response(None, tool_calls=wrong))


def test_a_model_that_gives_two_texts_at_once_is_wrong() -> None:
    two = InferResponse("m", "1", (tensor("text_output", [b"a", b"b"]),))
    with pytest.raises(ModelFailed, match="Expected to find 1 string in the output, found 2 instead"):
        codec(prompt="x").encode(ASKED, two)


def test_an_error_is_an_object_or_an_event() -> None:
    one = codec(prompt="x", stream=True)
    before = one.fault(InvalidInput("wrong", field="prompt"))
    told = {"message": "wrong (at prompt)", "type": "invalid_request_error", "param": "prompt", "code": None}
    assert (before.status, json.loads(before.body)) == (400, {"error": told})
    one = codec(prompt="x", stream=True)
    one.encode(ASKED, response("a"))
    (event,) = events(one.fault(UnknownError("broke")).body)
    assert event["error"]["type"] == "server_error"
    assert one.failed is not None
    with pytest.raises(UnknownError, match="broke"):
        codec(prompt="x").encode(ASKED, InferResponse("m", "1", (), error=UnknownError("broke")))


def test_every_kind_of_error_has_a_face() -> None:
    assert set(OPENAI) == set(Code)
    refused = openai_fault(Unauthenticated("who?"))
    assert json.loads(refused.body)["error"] == {
        "message": "who?",
        "type": "authentication_error",
        "param": None,
        "code": "invalid_auth",
    }
    busy = openai_fault(Overloaded("busy", retry_after=2.5))
    assert (busy.status, dict(busy.headers)[b"retry-after"]) == (503, b"3")
    assert b"\\ud800" not in openai_fault(SalverError("\ud800", field="\ud800")).body


def embed(into: Signature, *texts: Any, **asked: Any) -> tuple[EmbeddingCodec, dict[str, Any]]:
    request = parse_embedding(json.dumps({"model": "m", "input": list(texts)} | asked).encode())
    one = EmbeddingCodec(request, ResolvedModel("m"), request.texts)
    return one, {t.name: t.array.tolist() for t in one.decode(BODY, into).inputs}


VECTOR = (spec("embedding", "FP32", -1, 3),)
BATCHED = Signature((spec("sentence", "BYTES", -1, 1, optional=False),), VECTOR, batched=True, max_rows=8)
FLAT = Signature((spec("text_input", "BYTES", -1, optional=False), spec("dimensions", "INT32")), VECTOR)
ASKS = signature(TEXT, spec("embedding_request"), spec("return_num_input_tokens", "BOOL"))


@pytest.mark.clause("TR-V5")
def test_texts_to_embed() -> None:
    assert embed(BATCHED, "a", "b")[1] == {"sentence": [[b"a"], [b"b"]]}
    assert embed(FLAT, "a", "b", dimensions=3)[1] == {"text_input": [b"a", b"b"], "dimensions": [3]}
    _, got = embed(ASKS, "a", dimensions=2)
    assert json.loads(got["embedding_request"][0]) == {"input": "a", "pooling_params": {"dimensions": [2]}}
    assert got["return_num_input_tokens"] == [True]
    assert json.loads(embed(ASKS, 1, 2)[1]["embedding_request"][0])["input"] == [1, 2]
    assert [rows_of(s) for s in (BATCHED, FLAT, ASKS, signature(TEXT))] == [8, 0, 1, 1]
    for into in (VLLM, signature(TEXT), Signature((spec("x", "FP32"),), VECTOR)):
        with pytest.raises(InvalidInput, match="returns no embeddings"):
            embed(into, "a")
    with pytest.raises(InvalidInput, match="accepts texts, not tokens"):
        embed(FLAT, 1, 2)
    with pytest.raises(InvalidInput, match=r"has the shape \[2\], and does not take 1 texts"):
        embed(Signature((spec("s", "BYTES", 2, optional=False),), VECTOR), "a")


@pytest.mark.clause("TR-V5")
def test_vectors() -> None:
    one, _ = embed(FLAT, "a", "b")
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    one.encode(ASKED, InferResponse("m", "1", (Tensor("embedding", DataType.FP32, array),)))
    request = parse_embedding(b'{"model": "m", "input": ["a", "b"]}')
    reply = json.loads(embeddings(request, one.vectors, 7).body)
    assert reply["data"][1] == {"object": "embedding", "index": 1, "embedding": [3.0, 4.0, 5.0]}
    assert (reply["object"], reply["model"]) == ("list", "m")
    assert reply["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    request = parse_embedding(b'{"model": "m", "input": ["a", "b"], "encoding_format": "base64"}')
    reply = json.loads(embeddings(request, one.vectors, None).body)
    np.testing.assert_array_equal(
        np.frombuffer(base64.b64decode(reply["data"][1]["embedding"]), "<f4"), array[1]
    )
    assert reply["usage"] is None
    one, _ = embed(ASKS, "a")
    one.encode(ASKED, response("[1, 2.5]", num_input_tokens=4))
    assert ([v.tolist() for v in one.vectors], one.tokens) == ([[1.0, 2.5]], 4)


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ((tensor("e", np.zeros((3, 3), np.float32)),), "shape [3, 3] for 2 texts"),
        ((tensor("e", np.zeros(3, np.float32)),), "shape [3] for 2 texts"),
        ((tensor("e", np.zeros(2, np.int32)),), "no embeddings"),
        ((tensor("text_output", [b"{"]),), "not a list of numbers"),
        ((tensor("text_output", [b"[[1]]"]),), "not a list of numbers"),
        ((tensor("text_output", [b'["a"]']),), "not a list of numbers"),
    ],
)
def test_what_is_no_vector_is_the_models_fault(outputs: tuple[Tensor, ...], says: str) -> None:
    one, _ = embed(FLAT, "a", "b")
    with pytest.raises(ModelFailed) as caught:
        one.encode(ASKED, InferResponse("m", "1", outputs))
    assert says in str(caught.value)


def test_dimensions_that_a_model_does_not_give() -> None:
    one, _ = embed(BATCHED, "a", dimensions=2)
    vector = Tensor("embedding", DataType.FP32, np.zeros((1, 3), np.float32))
    with pytest.raises(InvalidInput, match="gives embeddings of 3 dimensions"):
        one.encode(ASKED, InferResponse("m", "1", (vector,)))


def test_a_version_of_another_signature_has_its_own_settings() -> None:
    """In a release; the template of the one that a name meant would make another prompt of it."""
    mine, other = Signature((), ()), Signature((), ())
    settings = {id(mine): ChatSettings(tools="llama3"), id(other): ChatSettings(tools="mistral")}
    resolved = ResolvedModel(
        "m", settings[id(mine)], settings_of=lambda signature: settings.get(id(signature))
    )
    assert resolved.for_version(mine) is resolved
    assert resolved.for_version(other).settings.tools == "mistral"
    assert resolved.for_version(Signature((), ())) is resolved
    assert ResolvedModel("m").for_version(mine) == ResolvedModel("m")
