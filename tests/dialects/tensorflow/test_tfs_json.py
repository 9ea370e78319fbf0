"""Predict in TensorFlow Serving's JSON: requests, answers and error texts."""

import base64
import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from salver.dialects.tensorflow.decimals import decimal
from salver.dialects.tensorflow.json_codec import Predict, servable_name
from salver.dialects.tensorflow.json_layout import quoted
from salver.dialects.tensorflow.large_predict import read_large
from salver.encoding.bodies import HttpBody
from salver.words.errors import (
    InvalidInput,
    NotFound,
    NotReady,
    SalverError,
    Unsupported,
)
from salver.words.messages import InferRequest, InferResponse, Signature, TensorSpec
from salver.words.tensor import Array, DataType, Tensor


def of(*inputs: tuple[str, DataType], **more: Any) -> Signature:
    return Signature(tuple(TensorSpec(name, datatype, (-1,)) for name, datatype in inputs), (), **more)


FLOAT = of(("x", DataType.FP32))
TEXT = of(("x", DataType.BYTES))
PAIR = of(("x", DataType.FP32), ("s", DataType.BYTES))


def read(body: Any, signature: Signature = FLOAT) -> InferRequest:
    text = body if isinstance(body, bytes) else orjson.dumps(body)
    return Predict("Latest(m)").decode(HttpBody("m", "", text), signature)


def values(body: Any, signature: Signature = FLOAT) -> dict[str, Any]:
    return {tensor.name: tensor.array.tolist() for tensor in read(body, signature).inputs}


def refused(body: Any, signature: Signature = FLOAT) -> SalverError:
    with pytest.raises((InvalidInput, Unsupported)) as caught:
        read(body, signature)
    return caught.value


def written(outputs: dict[str, Array], *, by_row: bool) -> bytes:
    codec = Predict("Latest(m)")
    request = read({"instances": [1]} if by_row else {"inputs": [1]})
    tensors = tuple(Tensor(name, _datatype(array), array) for name, array in outputs.items())
    return codec.encode(request, InferResponse("m", "1", tensors)).body


def _datatype(array: Array) -> DataType:
    return next(d for d in DataType if d.dtype == array.dtype and d is not DataType.BF16)


def texts(*items: bytes) -> Array:
    array = np.empty(len(items), object)
    array[:] = items
    return array


@pytest.mark.clause("TF-R8")
@pytest.mark.parametrize(
    ("body", "signature", "wanted"),
    [
        ({"instances": [1, 2.5, 3]}, FLOAT, {"x": [1.0, 2.5, 3.0]}),
        ({"instances": [[[1, 2]], [[3, 4]]]}, FLOAT, {"x": [[[1, 2]], [[3, 4]]]}),
        ({"instances": [{"x": [1]}, {"x": [2]}]}, FLOAT, {"x": [[1], [2]]}),
        ({"instances": ["a", "b"]}, TEXT, {"x": [b"a", b"b"]}),
        ({"instances": [[]]}, FLOAT, {"x": [[]]}),
        (
            {"instances": [{"x": 1, "s": "a"}, {"s": "b", "x": 2}]},
            PAIR,
            {"x": [1, 2], "s": [b"a", b"b"]},
        ),
        ({"signature_name": "", "instances": [1]}, FLOAT, {"x": [1]}),
        ({"signature_name": "serving_default", "instances": [1], "more": {}}, FLOAT, {"x": [1]}),
    ],
)
def test_rows(body: Any, signature: Signature, wanted: dict[str, Any]) -> None:
    assert values(body, signature) == wanted
    assert read(body, signature).any_shape


@pytest.mark.clause("TF-R8")
def test_signatures_are_chosen_by_name() -> None:
    other = of(("n", DataType.INT64), name="other")
    signature = of(("x", DataType.FP32), others=(other,))
    assert read({"instances": [1]}, signature).signature == ""
    request = read({"signature_name": "other", "instances": [7]}, signature)
    assert (request.signature, request.inputs[0].name, request.inputs[0].array.dtype) == ("other", "n", "i8")
    only_named = of(("x", DataType.FP32), name="add")
    assert str(refused({"instances": [1]}, only_named)) == (
        'Serving signature name: "serving_default" not found in signature def'
    )
    assert read({"signature_name": "add", "instances": [1]}, only_named).signature == ""


