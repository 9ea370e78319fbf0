"""A handler's input, and replies to what it returns, sets or raises.

Cases marked *recorded* are what TorchServe 0.12 answered.
"""

import enum
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from marfolder import JSON, OCTETS, TEXT, form, opened, own_process, replies, reply, shown, write

from salver.dialects.torchserve.backend.answering import data_of, headers_of
from salver.dialects.torchserve.backend.replies import make_replies, to_json
from salver.words.handlers import Form, HandlerReply, part

INSPECT = """
    def show(value):
        if isinstance(value, (bytes, bytearray)):
            return [type(value).__name__, bytes(value).hex()]
        return [type(value).__name__, value]

    def handle(data, context):
        return data and [{name: show(value) for name, value in row.items()} for row in data]
"""
KINDS = """
    VALUES = {
        "str": "plain text", "unicode": "grüße, мир", "empty": "", "bytes": b"\\x00\\x01\\xfe\\xff",
        "bytearray": bytearray(b"array"), "dict": {"b": [1, 2.5, None, True], "a": {"c": "d"}},
        "list": [1, [2, 3], "x"], "int": 7, "float": 0.1, "bool": True, "none": None,
        "nested-unicode": {"k": "é"}, "empty-dict": {}, "empty-list": [], "set": {1, 2},
        "nan": float("nan"), "json-text": '{"already": "json"}', "surrogate": "\\ud800",
        "object": object(), "keys": {1: 2, None: 3},
    }
    VALUES["loop"] = [VALUES]
    VALUES["loop"].append(VALUES["loop"])

    def handle(data, context):
        return data and [VALUES[row["body"]] for row in data]
"""
CODES = """
    from ts.utils.util import PredictionException

    class Codes:
        def initialize(self, context):
            pass

        def handle(self, data, context):
            out = []
            for i, row in enumerate(data):
                ask = row["body"]
                if "raise" in ask:
                    raise PredictionException(ask["raise"], ask.get("code", 500))
                if "content_type" in ask:
                    context.set_response_content_type(i, ask["content_type"])
                if "status" in ask:
                    context.set_response_status(code=ask["status"], phrase=ask.get("phrase", ""), idx=i)
                if "all_status" in ask:
                    context.set_all_response_status(code=ask["all_status"], phrase=ask.get("phrase", ""))
                for key, value in ask.get("headers", {}).items():
                    context.set_response_header(i, key, value)
                out.append(ask.get("reply", "done"))
            return out
"""
FAULTY = """
    def handle(data, context):
        if data is None:
            return None
        ask = data[0]["body"]
        if ask == "memory":
            raise MemoryError
        if ask == "cuda":
            raise RuntimeError("CUDA is unhappy")
        if ask == "exit":
            raise SystemExit(3)
        made = {"too-many": ["a"] * (len(data) + 1), "too-few": [], "text": "text", "none": None,
                "tuple": ("a",), "dict": {"a": 1}, "fine": ["fine"] * len(data)}
        return made[ask]
"""


@pytest.fixture(autouse=True)
def _own_process() -> Iterator[None]:
    with own_process():
        yield


BODIES: dict[str, tuple[bytes, str, Any]] = {
    "json-object": (b'{"a": 1, "b": [1, null]}', JSON, ["dict", {"a": 1, "b": [1, None]}]),
    "json-number": (b"3.25", JSON, ["float", 3.25]),
    "json-broken": (b'{"a": ', JSON, ["bytearray", b'{"a": '.hex()]),
    "text": (b"some words\n", TEXT, ["str", "some words\n"]),
    "text-utf8": ("grüße, мир".encode(), "text/plain; charset=utf-8", ["str", "grüße, мир"]),
    "octets": (bytes(range(32)), OCTETS, ["bytearray", bytes(range(32)).hex()]),
    "no-content-type": (b"untyped", "", ["bytearray", b"untyped".hex()]),
    "empty-body": (b"", "", ["bytearray", ""]),
    "empty-json": (b"", JSON, ["bytearray", ""]),
    "shouted type": (b"{}", "Application/JSON", ["bytearray", b"{}".hex()]),
    "json with a charset": (b"{}", "application/json; charset=utf-8", ["bytearray", b"{}".hex()]),
    "other text": (b"a,b", "text/csv", ["str", "a,b"]),
    "broken text": (b"\xff", TEXT, ["bytearray", "ff"]),
    "broken utf-8 in json": (b'"\xff"', JSON, ["bytearray", b'"\xff"'.hex()]),
    "deep json": (b"[" * 50_000, JSON, ["bytearray", (b"[" * 50_000).hex()]),
    "large numbers": (b"[123456789012345678901234567890]", JSON, ["list", [123456789012345678901234567890]]),
}  # fmt: skip


