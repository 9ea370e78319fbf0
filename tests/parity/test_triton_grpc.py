"""Triton's gRPC interface, row by row: its own clients, plain grpcio, and bytes made by hand."""

import asyncio
import json
import queue
import struct
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_aio
import tritonclient.http.aio as triton_http_aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE_S

from salver.testing.process import TritonProcess

ONE, TWO = np.array([1, 2, 3, 4], np.int32), np.array([10, 20, 30, 40], np.int32)


@pytest.fixture(scope="module")
def channel(triton: TritonProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{triton.grpc_port}") as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Any:
    return pb_grpc.GRPCInferenceServiceStub(channel)


def given(name: str, values: np.ndarray, kind: str = "INT32", module: Any = triton_grpc) -> Any:
    found = module.InferInput(name, list(values.shape), kind)
    found.set_data_from_numpy(values)
    return found


def pair(module: Any = triton_grpc) -> list[Any]:
    return [given("INPUT0", ONE, module=module), given("INPUT1", TWO, module=module)]


def sums(**more: Any) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="addsub_nobatch", **more)
    for name in ("INPUT0", "INPUT1"):
        message.inputs.add(name=name, datatype="INT32", shape=[4])
    return message


@pytest.mark.clause("TR-G1")
def test_health_and_metadata_of_versions(rpc: Any) -> None:
    assert rpc.is_server_live() and rpc.is_server_ready()
    assert rpc.is_model_ready("ver_all", "2")
    assert not rpc.is_model_ready("ver_all", "9") and not rpc.is_model_ready("nosuch")
    assert rpc.get_server_metadata().name == "triton"
    found = rpc.get_model_metadata("ver_all", "2")
    assert (found.name, list(found.versions), found.platform) == ("ver_all", ["2"], "onnxruntime_onnx")
    assert [(t.name, t.datatype, list(t.shape)) for t in found.outputs] == [
        ("OUTPUT0", "INT32", [4]),
        ("OUTPUT1", "INT32", [4]),
    ]


@pytest.mark.clause("TR-G2")
def test_on_a_stream_each_request_has_its_reply(stub: Any) -> None:
    raw = [ONE.tobytes(), TWO.tobytes()]
    replies = list(
        stub.ModelStreamInfer(sums(id=str(n), raw_input_contents=raw) for n in range(20)),
    )
    assert [reply.infer_response.id for reply in replies] == [str(n) for n in range(20)]
    assert all(reply.infer_response.parameters["triton_final_response"].bool_param for reply in replies)


@pytest.mark.clause("TR-G3")
def test_configuration_settings_and_index(rpc: Any) -> None:
    config = rpc.get_model_config("addsub").config
    assert (config.max_batch_size, config.platform) == (8, "onnxruntime_onnx")
    assert rpc.get_inference_statistics("addsub").model_stats[0].name == "addsub"
    found = {model.name: model.state for model in rpc.get_model_repository_index().models if model.version}
    assert found["addsub"] == "READY"
    assert rpc.get_trace_settings().settings["trace_level"].value[0] == "OFF"
    assert rpc.get_log_settings().settings["log_info"].bool_param
    with pytest.raises(InferenceServerException, match="requested model 'nosuch' is not available") as caught:
        rpc.get_inference_statistics("nosuch")
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.clause("TR-G5")
def test_the_standard_health_service(channel: grpc.Channel) -> None:
    ask = channel.unary_unary("/grpc.health.v1.Health/Check")
    for service in ("", "inference.GRPCInferenceService"):
        name = service.encode()
        assert ask(b"\x0a%c" % len(name) + name if name else b"") == b"\x08\x01"  # SERVING
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=PATIENCE_S)
    assert next(watch) == b"\x08\x01"  # more than Triton has
    watch.cancel()


@pytest.mark.clause("TR-G6")
@pytest.mark.parametrize(
    ("raw", "is_typed", "text"),
    [
        ([ONE.tobytes()], False, "unable to find data for input tensor 'INPUT1'"),
        ([ONE.tobytes(), TWO.tobytes()], True, "contents"),
        ([ONE.tobytes()[:15], TWO.tobytes()], False, "INPUT0"),
    ],
)
def test_raw_contents_are_for_all_inputs_or_none(
    stub: Any, raw: list[bytes], is_typed: bool, text: str
) -> None:
    message = sums(raw_input_contents=raw)
    if is_typed:
        message.inputs[0].contents.int_contents.extend(ONE)
    with pytest.raises(grpc.RpcError, match=text) as caught:
        stub.ModelInfer(message)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


