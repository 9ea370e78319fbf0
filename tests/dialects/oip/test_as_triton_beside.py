"""What a tritonserver beside Salver answered to requests that no recorded case has, in the codecs."""

import json
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.service_pb2 as pb

from salver.dialects.oip import grpc_codec as oip_grpc
from salver.dialects.oip.faults import grpc_status, http_fault
from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.dialects.tensorflow.faults import tfs_fault
from salver.dialects.triton import grpc_codec as triton_grpc
from salver.dialects.triton.repository_calls import parse_load
from salver.encoding.bodies import HttpBody
from salver.words.errors import InvalidInput, NoVersion
from salver.words.messages import InferRequest, InferResponse, Signature
from salver.words.tensor import Tensor, tensor


def over_http(**parameters: Any) -> InferRequest:
    body = json.dumps({"inputs": [], "parameters": parameters}).encode()
    return OpenInferenceHttp().decode(HttpBody("m", "", body), Signature((), ()))


def over_grpc(outputs: dict[str, Any] | None = None, **parameters: Any) -> InferRequest:
    request = pb.ModelInferRequest(model_name="m")
    for name, (kind, value) in parameters.items():
        setattr(request.parameters[name], kind, value)
    output = request.outputs.add(name="y")
    for name, (kind, value) in (outputs or {}).items():
        setattr(output.parameters[name], kind, value)
    return oip_grpc.decode_infer(request.SerializeToString())


@pytest.mark.clause("TR-R23")
@pytest.mark.parametrize("id", [-1, True, 1.5, 1 << 64])
def test_a_sequence_id_in_json_is_a_number_without_sign_or_a_text(id: Any) -> None:
    with pytest.raises(InvalidInput, match=r"parameters\.sequence_id must be a whole number"):
        over_http(sequence_id=id)


@pytest.mark.clause("TR-R23")
@pytest.mark.parametrize("id", [0, 7, (1 << 64) - 1, "7", ""])
def test_sequence_ids_in_json(id: int | str) -> None:
    assert over_http(sequence_id=id).parameters == {"sequence_id": id}


@pytest.mark.clause("TR-R24")
def test_an_empty_binary_output_is_json_alone() -> None:
    asked = InferRequest("m", (), parameters={"binary_data_output": True})
    empty, full = tensor("e", np.zeros(0, "f4")), tensor("f", np.ones(1, "f4"))

    def headers(*outputs: Tensor) -> dict[bytes, bytes]:
        return dict(OpenInferenceHttp().encode(asked, InferResponse("m", "1", outputs)).headers)

    assert headers(empty) == {b"content-type": b"application/json"}
    assert b"inference-header-content-length" in headers(empty, full)


@pytest.mark.clause("TR-G10")
def test_parameters_of_outputs_that_mean_nothing_are_passed_over() -> None:
    given = {"own": ("uint64_param", 7), "triton_other": ("bool_param", True)}
    (output,) = over_grpc(given).outputs
    assert output.parameters == {}


@pytest.mark.clause("TR-R27")
@pytest.mark.parametrize("count", [0, -1])
def test_over_grpc_at_least_one_class_is_wanted(count: int) -> None:
    with pytest.raises(InvalidInput, match="invalid value for 'classification' parameter, expected >= 0"):
        over_grpc({"classification": ("int64_param", count)})


@pytest.mark.clause("TR-G11")
@pytest.mark.parametrize("kind", ["int64_param", "string_param"])
def test_whether_the_end_is_told_is_a_boolean(kind: str) -> None:
    value = {"int64_param": 1, "string_param": "x"}[kind]
    with pytest.raises(InvalidInput, match="'triton_enable_empty_final_response' parameter, expected bool"):
        over_grpc(triton_enable_empty_final_response=(kind, value))


@pytest.mark.clause("TR-R12")
def test_an_empty_configuration_loads_nothing() -> None:
    with pytest.raises(InvalidInput, match="'config' is empty"):
        parse_load(b'{"parameters": {"config": ""}}')
    request = pb.RepositoryModelLoadRequest(model_name="m")
    request.parameters["config"].string_param = ""
    with pytest.raises(InvalidInput, match="'config' is empty"):
        triton_grpc.decode_load_request(request.SerializeToString())


@pytest.mark.clause("TR-R3")
def test_a_version_that_is_no_number_is_no_route_of_triton() -> None:
    error = NoVersion("version 'x'")
    assert http_fault(error).status == 404
    assert tfs_fault(error).status == 400
    assert grpc_status(error).code == 3
