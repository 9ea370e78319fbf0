"""The Open Inference Protocol, row by row, with plain requests."""

import json
from typing import Any

import pytest

from salver.testing.process import TritonProcess

INPUTS = [
    {"name": "INPUT0", "shape": [4], "datatype": "INT32", "data": [1, 2, 3, 4]},
    {"name": "INPUT1", "shape": [4], "datatype": "INT32", "data": [10, 20, 30, 40]},
]
INFER = "/v2/models/ver_all/infer"


@pytest.mark.clause("OIP-1")
def test_every_call(ask: Any) -> None:
    model = "/v2/models/ver_all"
    for path in (
        *("/v2", "/v2/health/live", "/v2/health/ready"),
        *(model, f"{model}/versions/1", f"{model}/ready", f"{model}/versions/1/ready"),
    ):
        assert ask("GET", path)[0] == 200, path
    for path in (f"{model}/infer", f"{model}/versions/1/infer"):
        assert ask("POST", path, {"inputs": INPUTS})[0] == 200, path


@pytest.mark.clause("OIP-3")
def test_bodies_of_health(ask: Any) -> None:
    assert ask("GET", "/v2/health/live") == (200, {"live": True})
    assert ask("GET", "/v2/health/ready") == (200, {"ready": True})
    assert ask("GET", "/v2/models/ver_all/ready") == (200, {"name": "ver_all", "ready": True})
    status, reply = ask("GET", "/v2/models/nosuch/ready")
    assert (status, reply["name"], reply["ready"]) == (400, "nosuch", False)


@pytest.mark.clause("OIP-7")
def test_server_metadata(ask: Any) -> None:
    found = ask("GET", "/v2")[1]
    assert set(found) == {"name", "version", "extensions"}
    assert all(isinstance(name, str) for name in found["extensions"])


@pytest.mark.clause("OIP-8")
def test_model_metadata(ask: Any) -> None:
    found = ask("GET", "/v2/models/addsub")[1]
    assert (found["name"], found["versions"], found["platform"]) == ("addsub", ["1"], "onnxruntime_onnx")
    for side in ("inputs", "outputs"):
        assert [set(tensor) for tensor in found[side]] == [{"name", "datatype", "shape"}] * 2
        assert all(tensor["shape"] == [-1, 4] for tensor in found[side])


@pytest.mark.clause("OIP-9", "OIP-10")
def test_a_request_and_its_reply(ask: Any) -> None:
    own = {"parameters": {"any": "thing"}, "outputs": [{"name": "OUTPUT1"}]}
    question = {"id": "my-7", "inputs": INPUTS, **own}
    status, reply = ask("POST", INFER, question)
    assert status == 200
    assert (reply["model_name"], reply["model_version"], reply["id"]) == ("ver_all", "3", "my-7")
    (output,) = reply["outputs"]
    assert output == {"name": "OUTPUT1", "datatype": "INT32", "shape": [4], "data": [11, 22, 33, 44]}
    assert "id" not in ask("POST", INFER, {"inputs": INPUTS})[1]


@pytest.mark.clause("OIP-11")
@pytest.mark.parametrize(
    ("kind", "shape", "data", "said"),
    [
        ("BOOL", [2], [True, False], [True, False]),
        ("FP64", [2], [1, -0.5], [1.0, -0.5]),
        ("STRING", [3], ["", "ä", "\u0000"], ["", "ä", "\u0000"]),
        ("INT64", [2], [-(2**63), 2**63 - 1], [-(2**63), 2**63 - 1]),
        ("UINT64", [1], [2**64 - 1], [2**64 - 1]),
        ("INT8", [4], [[1, 2], [3, 4]], [1, 2, 3, 4]),
        ("FP32", [0], [], []),
    ],
)
def test_data_by_kind(ask: Any, kind: str, shape: list[int], data: Any, said: Any) -> None:
    datatype = "BYTES" if kind == "STRING" else kind
    question = {"inputs": [{"name": "X", "shape": shape, "datatype": datatype, "data": data}]}
    status, reply = ask("POST", f"/v2/models/ident_{kind.lower()}/infer", question)
    assert (status, reply["outputs"][0]["data"], reply["outputs"][0]["shape"]) == (200, said, shape)


