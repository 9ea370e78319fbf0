"""Triton's HTTP interface, row by row, with its own client and with plain requests."""

import gzip
import json
import socket
import subprocess
import zlib
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton_http
from programs import program
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype

from salver.testing.process import TritonProcess

ONE, TWO = [1, 2, 3, 4], [10, 20, 30, 40]
INFER = "/v2/models/addsub_nobatch/infer"
EXTENSIONS = {
    "classification",
    "model_repository",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "cuda_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
}


def tensor(name: str, data: Any, shape: list[int], datatype: str = "INT32", **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data, **more}


def sums(first: Any = ONE, second: Any = TWO, shape: tuple[int, ...] = (4,), **more: Any) -> dict[str, Any]:
    inputs = [tensor("INPUT0", first, list(shape)), tensor("INPUT1", second, list(shape))]
    return {"inputs": inputs, **more}


def outputs(reply: dict[str, Any]) -> dict[str, list[Any]]:
    return {output["name"]: output["data"] for output in reply["outputs"]}


def given(name: str, values: np.ndarray, *, binary: bool = True) -> triton_http.InferInput:
    found = triton_http.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    found.set_data_from_numpy(values, binary_data=binary)
    return found


@pytest.mark.clause("TR-R1")
def test_server_metadata(http: Any) -> None:
    found = http.get_server_metadata()
    assert found["name"] == "triton"
    assert found["version"]
    assert set(found["extensions"]) >= EXTENSIONS


@pytest.mark.clause("TR-R2")
def test_health(ask: Any) -> None:
    for name in ("live", "ready"):
        assert ask("GET", f"/v2/health/{name}") == (200, {name: True})
        assert ask("POST", f"/v2/health/{name}")[0] == 405


@pytest.mark.clause("TR-R3")
def test_ready_of_models_and_versions(ask: Any) -> None:
    assert ask("GET", "/v2/models/ver_all/versions/2/ready")[0] == 200
    for path in ("nosuch/ready", "ver_all/versions/9/ready"):
        status, reply = ask("GET", f"/v2/models/{path}")
        assert (status, reply["error"]) == (400, "Model version not ready")


@pytest.mark.clause("TR-R4")
def test_metadata_of_a_version(http: Any) -> None:
    found = http.get_model_metadata("ver_all", "2")
    assert (found["versions"], found["platform"]) == (["2"], "onnxruntime_onnx")
    assert found["inputs"] == [{"name": f"INPUT{n}", "datatype": "INT32", "shape": [4]} for n in (0, 1)]
    assert http.get_model_metadata("ver_all")["versions"] == ["1", "2", "3"]
    assert http.get_model_metadata("addsub")["inputs"][0]["shape"] == [-1, 4]


@pytest.mark.clause("TR-R5")
def test_infer_of_a_version_and_of_the_newest(ask: Any) -> None:
    for path, version in (("ver_all/versions/1", "1"), ("ver_all", "3")):
        status, reply = ask("POST", f"/v2/models/{path}/infer", sums())
        assert (status, reply["model_name"], reply["model_version"]) == (200, "ver_all", version)
        wanted = [11, 22, 33, 44] if version == "1" else [-9, -18, -27, -36]  # newer ones swap their outputs
        assert outputs(reply)["OUTPUT0"] == wanted


@pytest.mark.clause("TR-R6")
def test_generate_and_its_stream(triton: TritonProcess, ask: Any) -> None:
    question = {"id": "g", "text_input": "to be or not", "parameters": {"max_tokens": 2}}
    answer = {"model_name": "words", "model_version": "1"}
    assert ask("POST", "/v2/models/words/generate", question) == (
        200,
        {"id": "g", **answer, "text_output": "to be"},
    )
    question = {"text_input": "to be or not", "stream": True}
    status, body = triton.ask("POST", "/v2/models/words/generate_stream", json.dumps(question).encode())
    events = [json.loads(line.removeprefix(b"data: ")) for line in body.split(b"\n\n") if line]
    assert status == 200
    assert events == [{**answer, "text_output": word} for word in ("to", "be", "or", "not")]


