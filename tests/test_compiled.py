"""The accelerated build: what may be compiled, and that it answers the same bytes as the pure one."""

import ast
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from compiled_modules import COMPILED
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded, StreamReset
from tritonclient.grpc import service_pb2
from zoo import infer_body, write_mlp

from salver.testing.process import ServerProcess

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "salver"
INFER = "/v2/models/mlp/infer"
LARGE_ROWS = 4096  # their tensor is received into memory of its own


def _classes(path: Path) -> Iterator[tuple[str, set[str]]]:
    """Classes of a module with the names of their bases."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            yield node.name, {base.id for base in node.bases if isinstance(base, ast.Name)}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_modules_have_nothing_that_compilation_changes(name: str) -> None:
    tree = ast.parse((SOURCE / name).read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not names & {"lazy_imports", "lazily"}, "all its imports are executed at once"
    records = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any("Struct" in ast.unparse(base) for base in node.bases)
    ]
    assert not records, "keywords of msgspec's classes are ignored"
    for node in ast.walk(tree):
        if isinstance(node, ast.Return | ast.Assign):
            assert not isinstance(node.value, ast.GeneratorExp), f"line {node.lineno} becomes a list"


def test_what_extends_a_compiled_class_is_compiled() -> None:
    classes = [(path, *found) for path in SOURCE.rglob("*.py") for found in _classes(path)]
    compiled = {SOURCE / name for name in COMPILED}
    owned = {name for path, name, _ in classes if path in compiled}
    others = {name for path, name, _ in classes if path not in compiled}
    extending = [
        f"{path}: {name}" for path, name, bases in classes if path not in compiled and bases & owned - others
    ]
    assert not extending


class _NewProcess(ServerProcess):
    """Server in a new interpreter, because the fork server of tests has one build."""

    spawn = staticmethod(subprocess.Popen)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServerProcess]]:
    """The pure build and the build that is tested, with a tiny model each."""
    folder = tmp_path_factory.mktemp("builds")
    write_mlp(folder / "mlp", 1)
    pure = {"PYTHONPATH": str(ROOT / "src")}
    with (
        _NewProcess([folder], folder / "pure.log", env=pure) as one,
        _NewProcess([folder], folder / "other.log") as other,
    ):
        yield [one.wait_ready(), other.wait_ready()]


def _http(
    method: str = "POST", path: str = INFER, body: bytes = b"", *, version: str = "1.1", more: str = ""
) -> bytes:
    """A request of HTTP/1.1, after which the connection is closed."""
    head = f"{method} {path} HTTP/{version}\r\nhost: x\r\nx-request-id: id\r\nconnection: close\r\n{more}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def _chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    head = f"POST {INFER} HTTP/1.1\r\nhost: x\r\nx-request-id: id\r\nconnection: close\r\n"
    return head.encode() + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def _binary(rows: int) -> bytes:
    """A request with a binary tensor, which asks for a binary one."""
    size = rows * 16 * 4
    document = {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [rows, 16], "parameters": {"binary_data_size": size}}
        ],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(document).encode()
    more = f"inference-header-content-length: {len(head)}\r\n"
    return _http(body=head + b"\0\0\0\x3f" * (size // 4), more=more)


BODY = json.dumps(infer_body()).encode()
KEPT = _http(body=BODY).replace(b"connection: close\r\n", b"")
HTTP1 = {
    "one": _http(body=BODY),
    "three in a row": KEPT + KEPT + _http(body=BODY),
    "HTTP/1.0": _http(body=BODY, version="1.0"),
    "HTTP/1.0 kept": _http(body=BODY, version="1.0").replace(b"close", b"keep-alive") + _http(),
    "chunked": _chunked(BODY, 10),
    "bad chunks": _chunked(BODY, 10).replace(b"\r\na\r\n", b"\r\nz\r\n"),
    "continue": _http(body=BODY, more="expect: 100-continue\r\n"),
    "binary": _binary(3),
    "large binary": _binary(LARGE_ROWS),
    "large JSON": _http(body=json.dumps(infer_body(rows=512)).encode()),
    "HEAD": _http("HEAD", "/v2/health/live"),
    "metadata": _http("GET", "/v2/models/mlp"),
    "unknown model": _http(body=BODY, path="/v2/models/nobody/infer"),
    "unknown path": _http("GET", "/nowhere"),
    "wrong method": _http("PUT", INFER, BODY),
    "no JSON": _http(body=b"{"),
    "wrong shape": _http(body=json.dumps(infer_body(columns=15)).encode()),
    "wrong type": _http(body=BODY.replace(b"FP32", b"INT8")),
    "bad header": _http(body=BODY, more="a b: c\r\n"),
    "two lengths": _http(body=BODY, more="content-length: 1\r\n"),
    "bare line feeds": b"GET / HTTP/1.1\n\n",
    "large head": _http(body=BODY, more=f"a: {'b' * 70_000}\r\n"),
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


def _ask(port: int, data: bytes) -> bytes:
    """Send bytes; return what is answered until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(data)
        answer = bytearray()
        try:
            while piece := connection.recv(1 << 16):
                answer += piece
        except ConnectionResetError:
            answer += b" (reset)"
        return bytes(answer)


