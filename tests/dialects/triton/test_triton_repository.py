"""Control of the repository by tritonclient, with a server process (TR-R11 to TR-R13, TR-G3)."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from triton_repository import ask, index
from tritonclient.utils import InferenceServerException
from waiting import until
from zoo import write_constant

from salver.testing.process import ServerProcess, TritonProcess

CLIENTS = pytest.mark.parametrize("triton", [http_client, grpc_client], ids=["http", "grpc"])


def config(**fields: Any) -> str:
    """A configuration of ``constant`` as a request brings it."""
    inputs = [{"name": "x", "data_type": "TYPE_FP32", "dims": [16]}]
    outputs = [{"name": "y", "data_type": "TYPE_FP32", "dims": [1]}]
    whole = {"backend": "onnxruntime", "max_batch_size": 8, "input": inputs, "output": outputs}
    return json.dumps(whole | fields)


def content(folder: Path, version: int) -> bytes:
    """An ONNX file that says ``version``."""
    write_constant(folder, version)
    return (folder / "constant" / str(version) / "model.onnx").read_bytes()


def batch_size(client: Any, model: str) -> int:
    """As the model's configuration has it now."""
    found = client.get_model_config(model)
    return int(found["max_batch_size"] if isinstance(found, dict) else found.config.max_batch_size)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("explicit")


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[ServerProcess]:
    for version in (1, 2):
        write_constant(place / "models", version)
    (place / "models" / "torn" / "1").mkdir(parents=True)
    (place / "models" / "torn" / "1" / "model.onnx").write_bytes(b"this is not a model")
    (place / "models" / "torn" / "config.pbtxt").write_text('backend: "onnxruntime"')
    (place / "models" / "misread" / "1").mkdir(parents=True)
    (place / "models" / "misread" / "config.pbtxt").write_text("no_such_field: 1")
    (place / "tmp").mkdir()
    options, env = ["--control", "explicit", "--load", "constant"], {"TMPDIR": str(place / "tmp")}
    with ServerProcess([place / "models"], place / "log", options, env) as server:
        yield server.wait_ready()


def brought(place: Path) -> list[Path]:
    return list((place / "tmp").glob("salver-model-*"))


@CLIENTS
def test_a_configuration_takes_the_files_place_until_unload(
    server: ServerProcess, triton: ModuleType
) -> None:
    """TR-R12, TR-R13, TR-C2: batch size and versions of the request's configuration, then the model's own."""
    with triton.InferenceServerClient(server.address) as client:
        client.load_model("constant", config=config(max_batch_size=2))
        assert ask(client, triton, "constant", rows=2) == 2
        assert batch_size(client, "constant") == 2
        client.load_model("constant", config=config(version_policy={"specific": {"versions": [1]}}))
        assert ask(client, triton, "constant", rows=3) == 1
        until(lambda: not client.is_model_ready("constant", "2"))
        client.load_model("constant")
        assert ask(client, triton, "constant") == 1, "a load without parameters changes nothing"
        client.unload_model("constant")
        client.load_model("constant")
        assert ask(client, triton, "constant", rows=3) == 2
        assert batch_size(client, "constant") > 8


@CLIENTS
def test_files_come_with_the_request_and_go_with_the_model(
    server: ServerProcess, place: Path, tmp_path: Path, triton: ModuleType
) -> None:
    """TR-R12, TR-R13: over HTTP in base64, over gRPC as they are."""
    with triton.InferenceServerClient(server.address) as client:
        for said in (41, 42):
            files = {"file:1/model.onnx": content(tmp_path, said)}
            client.load_model("sent", config=config(), files=files)
            assert ask(client, triton, "sent") == said
            until(lambda: len(brought(place)) == 1)
        assert index(client, triton)["sent", "1"] == ("READY", "")
        client.unload_model("sent", unload_dependents=True)
        assert not client.is_model_ready("sent")
        until(lambda: brought(place) == [])
        with pytest.raises(InferenceServerException, match="'sent' cannot be loaded: no such model there"):
            client.load_model("sent")


