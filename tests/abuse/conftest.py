"""A server with tight limits, and the check that nothing hurt it."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import until
from zoo import ask_moody, infer_body, write_identity, write_mlp, write_moody

from salver.testing.process import ServerProcess

MAX_BODY_MB = 4


@pytest.fixture(scope="session")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Serves ``mlp``, ``moody``, ``leaky`` (with a memory limit), ``identity_fp32`` and ``…_bytes``."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    folder: Path = tmp_path_factory.mktemp("abuse")
    root = folder / "repository"
    write_mlp(root / "mlp", 1)
    write_moody(root)
    write_moody(root, "leaky", memory_limit_mb=1500)
    for datatype in ("FP32", "BYTES", "INT8"):
        write_identity(root, datatype)
    limits = ["--max-body-mb", str(MAX_BODY_MB), "--max-message-mb", str(MAX_BODY_MB)]
    options = [*limits, "--control", "none"]
    with ServerProcess([root], folder / "log", options) as server:
        yield server.wait_ready()


@pytest.fixture(autouse=True)
def _healthy_afterwards(strict: ServerProcess) -> Iterator[None]:
    """Whatever a test did, the same process answers every model right after it."""
    pid = strict.family()[0]
    yield
    assert strict.family()[0] == pid
    assert strict.get("/v2/health/live")[0] == 200
    status, reply = strict.post("/v2/models/mlp/infer", infer_body())
    assert status == 200, reply
    assert "Traceback" not in "".join(
        line for line in strict.output().splitlines(keepends=True) if "incident" in line
    ), "the server blamed itself for what its caller did"


@pytest.fixture
def well(strict: ServerProcess) -> ServerProcess:
    """The server, once ``moody`` answers."""
    until(lambda: ask_moody(strict, "ok")[0] == 200, strict.output)
    return strict