@pytest.mark.clause("TF-R9")
@pytest.mark.parametrize(
    ("body", "signature", "wanted"),
    [
        ({"inputs": [[1, 2]]}, FLOAT, {"x": [[1, 2]]}),
        ({"inputs": 5}, FLOAT, {"x": 5}),
        ({"inputs": {"x": [1], "unknown": [2]}}, FLOAT, {"x": [1]}),
        ({"inputs": {"b64": "YQ=="}}, TEXT, {"x": b"a"}),
        ({"inputs": {"x": [[1], [2]], "s": "a"}}, PAIR, {"x": [[1], [2]], "s": b"a"}),
    ],
)
def test_columns(body: Any, signature: Signature, wanted: dict[str, Any]) -> None:
    assert values(body, signature) == wanted


@pytest.mark.clause("TF-R9")
def test_the_answer_comes_in_the_form_of_the_question() -> None:
    y = np.array([[1, 2], [3, 4]], "i4")
    assert json.loads(written({"y": y}, by_row=True)) == {"predictions": [[1, 2], [3, 4]]}
    assert json.loads(written({"y": y}, by_row=False)) == {"outputs": [[1, 2], [3, 4]]}
    two = {"y": y, "n": np.array([5, 6], "i8")}
    assert json.loads(written(two, by_row=True)) == {
        "predictions": [{"y": [1, 2], "n": 5}, {"y": [3, 4], "n": 6}]
    }
    assert json.loads(written(two, by_row=False)) == {"outputs": {"y": [[1, 2], [3, 4]], "n": [5, 6]}}


@pytest.mark.clause("TF-R10")
def test_one_form_and_not_two() -> None:
    assert str(refused({"inputs": [], "instances": [1]})) == (
        'JSON Value: {\n    "inputs": [],\n    "instances": [\n        1\n    ]\n} '
        "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
    )
    assert str(refused({"rows": [1]})) == "Missing 'inputs' or 'instances' key"


@pytest.mark.clause("TF-R11")
def test_what_cannot_be_rows() -> None:
    number = np.array(7, "i4")
    with pytest.raises(InvalidInput) as caught:
        written({"n": number}, by_row=True)
    assert str(caught.value) == "Tensor name: n has no shape information "
    with pytest.raises(InvalidInput) as caught:
        written({"y": np.zeros((2, 1), "f4"), "z": np.zeros(3, "f4")}, by_row=True)
    assert str(caught.value) == "Tensor name: z has inconsistent batch size: 3 expecting: 2"
    assert json.loads(written({"n": number}, by_row=False)) == {"outputs": 7}
    with pytest.raises(InvalidInput, match="Cannot convert empty tensor map to JSON"):
        written({}, by_row=True)


@pytest.mark.clause("TF-R12")
@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("aGVsbG8=", b"hello"),
        ("aGVsbG8", b"hello"),
        ("aGVs\n bG8 =", b"hello"),
        ("", b""),
        ("+/+/", b"\xfb\xff\xbf"),
    ],
)
def test_base64_in(text: str, octets: bytes) -> None:
    assert values({"instances": [{"b64": text}]}, TEXT) == {"x": [octets]}
    assert values({"instances": [{"x": [{"b64": text}, "b"]}]}, TEXT) == {"x": [[octets, b"b"]]}
    assert values({"inputs": [{"b64": text}]}, TEXT) == {"x": [octets]}


