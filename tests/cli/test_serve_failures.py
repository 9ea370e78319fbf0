"""How ``salver serve`` ends when what it was asked for does not load, and what it says of it."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE_S, until

from salver.cli.serve import _registry_notices
from salver.testing.process import ServerProcess, free_port
from salver.words.messages import ModelId, Signature, State, VersionStatus

SALVER = str(Path(sys.executable).with_name("salver"))
GOOD = """
class Model:
    inputs = {"x": ("FP32", [-1])}
    outputs = {"x": ("FP32", [-1])}
    def predict(self, inputs):
        return inputs
"""
RAISES = GOOD + "    def __init__(self):\n        raise OSError('the disk is full')\n"


def serve(*words: object) -> subprocess.CompletedProcess[str]:
    command = [SALVER, "serve", *map(str, words), "--port", str(free_port())]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"junk")
    return path


@pytest.fixture
def raises(tmp_path: Path) -> Path:
    path = tmp_path / "raises.py"
    path.write_text(RAISES)
    return path


def test_a_model_that_is_none_ends_the_server_and_is_told_once(bad: Path) -> None:
    done = serve(bad)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("no installed backend recognises") == 1
    assert done.stderr.endswith("error: no model has loaded\n")


def test_a_model_whose_code_raises_ends_the_server_and_is_told_once(raises: Path) -> None:
    done = serve(raises, "--log-format", "json")
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert sum("the disk is full" in json.dumps(line) for line in lines if line["level"] == "error") == 1


def test_a_log_file_leaves_the_reason_to_the_terminal(bad: Path, tmp_path: Path) -> None:
    done = serve(bad, "--log-file", tmp_path / "log")
    assert done.returncode == 1
    assert done.stderr.count("no installed backend recognises") == 1


def test_all_of_a_repository_have_to_fail(bad: Path, tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(GOOD)
    with ServerProcess([bad, tmp_path / "good.py"], tmp_path / "log") as server:
        server.wait_for("/v2/models/good/ready")
        until(lambda: "1 of 2 versions failed" in server.output(), server.output)
        assert "up, but not ready: 1 of 2 versions failed" in server.output()
        assert server.get("/v2/health/ready")[0] == 400
        assert server.stop() == 0


def test_one_is_enough_with_exit_on_error(bad: Path, tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(GOOD)
    done = serve(bad, tmp_path / "good.py", "--exit-on-error")
    assert done.returncode == 1
    assert "not every model has loaded" in done.stderr


def test_and_none_without(bad: Path, tmp_path: Path) -> None:
    with ServerProcess([bad], tmp_path / "log", ["--exit-on-error=false"]) as server:
        until(lambda: "up, but not ready" in server.output(), server.output)
        assert server.get("/v2/health/live")[0] == 200
        assert server.stop() == 0


def test_tensorflow_serving_ends_too(tmp_path: Path) -> None:
    (tmp_path / "models" / "1").mkdir(parents=True)
    (tmp_path / "models" / "1" / "saved_model.pb").write_bytes(b"junk")
    words = ["--compat", "tensorflow-serving", f"--model_base_path={tmp_path / 'models'}", "--model_name=m"]
    words += [f"--port={free_port()}", f"--rest_api_port={free_port()}", "--exit_on_error"]
    done = subprocess.run([SALVER, "serve", *words], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1, done.stderr
    assert "not every model has loaded" in done.stderr


@pytest.mark.parametrize("which", ["missing", "junk", "other key", "client"])
def test_a_wrong_certificate_is_one_line(bad: Path, tmp_path: Path, which: str) -> None:
    import trustme

    authority = trustme.CA()
    mine, other = (authority.issue_cert("127.0.0.1") for _ in range(2))
    cert, key, junk = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "junk.pem"
    mine.cert_chain_pems[0].write_to_path(cert)
    (other if which == "other key" else mine).private_key_pem.write_to_path(key)
    junk.write_text("junk")
    flags = {
        "missing": (tmp_path / "none.pem", key),
        "junk": (junk, key),
        "other key": (cert, key),
        "client": (cert, key, "--tls-client-ca", junk),
    }[which]
    done = serve(bad, "--tls-cert", flags[0], "--tls-key", *flags[1:])
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert ".pem" in done.stderr


@pytest.mark.parametrize(
    ("registry", "environment", "words", "is_told"),
    [
        ("", {}, [], False),
        ("r", {}, ["--registry", "r"], False),
        ("r", {"SALVER_REGISTRY": "r"}, [], True),
        ("r", {"SALVER_REGISTRY": "r"}, ["--registry=r"], False),
        ("r", {"SALVER_REGISTRY": "other"}, ["--registry", "r"], False),
    ],
)
def test_a_registry_of_the_environment_is_announced(
    registry: str, environment: Mapping[str, str], words: list[str], is_told: bool
) -> None:
    found = _registry_notices(registry, environment, ["salver", "serve", *words])
    assert [text.startswith("SALVER_REGISTRY") for text in found] == [True] * is_told


def test_what_the_terminal_shows_in_the_log_is_not_in_the_block_again() -> None:
    from salver.cli import banner
    from salver.ready import ReadyInfo

    status = VersionStatus(ModelId("m", "1"), State.FAILED, "it is broken")
    signatures: dict[ModelId, Signature] = {}
    info: Any = ReadyInfo(("h",), "", 1.0, (status,), signatures, is_ready=False)
    assert banner.compose(info).rows[0][-1] == "it is broken"
    assert banner.compose(info, is_logged=True).rows[0][-1] == "see above"
    assert banner.compose(info).lines[0] == "up, but not ready: 1 of 1 versions failed"
