"""Messages compared with tritonclient's, and both in one process."""

import subprocess
import sys
from typing import Any

import pytest
import tritonclient.grpc.model_config_pb2 as config_pb
import tritonclient.grpc.service_pb2 as pb

from salver.dialects.oip import grpc_codec as oip_grpc
from salver.dialects.triton import grpc_codec as triton_grpc
from salver.dialects.triton.config_view import Facts, complete
from salver.dialects.triton.grpc_schema import build_all
from salver.transport.grpc_health import MESSAGES as HEALTH
from salver.words.messages import (
    InferRequest,
    InferResponse,
    ModelId,
    Signature,
    State,
    TensorSpec,
    VersionStatus,
)
from salver.words.tensor import DataType

_SIGNATURE = Signature(
    (TensorSpec("x", DataType.FP32, (-1, 16)),), (TensorSpec("y", DataType.BYTES, (-1, 1)),), True, "onnx_v1"
)


def _theirs(name: str) -> Any:
    outer, *inner = name.split(".")
    found = getattr(pb, outer, None) or getattr(config_pb, outer)
    for step in inner:
        found = getattr(found, step)
    return found.DESCRIPTOR


def _fields(descriptor: Any) -> dict[str, tuple[Any, ...]]:
    return {
        f.name: (
            f.number,
            f.type,
            f.is_repeated,
            f.message_type and f.message_type.full_name,
            f.containing_oneof and f.containing_oneof.name,
        )
        for f in descriptor.fields
    }


@pytest.mark.parametrize("name", sorted(build_all()))
def test_fields_are_tritons(name: str) -> None:
    assert _fields(build_all()[name].DESCRIPTOR) == _fields(_theirs(name))


def test_no_message_is_missing() -> None:
    theirs = {*pb.DESCRIPTOR.message_types_by_name, *config_pb.DESCRIPTOR.message_types_by_name}
    assert theirs <= set(build_all())
    assert set(HEALTH) == {"HealthCheckRequest", "HealthCheckResponse"}


@pytest.mark.parametrize(
    "order",
    [
        "salver.dialects.triton.grpc_codec tritonclient.grpc",
        "tritonclient.grpc salver.dialects.triton.grpc_codec",
    ],
)
def test_beside_tritonclient_in_either_order(order: str) -> None:
    code = "; ".join(f"import {name}" for name in order.split())
    code += "; from salver.dialects.triton.grpc_schema import build_all; build_all(); build_all()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_health_and_metadata() -> None:
    assert pb.ServerLiveResponse.FromString(oip_grpc.encode_server_live(True)).live
    assert pb.ServerReadyResponse.FromString(oip_grpc.encode_server_ready(True)).ready
    assert not pb.ModelReadyResponse.FromString(oip_grpc.encode_model_ready(False)).ready
    server = pb.ServerMetadataResponse.FromString(oip_grpc.encode_server_metadata("1.2"))
    assert (server.name, server.version) == ("salver", "1.2")
    assert "binary_tensor_data" in server.extensions
    model = pb.ModelMetadataResponse.FromString(
        oip_grpc.encode_model_metadata(ModelId("m", "2"), ["1", "2"], _SIGNATURE)
    )
    assert (model.name, list(model.versions), model.platform) == ("m", ["1", "2"], "onnx_v1")
    assert (model.inputs[0].datatype, list(model.inputs[0].shape)) == ("FP32", [-1, 16])
    request = pb.ModelMetadataRequest(name="m", version="2").SerializeToString()
    assert oip_grpc.decode_model_request(request) == ("m", "2")


def test_model_config_tells_the_batch_size() -> None:
    told = complete(b"", ModelId("m", "1"), _SIGNATURE, Facts("onnx", "model.onnx", 64))
    config = pb.ModelConfigResponse.FromString(triton_grpc.encode_model_config(told)).config
    assert (config.max_batch_size, config.backend) == (64, "onnxruntime")
    assert list(config.input[0].dims) == [16]
    assert config_pb.DataType.Name(config.input[0].data_type) == "TYPE_FP32"
    assert config_pb.DataType.Name(config.output[0].data_type) == "TYPE_STRING"


def test_index() -> None:
    statuses = [
        VersionStatus(ModelId("m", "1"), State.READY),
        VersionStatus(ModelId("m", "2"), State.FAILED, "broken"),
    ]
    both = pb.RepositoryIndexResponse.FromString(triton_grpc.encode_index(statuses, False))
    assert [(m.version, m.state, m.reason) for m in both.models] == [
        ("1", "READY", ""),
        ("2", "UNAVAILABLE", "broken"),
    ]
    ready = pb.RepositoryIndexResponse.FromString(triton_grpc.encode_index(statuses, True))
    assert [m.version for m in ready.models] == ["1"]
    assert triton_grpc.decode_index_request(pb.RepositoryIndexRequest(ready=True).SerializeToString())


def test_statistics() -> None:
    duration = {"count": 2, "ns": 10}
    shown = {
        "name": "m",
        "version": "1",
        "last_inference": 5,
        "inference_count": 3,
        "execution_count": 2,
        "inference_stats": {"success": duration, "queue": duration},
        "response_stats": {"0": {"success": duration}},
        "batch_stats": [{"batch_size": 2, "compute_infer": duration}],
        "memory_usage": [{"type": "CPU", "id": 0, "byte_size": 9}],
    }
    message = triton_grpc.encode_statistics({"model_stats": [shown]})
    got = pb.ModelStatisticsResponse.FromString(message).model_stats[0]
    assert (got.inference_count, got.inference_stats.queue.ns, got.batch_stats[0].batch_size) == (3, 10, 2)
    assert got.response_stats["0"].success.count == 2
    assert got.memory_usage[0].byte_size == 9


def test_stream_replies() -> None:
    response = InferResponse("m", "1", (), "7")
    request = InferRequest("m", ())
    good = pb.ModelStreamInferResponse.FromString(oip_grpc.encode_stream(request, response, True))
    assert (good.infer_response.id, good.error_message) == ("7", "")
    assert good.infer_response.parameters["triton_final_response"].bool_param
    bad = pb.ModelStreamInferResponse.FromString(oip_grpc.encode_stream_mark("7", error="no"))
    assert (bad.error_message, bad.infer_response.id) == ("no", "7")
    assert not bad.infer_response.parameters
    end = pb.ModelStreamInferResponse.FromString(oip_grpc.encode_stream_mark("7", "m", "1", is_final=False))
    assert (end.infer_response.model_name, end.infer_response.model_version) == ("m", "1")
    assert not end.infer_response.parameters["triton_final_response"].bool_param
    whole = pb.ModelInferResponse.FromString(oip_grpc.encode_infer(request, response))
    del good.infer_response.parameters["triton_final_response"]
    assert whole == good.infer_response