@pytest.mark.clause("TR-R6")
@pytest.mark.parametrize(
    ("question", "status", "text"),
    [
        ({"text_input": "EMPTY"}, 200, "generate expects model to produce exactly 1 response"),
        ({"text_input": "a TWICE"}, 200, "generate expects model to produce exactly 1 response"),
        ({"text_input": "FAIL"}, 400, "a word failed"),
        ({"text_input": "a", "o": {}}, 400, "parameter 'o' has invalid type. It should be either"),
        ({"text_input": ["a", "b"]}, 400, "The schema can not convert input 'text_input' to tensor with"),
        ({"text_input": "a", "triton_x": 1}, 400, "reserved"),
    ],
)
def test_what_generate_refuses(ask: Any, question: dict[str, Any], status: int, text: str) -> None:
    found, reply = ask("POST", "/v2/models/words/generate", question)
    assert found == status
    assert text in reply["error"]


@pytest.mark.clause("TR-R7")
def test_the_configuration_is_whole(ask: Any, http: Any) -> None:
    found = http.get_model_config("addsub")
    keys = (
        "name platform backend runtime version_policy max_batch_size input output batch_input batch_output "
        "optimization dynamic_batching instance_group default_model_filename cc_model_filenames metric_tags "
        "parameters model_warmup"
    )
    assert set(keys.split()) <= set(found)
    assert (found["max_batch_size"], found["platform"]) == (8, "onnxruntime_onnx")
    assert found["input"][0]["dims"] == [4]
    assert ask("GET", "/v2/models/ver_all/versions/2/config")[1]["name"] == "ver_all"
    assert ask("GET", "/v2/models/nosuch/config")[0] == 404


@pytest.mark.clause("TR-R8")
def test_statistics_have_tritons_shape(ask: Any, http: Any) -> None:
    before = http.get_inference_statistics("labels")["model_stats"][0]
    for rows in (1, 3):
        http.infer("labels", [given("X", np.zeros((rows, 4), np.float32))])
    (after,) = http.get_inference_statistics("labels", "1")["model_stats"]
    assert after["inference_count"] - before["inference_count"] == 4
    assert after["execution_count"] - before["execution_count"] == 2
    phases = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    for phase in (*phases, "cache_hit", "cache_miss"):
        assert set(after["inference_stats"][phase]) == {"count", "ns"}
    assert {entry["batch_size"] for entry in after["batch_stats"]} >= {1, 3}
    every = {entry["name"] for entry in ask("GET", "/v2/models/stats")[1]["model_stats"]}
    assert {"labels", "addsub", "ver_all"} <= every
    for path, text in (
        ("nosuch", "requested model 'nosuch' is not available"),
        ("ver_all/versions/8", "requested model version is not available for model 'ver_all'"),
    ):
        assert ask("GET", f"/v2/models/{path}/stats") == (400, {"error": text})


@pytest.mark.clause("TR-R17")
def test_there_is_no_list_by_get(ask: Any) -> None:
    assert ask("GET", "/v2/models") == (404, {"error": "Not Found"})


@pytest.mark.clause("TR-R18")
@pytest.mark.parametrize(
    ("verb", "path", "status", "text"),
    [
        ("GET", "/v2/nothing", 404, "Not Found"),
        ("GET", "/v2/", 404, "Not Found"),
        ("GET", "/v2/health/ready/", 404, "Not Found"),
        ("GET", INFER, 405, "Method Not Allowed"),
        ("POST", "/v2", 405, "Method Not Allowed"),
        ("PUT", "/v2/logging", 405, "Method Not Allowed"),
    ],
)
def test_unknown_paths_and_wrong_verbs(ask: Any, verb: str, path: str, status: int, text: str) -> None:
    assert ask(verb, path) == (status, {"error": text})


@pytest.mark.clause("TR-R19")
@pytest.mark.parametrize(
    ("code", "status"), [(0, 400), (1, 500), (2, 404), (3, 400), (4, 503), (5, 501), (6, 400), (7, 400)]
)
def test_the_status_of_a_models_error(ask: Any, code: int, status: int) -> None:
    question = {"inputs": [tensor("CODE", [code], [1])]}
    found, reply = ask("POST", "/v2/models/raiser/infer", question)
    assert found == status
    assert "asked for" in reply["error"]


@pytest.mark.clause("TR-R20")
@pytest.mark.parametrize("data", [ONE + TWO, [ONE, TWO], [[ONE[:2], ONE[2:]], [TWO[:2], TWO[2:]]]])
def test_data_is_flat_or_nested(ask: Any, data: Any) -> None:
    status, reply = ask("POST", "/v2/models/addsub/infer", sums(data, [0] * 8, (2, 4), id="x"))
    assert (status, reply["id"]) == (200, "x")
    assert outputs(reply) == {"OUTPUT0": ONE + TWO, "OUTPUT1": ONE + TWO}