TYPED = [
    ("BOOL", "bool_contents", [True, False]),
    ("INT8", "int_contents", [-128, 127]),
    ("INT16", "int_contents", [-32768, 32767]),
    ("INT32", "int_contents", [-(2**31), 2**31 - 1]),
    ("INT64", "int64_contents", [-(2**63), 2**63 - 1]),
    ("UINT8", "uint_contents", [0, 255]),
    ("UINT16", "uint_contents", [0, 65535]),
    ("UINT32", "uint_contents", [0, 2**32 - 1]),
    ("UINT64", "uint64_contents", [0, 2**64 - 1]),
    ("FP32", "fp32_contents", [0.5, -1.5]),
    ("FP64", "fp64_contents", [0.1, -1e300]),
    ("BYTES", "bytes_contents", [b"", "ä".encode()]),
]


@pytest.mark.clause("TR-G7", "TR-G8", "OIP-17")
@pytest.mark.parametrize(("kind", "field", "values"), TYPED)
def test_typed_contents_in_and_raw_out(stub: Any, kind: str, field: str, values: list[Any]) -> None:
    model = f"ident_{'string' if kind == 'BYTES' else kind.lower()}"
    message = pb.ModelInferRequest(model_name=model, id="7")
    tensor = message.inputs.add(name="X", datatype=kind, shape=[len(values)])
    getattr(tensor.contents, field).extend(values)
    reply = stub.ModelInfer(message)
    assert not reply.outputs[0].HasField("contents")
    result = triton_grpc.InferResult(reply)
    assert result.as_numpy("Y").tolist() == values
    assert (reply.id, reply.model_version, len(reply.raw_output_contents)) == ("7", "1", 1)


@pytest.mark.clause("TR-G7", "OIP-6")
@pytest.mark.parametrize("kind", ["FP16", "BF16"])
def test_half_floats_are_raw_only(stub: Any, kind: str) -> None:
    message = pb.ModelInferRequest(model_name=f"ident_{kind.lower()}")
    tensor = message.inputs.add(name="INPUT0" if kind == "BF16" else "X", datatype=kind, shape=[1])
    tensor.contents.fp32_contents.extend([1.0])
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(message)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.clause("TR-G9")
def test_an_error_is_a_reply_and_the_stream_goes_on(stub: Any) -> None:
    raw = [ONE.tobytes(), TWO.tobytes()]
    wrong = pb.ModelInferRequest(model_name="nosuch", id="w")
    replies = list(stub.ModelStreamInfer(iter([wrong, sums(id="r", raw_input_contents=raw)])))
    assert "Request for unknown model: 'nosuch' is not found" in replies[0].error_message
    assert (replies[0].infer_response.id, replies[1].infer_response.id) == ("w", "r")
    assert not replies[1].error_message


@pytest.mark.clause("TR-G10")
def test_types_of_parameters(rpc: Any, stub: Any) -> None:
    own = {"b": True, "n": -3, "s": "red", "f": 0.5}
    result = rpc.infer("echo_facts", [given("IN", np.array([1], np.int32))], parameters=own)
    assert json.loads(result.as_numpy("FACTS")[0])["parameters"] == own
    message = pb.ModelInferRequest(model_name="echo_facts", raw_input_contents=[bytes(4)])
    message.inputs.add(name="IN", datatype="INT32", shape=[1])
    message.parameters["priority"].uint64_param = 1
    assert stub.ModelInfer(message).outputs


@pytest.mark.clause("TR-G11", "TR-S8")
@pytest.mark.parametrize("elements", [[], [5], [5, -1, 7]])
def test_none_one_and_more_replies_and_the_empty_last(rpc: Any, elements: list[int]) -> None:
    came: queue.Queue[Any] = queue.Queue()
    rpc.start_stream(lambda result, error: came.put((result, error)))
    try:
        one = given("IN", np.array(elements, np.int32))
        rpc.async_stream_infer("repeat", [one], request_id="d", enable_empty_final_response=True)
        for value in elements:
            result, error = came.get(timeout=PATIENCE_S)
            if value < 0:
                assert "negative element" in str(error)
            else:
                assert result.as_numpy("OUT").tolist() == [value]
        result, error = came.get(timeout=PATIENCE_S)
        last = result.get_response()
        assert (error, last.id, len(last.outputs)) == (None, "d", 0)
        assert last.parameters["triton_final_response"].bool_param
    finally:
        rpc.stop_stream()


