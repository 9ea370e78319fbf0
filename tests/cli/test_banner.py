"""The start-up block: what it shows, and that its calls are right."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from waiting import PATIENCE_S

from salver.cli import banner
from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.encoding.bodies import HttpBody
from salver.ready import ReadyInfo
from salver.words.messages import ModelId, Signature, State, TensorSpec, VersionStatus
from salver.words.tensor import DATATYPES, DataType

IRIS = Signature(
    (TensorSpec("X", DataType.FP32, (-1, 4)),), (TensorSpec("label", DataType.INT64, (-1,)),), batched=True
)
IMAGE = Signature((TensorSpec("input", DataType.FP32, (-1, 3, 224, 224)),), (), batched=True)
TEXT = Signature((TensorSpec("it's text", DataType.BYTES, (-1,)),), (), batched=True)


def ready(host: str = "127.0.0.1", grpc: str = "8000", **models: Signature | str) -> ReadyInfo:
    """A signature stands for a model that is up, a text for the reason of one that is not."""
    statuses, signatures = [], {}
    for name, what in models.items():
        id = ModelId(name, "1")
        if isinstance(what, str):
            statuses.append(VersionStatus(id, State.FAILED, what, "onnx"))
        else:
            statuses.append(VersionStatus(id, State.READY, "", "onnx", 10, 0.26))
            signatures[id] = what
    url, grpc = f"http://{host}:8000", grpc and f"{host}:{grpc}"
    pages = {"metrics": f"{url}/metrics", "console": f"{url}/console/"}
    is_ready = len(signatures) == len(statuses)
    return ReadyInfo((host,), url, 1.25, tuple(statuses), signatures, grpc, **pages, is_ready=is_ready)


def test_rows_tell_state_inputs_and_reasons() -> None:
    block = banner.compose(ready(iris=IRIS, broken="no such\n  file"))
    assert block.rows == (
        ("iris", "1", "READY", "onnx", "0.3 s", "X FP32[-1, 4]", ""),
        ("broken", "1", "FAILED", "onnx", "", "", "no such file"),
    )


def test_what_is_to_be_pasted_keeps_its_lines() -> None:
    block = banner.compose(ready(double='x says nothing. Declare:\n[[inputs]]\nname = "x"'))
    assert block.rows[0][-1] == "x says nothing. Declare:"
    assert '\n[[inputs]]\nname = "x"\n' in "\n".join(block.lines)


def test_every_address_is_shown() -> None:
    text = "\n".join(banner.compose(ready(iris=IRIS)).lines)
    for part in (
        "ready in 1.2 s",
        "http://127.0.0.1:8000",
        "8000/metrics",
        "8000/console/",
        "gRPC     127.0.0.1:8000",
    ):
        assert part in text


def test_no_grpc_address_where_there_is_none() -> None:
    info = ready(grpc="", iris=IRIS)
    assert not [text for text in banner.compose(info).lines if "gRPC" in text]
    assert banner.as_record(info)["grpc"] is None


def test_nothing_to_paste_when_no_model_is_up() -> None:
    text = "\n".join(banner.compose(ready(broken="why")).lines)
    assert "curl" not in text
    assert "triton" not in text


def test_the_shortest_call_is_shown() -> None:
    text = "\n".join(banner.compose(ready(image=IMAGE, iris=IRIS)).lines)
    assert "/v2/models/iris/infer" in text
    assert "/v2/models/image/infer" not in text


def body_of(command: str) -> dict[str, object]:
    """The body that a shell would send, without sending it."""
    script = 'curl() { for last; do :; done; if [ "$last" = @- ]; then cat; else printf %s "$last"; fi; }\n'
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # on which python3 is
    done = subprocess.run(
        ["bash", "-c", script + command],
        capture_output=True,
        check=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PATH": path},
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


SIGNATURES = [IRIS, IMAGE, TEXT, Signature(IRIS.inputs + TEXT.inputs, ())]
NAMED_INPUTS = Signature((TensorSpec("inputs", DataType.FP32, (-1, 2)),), ())
HALF = Signature((TensorSpec("x", DataType.FP16, (1, 2)),), ())


@pytest.mark.parametrize("signature", [*SIGNATURES, HALF])
def test_the_curl_call_has_a_body_that_fits_and_is_short(signature: Signature) -> None:
    command = banner.curl("http://127.0.0.1:8000", "m", signature)
    assert len(command) < 300
    body = json.dumps(body_of(command)).encode()
    request = OpenInferenceHttp().decode(HttpBody("m", "", body), signature)
    assert [(t.name, t.datatype, list(t.shape)) for t in request.inputs] == [
        (spec.name, spec.datatype, [max(extent, 1) for extent in spec.shape]) for spec in signature.inputs
    ]


@pytest.mark.parametrize("signature", [*SIGNATURES, NAMED_INPUTS])
def test_the_same_in_the_protocols_own_form(signature: Signature) -> None:
    is_short = signature is NAMED_INPUTS
    command = banner.curl("http://127.0.0.1:8000", "m", signature, takes_short=is_short)
    assert len(command) < 500
    (sent,) = [body_of(command)["inputs"]]
    assert isinstance(sent, list)
    for tensor, spec in zip(sent, signature.inputs, strict=True):
        assert tensor["name"] == spec.name
        assert tensor["datatype"] == spec.datatype.name
        assert tensor["shape"] == [max(extent, 1) for extent in spec.shape]
        assert len(tensor["data"]) == np.prod(tensor["shape"])


def test_raw_inputs_for_a_task() -> None:
    text = TensorSpec("text", DataType.BYTES, (-1,))
    signature = Signature((text,), (), True, "huggingface_text-classification")
    wanted = """curl http://h:1/v1/models/a%20b -d '{"inputs": "I love you"}'"""
    assert banner.curl("http://h:1", "a b", signature) == wanted
    assert "$SALVER_TOKEN" in banner.curl("http://h:1", "a", signature, has_key=True)