@CLIENTS
def test_files_stand_beside_a_model_of_the_repository(
    server: ServerProcess, place: Path, tmp_path: Path, triton: ModuleType
) -> None:
    """TR-R12: none of its own versions is left, and its folder stays as it is."""
    before = {p: p.stat().st_mtime_ns for p in (place / "models").rglob("*")}
    with triton.InferenceServerClient(server.address) as client:
        client.load_model("constant", config=config(), files={"file:7/model.onnx": content(tmp_path, 43)})
        assert ask(client, triton, "constant") == 43
        until(lambda: not client.is_model_ready("constant", "2"))
        client.unload_model("constant")
        client.load_model("constant")
        assert ask(client, triton, "constant") == 2
    assert {p: p.stat().st_mtime_ns for p in (place / "models").rglob("*")} == before
    until(lambda: brought(place) == [])


@CLIENTS
def test_what_does_not_load_leaves_what_is_loaded(
    server: ServerProcess, place: Path, triton: ModuleType
) -> None:
    """TR-L4, TR-R12: the refusal has its cause, and the server stays ready."""
    with triton.InferenceServerClient(server.address) as client:
        with pytest.raises(InferenceServerException, match=r"load failed for model 'constant'.*nonesuch"):
            client.load_model("constant", config=config(backend="nonesuch"))
        with pytest.raises(
            InferenceServerException, match=r"load failed for model 'constant': version 1 is at"
        ):
            client.load_model("constant", config=config(), files={"file:1/model.onnx": b"not a model"})
        with pytest.raises(InferenceServerException, match=r"'constant' cannot be loaded: .*nme"):
            client.load_model("constant", config='{"nme": 1}')
        assert ask(client, triton, "constant", rows=8) == 2
        assert client.is_server_ready()
    until(lambda: brought(place) == [])


@pytest.mark.clause("TR-L5")
@CLIENTS
def test_a_failed_load_makes_a_strict_server_unready_until_it_is_taken_back(
    place: Path, tmp_path: Path, triton: ModuleType
) -> None:
    """That an unload mends it is our own (conformance page)."""
    (tmp_path / "tmp").mkdir()
    options, env = ["--model-control-mode=explicit"], {"TMPDIR": str(tmp_path / "tmp")}
    with TritonProcess([place / "models"], tmp_path / "log", options, env) as server:
        server.wait_ready()
        port = server.ports["grpc" if triton is grpc_client else "http"]
        with triton.InferenceServerClient(f"{server.host}:{port}") as client:
            fail_and_mend(client, triton, tmp_path, is_strict=True)
        until(lambda: brought(tmp_path) == [])


@CLIENTS
def test_a_failed_load_of_a_new_model_does_not_take_the_server_out_of_rotation(
    server: ServerProcess, place: Path, tmp_path: Path, triton: ModuleType
) -> None:
    with triton.InferenceServerClient(server.address) as client:
        fail_and_mend(client, triton, tmp_path, is_strict=False)
    until(lambda: brought(place) == [])


def fail_and_mend(client: Any, triton: ModuleType, folder: Path, *, is_strict: bool) -> None:
    with pytest.raises(InferenceServerException, match="load failed for model 'sent'"):
        client.load_model("sent", config=config(), files={"file:1/model.onnx": b"not a model"})
    assert client.is_server_ready() is not is_strict
    state, reason = index(client, triton)["sent", "1"]
    assert (state, bool(reason)) == ("UNAVAILABLE", True)
    client.load_model("sent", config=config(), files={"file:1/model.onnx": content(folder, 44)})
    assert client.is_server_ready()
    client.unload_model("sent")
    with pytest.raises(InferenceServerException):
        client.load_model("torn")
    assert client.is_server_ready() is not is_strict
    client.unload_model("torn")
    assert client.is_server_ready()


