"""Tensors in shared memory, as both codecs name them (TR-R21, TR-R22, TR-R37)."""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import tritonclient.grpc.service_pb2 as pb

from salver.dialects.oip import regions as module
from salver.dialects.oip.grpc_codec import decode_infer, encode_infer
from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.dialects.oip.regions import NO_REGIONS, Region, Regions, parse_register
from salver.dialects.oip.shared_memory import SharedMemory
from salver.encoding.bodies import HttpBody
from salver.words.errors import InvalidInput, NotFound, SalverError, SegmentFailed, TooLarge, Unsupported
from salver.words.messages import InferRequest, InferResponse, Signature, TensorSpec
from salver.words.tensor import DataType, Tensor

_SIGNATURE = Signature(
    (TensorSpec("x", DataType.INT32, (-1,)), TensorSpec("z", DataType.INT32, (-1,))),
    (TensorSpec("y", DataType.INT32, (-1,)),),
)
_X = np.array([1, -2], "<i4")
_WRONG = "invalid value type for 'shared_memory_{}' parameter for tensor 'x', expected "


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[SharedMemory]:
    (tmp_path / "k").write_bytes(bytes(8) + _X.tobytes() + bytes(2 * mmap.PAGESIZE))
    memory = SharedMemory(tmp_path)
    memory.register(Region("r", "/k", 0, 64))
    memory.register(Region("s", "/k", mmap.PAGESIZE, 64))
    yield memory
    memory.unregister()


def place(region: object = "r", size: object = 8, offset: object = None) -> dict[str, Any]:
    found = {"shared_memory_region": region, "shared_memory_byte_size": size, "shared_memory_offset": offset}
    return {name: value for name, value in found.items() if value is not None}


def over_http(regions: Regions, parameters: dict[str, Any], outputs: Any = (), **fields: Any) -> InferRequest:
    entry = {"name": "x", "shape": [2], "datatype": "INT32", "parameters": parameters, **fields}
    root = {"inputs": [entry], "id": "i", **({"outputs": outputs} if outputs else {})}
    return OpenInferenceHttp(regions).decode(HttpBody("m", "", orjson.dumps(root)), _SIGNATURE)


def over_grpc(regions: Regions, parameters: dict[str, Any], outputs: Any = (), **fields: Any) -> InferRequest:
    message = pb.ModelInferRequest(model_name="m", id="i")
    tensor = message.inputs.add(**{"name": "x", "datatype": "INT32", "shape": [2], **fields})
    _fill(tensor.parameters, parameters)
    for output in outputs:
        _fill(message.outputs.add(name=output["name"]).parameters, output.get("parameters", {}))
    return decode_infer(message.SerializeToString(), regions)


def _fill(parameters: Any, values: dict[str, Any]) -> None:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    for name, value in values.items():
        setattr(parameters[name], kinds[type(value)], value)


BOTH = pytest.mark.parametrize("decode", [over_http, over_grpc])


@pytest.mark.clause("TR-R21")
@BOTH
def test_an_input_is_read_from_its_place(decode: Any, memory: SharedMemory) -> None:
    request = decode(memory, place(offset=8))
    assert (request.id, request.inputs[0].name) == ("i", "x")
    assert request.inputs[0].array.tolist() == [1, -2]
    assert decode(memory, place(size=0), shape=[0]).inputs[0].array.shape == (0,)


@pytest.mark.clause("TR-R37")
@BOTH
def test_without_the_flag(decode: Any) -> None:
    data = {"data": [1, 2]} if decode is over_http else {"contents": {"int_contents": [1, 2]}}
    for ask in (
        lambda: decode(NO_REGIONS, place()),
        lambda: decode(NO_REGIONS, {}, [{"name": "y", "parameters": place()}], **data),
    ):
        with pytest.raises(Unsupported) as caught:
            ask()
        assert str(caught.value) == (
            "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
        )


@pytest.mark.clause("TR-R21")
@BOTH
@pytest.mark.parametrize(
    ("parameters", "error", "text"),
    [
        (place("nosuch"), NotFound, "Unable to find shared memory region: 'nosuch'"),
        (place("r", 8, 64), InvalidInput, "Invalid offset for shared memory region: 'r'."),
        (place("r", 8, -1), InvalidInput, "Invalid offset for shared memory region: 'r'."),
        (place("r", 65), InvalidInput, "Invalid offset + byte size for shared memory region: 'r'."),
        (place("r", 12), InvalidInput, "input byte size mismatch for input 'x' for model 'm'. Expected 8,"),
        (place("r", None), InvalidInput, "'shared_memory_byte_size' must be specified along with"),
        (place(7), InvalidInput, _WRONG.format("region")),
        (place("r", "8"), InvalidInput, _WRONG.format("byte_size")),
        (place("r", 8, True), InvalidInput, _WRONG.format("offset")),
        (place("r", 8.0), InvalidInput, _WRONG.format("byte_size")),
    ],
)
def test_a_place_that_is_wrong(
    decode: Any, memory: SharedMemory, parameters: dict[str, Any], error: type[SalverError], text: str
) -> None:
    with pytest.raises(error) as caught:
        decode(memory, parameters)
    assert str(caught.value).startswith(text)