@pytest.mark.clause("TS-R12", "TS-R13", "TS-A3")
@pytest.mark.parametrize("case", BODIES)
def test_bodies_recorded(case: str, tmp_path: Path) -> None:
    body, content_type, seen = BODIES[case]
    model = opened(write(tmp_path, INSPECT))
    assert shown(reply(model, body, content_type)) == {"body": seen}


@pytest.mark.clause("TS-R13")
def test_bodies_stay_bytes_where_they_are_not_decoded(tmp_path: Path) -> None:
    model = opened(write(tmp_path, INSPECT), decode="false")
    for body, content_type in ((b'{"a": 1}', JSON), (b"words", TEXT)):
        assert shown(reply(model, body, content_type)) == {"body": ["bytearray", body.hex()]}


@pytest.mark.clause("TS-R12", "TS-A3")
def test_parts_by_name_and_a_form_without_any(tmp_path: Path) -> None:
    model = opened(write(tmp_path, INSPECT))
    parts = (part("data", b'{"k": 1}', JSON), part("a", b"3"), part("words", b"line\n", TEXT))
    one, none = replies(model, Form(parts), form(None))
    assert shown(one) == {"data": ["dict", {"k": 1}], "a": ["bytearray", "33"], "words": ["str", "line\n"]}
    assert shown(none) == {}


NAMES = st.text(max_size=9)
CONTENTS = st.tuples(st.binary(max_size=99), st.sampled_from([JSON, TEXT, ""]))


@pytest.mark.clause("TS-A3")
@given(st.dictionaries(NAMES, CONTENTS), st.dictionaries(NAMES, NAMES))
def test_whatever_comes_is_told(parts: dict[str, tuple[bytes, str]], headers: dict[str, str]) -> None:
    asked = Form(tuple(part(name, *told) for name, told in parts.items()), headers)
    data = data_of(asked, True)
    assert list(data) == list(parts)
    for name, (content, content_type) in parts.items():
        if content_type == "" or (content_type == TEXT and not _is_text(content)):
            assert type(data[name]) is bytearray and data[name] == content
    told = headers_of(asked)
    assert told == {name: {"content-type": kind} for name, (_, kind) in parts.items()} | headers


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


OUTPUTS = {
    "str": b"plain text",
    "unicode": "grüße, мир".encode(),
    "empty": b"",
    "bytes": b"\x00\x01\xfe\xff",
    "bytearray": b"array",
    "dict": b'{\n  "b": [\n    1,\n    2.5,\n    null,\n    true\n  ],\n  "a": {\n    "c": "d"\n  }\n}',
    "list": b'[\n  1,\n  [\n    2,\n    3\n  ],\n  "x"\n]',
    "int": b"7",
    "float": b"0.1",
    "bool": b"true",
    "none": b"null",
    "nested-unicode": b'{\n  "k": "\\u00e9"\n}',
    "empty-dict": b"{}",
    "empty-list": b"[]",
    "nan": b"NaN",
    "json-text": b'{"already": "json"}',
    "keys": b'{\n  "1": 2,\n  "null": 3\n}',
}
UNSUPPORTED = HandlerReply(b"Unsupported model output data type.", 503, is_error=True)
FAILED = HandlerReply(b"Prediction failed", 503, is_error=True)


