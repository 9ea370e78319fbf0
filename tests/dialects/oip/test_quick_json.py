"""JSON of numbers that is parsed in place: the same request, bit for bit, or the same words."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.encoding.bodies import HttpBody
from salver.encoding.json_text import LARGE, MOST_QUICK, loads
from salver.encoding.large_json import loads_quickly
from salver.kernel.serving.decoding import Decoders
from salver.words.errors import SalverError
from salver.words.messages import Signature
from salver.words.tensor import DataType

_CODEC = OpenInferenceHttp()
_NO_SIGNATURE = Signature((), ())
_TYPES = [kind.name for kind in DataType] + 4 * ["FP32", "FP64", "INT64"]


def _forms(value: float) -> st.SearchStrategy[str]:
    return st.sampled_from([repr(value), f"{value:.3f}", f"{value:.17e}", f"{value:.25g}", f"{value:E}"])


_FLOATS = st.floats(allow_nan=False, allow_infinity=False)
_NUMBERS = (
    (_FLOATS | st.floats(width=32, allow_nan=False, allow_infinity=False)).flatmap(_forms)
    | st.integers(-(2**70), 2**70).map(str)
    | st.integers(-130, 300).map(str)
    | st.sampled_from(["-0", "0.0", "-0.0", "1e400", "1e-400", "3.5e38", "01", "1.", "true", "null", '"a"'])
)
_LISTS = st.lists(_NUMBERS, max_size=6).map(lambda texts: f"[{', '.join(texts)}]")
_NESTED = st.recursive(
    _LISTS | _NUMBERS, lambda inner: st.lists(inner, max_size=4).map(lambda all: f"[{','.join(all)}]")
)


def _body(datatype: str, shape: list[int], data: str, *, pad: int = LARGE) -> bytes:
    entry = f'{{"name": "x", "shape": {shape}, "datatype": "{datatype}", "data": {data}}}'
    return f'{{"inputs": [{entry}], "id": "q"{" " * pad}}}'.encode()


def verdict(http: HttpBody) -> Any:
    """What the decoder says of a body: each bit of its tensors, or the error."""
    try:
        request = _CODEC.decode(http, _NO_SIGNATURE)
    except SalverError as error:
        return str(error), error.code, error.field, error.about
    told = []
    for tensor in request.inputs:
        array = tensor.array
        bits = array.tolist() if array.dtype == object else array.tobytes()
        told.append((tensor.name, tensor.datatype, array.shape, array.dtype, bits))
    return request.id, told


def _count(data: str) -> int:
    """Number of elements of a nested list; 1 of what is no list."""
    try:
        found = loads(data.encode())
    except SalverError:
        return 1
    while isinstance(found, list) and any(isinstance(each, list) for each in found):
        found = [each for one in found for each in (one if isinstance(one, list) else [one])]
    return len(found) if isinstance(found, list) else 1


@given(st.sampled_from(_TYPES), _NESTED, st.sampled_from([0, 0, 0, 1]))
@settings(max_examples=60)
def test_it_is_read_or_refused_as_by_the_general_parser(datatype: str, data: str, more: int) -> None:
    text = _body(datatype, [_count(data) + more], data)
    quick = HttpBody("m", "", b"")
    quick.large = memoryview(text)
    whole = HttpBody("m", "", text)
    if _CODEC.weigh(quick):
        return  # it is left to the general parser
    try:
        whole.root = loads(text)
    except SalverError as error:
        raise AssertionError("only what is JSON is parsed in place") from error
    assert verdict(quick) == verdict(whole)


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "INT8", "INT64", "UINT64"])
@pytest.mark.parametrize("is_nested", [False, True])
async def test_tensors_are_parsed_in_place(datatype: str, is_nested: bool) -> None:
    dtype = DataType[datatype].dtype
    if dtype.kind == "f":
        values = np.random.default_rng(5).standard_normal((40, 500)).astype(dtype)
    else:
        values = np.arange(20_000).astype(dtype).reshape(40, 500)
    data = values.tolist() if is_nested else values.ravel().tolist()
    entry = {"name": "x", "shape": [40, 500], "datatype": datatype, "data": data}
    body = HttpBody("m", "", json.dumps({"inputs": [entry], "outputs": [{"name": "y"}]}).encode())
    decoders = Decoders()
    body.body += b" " * (1 << 16)
    request = await decoders.decode(_CODEC, body, _NO_SIGNATURE)
    assert body.root is not None and repr(decoders).count("not started") == 2
    assert request.inputs[0].array.tobytes() == values.tobytes()
    assert [output.name for output in request.outputs] == ["y"]


_FEW = '{"name":"x","shape":[1],"datatype":"FP32","data":[1]}'


@pytest.mark.parametrize(
    "text",
    [
        _body("FP32", [1], "[1]", pad=MOST_QUICK),
        _body("FP32", [1], f"[{'0.12345678901234567890123,' * 4000}1]"),  # more digits than 64 bits hold
        _body("FP32", [1], f"[{'1,' * 600_000}1]"),
        _body("FP32", [1], f"[{'true,' * 9000}1]"),
        _body("FP32", [1], f"[{'NaN,' * 9000}1]"),
        _body("FP32", [1], f"[{'9' * 20},{'1,' * 9000}1]").replace(b"FP32", b"INT64"),
        _body("BYTES", [1], f"[{'1,' * 9000}1]"),
        _body("FP32", [1], "[" * 98 + "1" + "]" * 98),
        _body("FP32", [1], "[1]").replace(b'"id": "q"', b'"parameters": {"a": [%b1]}' % (b"1," * 9000)),
        _body("FP32", [1], "[1]").replace(b'"id": "q"', b'"parameters": {%b"b": 1}' % (b'"a": 1,' * 9000)),
        _body("FP32", [1], "[1]").replace(b'"id": "q"', b'"parameters": {"a": 1, "a": 2}'),
        _body("FP32", [1], "[1]").replace(b'"id"', b'"inputs": [], "id"'),
        f'{{"inputs": [{_FEW}], "a": {"[" * 99}{"]" * 99}{" " * LARGE}}}'.encode(),
        _body("FP32", [1], "[1]")[:-1],
        b"[1]" + b" " * LARGE,
    ],
)
def test_what_may_take_long_or_is_unusual_is_left_to_others(text: bytes) -> None:
    assert loads_quickly(text) is None
    quick = HttpBody("m", "", text)
    assert _CODEC.weigh(quick) == len(text) and quick.root is None