@BOTH
@pytest.mark.parametrize("datatype", ["BYTES", "BOOL"])
def test_what_lies_there_may_be_no_tensor(decode: Any, memory: SharedMemory, datatype: str) -> None:
    memory.write(module.Place("r", 0, 8), b"\xff" * 8)
    with pytest.raises(InvalidInput, match=r"inputs\[0\]"):
        decode(memory, place(size=8), datatype=datatype, shape=[8] if datatype == "BOOL" else [1])


def test_data_and_a_place_exclude_each_other(memory: SharedMemory) -> None:
    with pytest.raises(InvalidInput, match="But set 'data' 'shared_memory_region'"):
        over_http(memory, place(), data=[1, 2])
    with pytest.raises(InvalidInput, match="unexpected 'content' provided when using shared memory"):
        over_grpc(memory, place(), contents={"int_contents": [1, 2]})
    binary = b'{"inputs":[{"name":"x","shape":[2],"datatype":"INT32","parameters":%s}]}' % orjson.dumps(
        {**place(), "binary_data_size": 8}
    )
    headers = {b"inference-header-content-length": b"%d" % len(binary)}
    with pytest.raises(InvalidInput, match="But set 'binary_data_size' 'shared_memory_region'"):
        OpenInferenceHttp(memory).decode(HttpBody("m", "", binary + bytes(8), headers), _SIGNATURE)


def test_over_grpc_half_a_place_is_refused(memory: SharedMemory) -> None:
    text = "^'shared_memory_offset' can not be specified without 'shared_memory_region' parameter for tensor "
    with pytest.raises(InvalidInput, match=text):
        over_grpc(memory, place(None, None, 8), contents={"int_contents": [1, 2]})


def test_raw_contents_have_no_entry_for_an_input_in_shared_memory(memory: SharedMemory) -> None:
    message = pb.ModelInferRequest(model_name="m")
    for name in ("a", "x", "b"):
        tensor = message.inputs.add(name=name, datatype="INT32", shape=[2])
        if name == "x":
            _fill(tensor.parameters, place(offset=8))
        else:
            message.raw_input_contents.append(np.array([5, ord(name)], "<i4").tobytes())
    request = decode_infer(message.SerializeToString(), memory)
    assert [t.array.tolist() for t in request.inputs] == [[5, 97], [1, -2], [5, 98]]
    del message.raw_input_contents[1]
    with pytest.raises(InvalidInput, match="unable to find data for input tensor 'b' for model 'm'"):
        decode_infer(message.SerializeToString(), memory)