@pytest.mark.build("compiled")
@pytest.mark.parametrize("name", HTTP1)
def test_http1_answers_the_same_bytes(servers: list[ServerProcess], name: str) -> None:
    pure, compiled = (_ask(server.port, HTTP1[name]) for server in servers)
    assert compiled == pure
    assert pure


def _message(rows: int = 1, model: str = "mlp", columns: int = 16) -> bytes:
    """A framed message of a gRPC call."""
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[rows, columns])
    request = service_pb2.ModelInferRequest(
        model_name=model, id="one", inputs=[tensor], raw_input_contents=[b"\0\0\0\x3f" * rows * columns]
    )
    whole: bytes = request.SerializeToString()
    return b"\0" + len(whole).to_bytes(4, "big") + whole


def _grpc(method: str = "ModelInfer", body: bytes | None = None, *more: tuple[str, str]) -> "Call":
    path = f"/inference.GRPCInferenceService/{method}"
    return [("content-type", "application/grpc"), ("te", "trailers"), *more], path, body or _message()


def _json(path: str = INFER, body: bytes = BODY, *more: tuple[str, str]) -> "Call":
    return [("x-request-id", "id"), *more], path, body


Call = tuple[list[tuple[str, str]], str, bytes]
HTTP2: dict[str, list[Call]] = {
    "JSON": [_json()],
    "JSON by four": [_json()] * 4,
    "gRPC": [_grpc()],
    "gRPC by eight": [_grpc()] * 8,
    "gRPC by eight of several sizes": [_grpc(body=_message(rows)) for rows in range(1, 9)],
    "large gRPC": [_grpc(body=_message(900))],
    "stream": [_grpc("ModelStreamInfer", _message() + _message(2))],
    "unknown model": [_json("/v2/models/nobody/infer"), _grpc(body=_message(model="nobody"))],
    "unknown method": [_grpc("Nothing")],
    "unknown path": [_json("/nowhere")],
    "wrong shape": [
        _grpc(body=_message(columns=15)),
        _json(body=json.dumps(infer_body(columns=15)).encode()),
    ],
    "no message": [_grpc(body=b"\0\0\0\0\x05hello"), _grpc(body=b"\0\0\0\0\x0fhello"), _grpc(body=b"\1")],
    "good and bad": [_grpc(), _json(body=b"{"), _grpc(body=_message(columns=3)), _json()],
    "two values": [_json("/v2/health/live", BODY, ("content-length", "1"), ("content-length", "2"))],
    "two equal values": [
        _json("/v2/health/live", BODY, *[("content-length", str(len(BODY)))] * 2),
        _json("/v2/health/live", BODY, ("a", "1"), ("a", "2")),
    ],
    "forbidden header": [_json("/v2/health/live", BODY, ("upgrade", "h2c"))],
    "timeout": [
        _grpc("ModelInfer", None, ("grpc-timeout", "0n")),
        _grpc("ModelInfer", None, ("grpc-timeout", "x")),
    ],
}


def _ask_http2(port: int, calls: list[Call]) -> bytes:
    """Make calls on one connection with one write; return what is answered until all are over."""
    caller = H2Connection(H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False))
    caller.initiate_connection()
    open_streams = set()
    for headers, path, body in calls:
        stream = caller.get_next_available_stream_id()
        open_streams.add(stream)
        pseudo = [(":method", "POST"), (":path", path), (":scheme", "http"), (":authority", "x")]
        caller.send_headers(stream, pseudo + headers)
        while len(body) > 16_384:
            caller.send_data(stream, body[:16_384])
            body = body[16_384:]
        caller.send_data(stream, body, end_stream=True)
    answer = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(caller.data_to_send())
        while open_streams and (piece := connection.recv(1 << 16)):
            answer += piece
            for event in caller.receive_data(piece):
                if isinstance(event, StreamEnded | StreamReset):
                    open_streams.discard(event.stream_id)
    return bytes(answer)


@pytest.mark.build("compiled")
@pytest.mark.parametrize("name", HTTP2)
def test_http2_and_grpc_answer_the_same_bytes(servers: list[ServerProcess], name: str) -> None:
    pure, compiled = (_ask_http2(server.port, HTTP2[name]) for server in servers)
    assert compiled == pure
    assert pure


@pytest.mark.build("compiled")
def test_the_build_is_told(servers: list[ServerProcess]) -> None:
    told = [json.loads(server.get("/api/v1/server")[1])["is_compiled"] for server in servers]
    assert told == [False, True]
    assert " compiled" in servers[1].output()
    assert " compiled" not in servers[0].output()
