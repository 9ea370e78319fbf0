"""Tool calls in a model's text, whole and in pieces."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.openai.tools import ToolCall, ToolCalls, call_id, read_whole

ADD = {"name": "add", "arguments": {"a": 1, "b": '}{"\\'}}
NOW = {"name": "now", "parameters": {}}
CALLS = [ToolCall("add", json.dumps(ADD["arguments"])), ToolCall("now", "{}")]
LLAMA = f"<|python_tag|>{json.dumps(ADD)}; {json.dumps(NOW)}"
MISTRAL = f"[TOOL_CALLS] {json.dumps([ADD, NOW])}"


@pytest.mark.clause("TR-V6")
@pytest.mark.parametrize(
    ("parser", "text"),
    [
        ("llama3", LLAMA),
        ("llama3", LLAMA.removeprefix("<|python_tag|>")),
        ("llama3", f"  {LLAMA}\n"),
        ("mistral", MISTRAL),
        ("mistral", MISTRAL.removeprefix("[TOOL_CALLS]")),
        ("mistral", MISTRAL.replace(" [", "[")),
    ],
)
def test_calls_are_found(parser, text):
    assert read_whole(text, parser, 1000) == ("", CALLS)


@pytest.mark.clause("TR-V6")
@pytest.mark.parametrize(
    ("parser", "text"),
    [
        ("llama3", "Hello"),
        ("llama3", ""),
        ("llama3", "{"),
        ("llama3", '{"a": 1}'),
        ("llama3", '{"name": "add"}'),
        ("llama3", '{"name": 5, "arguments": {}}'),
        ("llama3", "{so it is}"),
        ("llama3", f"{LLAMA} and more"),
        ("llama3", f'{LLAMA}; {{"a": 1}}'),
        ("llama3", f"I call {LLAMA}"),
        ("llama3", MISTRAL),
        ("mistral", LLAMA),
        ("mistral", "[1, 2]"),
        ("mistral", "[TOOL_CALL"),
        ("mistral", "[TOOL_CALLS]"),
        ("mistral", "[TOOL_CALLS] none"),
        ("mistral", '[{"name": "add", "arguments": {"a": 1}'),
    ],
)
def test_what_is_no_call_is_text_as_a_whole(parser, text):
    assert read_whole(text, parser, 1000) == (text, [])


@pytest.mark.clause("TR-V6")
@given(st.sampled_from([("llama3", LLAMA), ("mistral", MISTRAL)]), st.lists(st.integers(1, 9), min_size=1))
def test_calls_are_found_in_pieces_of_any_size(case, sizes):
    parser, text = case
    reader, found, at, turn = ToolCalls(parser, 1000), [], 0, 0
    while at < len(text):
        plain, calls = reader.read(text[at : at + sizes[turn % len(sizes)]])
        at += sizes[turn % len(sizes)]
        turn += 1
        assert plain == ""
        found += calls
    assert reader.rest() == ""
    assert found == CALLS


@given(st.sampled_from(["llama3", "mistral"]), st.lists(st.text(alphabet='{}[]",: ;a<|\\TOL_C', max_size=6)))
def test_no_text_is_lost_that_is_no_call(parser, pieces):
    reader = ToolCalls(parser, 20)
    out = [reader.read(piece) for piece in pieces]
    assert not any(calls for _, calls in out)
    assert "".join(plain for plain, _ in out) + reader.rest() == "".join(pieces)


@pytest.mark.clause("TR-V7")
def test_what_is_too_long_for_a_call_is_text():
    text = json.dumps({"name": "add", "arguments": {"text": "x" * 200}})
    assert read_whole(text, "llama3", 100) == (text, [])
    assert read_whole(text, "llama3", 1000)[1][0].name == "add"
    reader = ToolCalls("llama3", 100)
    out = [reader.read(text[at : at + 10])[0] for at in range(0, len(text), 10)]
    assert "".join(out) == text
    assert out[:10] == [""] * 10


def test_arguments_that_are_text_stay_as_they_are():
    assert read_whole('{"name": "f", "arguments": "{}"}', "llama3", 99)[1] == [ToolCall("f", "{}")]


def test_ids_of_calls():
    assert call_id("llama3", lambda: "0123456789abcdef") == "call_0123456789abcdef"
    assert call_id("mistral", lambda: "0123456789abcdef") == "789abcdef"