@pytest.mark.clause("TR-R20")
def test_outputs_are_all_or_those_named(ask: Any) -> None:
    assert list(outputs(ask("POST", INFER, sums())[1])) == ["OUTPUT0", "OUTPUT1"]
    assert list(outputs(ask("POST", INFER, sums(outputs=[{"name": "OUTPUT1"}]))[1])) == ["OUTPUT1"]


@pytest.mark.clause("TR-R21", "TR-R24")
def test_one_input_in_binary_and_one_in_json(http: Any) -> None:
    one, two = np.array(ONE, np.int32), np.array(TWO, np.int32)
    for binary in ((True, False), (False, True)):
        inputs = [given("INPUT0", one, binary=binary[0]), given("INPUT1", two, binary=binary[1])]
        wanted = [
            triton_http.InferRequestedOutput("OUTPUT1", binary_data=True),
            triton_http.InferRequestedOutput("OUTPUT0", binary_data=False),
        ]
        result = http.infer("addsub_nobatch", inputs, outputs=wanted)
        assert result.as_numpy("OUTPUT0").tolist() == [11, 22, 33, 44]
        assert result.as_numpy("OUTPUT1").tolist() == [-9, -18, -27, -36]
        assert "data" in result.get_output("OUTPUT0") and "data" not in result.get_output("OUTPUT1")


@pytest.mark.clause("TR-R22")
def test_binary_for_all_outputs_at_once(triton: TritonProcess) -> None:
    question = json.dumps(sums(parameters={"binary_data_output": True})).encode()
    status, body = triton.ask("POST", INFER, question)
    head, _, tail = body.partition(b"}]}")
    assert status == 200
    assert [o["parameters"] for o in json.loads(head + b"}]}")["outputs"]] == [{"binary_data_size": 16}] * 2
    assert np.frombuffer(tail, "<i4").tolist() == [11, 22, 33, 44, -9, -18, -27, -36]


@pytest.mark.clause("TR-R23")
def test_parameters_of_ones_own_reach_the_model(ask: Any) -> None:
    own = {"colour": "red", "n": 3, "f": 1.5, "b": True}
    question = {"id": "q", "inputs": [tensor("IN", [1], [1])], "parameters": own}
    facts = json.loads(outputs(ask("POST", "/v2/models/echo_facts/infer", question)[1])["FACTS"][0])
    assert (facts["id"], facts["parameters"]) == ("q", own)
    question["parameters"] = {"triton_mine": 1}
    status, reply = ask("POST", "/v2/models/echo_facts/infer", question)
    assert status == 400
    assert "parameter keys starting with 'triton_' are reserved" in reply["error"]


@pytest.mark.clause("TR-R25")
@pytest.mark.parametrize("headers", [{"Inference-Header-Content-Length": "0"}, {}])
def test_a_body_that_is_the_one_input(triton: TritonProcess, headers: dict[str, str]) -> None:
    values = np.array([1.5, -2.0, 4.0], "<f4")
    status, body = triton.ask("POST", "/v2/models/ident_fp32/infer", values.tobytes(), headers)
    if not headers:  # without the header, a body is JSON
        assert status == 400
        return
    assert status == 200
    head, _, tail = body.partition(b"}]}")
    assert json.loads(head + b"}]}")["outputs"][0]["shape"] == [3]
    assert tail == values.tobytes()
    text = triton.ask("POST", "/v2/models/one_string/infer", b"any \x00 bytes", headers)[1]
    assert text.endswith(b"\x0b\x00\x00\x00any \x00 bytes")
    assert triton.ask("POST", INFER, bytes(16), headers)[0] == 400  # two inputs