@pytest.mark.clause("TF-R12")
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b64": "a"}, "Unable to base64 decode"),
        ({"b64": "ab_-"}, "Unable to base64 decode"),
        ({"b64": "aGVsbG8=="}, "Unable to base64 decode"),
        ({"b64": "é"}, "Unable to base64 decode"),
        (
            {"b64": "YQ==", "c": 1},
            'JSON Value: {\n    "b64": "YQ==",\n    "c": 1\n} not formatted correctly for base64 data',
        ),
        ({"b64": 5}, 'JSON Value: {\n    "b64": 5\n} not formatted correctly for base64 data'),
    ],
)
def test_bad_base64(value: Any, text: str) -> None:
    assert str(refused({"inputs": {"x": [value]}}, TEXT)) == text


@pytest.mark.clause("TF-R12", "TF-R13")
@given(st.lists(st.binary(max_size=20), min_size=1, max_size=10))
def test_bytes_go_through(items: list[bytes]) -> None:
    rows = [{"b64": base64.b64encode(item).decode()} for item in items]
    assert values({"instances": rows}, TEXT) == {"x": items}
    answer = json.loads(written({"x_bytes": texts(*items)}, by_row=True))
    assert [base64.b64decode(row["b64"]) for row in answer["predictions"]] == items


@pytest.mark.clause("TF-R13")
def test_base64_out() -> None:
    words = texts(b"a", "é".encode())
    assert written({"t_bytes": words}, by_row=True) == (
        b'{\n    "predictions": [{\n            "b64": "YQ=="\n        }, '
        b'{\n            "b64": "w6k="\n        }\n    ]\n}'
    )
    assert json.loads(written({"t": words}, by_row=False)) == {"outputs": ["a", "é"]}
    assert json.loads(written({"n_bytes": np.array([1], "i4")}, by_row=True)) == {"predictions": [1]}
    # What is no text cannot be a JSON string; TensorFlow Serving sends it all the same, unreadable.
    assert json.loads(written({"t": texts(b"a", b"\xff")}, by_row=True)) == {
        "predictions": ["a", {"b64": "/w=="}]
    }


@pytest.mark.clause("TF-R14")
def test_numbers_in() -> None:
    found = read(b'{"instances": [NaN, Infinity, -Infinity, 0.1, 1e38]}').inputs[0].array
    np.testing.assert_array_equal(found, np.array([np.nan, np.inf, -np.inf, 0.1, 1e38], "f4"))
    small = of(("x", DataType.INT8))
    assert values({"instances": [300, -129]}, small) == {"x": [44, 127]}  # as C casts an int
    for value in (2**31, -(2**31) - 1, 1.0, 1.5, True, None, "1"):
        assert "is not of expected type: int8" in str(refused({"instances": [value]}, small))
    assert values({"instances": [2**64 - 1, 0]}, of(("x", DataType.UINT64))) == {"x": [2**64 - 1, 0]}
    assert "expected type: uint64" in str(
        refused(b'{"instances": [18446744073709551616]}', of(("x", DataType.UINT64)))
    )
    assert "expected type: uint32" in str(refused({"instances": [-1]}, of(("x", DataType.UINT32))))
    assert "expected type: int64" in str(refused({"instances": [2**63]}, of(("x", DataType.INT64))))


_MOST = float(np.finfo(np.float64).max)


@pytest.mark.clause("TF-R14")
@pytest.mark.parametrize("size", [1, 2000])  # read in one piece, too
@pytest.mark.parametrize(
    ("text", "datatype", "wanted"),
    [
        ("1435774380", DataType.FP32, 1435774336.0),
        ("16777217", DataType.FP32, 16777216.0),
        ("-16777219", DataType.FP32, -16777220.0),
        ("18446744073709551615", DataType.FP32, 2.0**64),
        ("1e39", DataType.FP32, np.inf),
        (f"{-_MOST!r}", DataType.FP32, -np.inf),
        ("2.2250738585072014e-308", DataType.FP32, 0.0),
        ("9007199254740993", DataType.FP64, 9007199254740992.0),
        ("18446744073709551616", DataType.FP64, 2.0**64),
        (f"{_MOST!r}", DataType.FP64, _MOST),
    ],
)
def test_floats_are_rounded_and_infinite_beyond_their_range(
    text: str, datatype: DataType, wanted: float, size: int
) -> None:
    for body in (
        f'{{"instances": [{", ".join([text] * size)}]}}',
        f'{{"inputs": [{", ".join([text] * size)}]}}',
    ):
        found = read(body.encode(), of(("x", datatype))).inputs[0].array
        np.testing.assert_array_equal(found, np.full(size, wanted, datatype.dtype))


