"""JSON parser with RapidJSON's behaviour and error texts."""

import contextlib
import json
import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.tensorflow import rapid_json
from salver.dialects.tensorflow.json_codec import Predict
from salver.dialects.tensorflow.json_shown import shown
from salver.dialects.tensorflow.rapid_json import parse
from salver.encoding.bodies import HttpBody
from salver.words.errors import InvalidInput
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import DataType

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.clause("TF-R31")
@pytest.mark.parametrize(
    ("text", "problem", "offset"),
    [
        (b"  ", "The document is empty.", 2),
        (b",", "The document is empty.", 0),
        (b"\0[1]", "The document is empty.", 0),
        (b"instances = [1, 2]", "Invalid value.", 0),
        (b"nul", "Invalid value.", 3),
        (b"[trux]", "Invalid value.", 4),
        (b"Infi", "Invalid value.", 4),
        (b"[-]", "Invalid value.", 2),
        (b"[-Ni]", "Invalid value.", 3),
        (b"[1,]", "Invalid value.", 3),
        (b"[,1]", "Invalid value.", 1),
        (b'{"a":}', "Invalid value.", 5),
        (b"[+1]", "Invalid value.", 1),
        (b"[.5]", "Invalid value.", 1),
        (b"[1, 2", "Missing a comma or ] after an array element.", 5),
        (b"[1 2]", "Missing a comma or ] after an array element.", 3),
        (b"[01]", "Missing a comma or ] after an array element.", 2),
        (b"[1}", "Missing a comma or ] after an array element.", 2),
        (b'{"a":1', "Missing a comma or } after an object member.", 6),
        (b'{"a":1]', "Missing a comma or } after an object member.", 6),
        (b'{"a":1,}', "Missing a name for object member.", 7),
        (b"{a:1}", "Missing a name for object member.", 1),
        (b"{", "Missing a name for object member.", 1),
        (b'{"a" 1}', "Missing a colon after a name of object member.", 5),
        (b'["\\ud800"]', "The surrogate pair in string is invalid.", 2),
        (b'["\\udc00"]', "The surrogate pair in string is invalid.", 2),
        (b'["\\ud800\\u0041"]', "The surrogate pair in string is invalid.", 2),
        (b'["a\\q"]', "Invalid escape character in string.", 3),
        (b'["\\u12g4"]', "Incorrect hex digit after \\u escape in string.", 2),
        (b'["\\ud800\\u12"]', "Incorrect hex digit after \\u escape in string.", 2),
        (b'["abc', "Missing a closing quotation mark in string.", 5),
        (b'["abc\\', "Invalid escape character in string.", 5),
        (b'["a\tb"]', "Invalid encoding in string.", 3),
        (b"[1.]", "Miss fraction part in number.", 3),
        (b"[1.e5]", "Miss fraction part in number.", 3),
        (b"[1e]", "Miss exponent in number.", 3),
        (b"[1e+]", "Miss exponent in number.", 4),
        (b"[ 1e999]", "Number too big to be stored in double.", 2),
        (b"[-17976931348623159" + b"0" * 292 + b"]", "Number too big to be stored in double.", 1),
        (b'{"x": [NaN, 1e400]}', "Number too big to be stored in double.", 12),
    ],
)
def test_parse_errors(text: bytes, problem: str, offset: int) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(text)
    assert str(caught.value) == f"JSON Parse error: {problem} at offset: {offset}"


@pytest.mark.clause("TF-R31")
def test_the_empty_document_has_a_text_of_its_own() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(b"")
    assert str(caught.value) == "JSON Parse error: The document is empty"


@pytest.mark.clause("TF-R16")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"[1, 2] and so on", [1, 2]),
        (b'{"a": 1}}', {"a": 1}),
        (b'{"a": 1}\0', {"a": 1}),
        (b'{"a": [NaN]} {', None),
        (b"\xef\xbb\xbf{}", {}),
        (b" \r\n\t[\n]", []),
        (b'"\\ud83d\\ude00 \\/\\b\\f\\n\\r\\t\\"\\\\" x', '\U0001f600 /\b\f\n\r\t"\\'),
        (b'["\xff"]', ["\udcff"]),
        (b'{"\xff": [Inf, 1]}', {"\udcff": [math.inf, 1]}),
        (b"[0.1e309, 1e308] x", [1e308, 1e308]),
        (b"[1e-999] x", [0.0]),
        (b"[18446744073709551615, -9223372036854775808] x", [2**64 - 1, -(2**63)]),
        (b'[true, false, null, {"a": {}}, []] x', [True, False, None, {"a": {}}, []]),
        (b"[Infinity, -Infinity, Inf, -Inf]", [math.inf, -math.inf, math.inf, -math.inf]),
    ],
)
def test_what_it_lets_pass(text: bytes, value: object) -> None:
    found = parse(text)
    assert value is None or found == value


