"""The same application on the other front (uvicorn), and behind TLS."""

import http.client
import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
import trustme

from salver.testing.process import ServerProcess
from zoo import mlp_answer, write_mlp

ROW = np.linspace(-1, 1, 16, dtype=np.float32)[None]
ASK = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": ROW.ravel().tolist()}]}


@pytest.fixture(scope="module")
def uvicorn_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("uvicorn")
    write_mlp(folder / "repository" / "mlp", 1)
    with ServerProcess([folder / "repository"], folder / "log", ["--front", "uvicorn"]) as server:
        yield server.wait_ready()


def test_json_and_errors_on_uvicorn(uvicorn_server: ServerProcess) -> None:
    status, reply = uvicorn_server.post("/v2/models/mlp/infer", ASK)
    assert status == 200
    np.testing.assert_allclose(reply["outputs"][0]["data"], mlp_answer(ROW).ravel(), rtol=1e-5)
    assert uvicorn_server.post("/v2/models/none/infer", ASK)[0] == 404
    assert uvicorn_server.get("/nowhere")[0] == 404
    assert b"salver_requests_total" in uvicorn_server.get("/metrics")[1]


def test_binary_tensors_on_uvicorn(uvicorn_server: ServerProcess) -> None:
    with triton_http.InferenceServerClient(uvicorn_server.address) as client:
        given = triton_http.InferInput("x", [1, 16], "FP32")
        given.set_data_from_numpy(ROW)
        answer = client.infer("mlp", [given])
        np.testing.assert_allclose(answer.as_numpy("y"), mlp_answer(ROW), rtol=1e-5)


def test_uvicorn_tells_that_it_speaks_no_grpc(uvicorn_server: ServerProcess) -> None:
    assert "not on the uvicorn front" in uvicorn_server.output()


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
        wait_for(server, "ready in")
        yield server


def wait_for(server: ServerProcess, text: str) -> None:
    for _ in range(600):
        if text in server.output():
            return
        time.sleep(0.05)
    pytest.fail(f"{text!r} never appeared:\n{server.output()}")


def caller(authority: trustme.CA, folder: Path) -> tuple[Path, Path, Path]:
    mine = authority.issue_cert("caller@example.org")
    files = folder / "ca.pem", folder / "key.pem", folder / "cert.pem"
    authority.cert_pem.write_to_path(files[0])
    mine.private_key_pem.write_to_path(files[1])
    mine.cert_chain_pems[0].write_to_path(files[2])
    return files


def test_tr_r36_https_with_a_certificate(tls: ServerProcess, authority: trustme.CA, tmp_path: Path) -> None:
    root, key, chain = caller(authority, tmp_path)
    context = ssl.create_default_context(cafile=str(root))
    context.load_cert_chain(chain, key)
    connection = http.client.HTTPSConnection(tls.host, tls.port, context=context, timeout=20)
    connection.request("POST", "/v2/models/mlp/infer", json.dumps(ASK))
    reply = json.loads(connection.getresponse().read())
    connection.close()
    np.testing.assert_allclose(reply["outputs"][0]["data"], mlp_answer(ROW).ravel(), rtol=1e-5)


def test_tr_r36_https_without_is_refused(tls: ServerProcess, authority: trustme.CA, tmp_path: Path) -> None:
    root, _, _ = caller(authority, tmp_path)
    context = ssl.create_default_context(cafile=str(root))
    connection = http.client.HTTPSConnection(tls.host, tls.port, context=context, timeout=20)
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        connection.request("GET", "/v2")
        connection.getresponse()
    connection.close()


def test_tr_g13_grpc_with_a_certificate(tls: ServerProcess, authority: trustme.CA, tmp_path: Path) -> None:
    root, key, chain = caller(authority, tmp_path)
    credentials = grpc.ssl_channel_credentials(root.read_bytes(), key.read_bytes(), chain.read_bytes())
    with triton.InferenceServerClient(tls.address, ssl=True, creds=credentials) as client:
        given = triton.InferInput("x", [1, 16], "FP32")
        given.set_data_from_numpy(ROW)
        np.testing.assert_allclose(client.infer("mlp", [given]).as_numpy("y"), mlp_answer(ROW), rtol=1e-5)