@pytest.mark.clause("TF-R14")
@pytest.mark.parametrize("text", ["1e400", "-1e400", "1" + "0" * 400])
def test_a_number_that_no_double_holds_is_no_json(text: str) -> None:
    for datatype in (DataType.FP32, DataType.FP64):
        assert "Number too big to be stored in double." in str(
            refused(f'{{"inputs": [{text}]}}'.encode(), of(("x", datatype)))
        )


@pytest.mark.clause("TF-R14")
def test_numbers_out() -> None:
    floats = np.array([2, 9e6, 1 / 3, np.nan, np.inf, -np.inf, 0.2], "f4")
    assert written({"y": floats}, by_row=True) == (
        b'{\n    "predictions": [2.0, 9e+06, 0.333333343, NaN, Infinity, -Infinity, 0.2\n    ]\n}'
    )
    assert b"0.33333333333333331" in written({"y": np.array([1 / 3])}, by_row=False)


@pytest.mark.clause("TF-R15")
@pytest.mark.parametrize("datatype", list(DataType))
def test_datatypes_in(datatype: DataType) -> None:
    signature = of(("x", datatype))
    good: Any = {DataType.BYTES: "a", DataType.BOOL: True}.get(datatype, 1)
    if datatype in (DataType.UINT16, DataType.FP16, DataType.BF16):
        name = {DataType.UINT16: "uint16", DataType.FP16: "half", DataType.BF16: "bfloat16"}[datatype]
        error = refused({"inputs": [good]}, signature)
        assert type(error) is Unsupported
        assert str(error) == f"Conversion of JSON Value: 1 to type: {name}"
        assert Predict().fault(error).status == 501
        in_rows = refused({"instances": [good]}, signature)
        assert type(in_rows) is InvalidInput
        assert str(in_rows) == (
            f"Failed to process element: 0 of 'instances' list. Error: UNIMPLEMENTED: {error}"
        )
        return
    (tensor,) = read({"inputs": [good]}, signature).inputs
    assert (tensor.datatype, tensor.array.dtype) == (datatype, datatype.dtype)
    assert tensor.array.tolist() == [b"a" if datatype is DataType.BYTES else good]


@pytest.mark.clause("TF-R15")
@pytest.mark.parametrize("datatype", [d for d in DataType if d is not DataType.BYTES])
def test_datatypes_out(datatype: DataType) -> None:
    ones = np.array([0x3F80, 0x3F80] if datatype is DataType.BF16 else [1, 1], datatype.dtype)
    response = InferResponse("m", "1", (Tensor("y", datatype, ones),))
    body = Predict().encode(read({"instances": [1]}), response).body
    text = b"true" if datatype is DataType.BOOL else b"1.0" if datatype.is_float else b"1"
    assert body == b'{\n    "predictions": [' + text + b", " + text + b"\n    ]\n}"


@pytest.mark.clause("TF-R16")
def test_text_behind_the_value_is_not_looked_at() -> None:
    assert values(b'{"instances": [1]} {"instances": [2]}') == {"x": [1]}
    numbers = b",".join([b"1.5"] * 5000)
    assert values(b'{"instances": [' + numbers + b"]}\0\xff")["x"] == [1.5] * 5000