@BOTH
def test_one_request_has_only_so_much_read(
    decode: Any, memory: SharedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_READ", 7)
    with pytest.raises(TooLarge, match="more than 7 bytes"):
        decode(memory, place())


@pytest.mark.clause("TR-R22")
@BOTH
def test_outputs_are_checked_before_the_model_runs(decode: Any, memory: SharedMemory) -> None:
    def ask(*places: dict[str, Any]) -> InferRequest:
        outputs = [{"name": f"y{i}", "parameters": parameters} for i, parameters in enumerate(places)]
        return decode(memory, place(offset=8), outputs)

    assert len(ask(place("r", 8), place("s", 8)).outputs) == 2
    with pytest.raises(NotFound, match="Unable to find shared memory region: 'nosuch'"):
        ask(place("nosuch"))
    with pytest.raises(InvalidInput, match="two outputs overlap"):
        ask(place("r", 16), place("r", 8, 8))
    with pytest.raises(InvalidInput, match="'shared_memory_byte_size' must be specified along with"):
        ask(place("r", None))
    with pytest.raises(InvalidInput, match="output can't set both 'shared_memory_region' and 'cl"):
        ask({**place(), "classification": 1})


def _response(*names: str) -> InferResponse:
    return InferResponse("m", "1", tuple(Tensor(name, DataType.INT32, _X) for name in names), "i")


@pytest.mark.clause("TR-R22")
def test_an_output_over_http_is_at_its_place_and_not_in_the_reply(memory: SharedMemory) -> None:
    outputs = [{"name": "y", "parameters": place("s", 16, 4)}, {"name": "z"}]
    request = over_http(memory, place(), outputs)
    reply = orjson.loads(OpenInferenceHttp(memory).encode(request, _response("y", "z")).body)
    assert reply["outputs"] == [
        {"name": "y", "datatype": "INT32", "shape": [2]},
        {"name": "z", "datatype": "INT32", "shape": [2], "data": [1, -2]},
    ]
    assert memory.read(module.Place("s", 0, 16)) == bytes(4) + _X.tobytes() + bytes(4)


@pytest.mark.clause("TR-R22")
def test_an_output_over_grpc_is_at_its_place_and_not_in_the_reply(memory: SharedMemory) -> None:
    outputs = [{"name": "y", "parameters": place("s", 16, 4)}, {"name": "z"}]
    request = over_grpc(memory, place(), outputs)
    reply = pb.ModelInferResponse.FromString(encode_infer(request, _response("y", "z"), memory))
    assert [(o.name, o.datatype, list(o.shape)) for o in reply.outputs] == [
        ("y", "INT32", [2]),
        ("z", "INT32", [2]),
    ]
    assert list(reply.raw_output_contents) == [b"", _X.tobytes()]
    assert memory.read(module.Place("s", 0, 16)) == bytes(4) + _X.tobytes() + bytes(4)


def test_an_output_that_does_not_fit_its_place_is_not_written(memory: SharedMemory) -> None:
    outputs = [{"name": "y", "parameters": place("s", 7)}]
    text = "request for output 'y' (7 bytes) should be at least 8 bytes to hold the results"
    with pytest.raises(SegmentFailed) as caught:
        OpenInferenceHttp(memory).encode(over_http(memory, place(), outputs), _response("y"))
    assert str(caught.value).endswith(text)
    with pytest.raises(SegmentFailed) as caught:
        encode_infer(over_grpc(memory, place(), outputs), _response("y"), memory)
    assert str(caught.value).endswith(text)
    assert memory.read(module.Place("s", 0, 8)) == bytes(8)


@pytest.mark.clause("TR-R14")
def test_a_region_that_was_let_go_while_the_model_ran(memory: SharedMemory) -> None:
    """It stays, for others too, until the request is over."""
    regions = memory.listed()
    for over, encode in (
        (over_http, OpenInferenceHttp(memory).encode),
        (over_grpc, lambda request, response: encode_infer(request, response, memory)),
    ):
        first = over(memory, place(), [{"name": "y", "parameters": place("s", 16, 4)}])
        memory.unregister("s")
        second = over(memory, place(), [{"name": "y", "parameters": place("s", 16, 4)}, {"name": "z"}])
        memory.unregister()
        encode(first, _response("y"))
        assert memory.read(module.Place("s", 0, 16))[4:12] == _X.tobytes()
        del first
        assert memory.listed() == regions
        encode(second, _response("y", "z"))
        del second
        assert memory.listed() == ()
        with pytest.raises(NotFound, match="'r'"):
            over(memory, place(), [{"name": "y", "parameters": place("s", 16, 4)}])
        for region in regions:
            memory.register(region)


@pytest.mark.clause("TR-R21")
def test_a_region_that_only_inputs_lie_in_is_not_kept(memory: SharedMemory) -> None:
    """They have been copied when the request is read."""
    request = over_http(memory, place())
    memory.unregister()
    assert request.inputs and memory.listed() == ()


@pytest.mark.clause("TR-R14")
@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"offset":0,"byte_size":8}', "Shared memory register request has no 'key' field"),
        (b'{"key":"/k","offset":0}', "Shared memory register request has no 'byte_size' field"),
        (b"{", "failed to parse the request JSON buffer"),
        (b"", "failed to parse the request JSON buffer"),
        (b"[]", "the body must be a JSON object, not a list"),
        (b'{"key":7,"byte_size":8}', "key must be a string, not a number"),
        (b'{"key":"/k","byte_size":"8"}', "byte_size must be an integer, not a string"),
        (b'{"key":"/k","byte_size":8,"offset":null}', "offset must be an integer, not null"),
        (b'{"key":"/k","byte_size":true}', "byte_size must be an integer, not a boolean"),
    ],
)
def test_a_register_request_that_is_not_whole(body: bytes, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_register("r", body)
    assert str(caught.value).startswith(text)


@pytest.mark.clause("TR-R14")
def test_the_offset_may_be_left_out() -> None:
    assert parse_register("r", b'{"key":"/k","byte_size":8}') == Region("r", "/k", 0, 8)
