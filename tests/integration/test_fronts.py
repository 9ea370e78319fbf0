"""HTTP/1.1, HTTP/2 and gRPC over TLS, and gRPC at the edges of its frames."""

import http.client
import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import trustme
from certificates import files_of
from programs import program
from waiting import PATIENCE_S, until
from zoo import mlp_answer, write_mlp

from salver.testing.process import ServerProcess, TritonProcess
from salver.transport.grpc_frames import FrameReader, frame

ROW = np.linspace(-1, 1, 16, dtype=np.float32)[None]
ASK = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": ROW.ravel().tolist()}]}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[ServerProcess]:
    """Serves HTTPS and secure gRPC to callers with a certificate of the authority."""
    folder = tmp_path_factory.mktemp("tls")
    write_mlp(folder / "repository" / "mlp", 1)
    own = authority.issue_cert("127.0.0.1")
    own.private_key_pem.write_to_path(folder / "key.pem")
    with (folder / "cert.pem").open("wb") as file:
        for part in own.cert_chain_pems:
            file.write(part.bytes())
    authority.cert_pem.write_to_path(folder / "ca.pem")
    options = ["--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem")]
    options += ["--tls-client-ca", str(folder / "ca.pem")]
    with ServerProcess([folder / "repository"], folder / "log", options) as server:
        until(lambda: "ready in" in server.output(), server.output)
        yield server


def caller(authority: trustme.CA, folder: Path) -> tuple[Path, Path, Path]:
    mine = authority.issue_cert("caller@example.org")
    files = folder / "ca.pem", folder / "key.pem", folder / "cert.pem"
    authority.cert_pem.write_to_path(files[0])
    mine.private_key_pem.write_to_path(files[1])
    mine.cert_chain_pems[0].write_to_path(files[2])
    return files


@pytest.mark.clause("TR-R36")
def test_https_with_a_certificate(tls: ServerProcess, authority: trustme.CA, tmp_path: Path) -> None:
    root, key, chain = caller(authority, tmp_path)
    context = ssl.create_default_context(cafile=str(root))
    context.load_cert_chain(chain, key)
    connection = http.client.HTTPSConnection(tls.host, tls.port, context=context, timeout=PATIENCE_S)
    connection.request("POST", "/v2/models/mlp/infer", json.dumps(ASK))
    reply = json.loads(connection.getresponse().read())
    connection.close()
    np.testing.assert_allclose(reply["outputs"][0]["data"], mlp_answer(ROW).ravel(), rtol=1e-5)


@pytest.mark.clause("TR-R36")
def test_https_without_is_refused(tls: ServerProcess, authority: trustme.CA, tmp_path: Path) -> None:
    root, _, _ = caller(authority, tmp_path)
    context = ssl.create_default_context(cafile=str(root))
    connection = http.client.HTTPSConnection(tls.host, tls.port, context=context, timeout=PATIENCE_S)
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        connection.request("GET", "/v2")
        connection.getresponse()
    connection.close()


@pytest.mark.clause("TR-G13")
def test_grpc_with_a_certificate(tls: ServerProcess, authority: trustme.CA, tmp_path: Path) -> None:
    root, key, chain = caller(authority, tmp_path)
    credentials = grpc.ssl_channel_credentials(root.read_bytes(), key.read_bytes(), chain.read_bytes())
    with triton.InferenceServerClient(tls.address, ssl=True, creds=credentials) as client:
        given = triton.InferInput("x", [1, 16], "FP32")
        given.set_data_from_numpy(ROW)
        np.testing.assert_allclose(client.infer("mlp", [given]).as_numpy("y"), mlp_answer(ROW), rtol=1e-5)


def curl(*flags: str) -> str:
    done = subprocess.run(
        [program("curl"), "-sS", *flags], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.clause("TR-R36")
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_https_by_curl(tls: ServerProcess, authority: trustme.CA, tmp_path: Path, version: str) -> None:
    root, key, chain = map(str, caller(authority, tmp_path))
    url = f"https://{tls.host}:{tls.port}/v2/models/mlp/infer"
    flags = ["--cacert", root, "--key", key, "--cert", chain, "-w", "%{http_version}", "-d", json.dumps(ASK)]
    answer, _, used = curl(version, *flags, url).rpartition("}")
    np.testing.assert_allclose(
        json.loads(answer + "}")["outputs"][0]["data"], mlp_answer(ROW).ravel(), rtol=1e-5
    )
    assert used == version.removeprefix("--http")


@pytest.mark.clause("TR-G13")
@pytest.mark.parametrize("is_mutual", [False, True])
def test_tritonservers_flags(authority: trustme.CA, tmp_path: Path, is_mutual: bool) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    cert, key = files_of(authority, tmp_path)
    options = [
        f"--grpc-use-ssl{'-mutual' * is_mutual}=true",
        f"--grpc-server-cert={cert}",
        f"--grpc-server-key={key}",
        f"--grpc-root-cert={tmp_path / 'ca.pem'}",
        "--state-dir=",
    ]
    with TritonProcess([tmp_path / "models"], tmp_path / "log", options) as server:
        server.wait_ready()
        address = f"127.0.0.1:{server.ports['grpc']}"
        (tmp_path / "caller").mkdir()
        root, own_key, own = caller(authority, tmp_path / "caller")
        given = triton.InferInput("x", [64, 16], "FP32")
        given.set_data_from_numpy(np.tile(ROW, (64, 1)))
        mine = {"private_key": str(own_key), "certificate_chain": str(own)} if is_mutual else {}
        with triton.InferenceServerClient(address, ssl=True, root_certificates=str(root), **mine) as client:
            answer = client.infer("mlp", [given]).as_numpy("y")
            np.testing.assert_allclose(answer, np.tile(mlp_answer(ROW), (64, 1)), rtol=1e-5)
        with grpc.insecure_channel(address) as plain, pytest.raises(grpc.RpcError):
            plain.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=5)
        if is_mutual:
            strangers = grpc.ssl_channel_credentials(root.read_bytes())
            with grpc.secure_channel(address, strangers) as channel, pytest.raises(grpc.RpcError):
                channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=5)