@pytest.mark.clause("TS-R14", "TS-R22")
@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs_recorded(case: str, tmp_path: Path) -> None:
    model = opened(write(tmp_path, KINDS))
    assert reply(model, case, TEXT) == HandlerReply(OUTPUTS[case])


@pytest.mark.clause("TS-R14", "TS-R19")
@pytest.mark.parametrize("case", ["set", "object", "loop", "surrogate"])
def test_what_cannot_be_said_fails_the_whole_batch(case: str, tmp_path: Path) -> None:
    model = opened(write(tmp_path, KINDS))
    assert replies(model, form("str", TEXT), form(case, TEXT)) == [UNSUPPORTED, UNSUPPORTED]
    assert reply(model, "str", TEXT).body == b"plain text"
    assert reply(model, "absent", TEXT) == FAILED


@pytest.mark.clause("TS-R14")
def test_tensors_as_torch_writes_them(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    source = "import torch\ndef handle(data, context):\n    return data and [torch.arange(4)]\n"
    model = opened(write(tmp_path, source))
    said = reply(model, b"")
    assert not said.is_error and not said.content_type
    assert torch.load(io.BytesIO(said.body), weights_only=True).tolist() == [0, 1, 2, 3]


def failed(message: bytes, status: int) -> HandlerReply:
    return HandlerReply(message, status, is_error=True)


CONTROL: dict[str, tuple[dict[str, Any], HandlerReply]] = {
    "plain": ({}, HandlerReply(b"done")),
    "status-201": (
        {"status": 201, "phrase": "Made", "reply": {"ok": True}},
        HandlerReply(b'{\n  "ok": true\n}', 201, "Made"),
    ),
    "status-404": ({"status": 404, "reply": "not here"}, HandlerReply(b"not here", 404)),
    "status-418-phrase": (
        {"status": 418, "phrase": "short and stout", "reply": "tea"},
        HandlerReply(b"tea", 418, "short and stout"),
    ),
    "status-204": ({"status": 204, "reply": ""}, HandlerReply(b"", 204)),
    "all-status-202": ({"all_status": 202, "phrase": "Later"}, HandlerReply(b"done", 202, "Later")),
    "header": (
        {"headers": {"X-Gold-Answer": "42", "X-Gold-Other": "two words"}},
        HandlerReply(b"done", headers={"X-Gold-Answer": "42", "X-Gold-Other": "two words"}),
    ),
    "content type": ({"content_type": "image/png"}, HandlerReply(b"done", content_type="image/png")),
    "content type as a header": (
        {"content_type": "image/png", "headers": {"Content-Type": "text/csv"}},
        HandlerReply(b"done", content_type="text/csv"),
    ),
    "raise-400": (
        {"raise": "asked for 400", "code": 400},
        failed(b"asked for 400", 400),
    ),
    "raise-413": (
        {"raise": "asked for 413", "code": 413},
        failed(b"asked for 413", 507),
    ),
    "raise-500": ({"raise": "asked for 500"}, failed(b"asked for 500", 500)),
    "raise-507": (
        {"raise": "asked for 507", "code": 507},
        failed(b"asked for 507", 507),
    ),
    "raise-599": (
        {"raise": "asked for 599", "code": 599},
        failed(b"asked for 599", 599),
    ),
    "raise-200": ({"raise": "asked for 200", "code": 200}, HandlerReply(b"error")),
    "raise-201": (
        {"raise": "asked for 201", "code": 201},
        failed(b"asked for 201", 201),
    ),
    "raise-empty": ({"raise": ""}, HandlerReply(b"", 500, is_error=True)),
    "no message": ({"raise": None}, HandlerReply(b"None", 500, is_error=True)),
    "no code": ({"raise": "x", "code": "many"}, FAILED),
    "a code beyond all": ({"raise": "x", "code": 70_000}, FAILED),
    "a status that is none": ({"status": "fine"}, FAILED),
    "a status beyond all": ({"status": 99}, FAILED),
    "a header that is no text": ({"headers": {"X-Count": 3}}, FAILED),
    "a phrase that is no text": ({"status": 200, "phrase": 3}, FAILED),
}


@pytest.mark.clause("TS-A6", "TS-R14", "TS-R19")
@pytest.mark.parametrize("case", CONTROL)
def test_statuses_and_headers_recorded(case: str, tmp_path: Path) -> None:
    asked, expected = CONTROL[case]
    model = opened(write(tmp_path, CODES))
    assert reply(model, json.dumps(asked), JSON) == expected
    assert reply(model, b"{}", JSON) == HandlerReply(b"done"), "nothing of it stays"


@pytest.mark.clause("TS-A6")
def test_each_request_of_a_batch_has_its_own_status(tmp_path: Path) -> None:
    model = opened(write(tmp_path, CODES))
    asked = [{"status": 201}, {}, {"status": 404, "headers": {"X-A": "b"}}]
    said = replies(model, *(form(json.dumps(each), JSON) for each in asked))
    expected = [(201, {}), (200, {}), (404, {"X-A": "b"})]
    assert [(each.status, each.headers) for each in said] == expected


ERRORS = {
    "too-many": (503, "number of batch response mismatched"),
    "too-few": (503, "number of batch response mismatched"),
    "text": (503, "Invalid model predict output"),
    "none": (503, "Invalid model predict output"),
    "tuple": (503, "Invalid model predict output"),
    "dict": (503, "Invalid model predict output"),
    "memory": (507, "Out of resources"),
    "cuda": (507, "Out of resources"),
    "keyerror": (503, "Prediction failed"),
}


@pytest.mark.clause("TS-R19")
@pytest.mark.parametrize("case", ERRORS)
def test_failures_recorded(case: str, tmp_path: Path) -> None:
    status, message = ERRORS[case]
    model = opened(write(tmp_path, FAULTY))
    expected = HandlerReply(message.encode(), status, is_error=True)
    assert replies(model, form(case, TEXT), form("fine", TEXT)) == [expected, expected]
    assert reply(model, "fine", TEXT).body == b"fine"


@pytest.mark.clause("TS-B7")
def test_a_handler_may_end_its_worker(tmp_path: Path) -> None:
    model = opened(write(tmp_path, FAULTY))
    with pytest.raises(SystemExit):
        reply(model, "exit", TEXT)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats()
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)