@pytest.mark.clause("TR-G12")
@pytest.mark.parametrize("way", ["gzip", "deflate"])
def test_requests_may_be_compressed(rpc: Any, way: str) -> None:
    result = rpc.infer("addsub_nobatch", pair(), compression_algorithm=way)
    assert result.as_numpy("OUTPUT0").tolist() == [11, 22, 33, 44]


@pytest.mark.clause("TR-A8")
@pytest.mark.parametrize("module", [triton_aio, triton_http_aio])
async def test_the_asyncio_clients(triton: TritonProcess, module: Any) -> None:
    port = triton.grpc_port if module is triton_aio else triton.port
    async with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
        calls = [client.infer("addsub_nobatch", pair(module), request_id=str(n)) for n in range(30)]
        for result in await asyncio.gather(*calls):
            assert result.as_numpy("OUTPUT1").tolist() == [-9, -18, -27, -36]
        with pytest.raises(InferenceServerException, match="Request for unknown model: 'nosuch'"):
            await client.infer("nosuch", pair(module))


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes | int) -> bytes:
    """One protobuf field by its number, made without any schema."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def fields(message: bytes) -> dict[int, list[Any]]:
    """What a message holds, by number."""
    found: dict[int, list[Any]] = {}
    while message:
        tag, message = number_at(message)
        value, message = number_at(message)
        if tag & 7 == 2:
            value, message = message[:value], message[value:]  # type: ignore[assignment]
        found.setdefault(tag >> 3, []).append(value)
    return found


def number_at(message: bytes) -> tuple[int, bytes]:
    value = shift = 0
    while True:
        byte, message = message[0], message[1:]
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, message


@pytest.mark.clause("OIP-16")
def test_numbers_of_the_fields(channel: grpc.Channel) -> None:
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    question = field(1, b"ver_all") + field(2, b"1") + field(3, b"me")
    question += field(4, field(1, b"k") + field(2, field(3, b"text")))
    for name in (b"INPUT0", b"INPUT1"):
        question += field(5, field(1, name) + field(2, b"INT32") + field(3, 4))
    question += field(6, field(1, b"OUTPUT1")) + field(7, ONE.tobytes()) + field(7, TWO.tobytes())
    reply = fields(call(question))
    assert (reply[1], reply[2], reply[3]) == ([b"ver_all"], [b"1"], [b"me"])
    (output,) = map(fields, reply[5])
    assert (output[1], output[2], output[3]) == ([b"OUTPUT1"], [b"INT32"], [b"\x04"])
    assert struct.unpack("<4i", reply[6][0]) == (-9, -18, -27, -36)


@pytest.mark.clause("OIP-16", "OIP-4")
def test_numbers_of_metadata(channel: grpc.Channel) -> None:
    ask = channel.unary_unary("/inference.GRPCInferenceService/ModelMetadata")
    reply = fields(ask(field(1, b"ver_all") + field(2, b"2")))
    assert (reply[1], reply[2], reply[3]) == ([b"ver_all"], [b"2"], [b"onnxruntime_onnx"])
    inputs = [fields(tensor) for tensor in reply[4]]
    assert [tensor[1] for tensor in inputs] == [[b"INPUT0"], [b"INPUT1"]]
    assert len(reply[5]) == 2
    assert 6 not in reply  # properties: there are none to tell
    ask = channel.unary_unary("/inference.GRPCInferenceService/ServerMetadata")
    reply = fields(ask(b""))
    assert reply[1] == [b"triton"]
    assert b"binary_tensor_data" in reply[3]


@pytest.mark.clause("OIP-16", "OIP-2")
def test_numbers_of_health(channel: grpc.Channel) -> None:
    for method, question in (("ServerLive", b""), ("ServerReady", b""), ("ModelReady", field(1, b"addsub"))):
        ask = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        assert fields(ask(question)) == {1: [1]}


@pytest.mark.clause("OIP-17")
def test_typed_contents_by_number(channel: grpc.Channel) -> None:
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    packed = struct.pack("<2f", 1.5, -2.0)
    tensor = field(1, b"X") + field(2, b"FP32") + field(3, 2) + field(5, field(6, packed))
    reply = fields(call(field(1, b"ident_fp32") + field(5, tensor)))
    assert reply[6] == [packed]