@pytest.mark.clause("TR-R36")
def test_the_http_port_of_compat_triton(authority: trustme.CA, tmp_path: Path) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    cert, key = files_of(authority, tmp_path)
    options = [f"--tls-cert={cert}", f"--tls-key={key}", "--state-dir="]
    with TritonProcess([tmp_path / "models"], tmp_path / "log", options) as server:
        until(lambda: "ready in" in server.output(), server.output)
        flags = ["--cacert", str(tmp_path / "ca.pem"), "-d", json.dumps(ASK)]
        answer = json.loads(curl(*flags, f"https://{server.address}/v2/models/mlp/infer"))
        assert answer["model_name"] == "mlp"
        metrics = curl(f"http://127.0.0.1:{server.ports['metrics']}/metrics")
        assert "nv_inference_request_success" in metrics


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    """Compresses answers over gRPC, and lets pages of one origin ask."""
    folder = tmp_path_factory.mktemp("open")
    write_mlp(folder / "models" / "mlp", 1)
    options = [
        "--grpc-infer-response-compression-level=high",
        "--cors-origin=https://app.example.org",
        "--state-dir=",
    ]
    with TritonProcess([folder / "models"], folder / "log", options) as server:
        yield server.wait_ready()


def infer_request(rows: int) -> bytes:
    request = triton.service_pb2.ModelInferRequest(model_name="mlp")
    request.inputs.add(name="x", datatype="FP32", shape=[rows, 16])
    request.raw_input_contents.append(np.tile(ROW, (rows, 1)).tobytes())
    return bytes(request.SerializeToString())


@pytest.mark.clause("TR-G12")
@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
@pytest.mark.parametrize("accepted", ["identity,deflate,gzip", "deflate", "identity"])
def test_answers_compressed_as_the_flag_says(
    open_server: TritonProcess, tmp_path: Path, method: str, accepted: str
) -> None:
    message = infer_request(64)
    (tmp_path / "request").write_bytes(frame(message))
    url = f"http://127.0.0.1:{open_server.ports['grpc']}/inference.GRPCInferenceService/{method}"
    curl(
        "--http2-prior-knowledge", "-H", "content-type: application/grpc", "-H", "te: trailers",
        "-H", f"grpc-accept-encoding: {accepted}", "--data-binary", f"@{tmp_path / 'request'}",
        "-D", str(tmp_path / "headers"), "-o", str(tmp_path / "answer"), url,
    )  # fmt: skip
    headers = (tmp_path / "headers").read_text().lower()
    answer = (tmp_path / "answer").read_bytes()
    expected = {"identity": ""}.get(accepted, accepted.rpartition(",")[2])
    assert (f"grpc-encoding: {expected}" in headers) == bool(expected)
    assert answer[0] == bool(expected)
    (reply,) = FrameReader(1 << 20, expected or "identity").feed(answer)
    assert b"mlp" in reply
    assert not expected or len(answer) < len(reply)


@pytest.mark.clause("TR-G12")
def test_clients_read_compressed_answers(open_server: TritonProcess) -> None:
    given = triton.InferInput("x", [64, 16], "FP32")
    given.set_data_from_numpy(np.tile(ROW, (64, 1)))
    with triton.InferenceServerClient(f"127.0.0.1:{open_server.ports['grpc']}") as client:
        for compression in (None, "gzip", "deflate"):
            answer = client.infer("mlp", [given], compression_algorithm=compression).as_numpy("y")
            np.testing.assert_allclose(answer, np.tile(mlp_answer(ROW), (64, 1)), rtol=1e-5)


@pytest.mark.clause("TR-R36")
def test_a_page_of_another_origin(open_server: TritonProcess) -> None:
    url = f"{open_server.url}/v2/models/mlp/infer"
    origin = "Origin: https://app.example.org"
    asked = ["-X", "OPTIONS", "-H", "Access-Control-Request-Method: POST"]
    asked += ["-H", "Access-Control-Request-Headers: content-type"]
    told = curl("-i", "-H", origin, *asked, url).lower()
    assert told.startswith("http/1.1 204")
    assert "access-control-allow-origin: https://app.example.org" in told
    assert "access-control-allow-headers: content-type" in told
    told = curl("-i", "-H", origin, "-d", json.dumps(ASK), url)
    assert "access-control-allow-origin: https://app.example.org" in told.lower()
    assert '"model_name":"mlp"' in told
    told = curl("-i", "-H", "Origin: https://evil.example.org", *asked, url).lower()
    assert told.startswith("http/1.1 403")
