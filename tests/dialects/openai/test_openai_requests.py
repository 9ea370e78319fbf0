"""Bodies of OpenAI's routes: which are accepted, and the errors of the others."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.dialects.openai import requests
from salver.dialects.openai.requests import conversation, parse_chat, parse_completion, parse_embedding
from salver.words.errors import InvalidInput

HELLO = [{"role": "user", "content": "Hello"}]
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def chat(**more: Any) -> requests.ChatRequest:
    return parse_chat(json.dumps({"model": "m", "messages": HELLO} | more).encode())


def completion(**more: Any) -> requests.CompletionRequest:
    return parse_completion(json.dumps({"model": "m", "prompt": "Hello"} | more).encode())


def embedding(**more: Any) -> requests.EmbeddingRequest:
    return parse_embedding(json.dumps({"model": "m", "input": "Hello"} | more).encode())


@pytest.mark.clause("TR-V6")
def test_defaults_are_those_of_tritons_front_end() -> None:
    asked = chat()
    assert (asked.temperature, asked.top_p, asked.n, asked.stream, asked.most_tokens) == (
        0.7,
        1,
        1,
        False,
        None,
    )
    assert completion().temperature == 1.0
    assert embedding().encoding_format == "float"
    assert chat(max_tokens=3, max_completion_tokens=5).most_tokens == 5
    assert chat(max_tokens=3).most_tokens == 3
    assert chat(temperature=None, stop=None).temperature is None
    assert chat(stop="a").stops == ["a"]
    assert completion(stop=["a", "b"]).stops == ["a", "b"]


@pytest.mark.clause("TR-V6")
@pytest.mark.parametrize(
    ("make", "more", "field", "says"),
    [
        (chat, {"n": 2}, "n", "Received n=2, but only single choice (n=1) is currently supported"),
        (completion, {"n": 2}, "n", "Received n=2, but only single choice (n=1) is currently supported"),
        (chat, {"logit_bias": {"50256": -100}}, "logit_bias", "logit bias is not supported"),
        (completion, {"logit_bias": {}}, "logit_bias", "logit bias is not supported"),
        (completion, {"suffix": ""}, "suffix", "suffix is not currently supported"),
        (completion, {"best_of": 2}, "best_of", "Received best_of=2, but only single choice (best_of=1)"),
        (completion, {"best_of": 21}, "best_of", "<= 20"),
        (completion, {"prompt": ""}, "prompt", "prompt must be non-empty"),
        (completion, {"prompt": ["Hello"]}, "prompt", "only single string input is supported"),
        (completion, {"prompt": [1, 2]}, "prompt", "only single string input is supported"),
        (completion, {"prompt": 3}, "prompt", "expected `str | array`"),
        (
            chat,
            {"stream_options": {"include_usage": True}},
            "stream_options",
            "can only be used when `stream`",
        ),
        (completion, {"stream_options": {}}, "stream_options", "can only be used when `stream`"),
        (chat, {"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown field"),
        (chat, {"frequency_penality": 1}, "frequency_penality", "unknown field"),
        (completion, {"messages": HELLO}, "messages", "unknown field"),
        (embedding, {"prompt": ""}, "prompt", "unknown field"),
        (chat, {"temperature": 2.1}, "temperature", "<= 2.0"),
        (chat, {"temperature": "hot"}, "temperature", "expected `float | null`, got `str`"),
        (chat, {"top_p": -0.1}, "top_p", ">= 0"),
        (chat, {"presence_penalty": -3}, "presence_penalty", ">= -2"),
        (chat, {"seed": 2**64}, "seed", "seed"),
        (chat, {"max_tokens": -1}, "max_tokens", ">= 0"),
        (
            chat,
            {"top_logprobs": 3},
            "top_logprobs",
            "`top_logprobs` can only be used when `logprobs` is True",
        ),
        (chat, {"logprobs": True, "top_logprobs": 21}, "top_logprobs", "<= 20"),
        (completion, {"logprobs": 6}, "logprobs", "<= 5"),
        (chat, {"messages": []}, "messages", "length >= 1"),
        (chat, {"messages": [{"role": "king", "content": ""}]}, "messages[0].role", "'king'"),
        (chat, {"messages": [*HELLO, {"content": ""}]}, "messages[1].role", "missing"),
        (chat, {"messages": [{"role": "user"}]}, "messages[0].content", "needs it"),
        (chat, {"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "got `int`"),
        (chat, {"messages": ["Hello"]}, "messages[0]", "expected `object`, got `str`"),
        (chat, {"messages": HELLO * 2049}, "messages", "length <= 2048"),
        (chat, {"tools": [ADD] * 129}, "tools", "length <= 128"),
        (chat, {"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "missing"),
        (chat, {"tools": [{"type": "search"}]}, "tools[0].type", "search"),
        (chat, {"tool_choice": "required"}, "tools", '"required" tool choice requires'),
        (chat, {"tool_choice": "perhaps"}, "tool_choice", "perhaps"),
        (
            chat,
            {"tool_choice": {"type": "function", "function": {"name": "add"}}},
            "tools",
            "Named tool choice",
        ),
        (
            chat,
            {"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "sub"}}},
            "tool_choice",
            "Tool 'sub' has not been passed in `tools`.",
        ),
        (chat, {"response_format": {"type": "xml"}}, "response_format.type", "xml"),
        (embedding, {"input": ""}, "input", "non-empty"),
        (embedding, {"input": []}, "input", "non-empty"),
        (embedding, {"input": ["a", ""]}, "input", "empty text"),
        (embedding, {"input": ["a", 1]}, "input", "a list of texts"),
        (embedding, {"input": [[1], []]}, "input", "a list of texts"),
        (embedding, {"input": ["a"] * 2049}, "input", "more than 2048"),
        (embedding, {"dimensions": 0}, "dimensions", ">= 1"),
        (embedding, {"encoding_format": "hex"}, "encoding_format", "hex"),
    ],
)
def test_what_is_refused_is_named(make: Any, more: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        make(**more)
    assert caught.value.field == field
    assert says in str(caught.value)


@pytest.mark.clause("TR-V6")
@pytest.mark.parametrize(
    "body", [b"", b"[]", b"3", b"{", b'{"model": "m", "prompt": "x", "temperature": NaN}']
)
def test_what_is_no_request_is_refused(body: bytes) -> None:
    for parse in (parse_chat, parse_completion, parse_embedding):
        with pytest.raises(InvalidInput):
            parse(body)


def test_texts_of_an_embedding_request() -> None:
    assert embedding().texts == ["Hello"]
    assert embedding(input=["a", "b"]).texts == ["a", "b"]
    assert embedding(input=[1, 2]).texts == [[1, 2]]
    assert embedding(input=[[1, 2], [3]]).texts == [[1, 2], [3]]


def test_who_has_to_be_called() -> None:
    named = {"type": "function", "function": {"name": "add"}}
    assert chat(tools=[ADD], tool_choice=named).forced_tool == "add"
    assert chat(tools=[ADD], tool_choice="required").forced_tool == "add"
    assert chat(tools=[ADD]).forced_tool == ""
    assert chat(tools=[ADD]).may_call_tools
    assert not chat(tools=[ADD], tool_choice="none").may_call_tools
    assert not chat().may_call_tools


def test_a_conversation_is_texts_and_objects() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts, "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "c"},
    ]
    assert conversation(chat(messages=messages)) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one\ntwo", "name": "Ann"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [call | {"function": {"name": "add", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "content": "2", "tool_call_id": "c"},
    ]


@pytest.mark.parametrize(
    ("message", "field", "says"),
    [
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[0].content[0]", "but got image_url"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0]", "without a text"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[0].tool_calls[0].function", "a name"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
            "messages[0].tool_calls[0].function.arguments",
            "must be JSON",
        ),
    ],
)
def test_a_conversation_of_something_else_is_refused(message: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        conversation(chat(messages=[message]))
    assert caught.value.field == field
    assert says in str(caught.value)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted(
    {*requests.ChatRequest.__struct_fields__, *requests.CompletionRequest.__struct_fields__, "input", "x"}
)


@pytest.mark.clause("TR-V6")
@settings(max_examples=300)
@given(
    st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=4),
    st.sampled_from([chat, completion, embedding]),
)
def test_any_json_is_a_request_or_an_error_of_ours(more: dict[str, Any], make: Any) -> None:
    try:
        asked = make(**more)
    except InvalidInput as error:
        assert str(error)
        return
    if isinstance(asked, requests.ChatRequest):
        try:
            conversation(asked)
        except InvalidInput as error:
            assert error.field
