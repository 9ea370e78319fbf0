"""Bodies of load and unload requests, over HTTP and gRPC, as tritonclient sends them."""

import base64
import json
import re

import pytest
import tritonclient.grpc.service_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from salver.dialects.triton import grpc_codec as triton_grpc
from salver.dialects.triton.repository_calls import parse_load, parse_unload
from salver.words.artifacts import LoadOrder
from salver.words.errors import InvalidInput, Unsupported


def body(**parameters: object) -> bytes:
    return json.dumps({"parameters": {name.replace("__", ":"): v for name, v in parameters.items()}}).encode()


def test_a_load_without_parameters() -> None:
    for text in (b"", b"{}", b'{"parameters": {}}', b'{"other": 1}'):
        assert parse_load(text) == LoadOrder()


@pytest.mark.clause("TR-R12", "TR-G3")
@given(st.text(min_size=1), st.dictionaries(st.text(), st.binary()))
def test_configuration_and_files_on_both_wires(config: str, files: dict[str, bytes]) -> None:
    """TR-R12, TR-G3."""
    parameters = {"config": config} | {f"file:{n}": base64.b64encode(c).decode() for n, c in files.items()}
    assert parse_load(json.dumps({"parameters": parameters}).encode()) == LoadOrder(config, files)
    request = pb.RepositoryModelLoadRequest(model_name="m")
    request.parameters["config"].string_param = config
    for name, content in files.items():
        request.parameters[f"file:{name}"].bytes_param = content
    assert triton_grpc.decode_load_request(request.SerializeToString()) == ("m", LoadOrder(config, files))


def test_a_large_file_is_whole() -> None:
    content = bytes(range(256)) * 12_289  # decoded in five slices
    text = base64.b64encode(content).decode()
    assert parse_load(body(config="{}", file__1=text)).files == {"1": content}


@pytest.mark.parametrize("text", ["%%%", "AA", "A===", "AA==AAAA", "ä", "AAAA\n", "=" * 5 + "A" * (1 << 20)])
def test_what_is_not_base64(text: str) -> None:
    with pytest.raises(InvalidInput, match="load parameter 'file:1' is not base64"):
        parse_load(body(config="{}", file__1=text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[]", "must be a JSON object"),
        (b"{nope", "failed to parse the request JSON buffer"),
        (b'{"parameters": []}', "parameters must be an object"),
        (body(config={"a": 1}), "load parameter 'config' must be a string, not"),
        (body(file__1=3), "load parameter 'file:1' must be a string, not"),
        (
            body(whatever="x"),
            r"unexpected load parameter 'whatever'.* Known: config, file:<version>/<file>\.",
        ),
    ],
)
def test_a_load_that_is_wrong(text: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_load(text)


@pytest.mark.parametrize(
    ("name", "kind", "value", "message"),
    [
        (
            "config",
            "bytes_param",
            b"",
            "invalid value type for load parameter 'config', expected string_param.",
        ),
        (
            "file:1",
            "string_param",
            "",
            "invalid value type for load parameter 'file:1', expected bytes_param.",
        ),
        ("whatever", "bool_param", True, "unexpected load parameter 'whatever'"),
    ],
)
def test_a_grpc_load_that_is_wrong(name: str, kind: str, value: object, message: str) -> None:
    request = pb.RepositoryModelLoadRequest(model_name="m")
    setattr(request.parameters[name], kind, value)
    with pytest.raises(InvalidInput, match=f"^{re.escape(message)}"):
        triton_grpc.decode_load_request(request.SerializeToString())


@pytest.mark.clause("TR-R13")
def test_unload_over_http() -> None:
    """TR-R13: other parameters are nobody's business."""
    assert parse_unload(body(unload_dependents=True))
    for text in (b"", b"{}", body(unload_dependents=False, whatever=[1])):
        assert not parse_unload(text)
    for text in (body(unload_dependents=1), b"[]", b'{"parameters": 1}'):
        with pytest.raises(InvalidInput):
            parse_unload(text)


@pytest.mark.clause("TR-R13")
def test_unload_over_grpc() -> None:
    """TR-R13."""
    request = pb.RepositoryModelUnloadRequest(model_name="m")
    request.parameters["whatever"].int64_param = 1
    request.parameters["unload_dependents"].bool_param = True
    assert triton_grpc.decode_unload_request(request.SerializeToString()) == ("m", True)
    request.parameters["unload_dependents"].string_param = "yes"
    message = r"^invalid value type for 'unload_dependents' parameter, expected bool_param\."
    with pytest.raises(InvalidInput, match=message):
        triton_grpc.decode_unload_request(request.SerializeToString())


@pytest.mark.clause("TR-R37")
def test_a_repository_that_is_named() -> None:
    """TR-R37."""
    message = "^'repository_name' specification is not supported$"
    for parse in (parse_load, parse_unload):
        with pytest.raises(Unsupported, match=message):
            parse(b'{"repository_name": "r"}')
    named = pb.RepositoryModelLoadRequest(repository_name="r", model_name="m").SerializeToString()
    for decode in (triton_grpc.decode_load_request, triton_grpc.decode_unload_request):
        with pytest.raises(Unsupported, match=message):
            decode(named)