@pytest.mark.clause("TS-R14")
@given(
    st.recursive(
        SCALARS | WORDS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    )
)
def test_json_is_python_s(value: Any) -> None:
    ((id, said),) = make_replies([value], {0: "a"}, "", 200)
    expected = value.encode() if isinstance(value, str) else json.dumps(value, indent=2).encode()
    assert (id, said) == ("a", HandlerReply(expected))


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4) | st.integers() | st.booleans(), inner, max_size=4)
    ),
    max_leaves=20,
)


@pytest.mark.clause("TS-R14")
@given(_VALUES)
def test_json_is_laid_out_as_pythons_own(value: object) -> None:
    assert to_json(value) == json.dumps(value, indent=2)


class _Named(NamedTuple):
    a: int
    b: list[int]


class _Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.clause("TS-R14")
@pytest.mark.parametrize(
    "value",
    [
        [_Level.HIGH, np.float64(0.1)],
        {"a": np.float64(0.1), 2: True, None: 1e-7},
        [_Named(1, [2]), [[], {}], [[1.0, 1e22]]],
        ["a,\n b: é\u2028", [True, "\ud800"]],
        [float("nan"), float("inf")],
        [],
        {},
    ],
    ids=["of-kinds", "keys", "nested", "texts", "no-numbers", "empty", "no-keys"],
)
def test_json_of_what_is_nearly_plain(value: object) -> None:
    assert to_json(value) == json.dumps(value, indent=2)


@pytest.mark.clause("TS-R14")
@pytest.mark.parametrize("value", [[1, {2}], {"a": np.float32(1)}, {(1,): 2}, [object()]], ids=range(4))
def test_what_json_has_no_word_for_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        to_json(value)
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises((ValueError, RecursionError)):
        to_json(endless)