@pytest.mark.clause("TR-R12", "TR-R13", "TR-R37")
@CLIENTS
def test_refusals(server: ServerProcess, place: Path, triton: ModuleType) -> None:
    """TR-R12, TR-R13, TR-R37."""
    given = {"config": config()}
    with triton.InferenceServerClient(server.address) as client:
        for name, order, message in (
            (
                "nobody",
                {},
                "model 'nobody' cannot be loaded: no such model there",
            ),
            ("misread", {}, "model 'misread' cannot be loaded: .*no_such_field"),
            ("torn", {}, "load failed for model 'torn': version 1 is at UNAVAILABLE state"),
            ("x", given | {"files": {"file:../../x": b""}}, "cannot be written below the model's folder"),
            ("x", given | {"files": {"file:/tmp/x": b""}}, "cannot be written below the model's folder"),
            (
                "x",
                {"config": "{}", "files": {"file:1/model.py": b"class Model:\n def predict(self, x): ..."}},
                "start with --trust-pickle",
            ),
        ):
            with pytest.raises(InferenceServerException, match=message):
                client.load_model(name, **order)
            client.unload_model(name)
        client.unload_model("nobody")
    until(lambda: brought(place) == [])


@CLIENTS
def test_the_index_tells_what_was_unloaded_and_what_never_came(
    server: ServerProcess, triton: ModuleType
) -> None:
    """TR-R11."""
    with triton.InferenceServerClient(server.address) as client:
        client.unload_model("constant")
        until(lambda: index(client, triton)["constant", "2"] == ("UNAVAILABLE", "unloaded"))
        with pytest.raises(
            InferenceServerException, match=r"unknown model: 'constant' has no available versions$"
        ):
            ask(client, triton, "constant")
        client.load_model("constant")
        assert index(client, triton)["constant", "2"] == ("READY", "")


def test_what_requests_brought_goes_with_the_server(place: Path, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    env = {"TMPDIR": str(tmp_path / "tmp")}
    options = ["--control", "explicit", "--load", "*"]
    with ServerProcess([place / "models"], tmp_path / "log", options, env) as server:
        server.wait_for("/v2/models/constant/ready")
        with http_client.InferenceServerClient(server.address) as client:
            files = {"file:1/model.onnx": content(tmp_path, 45)}
            client.load_model("sent", config=config(), files=files)
        assert len(list((tmp_path / "tmp").iterdir())) >= 1
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.clause("TR-L7")
def test_a_name_in_two_repositories_is_refused_with_both_places(tmp_path: Path) -> None:
    """TR-L7: without namespacing nobody can tell which of the two is meant."""
    roots = [tmp_path / "one", tmp_path / "two"]
    for root in roots:
        write_constant(root, 1)
    with ServerProcess(roots, tmp_path / "log", ["--control", "explicit"]) as server:
        server.wait_for("/v2/health/live")
        client = http_client.InferenceServerClient(server.address)
        with client, pytest.raises(InferenceServerException) as caught:
            client.load_model("constant")
    for root in roots:
        assert str(root / "constant") in str(caught.value)


@pytest.mark.clause("TR-L3", "TR-R12", "TR-R13")
def test_without_explicit_control_nothing_is_loaded_by_request(tmp_path: Path) -> None:
    """TR-L3, TR-R12, TR-R13."""
    write_constant(tmp_path / "models", 1)
    refusal = (
        "models are not loaded and unloaded by request here: the server follows its folders. Start it with "
        "--control explicit."
    )
    with ServerProcess([tmp_path / "models"], tmp_path / "log", ["--control", "none"]) as server:
        server.wait_ready()
        for call in ("load", "unload"):
            status, reply = server.post(f"/v2/repository/models/constant/{call}", {})
            assert (status, reply) == (503, {"error": refusal})
        client = grpc_client.InferenceServerClient(server.address)
        with client, pytest.raises(InferenceServerException, match=f"UNAVAILABLE.* {refusal}$"):
            client.unload_model("constant")