KINDS = ("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
FLOATS = ("FP16", "BF16", "FP32", "FP64")


def extremes(kind: str) -> np.ndarray:
    if kind == "STRING":
        return np.array([b"", "ä €".encode(), b"a\x00b"], object)
    if kind == "BF16":
        return np.array([1.0, -2.5, 3.3e38], ml_dtypes.bfloat16)
    kind = triton_to_np_dtype(kind)
    if np.issubdtype(kind, np.integer):
        return np.array([np.iinfo(kind).min, 0, np.iinfo(kind).max], kind)
    return np.array([True, False] if kind is bool else [np.finfo(kind).min, 0.5, np.finfo(kind).tiny], kind)


@pytest.mark.clause("TR-R26")
@pytest.mark.parametrize("kind", [*KINDS, *FLOATS, "STRING"])
@pytest.mark.parametrize("is_empty", [False, True])
def test_extremes_and_empty_tensors_of_each_datatype(either: Any, kind: str, is_empty: bool) -> None:
    client, module = either
    values = extremes(kind)[: 0 if is_empty else None]
    names = ("INPUT0", "OUTPUT0") if kind == "BF16" else ("X", "Y")
    one = module.InferInput(names[0], list(values.shape), "BYTES" if kind == "STRING" else kind)
    one.set_data_from_numpy(values)
    found = client.infer(f"ident_{kind.lower()}", [one]).as_numpy(names[1])
    assert found.shape == values.shape
    assert found.tolist() == values.tolist()


@pytest.mark.clause("TR-R26", "TR-R37")
@pytest.mark.parametrize("kind", ["FP16", "BF16"])
def test_half_floats_are_binary_only(ask: Any, kind: str) -> None:
    names = ("INPUT0", "OUTPUT0") if kind == "BF16" else ("X", "Y")
    question = {"inputs": [tensor(names[0], [1.0], [1], kind)]}
    status, reply = ask("POST", f"/v2/models/ident_{kind.lower()}/infer", question)
    assert status == 400
    text = f"receiving {kind} data via JSON is not supported. Please use the binary data format for input"
    assert text in reply["error"]


@pytest.mark.clause("TR-R27")
def test_classes_with_labels_ties_and_more_than_there_are(either: Any) -> None:
    client, module = either
    values = np.array([[1, 3, 3, -2], [0, 0, 0, 0]], np.float32)
    one = module.InferInput("X", [2, 4], "FP32")
    one.set_data_from_numpy(values)
    wanted = [
        module.InferRequestedOutput("Y", class_count=2),
        module.InferRequestedOutput("Z", class_count=9),
    ]
    result = client.infer("labels", [one], outputs=wanted)
    best = [[text.decode().partition(":")[2] for text in row] for row in result.as_numpy("Y")]
    assert best == [["1:bee", "2:cat"], ["0:ant", "1:bee"]]
    assert [text.decode().split(":")[1] for text in result.as_numpy("Z")[0]] == ["3", "0", "1", "2"]
    assert float(result.as_numpy("Z")[0][0].decode().split(":")[0]) == 2.0


@pytest.mark.clause("TR-R28")
@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_both_ways(triton: TritonProcess, http: Any, name: str, pack: Any) -> None:
    inputs = [given(n, np.array(v, np.int32)) for n, v in (("INPUT0", ONE), ("INPUT1", TWO))]
    result = http.infer(
        "addsub_nobatch",
        inputs,
        request_compression_algorithm=name,
        response_compression_algorithm=name,
    )
    assert result.as_numpy("OUTPUT0").tolist() == [11, 22, 33, 44]
    body = pack(b'{"text_input":"a"}')
    for path in ("generate", "generate_stream"):
        headers = {"content-encoding": name}
        status, reply = triton.ask("POST", f"/v2/models/words/{path}", body, headers)
        text = "Unsupported content-encoding, only 'identity' is supported."
        assert (status, json.loads(reply)) == (400, {"error": text})


@pytest.mark.clause("TR-R29")
def test_nesting_has_an_end(triton: TritonProcess) -> None:
    body = b'{"inputs":[{"name":"INPUT0","shape":[4],"datatype":"INT32","data":'
    status, reply = triton.ask("POST", INFER, body + b"[" * 150 + b"]" * 150 + b"}]}")
    assert status == 400
    assert "JSON nesting depth exceeds maximum allowed limit (100)" in json.loads(reply)["error"]


@pytest.mark.clause("TR-R29")
def test_a_body_in_very_many_chunks(triton: TritonProcess) -> None:
    body = json.dumps(sums()).encode()
    with socket.create_connection((triton.host, triton.port), 20) as link:
        head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\n"
        head += "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body + b" " * 70_000)
        link.sendall(head.encode() + chunks + b"0\r\n\r\n")
        with link.makefile("rb") as reply:
            answer = reply.read()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Chunked request body exceeds maximum of 65536 non-empty chunks" in answer


@pytest.mark.clause("TR-R30")
@pytest.mark.parametrize(
    ("model", "inputs", "text"),
    [
        (
            "addsub",
            [tensor("INPUT0", [1] * 5, [1, 5]), tensor("INPUT1", TWO, [1, 4])],
            "unexpected shape for input 'INPUT0' for model 'addsub'. Expected [-1,4], got [1,5].",
        ),
        (
            "addsub_nobatch",
            [tensor("INPUT0", [1.0] * 4, [4], "FP32"), tensor("INPUT1", TWO, [4])],
            "inference input 'INPUT0' data-type is 'FP32', but model 'addsub_nobatch' expects 'INT32'",
        ),
        (
            "addsub_nobatch",
            [tensor("INPUT0", ONE, [4])],
            "expected 2 inputs but got 1 inputs for model 'addsub_nobatch'. Got input(s) ['INPUT0'], but "
            "missing required input(s) ['INPUT1']. Please provide all required input(s).",
        ),
        (
            "optional",
            [tensor("A", [1], [1]), tensor("Q", [1], [1])],
            "unexpected inference input 'Q' for model 'optional'",
        ),
    ],
)
def test_what_does_not_fit_is_told_in_tritons_words(
    ask: Any, model: str, inputs: list[Any], text: str
) -> None:
    status, reply = ask("POST", f"/v2/models/{model}/infer", {"id": "r9", "inputs": inputs})
    assert status == 400
    assert reply["error"].removeprefix("[request id: r9] ").startswith(text)


@pytest.mark.clause("TR-R30")
def test_unknown_models_and_versions(ask: Any) -> None:
    status, reply = ask("POST", "/v2/models/nosuch/infer", sums())
    assert (status, reply["error"]) == (404, "Request for unknown model: 'nosuch' is not found")
    status, reply = ask("POST", "/v2/models/ver_specific/versions/2/infer", sums())
    text = "Request for unknown model: 'ver_specific' version 2 is not found"
    assert (status, reply["error"]) == (404, text)


@pytest.mark.clause("TR-R31")
def test_a_decoupled_model_is_not_for_infer(ask: Any) -> None:
    status, reply = ask("POST", "/v2/models/repeat/infer", {"inputs": [tensor("IN", [1, 2], [2])]})
    assert status == 501
    assert "doesn't support models with decoupled transaction policy" in reply["error"]


@pytest.mark.clause("TR-R36")
def test_http2_and_no_cors(triton: TritonProcess) -> None:
    curl = program("curl")
    command = [curl, "-sS", "-i", "--max-time", "20", "--http2-prior-knowledge", "-H", "Origin: http://x"]
    done = subprocess.run([*command, f"{triton.url}/v2/health/live"], capture_output=True, check=True)
    assert done.stdout.startswith(b"HTTP/2 200")
    assert b"access-control" not in done.stdout.lower()


@pytest.mark.clause("TR-R37")
def test_a_named_repository_is_not_there(ask: Any) -> None:
    status, reply = ask("POST", "/v2/repository/elsewhere/models/addsub/load", {})
    assert status == 501
    assert "'repository_name' specification is not supported" in reply["error"]


@pytest.mark.clause("TR-R12", "TR-C1", "TR-C3")
def test_a_load_brings_a_configuration(http: Any) -> None:
    config = {
        "name": "tagged",
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "default_model_filename": "model.onnx",
        "input": [{"name": f"INPUT{n}", "data_type": "TYPE_INT32", "dims": [4]} for n in (0, 1)],
        "output": [{"name": "OUTPUT0", "data_type": "TYPE_INT32", "dims": [4]}],
    }
    try:
        http.load_model("tagged", config=json.dumps(config))
        found = http.get_model_config("tagged")
        assert (found["backend"], found["max_batch_size"]) == ("onnxruntime", 0)
        assert found["default_model_filename"] == "model.onnx"
        assert [output["name"] for output in http.get_model_metadata("tagged")["outputs"]] == ["OUTPUT0"]
        with pytest.raises(InferenceServerException, match="differ"):
            http.load_model("tagged", config=json.dumps({**config, "platform": "pytorch_libtorch"}))
        http.load_model("tagged", config=json.dumps({**config, "platform": "onnxruntime_onnx"}))
    finally:
        http.unload_model("tagged")


@pytest.mark.clause("TR-C3")
def test_more_rows_than_the_largest_batch_are_several_runs(http: Any) -> None:
    rows = np.arange(36, dtype=np.int32).reshape(9, 4)
    result = http.infer("addsub", [given("INPUT0", rows), given("INPUT1", rows)])
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), rows * 2)
    with pytest.raises(InferenceServerException, match="unexpected shape for input 'INPUT0'"):
        http.infer("addsub_nobatch", [given("INPUT0", rows[:1]), given("INPUT1", rows[:1])])