def test_curl_asks_for_metadata_where_json_cannot_carry_the_input() -> None:
    assert banner.curl("http://h:1", "m", HALF, takes_short=False) == "curl http://h:1/v2/models/m"


@pytest.mark.parametrize("kind", DATATYPES.values(), ids=DATATYPES)
def test_the_tritonclient_call_makes_inputs_that_tritonclient_takes(kind: DataType) -> None:
    signature = Signature((TensorSpec("x", kind, (-1, 2)),), (TensorSpec("y", kind, (-1, 2)),))
    snippet = banner.triton_snippet("127.0.0.1:1", "m", signature)
    build = snippet[: snippet.index("answer =")]
    names: dict[str, list[object]] = {}
    exec(build, names)
    assert len(names["inputs"]) == 1


@pytest.mark.parametrize(
    ("host", "warned"),
    [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("10.0.0.5", True),
     ("example.org", True)],
)  # fmt: skip
def test_whoever_listens_widely_is_warned(host: str, warned: bool) -> None:
    assert bool(banner.exposure(host, "open")) is warned
    assert any("warning" in text for text in banner.compose(ready(host=host)).lines) is warned


def test_one_line_says_who_may_do_what() -> None:
    refused = banner.exposure("10.0.0.5", "refused", refuses=True)
    assert "run no model without --keys-file or --allow-anonymous; changes are refused" in refused
    assert "can use these models; changes need the token" in banner.exposure("10.0.0.5", "token")


def test_a_server_with_keys_says_so_in_place_of_a_warning() -> None:
    lines = banner.compose(msgspec.structs.replace(ready(host="0.0.0.0"), needs_key=True)).lines
    assert lines[-1].startswith("every request but liveness needs a key")
    assert not any("warning" in line for line in lines)


def test_calls_to_a_server_with_keys_send_the_one_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = banner.compose(msgspec.structs.replace(ready(iris=IRIS), needs_key=True)).lines
    (command,) = (line for line in lines if line.startswith("curl "))
    assert shlex.split(command)[1:3] == ["-H", "authorization: Bearer $SALVER_TOKEN"]
    monkeypatch.setenv("SALVER_TOKEN", "slv_1")
    (call,) = (line for line in lines if line.startswith("answer = "))
    headers = call[call.index("headers=") + len("headers=") : call.rindex(")")]
    assert eval(headers, {"os": os}) == {"authorization": "Bearer slv_1"}


def test_the_record_for_programs() -> None:
    record = banner.as_record(ready(iris=IRIS, broken="why"))
    assert record["event"] == "ready"
    assert record["models"] == [
        {
            "name": "iris",
            "version": "1",
            "state": "READY",
            "backend": "onnx",
            "reason": "",
            "bytes": 10,
            "load_seconds": 0.26,
        },
        {
            "name": "broken",
            "version": "1",
            "state": "FAILED",
            "backend": "onnx",
            "reason": "why",
            "bytes": 0,
            "load_seconds": 0.0,
        },
    ]
    json.dumps(record)


def test_names_are_quoted_for_the_shell() -> None:
    words = shlex.split(banner.curl("http://h:1", "m", TEXT))
    assert json.loads(words[-1]) == {"it's text": ["text"]}
    assert not re.search(r"[^\x20-\x7e\n]", banner.curl("http://h:1", "m", TEXT))


def test_names_are_quoted_in_addresses() -> None:
    assert (
        shlex.split(banner.curl("http://h:1", "a b/c'd", TEXT))[1]
        == "http://h:1/v2/models/a%20b%2Fc%27d/infer"
    )


def test_a_server_with_a_failed_version_does_not_call_itself_ready() -> None:
    lines = banner.compose(ready(iris=IRIS, broken="no such file")).lines
    assert lines[0] == "up, but not ready: 1 of 2 versions failed"


def test_a_failed_version_beside_one_that_serves_is_told_and_changes_nothing_else() -> None:
    info = msgspec.structs.replace(ready(iris=IRIS, broken="no such file"), is_ready=True)
    assert banner.compose(info).lines[0] == "ready in 1.2 s; 1 of 2 versions failed"
