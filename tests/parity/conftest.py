"""One server under ``--compat triton`` for all tests of this folder, with models of the recorded cases."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc
import tritonclient.http

from salver.testing.process import TritonProcess

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
from triton_models import write_models

KINDS = "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 fp16 bf16 fp32 fp64 string"
OTHERS = "addsub addsub_nobatch ver_all ver_specific labels repeat words echo_facts raiser seq_oldest"
MODELS = (*(f"ident_{kind}" for kind in KINDS.split()), *OTHERS.split(), "optional", "one_string")
OPTIONS = (
    "--model-control-mode=explicit",
    "--allow-client-shm=true",
    "--metrics-config=summary_latencies=true",
    "--state-dir=",
)


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    """The server."""
    folder = tmp_path_factory.mktemp("parity")
    write_models(folder / "models")
    options = [*OPTIONS, *(f"--load-model={name}" for name in MODELS)]
    with TritonProcess([folder / "models"], folder / "log", options) as server:
        yield server.wait_ready()


@pytest.fixture(scope="session")
def http(triton: TritonProcess) -> Iterator[Any]:
    """Triton's client over HTTP."""
    with tritonclient.http.InferenceServerClient(triton.address, concurrency=4) as client:
        yield client


@pytest.fixture(scope="session")
def rpc(triton: TritonProcess) -> Iterator[Any]:
    """Triton's client over gRPC."""
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{triton.grpc_port}") as client:
        yield client


@pytest.fixture(params=["http", "grpc"])
def either(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A client and its module, of each protocol in turn."""
    name = request.param
    return request.getfixturevalue("http" if name == "http" else "rpc"), getattr(tritonclient, name)


@pytest.fixture
def ask(triton: TritonProcess) -> Any:
    """A request in JSON: verb, path, document and headers; status and decoded reply."""

    def ask(verb: str, path: str, document: Any = None, **headers: str) -> tuple[int, Any]:
        body = b"" if document is None else json.dumps(document).encode()
        status, reply = triton.ask(verb, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        return status, json.loads(reply) if reply else None

    return ask