_OF_ROW = "Failed to process element: {} of 'instances' list. Error: INVALID_ARGUMENT: {}"
_OF_KEY = "Failed to process element: {} key: {} of 'instances' list. Error: INVALID_ARGUMENT: {}"
_ERRORS: list[tuple[Any, Signature, str]] = [
    ([1], FLOAT, "JSON Value: [\n    1\n] Is not object"),
    (5, FLOAT, "JSON Value: 5 Is not object"),
    ("x" * 300, FLOAT, f'JSON Value: "{"x" * 255} Is not object'),
    (
        {"signature_name": 5},
        FLOAT,
        'JSON Value: {\n    "signature_name": 5\n} not formatted correctly. '
        "'signature_name' key must be a string value.",
    ),
    ({"signature_name": "q"}, FLOAT, 'Serving signature name: "q" not found in signature def'),
    ({"instances": [1]}, of(), "Failed to get input map for signature: DEFAULT"),
    ({"signature_name": "n"}, of(name="n"), "Failed to get input map for signature: n"),
    (
        {"instances": 5},
        FLOAT,
        "JSON Value: {\n    \"instances\": 5\n} Expecting 'instances' to be an list/array",
    ),
    ({"instances": []}, FLOAT, "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
    (
        {"instances": [1]},
        PAIR,
        "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
        "tensorinfo_map",
    ),
    (
        {"inputs": [1]},
        PAIR,
        "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
        "tensorinfo_map",
    ),
    ({"instances": [{"x": 1}, 2]}, FLOAT, "Expecting object but got list at item 1 of input list"),
    ({"instances": [1, {"x": 1}]}, FLOAT, "Expecting value/list but got object at item 1 of input list"),
    (
        {"instances": [{"x": 1, "s": "a"}, {"x": 1}]},
        PAIR,
        "Failed to process element: 1 of 'instances' list. JSON object: {\n    \"x\": 1\n} "
        "keys must be equal to: s,x",
    ),
    ({"instances": [{"q": 1}]}, FLOAT, _OF_KEY.format(0, "q", "JSON object: does not have named input: q")),
    ({"inputs": {"x": 1}}, PAIR, "Missing named input: s in 'inputs' object."),
    ({"instances": [[1, 2], [3]]}, FLOAT, _OF_ROW.format(1, "Expecting tensor size: 2 but got: 1")),
    ({"instances": [[1, 2], [[3, 4]]]}, FLOAT, _OF_ROW.format(1, "Expecting shape [2] but got: [1,2]")),
    ({"instances": [1, [1]]}, FLOAT, _OF_ROW.format(1, "Expecting shape [] but got: [1]")),
    (
        {"instances": [{"x": [1, 2]}, {"x": [1, 2, 3]}]},
        FLOAT,
        _OF_KEY.format(1, "x", "Expecting tensor size: 2 but got: 3"),
    ),
    ({"inputs": [1, [2]]}, FLOAT, "Encountered list at unexpected level: 1 expected < 1"),
    ({"inputs": [[1, 2], [3]]}, FLOAT, "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
    (
        {"inputs": [[[1], [2]], [[3]]]},
        FLOAT,
        "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
    ),
    ({"inputs": [[], [1]]}, FLOAT, "Encountered list at unexpected size: 1 at level: 1 expected size: 0"),
    (
        {"inputs": [[1], 2]},
        FLOAT,
        "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
    ),
    (
        {"inputs": [[[1]], [2]]},
        FLOAT,
        "JSON Value: 2 found at incorrect level: 3 in the JSON DOM. Expected at level: 3",
    ),
    ({"inputs": [1]}, TEXT, "JSON Value: 1 Type: Number is not of expected type: string"),
    ({"inputs": [1, "a"]}, FLOAT, 'JSON Value: "a" Type: String is not of expected type: float'),
    ({"inputs": [None]}, FLOAT, "JSON Value: null Type: Null is not of expected type: float"),
    ({"inputs": [True]}, FLOAT, "JSON Value: true Type: True is not of expected type: float"),
    (
        {"inputs": [{"b64": "YQ=="}]},
        FLOAT,
        'JSON Value: {\n    "b64": "YQ=="\n} Type: Object is not of expected type: float',
    ),
    (
        {"inputs": [1.5]},
        of(("x", DataType.INT32)),
        "JSON Value: 1.5 Type: Number is not of expected type: int32",
    ),
    ({"inputs": [1]}, of(("x", DataType.BOOL)), "JSON Value: 1 Type: Number is not of expected type: bool"),
    # The first error of the text is told, and not the first of a level.
    ({"inputs": [[1, "a"], [3]]}, FLOAT, 'JSON Value: "a" Type: String is not of expected type: float'),
    (
        {"inputs": [[1, 2], [3], [4, "a"]]},
        FLOAT,
        "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
    ),
    (
        {"instances": [{"x": 1, "s": "a"}, {"s": 5, "x": "b"}]},
        PAIR,
        _OF_KEY.format(1, "s", "JSON Value: 5 Type: Number is not of expected type: string"),
    ),
    (
        {"instances": [{"x": [[1], [2, 3]], "s": "a"}]},
        PAIR,
        _OF_KEY.format(0, "x", "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
    ),
]


@pytest.mark.clause("TF-R31")
@pytest.mark.parametrize(("body", "signature", "text"), _ERRORS)
def test_texts_of_the_reader(body: Any, signature: Signature, text: str) -> None:
    error = refused(body, signature)
    assert str(error) == text
    reply = Predict().fault(error)
    assert (reply.status, reply.body) == (400, b'{\n    "error": %b\n}' % quoted(text))
    if isinstance(body, dict):  # and the same when the body is large
        assert str(refused(orjson.dumps(body) + b" " * 20_000, signature)) == text


@pytest.mark.clause("TF-R21")
def test_texts_that_clients_look_for() -> None:
    for whom, text in ((servable_name("m", ""), "Latest(m)"), (servable_name("m", "3"), "Specific(m, 3)")):
        reply = Predict(whom).fault(NotFound("Request for unknown model: 'm' is not found"))
        assert reply.status == 404
        assert json.loads(reply.body) == {"error": f"Servable not found for request: {text}"}
    waiting = Predict("Latest(m)").fault(NotReady("model 'm' is loading"))
    assert (waiting.status, json.loads(waiting.body)) == (
        404,
        {"error": "Servable not found for request: Latest(m): model 'm' is loading"},
    )


def test_optional_inputs_may_be_left_out() -> None:
    signature = Signature(
        (TensorSpec("x", DataType.FP32, (-1,)), TensorSpec("k", DataType.INT64, (-1,), optional=True)), ()
    )
    assert values({"instances": [1]}, signature) == {"x": [1]}
    assert values({"instances": [{"x": 1}, {"x": 2}]}, signature) == {"x": [1, 2]}
    assert values({"instances": [{"x": 1, "k": 2}]}, signature) == {"x": [1], "k": [2]}
    assert values({"inputs": {"x": [1]}}, signature) == {"x": [1]}


class PrettyWriter:
    """RapidJSON's PrettyWriter, event by event, with its two settings."""

    def __init__(self) -> None:
        self.text = ""
        self.levels: list[list[Any]] = []  # is it a list, and how many values has it
        self.on_one_line = False

    def _prefix(self) -> None:
        if not self.levels:
            return
        is_list, count = self.levels[-1]
        indent = "\n" + "    " * len(self.levels)
        if is_list:
            self.text += ("," + " " * self.on_one_line) * (count > 0)
            self.text += "" if self.on_one_line else indent
        elif count % 2:
            self.text += ": "
        else:
            self.text += "," * (count > 0) + indent
        self.levels[-1][1] += 1

    def value(self, text: str) -> None:
        self._prefix()
        self.text += text

    def begin(self, *, is_list: bool) -> None:
        self.value("[" if is_list else "{")
        self.levels.append([is_list, 0])

    def end(self) -> None:
        is_list, count = self.levels.pop()
        if count and not (is_list and self.on_one_line):
            self.text += "\n" + "    " * len(self.levels)
        self.text += "]" if is_list else "}"

    def tensor(self, name: str, array: Any) -> None:
        if isinstance(array, np.ndarray) and array.ndim:
            self.begin(is_list=True)
            for item in array:
                self.tensor(name, item)
            self.end()
            return
        item = array.item() if isinstance(array, np.ndarray) and array.dtype.kind in "OSU" else array
        if isinstance(item, bytes) and name.endswith("_bytes"):
            self.begin(is_list=False)
            self.value('"b64"')
            self.value(f'"{base64.b64encode(item).decode()}"')
            self.end()
        elif isinstance(item, bytes):
            self.value(quoted(item.decode()).decode())
        elif np.asarray(item).dtype.kind == "f":
            self.value(decimal(item[()] if isinstance(item, np.ndarray) else item))
        elif np.asarray(item).dtype.kind == "b":
            self.value("true" if item else "false")
        else:
            self.value(str(int(item)))

    def predictions(self, outputs: dict[str, Array]) -> str:
        self.begin(is_list=False)
        self.value('"predictions"')
        self.begin(is_list=True)
        for row in range(len(next(iter(outputs.values())))):
            if len(outputs) > 1:
                self.begin(is_list=False)
            self.on_one_line = True
            for name, array in outputs.items():
                if len(outputs) > 1:
                    self.value(f'"{name}"')
                self.tensor(name, array[row])
            self.on_one_line = False
            if len(outputs) > 1:
                self.end()
        self.end()
        self.end()
        return self.text

    def outputs(self, outputs: dict[str, Array]) -> str:
        self.begin(is_list=False)
        self.value('"outputs"')
        if len(outputs) > 1:
            self.begin(is_list=False)
        for name, array in outputs.items():
            if len(outputs) > 1:
                self.value(f'"{name}"')
            self.tensor(name, array)
        if len(outputs) > 1:
            self.end()
        self.end()
        return self.text


_TEXTS = st.text(st.characters(codec="utf-8"), max_size=4).map(str.encode)


@st.composite
def _tensors(draw: st.DrawFn, rows: int | None = None) -> Array:
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    shape = shape if rows is None else [rows, *shape[:3]]
    kind = draw(st.sampled_from(["f4", "f8", "i4", "u8", "?", "O"]))
    if kind != "O":
        return draw(arrays.arrays(kind, shape))
    size = int(np.prod(shape))
    return texts(*draw(st.lists(_TEXTS, min_size=size, max_size=size))).reshape(shape)


@st.composite
def _outputs(draw: st.DrawFn, *, by_row: bool) -> dict[str, Array]:
    rows = draw(st.integers(1, 4)) if by_row else None
    names = draw(st.lists(st.sampled_from(["y", "z", "t_bytes"]), min_size=1, max_size=3, unique=True))
    return {name: draw(_tensors(rows)) for name in names}


@pytest.mark.clause("TF-R29")
@given(_outputs(by_row=True))
def test_rows_as_rapidjson_lays_them_out(outputs: dict[str, Array]) -> None:
    assert written(outputs, by_row=True).decode() == PrettyWriter().predictions(outputs)


@pytest.mark.clause("TF-R29")
@given(_outputs(by_row=False))
def test_columns_as_rapidjson_lays_them_out(outputs: dict[str, Array]) -> None:
    assert written(outputs, by_row=False).decode() == PrettyWriter().outputs(outputs)


@pytest.mark.clause("TF-R29")
def test_layout() -> None:
    y = np.array([[[1, 2], [3, 4]]], "f4")
    assert written({"y": y}, by_row=True) == b'{\n    "predictions": [[[1.0, 2.0], [3.0, 4.0]]\n    ]\n}'
    assert written({"y": y[0]}, by_row=False).decode() == (
        '{\n    "outputs": [\n        [\n            1.0,\n            2.0\n        ],\n'
        "        [\n            3.0,\n            4.0\n        ]\n    ]\n}"
    )
    assert written({"y": y, "n": np.array([7], "i4")}, by_row=True).decode() == (
        '{\n    "predictions": [\n        {\n            "y": [[1.0, 2.0], [3.0, 4.0]],\n'
        '            "n": 7\n        }\n    ]\n}'
    )
    assert written({"y": np.zeros((0, 2), "f4")}, by_row=True) == b'{\n    "predictions": []\n}'


@st.composite
def _bodies(draw: st.DrawFn) -> tuple[bytes, Signature, dict[str, Any]]:
    """A regular body of numbers, the signature that it is for, and what it says."""
    kinds = draw(
        st.lists(st.sampled_from(["FP32", "FP64", "INT32", "UINT64", "INT8"]), min_size=1, max_size=2)
    )
    signature = of(*((f"x{index}", DataType[kind]) for index, kind in enumerate(kinds)))
    rows = draw(st.integers(1, 3))
    wanted: dict[str, Any] = {}
    for spec in signature.inputs:
        shape = [rows, *draw(st.lists(st.integers(1, 3), max_size=3))]
        limit = 100 if spec.datatype is DataType.INT8 else 2**20
        elements = (
            st.floats(-(2**20), 2**20, width=32)
            if spec.datatype.is_float
            else st.integers(0 if spec.datatype is DataType.UINT64 else -limit, limit)
        )
        wanted[spec.name] = draw(arrays.arrays(spec.datatype.dtype, shape, elements=elements)).tolist()
    names = list(wanted)
    in_columns = draw(st.booleans())
    if len(names) == 1 and draw(st.booleans()):
        value: Any = wanted[names[0]]
    else:
        value = wanted if in_columns else [{n: wanted[n][row] for n in names} for row in range(rows)]
    body = {"inputs" if in_columns else "instances": value}
    if draw(st.booleans()):
        body["signature_name"] = "serving_default"
    return json.dumps(body, indent=draw(st.sampled_from([None, 1]))).encode(), signature, wanted


@given(_bodies())
def test_both_readers_read_the_same(case: tuple[bytes, Signature, dict[str, Any]]) -> None:
    body, signature, wanted = case
    assert values(body, signature) == wanted
    large = read_large(body, signature)
    if large is not None:
        assert {t.name: (t.array.tolist(), t.array.dtype) for t in large.tensors} == {
            t.name: (t.array.tolist(), t.array.dtype) for t in read(body, signature).inputs
        }


def test_large_regular_bodies_take_the_fast_road() -> None:
    image = np.random.default_rng(3).random((2, 40, 50, 3), np.float32)
    for body in (
        {"instances": image.tolist()},
        {"signature_name": "serving_default", "inputs": image.tolist()},
        {"instances": [{"x": row} for row in image.tolist()]},
        {"inputs": {"x": image.tolist()}},
    ):
        text = orjson.dumps(body)
        assert read_large(text, FLOAT) is not None
        np.testing.assert_array_equal(read(text).inputs[0].array, image)


@pytest.mark.parametrize(
    "text",
    [
        b'{"instances": [[1, 2], [3]]}',
        b'{"instances": [[1, 2], [3], [4, 5, 6]]}',
        b'{"instances": [[[1], [2]], [[3, 4]]]}',
        b'{"instances": [1, [2]]}',
        b'{"instances": [[1, true]]}',
        b'{"instances": [1], "instances": [2]}',
        b'{"instances": [1], "inputs": [1]}',
        b'{"instances": [1], "x": "]["}',
        b'{"inst\\u0061nces": [1]}',
        b'{"instances": [{"x": [1]}, {"x": [1, 2]}]}',
        b'{"instances": []}',
        b'{"signature_name": 5, "instances": [1]}',
        b'{"signature_name": "q", "instances": [1]}',
        b'{"instances": ["1"]}',
        b'{"instances": [1]} x',
        b"[1]",
        b"",
    ],
)
def test_what_is_not_regular_is_read_slowly(text: bytes) -> None:
    assert read_large(text, FLOAT) is None