@pytest.mark.clause("OIP-12")
def test_parameters_are_strings_numbers_and_booleans(ask: Any) -> None:
    for value in ("text", 7, -1.5, True):
        question = {"inputs": INPUTS, "parameters": {"mine": value}}
        assert ask("POST", INFER, question)[0] == 200
    for value in ([1], {"a": 1}):
        assert ask("POST", INFER, {"inputs": INPUTS, "parameters": {"mine": value}})[0] == 400


@pytest.mark.clause("OIP-13")
def test_the_version_is_optional(ask: Any) -> None:
    for path, version in (("", "3"), ("/versions/1", "1"), ("/versions/2", "2")):
        status, reply = ask("POST", f"/v2/models/ver_all{path}/infer", {"inputs": INPUTS})
        assert (status, reply["model_version"]) == (200, version)
    for version in ("9", "12345678901234567890"):
        assert ask("POST", f"/v2/models/ver_all/versions/{version}/infer", {"inputs": INPUTS})[0] == 404


@pytest.mark.clause("OIP-14")
@pytest.mark.parametrize(
    ("question", "status"),
    [
        ({}, 400),
        ({"inputs": []}, 400),
        ({"inputs": INPUTS[:1]}, 400),
        ({"inputs": [INPUTS[0], INPUTS[0]]}, 400),
        ({"inputs": [*INPUTS, {**INPUTS[0], "name": "MORE"}]}, 400),
        ({"inputs": INPUTS, "outputs": [{"name": "NONE"}]}, 400),
        ({"inputs": [INPUTS[0], {**INPUTS[1], "datatype": "INT31"}]}, 400),
        ({"inputs": [INPUTS[0], {**INPUTS[1], "shape": [5]}]}, 400),
        ({"inputs": [INPUTS[0], {**INPUTS[1], "shape": [-4]}]}, 400),
        ({"inputs": [INPUTS[0], {**INPUTS[1], "shape": [2**40, 2**40]}]}, 400),
        ({"inputs": [INPUTS[0], {**INPUTS[1], "data": [1, 2, 3]}]}, 400),
    ],
)
def test_what_is_wrong_is_a_status_and_a_text(ask: Any, question: Any, status: int) -> None:
    found, reply = ask("POST", INFER, question)
    assert found == status
    assert set(reply) == {"error"} and reply["error"]


@pytest.mark.clause("OIP-15")
def test_ready_means_that_every_model_can_infer(ask: Any, http: Any) -> None:
    assert ask("GET", "/v2/health/ready")[0] == 200
    status, _ = ask("POST", "/v2/repository/models/nosuch/load", {})
    assert status in (400, 500)
    assert ask("GET", "/v2/health/live") == (200, {"live": True})
    http.unload_model("nosuch")
    assert ask("GET", "/v2/health/ready")[0] == 200


@pytest.mark.clause("OIP-5", "OIP-18")
def test_generate_with_parameters_for_the_model(ask: Any) -> None:
    parameters = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 2, "details": False}
    question = {"text_input": "to be or not", "parameters": parameters}
    status, reply = ask("POST", "/v2/models/words/versions/1/generate", question)
    assert (status, reply["text_output"]) == (200, "to be")
    assert (reply["model_name"], reply["model_version"]) == ("words", "1")


@pytest.mark.clause("OIP-19")
def test_each_event_is_a_reply_of_its_own(triton: TritonProcess) -> None:
    question = json.dumps({"text_input": "a b", "stream": True}).encode()
    status, body = triton.ask("POST", "/v2/models/words/versions/1/generate_stream", question)
    events = [json.loads(event.removeprefix(b"data: ")) for event in body.split(b"\n\n") if event]
    assert status == 200
    assert [event["text_output"] for event in events] == ["a", "b"]


@pytest.mark.clause("OIP-20")
def test_errors_of_generate_have_tritons_status(ask: Any) -> None:
    for question, status in (({"text_input": 5}, 400), ({}, 400), ({"text_input": "FAIL"}, 400)):
        found, reply = ask("POST", "/v2/models/words/generate", question)
        assert found == status
        assert reply["error"]
    assert ask("POST", "/v2/models/nosuch/generate", {"text_input": "a"})[0] == 404