@pytest.mark.clause("TF-R14")
def test_nan_has_two_spellings() -> None:
    assert all(map(math.isnan, parse(b"[NaN, -NaN]")))
    found = parse(b'{"a": [[1, NaN, 3], [-4.5, Infinity, 1e-7]]} ...')
    assert [str(value) for row in found["a"] for value in row] == ["1", "nan", "3", "-4.5", "inf", "1e-07"]


@pytest.mark.clause("TF-R16")
@given(_JSON, st.sampled_from([b"", b" ", b" x", b"]"]))
def test_all_roads_read_the_same(value: object, tail: bytes) -> None:
    text = orjson.dumps(value)
    wanted = json.loads(text)
    assert parse(text + tail) == wanted
    slow = rapid_json._Reader(b" " + json.dumps(value, indent=1).encode() + tail, "")
    assert slow.read() == wanted


@pytest.mark.clause("TF-R31")
@given(_JSON, st.data())
def test_a_broken_text_is_never_more_than_bad_input(value: object, data: st.DataObject) -> None:
    text = bytearray(orjson.dumps(value))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    with contextlib.suppress(InvalidInput):
        parse(bytes(text))
    with contextlib.suppress(InvalidInput):
        rapid_json._Reader(bytes(text), "").read()


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[[{"a":'])
def test_deep_texts_cost_no_stack(opening: bytes) -> None:
    with pytest.raises(InvalidInput, match="nesting depth exceeds"):
        parse(opening * 100_000)
    with pytest.raises(InvalidInput, match="nesting depth exceeds"):
        parse(b"[NaN," + b"[" * 100_000)


@pytest.mark.parametrize(
    "text", [b'["' + b"\\n" * 1_500_000, b"[" + b"[1]," * 700_000 + b"x", b"[" + b'{"":[]},' * 300_000]
)
def test_large_broken_texts_are_given_up(text: bytes) -> None:
    with pytest.raises(InvalidInput, match="JSON Parse error: "):
        parse(text)


@pytest.mark.clause("TF-R31")
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        (0.96, "0.96"),
        (1e300, "1e+300"),
        (math.nan, "NaN"),
        (2**70, "1.18059162e+21"),
        ("a\x01", '"a\\u0001"'),
        (None, "null"),
        ([], "[]"),
        ({}, "{}"),
        (
            {"a": [1, True], "b": {"c": 0.1}},
            '{\n    "a": [\n        1,\n        true\n    ],\n    "b": {\n        "c": 0.1\n    }\n}',
        ),
        ([1.0, math.nan, 2.0], "[\n    1.0,\n    "),
        (
            [123456789012345680000.0, 1e21, 1.5e-7, 0.00001],
            "[\n    123456789012345680000.0,\n    1e21,\n    1.5e-7,\n    0.00001\n]",
        ),
    ],
)
def test_values_in_errors(value: object, text: str) -> None:
    assert shown(value) == text


@pytest.mark.clause("TF-R31")
@given(_JSON)
def test_values_are_cut_after_256_bytes(value: object) -> None:
    text = shown(value).encode()
    assert len(text) <= 256
    if isinstance(value, dict | list):
        whole = json.dumps(value, indent=4, ensure_ascii=False).encode("utf-8", "replace")
        assert text[:3] == whole[:3]
    assert shown(["é" * 200, value]).startswith('[\n    "é')


@pytest.mark.clause("TF-R31")
def test_deep_and_long_values_are_shown_quickly() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert len(shown(deep)) == 256
    assert len(shown(["x" * 10_000_000])) == 256


@pytest.mark.clause("TF-R8")
@pytest.mark.parametrize("blanks", [0, 20_000])  # so that a reader of large bodies sees it first
@pytest.mark.parametrize("rest", [b"", b', "rest": NaN', b', "rest": Inf'])  # each has a reader of its own
def test_of_a_key_that_stands_twice_the_last_counts(blanks: int, rest: bytes) -> None:
    signature = Signature((TensorSpec("x", DataType.FP32, (-1,)),), ())
    for rows in (b'"instances": [1], "instances": [2]', b'"instances": [{"x": 1, "x": 2}]'):
        http = HttpBody("m", "", b"{" + rows + rest + b"}" + b" " * blanks)
        (read,) = Predict().decode(http, signature).inputs
        assert read.array.tolist() == [2.0]
