"""Decoupled models: none, one and ten thousand responses, and readers who are slow or vanish."""

import json
import queue
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc
from waiting import PATIENCE_S

from salver.testing.process import TritonProcess

MANY = 10_000


def question(count: int, id: str = "") -> pb.ModelInferRequest:
    values = np.arange(count, dtype="<i4")
    message = pb.ModelInferRequest(model_name="repeat", id=id, raw_input_contents=[values.tobytes()])
    message.inputs.add(name="IN", datatype="INT32", shape=[count])
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    return message


def number(reply: Any) -> int:
    return int(np.frombuffer(reply.infer_response.raw_output_contents[0], "<i4")[0])


@pytest.mark.clause("TR-S8")
@pytest.mark.parametrize("count", [0, 1, MANY])
def test_every_response_in_order_and_the_last_is_marked(triton: TritonProcess, count: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{triton.grpc_port}") as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        replies = list(stub.ModelStreamInfer(iter([question(count, "d")]), timeout=PATIENCE_S))
    assert [number(reply) for reply in replies[:-1]] == list(range(count))
    finals = [reply.infer_response.parameters["triton_final_response"].bool_param for reply in replies]
    assert finals == [False] * count + [True]
    assert len(replies[-1].infer_response.outputs) == 0


@pytest.mark.clause("TR-S8")
def test_ten_thousand_events(triton: TritonProcess) -> None:
    body = json.dumps({"IN": list(range(MANY))}).encode()
    status, reply = triton.ask("POST", "/v2/models/repeat/generate_stream", body)
    events = [json.loads(event.removeprefix(b"data: ")) for event in reply.split(b"\n\n") if event]
    assert status == 200
    assert [event["OUT"] for event in events] == list(range(MANY))


@pytest.mark.clause("TR-S8")
def test_a_slow_reader_gets_all_and_holds_nobody_up(triton: TritonProcess) -> None:
    options = [("grpc.http2.lookahead_bytes", 65_536), ("grpc.http2.bdp_probe", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{triton.grpc_port}", options) as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        slow = stub.ModelStreamInfer(iter([question(MANY)]), timeout=PATIENCE_S)
        first = [number(next(slow)) for _ in range(3)]
        own_connection = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"127.0.0.1:{triton.grpc_port}", own_connection) as own:
            quick = pb_grpc.GRPCInferenceServiceStub(own)
            request = pb.ModelInferRequest(model_name="ident_int32", raw_input_contents=[bytes(4)])
            request.inputs.add(name="X", datatype="INT32", shape=[1])
            for _ in range(20):
                assert quick.ModelInfer(request, timeout=PATIENCE_S).raw_output_contents == [bytes(4)]
        rest = [number(reply) for reply in slow if reply.infer_response.outputs]
    assert first + rest == list(range(MANY))


@pytest.mark.clause("TR-S8", "TR-G14")
@pytest.mark.parametrize("after", [0, 1, 500])
def test_a_reader_who_cancels_frees_the_model(triton: TritonProcess, after: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{triton.grpc_port}") as channel:
        stub = pb_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelStreamInfer(iter([question(MANY)]), timeout=PATIENCE_S)
        for _ in range(after):
            next(call)
        call.cancel()
        (reply, last) = stub.ModelStreamInfer(iter([question(1, "next")]), timeout=PATIENCE_S)
        assert (number(reply), last.infer_response.id) == (0, "next")


@pytest.mark.clause("TR-S8")
def test_many_requests_on_one_stream_each_get_their_own(triton: TritonProcess) -> None:
    came: queue.Queue[Any] = queue.Queue()
    counts = [0, 1, 7, 0, 200, 3]
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{triton.grpc_port}") as client:
        client.start_stream(lambda result, error: came.put((result, error)))
        for id, count in enumerate(counts):
            one = triton_grpc.InferInput("IN", [count], "INT32")
            one.set_data_from_numpy(np.arange(count, dtype=np.int32))
            client.async_stream_infer("repeat", [one], request_id=str(id), enable_empty_final_response=True)
        found: dict[str, list[int]] = {str(id): [] for id in range(len(counts))}
        left = len(counts)
        while left:
            result, error = came.get(timeout=PATIENCE_S)
            assert error is None
            response = result.get_response()
            left -= response.parameters["triton_final_response"].bool_param
            if response.outputs:
                found[response.id].append(int(result.as_numpy("OUT")[0]))
        client.stop_stream()
    assert found == {str(id): list(range(count)) for id, count in enumerate(counts)}
