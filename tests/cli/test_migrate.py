"""``salver migrate``: three deployments as they are found, read, judged, written anew and served."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from archivers import run_archiver
from savedmodels import half_plus_three, half_plus_two, with_assets
from waiting import until

from salver.cli import main
from salver.testing.process import ServerProcess, TensorFlowServingProcess, TritonProcess, free_port

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
from triton_models import write_models

NOOP = """
{imports}
class Noop:
    def initialize(self, context):
        raise SystemExit("the program was run")
    def handle(self, data, context):
        return data
"""
LENGTH = """
class Length:
    def initialize(self, context):
        pass
    def handle(self, data, context):
        return [str(len(row["body"])) for row in data]
"""
PROPERTIES = """
inference_address=http://0.0.0.0:8080
model_store=/home/model-server/model-store
load_models=all
number_of_netty_threads=32
job_queue_size=7
disable_token_authorization=true
made_up=1
"""
DOCKERFILE = """
FROM pytorch/torchserve:0.12.0-cpu
COPY model-store /home/model-server/model-store
COPY config.properties /home/model-server/config.properties
CMD ["torchserve", "--start", "--ts-config", "/home/model-server/config.properties", "--log-config", "/l.xml"]
"""
MODELS = """
model_config_list {
  config {
    name: "half" base_path: "/models/half" model_platform: "tensorflow"
    model_version_policy { all { } } version_labels { key: "stable" value: 1 }
    logging_config { custom_logging_config { } }
  }
  config { name: "words" base_path: "/models/words" model_platform: "tensorflow" }
}
"""
COMPOSE = """
services:
  serving:
    image: tensorflow/serving:2.16.1
    volumes: ["./models:/models:ro"]
    command: >
      --model_config_file=/models/models.config --enable_batching
      --batching_parameters_file=/models/batching.txt
      --per_process_gpu_memory_fraction=0.5 --allow_version_labels_for_unavailable_models
"""
BATCHING = "max_batch_size { value: 16 } batch_timeout_micros { value: 1000 }"
START = """#!/bin/bash
docker run --rm -v ${PWD}/models:/models nvcr.io/nvidia/tritonserver:24.01-py3 \\
  tritonserver --model-repository=/models --http-thread-count=8 --exit-on-error=false
"""


def pack(store: Path, name: str, source: str, *more: str, yaml: str = "") -> None:
    """By the unmodified archiver."""
    work = store.parent / "work"
    work.mkdir(parents=True, exist_ok=True)
    store.mkdir(exist_ok=True)
    for file in (f"{name}.py", f"{name}.py.so"):  # the archiver wants the latter for LSP
        (work / file).write_text(source)
    if yaml:
        (work / "model-config.yaml").write_text(yaml)
        more = (*more, "--config-file", "model-config.yaml")
    if "--handler" not in more:
        more = (*more, "--handler", f"{name}.py")
    options = ["--model-name", name, "--version", "1.0", "--export-path", str(store), *more]
    run_archiver("torch-model-archiver", *options, work=work)
    shutil.rmtree(work)


def torchserve(folder: Path) -> Path:
    store = folder / "model-store"
    folder.mkdir()
    pack(store, "noop", NOOP.format(imports="import json"))
    pack(store, "split", NOOP.format(imports=""), yaml="batchSize: 4\nparallelType: pp\nhandler: {a: 1}\n")
    pack(store, "needy", NOOP.format(imports="import no_such_package"))
    pack(store, "native", NOOP.format(imports=""), "--runtime", "LSP")
    (store / "torn.mar").write_bytes(b"this is no archive")
    (folder / "config.properties").write_text(PROPERTIES)
    (folder / "Dockerfile").write_text(DOCKERFILE)
    return folder


def tensorflow(folder: Path) -> Path:
    half_plus_two(folder / "models" / "half" / "1")
    half_plus_three(folder / "models" / "half" / "00000002")
    with_assets(folder / "models" / "words" / "7")
    (folder / "models" / "models.config").write_text(MODELS)
    (folder / "models" / "batching.txt").write_text(BATCHING)
    (folder / "compose.yaml").write_text(COMPOSE)
    return folder


def triton(folder: Path) -> Path:
    write_models(folder / "all")
    for name in ("addsub", "tagged", "ver_all", "words"):
        shutil.copytree(folder / "all" / name, folder / "models" / name)
    shutil.rmtree(folder / "all")
    (folder / "models" / "plan" / "1").mkdir(parents=True)
    (folder / "models" / "plan" / "1" / "model.plan").write_bytes(b"x")
    (folder / "models" / "plan" / "config.pbtxt").write_text('platform: "tensorrt_plan"')
    (folder / "start.sh").write_text(START)
    return folder


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """The exit status, and the records by kind."""
    status = main(["migrate", *words, "--json"])
    found: dict[str, list[dict[str, Any]]] = {}
    for text in capsys.readouterr().out.splitlines():
        told = json.loads(text)
        found.setdefault(told["kind"], []).append(told)
    return status, found


def fates(records: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    return {model["name"]: model["verdict"] for model in records["model"]}


def becomes(records: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    return {setting["name"]: setting["becomes"] for setting in records["setting"]}


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_size) for p in folder.rglob("*")}


def test_a_deployment_of_torchserve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = torchserve(tmp_path / "there")
    before = snapshot(folder)
    status, found = asked(capsys, str(folder))
    assert status == 1
    assert fates(found) == {
        "noop": "runs",
        "split": "runs, with a difference",
        "needy": "does not run",
        "native": "does not run",
        "torn": "does not run",
    }
    why = {model["name"]: (*model["why"], model["fix"]) for model in found["model"]}
    assert why["split"][0] == "parallelType: accepted, no effect here"
    assert why["needy"][1] == "Install it: pip install no_such_package"
    assert "LSP" in why["native"][0]
    settings = becomes(found)
    assert settings["number_of_netty_threads"] == settings["made_up"] == "no effect"
    assert settings["--log-config"] == settings["parallelType"] == "no effect"
    assert settings["job_queue_size"] == settings["batchSize"] == settings["handler"] == "used"
    (server,) = found["server"]
    assert server["where"] == "Dockerfile:5"
    assert server["command"].startswith("salver torchserve --start --foreground ")
    assert (server["files"], server["problem"]) == (["config.properties"], "")
    assert snapshot(folder) == before


def test_what_is_written_for_torchserve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = torchserve(tmp_path / "there")
    out = tmp_path / "out"
    _, found = asked(capsys, str(folder), "--write", str(out))
    assert [file["path"] for file in found["written"]] == [
        str(out / "config.properties"),
        str(out / "serve.sh"),
    ]
    text = (out / "config.properties").read_text()
    assert f"model_store={folder}/model-store\n" in text
    assert "made_up" not in text
    assert os.access(out / "serve.sh", os.X_OK)
    assert '--ts-config="$here"/config.properties' in (out / "serve.sh").read_text()


def test_torchserve_is_served_by_what_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, ports = tmp_path / "there", [free_port() for _ in range(5)]
    pack(folder / "model-store", "length", LENGTH)
    keys = ("inference_address", "management_address", "metrics_address")
    lines = [f"{key}=http://127.0.0.1:{port}" for key, port in zip(keys, ports, strict=False)]
    lines += [f"grpc_inference_port={ports[3]}", f"grpc_management_port={ports[4]}"]
    lines += ["model_store=/srv/model-store", "load_models=all", "default_workers_per_model=1"]
    lines += ["enable_envvars_config=true", "initial_worker_port=$$FIRST$$"]
    (folder / "config.properties").write_text("\n".join(lines))
    (folder / "run.sh").write_text(
        "export FIRST=9500 TS_JOB_QUEUE_SIZE=7 OTHER=1\n"
        "torchserve --start --ncs --disable-token-auth --ts-config config.properties"
    )
    status, found = asked(capsys, str(folder), "--write", str(tmp_path / "out"))
    assert (status, fates(found)) == (0, {"length": "runs"})
    script = tmp_path / "out" / "serve.sh"
    assert "export FIRST=9500\nexport TS_JOB_QUEUE_SIZE=7\n" in script.read_text()
    with ScriptedTorchServe(script, tmp_path / "log") as server:
        server.port = ports[0]
        server.wait_for("/ping")
        assert server.ask("POST", "/predictions/length", b"four") == (200, b"4")
        server.port = ports[1]
        (told,) = json.loads(server.get("/models/length")[1])
        assert (told["workers"][0]["id"], told["jobQueueStatus"]["remainingCapacity"]) == ("9500", 7)


class ScriptedTorchServe(TensorFlowServingProcess):
    """A start script whose ports stand in a file."""

    def __init__(self, script: Path, log: Path) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        super().__init__(log, [], {"PATH": path, "TMPDIR": str(log.parent)})  # of the pid file
        self._script = script

    def command(self) -> list[str]:
        return ["sh", "-c", f"cd {self._script.parent} && exec {self._script}"]  # where its logs go


def test_a_deployment_of_tensorflow_serving(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tensorflow(tmp_path / "there")
    before = snapshot(folder)
    status, found = asked(capsys, str(folder))
    assert status == 0
    assert fates(found) == {"half": "runs", "words": "runs"}
    assert found["model"][0]["versions"] == ["1", "00000002"]
    settings = becomes(found)
    assert settings["--per_process_gpu_memory_fraction"] == "no effect"
    assert settings["model_config_list.config.logging_config.custom_logging_config"] == "no effect"
    assert settings["--enable_batching"] == settings["batch_timeout_micros"] == "used"
    assert snapshot(folder) == before


def test_tensorflow_serving_is_served_by_either_of_the_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    status, _ = asked(capsys, str(tensorflow(tmp_path / "there")), "--write", str(out))
    assert status == 0
    question = {"instances": [1.0, 5.0]}
    with Scripted(out / "serve.sh", tmp_path / "log") as server:
        are_available(server)
        told = server.post("/v1/models/half:predict", question)
        labelled = server.post("/v1/models/half/labels/stable:predict", question)
    assert told == (200, {"predictions": [3.5, 5.5]})
    assert labelled == (200, {"predictions": [2.5, 4.5]})
    with ServerProcess([out / "models"], tmp_path / "log2") as server:
        are_available(server)
        assert server.post("/v1/models/half:predict", question) == told
        assert server.post("/v1/models/half/labels/stable:predict", question) == labelled


def are_available(server: ServerProcess) -> None:
    """Wait for both versions; the server is ready, or tells of the model, with one of them."""
    server.wait_for("/v1/models/half")

    def look() -> bool:
        found = json.loads(server.get("/v1/models/half")[1])["model_version_status"]
        return [each["state"] for each in found] == ["AVAILABLE"] * 2

    until(look, server.output)


class Scripted(TensorFlowServingProcess):
    """A start script, on ports of the test's."""

    def __init__(self, script: Path, log: Path) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        super().__init__(log, [], {"PATH": path})
        self._script = script

    def command(self) -> list[str]:
        return [str(self._script), f"--port={self.grpc_port}", f"--rest_api_port={self.port}"]


class ScriptedTriton(TritonProcess):
    """The same of Triton's."""

    def command(self) -> list[str]:
        ports = [f"--{name}-port={port}" for name, port in self.ports.items()]
        return [str(self._paths[0]), *ports, "--state-dir="]


def test_a_deployment_of_triton_is_judged_and_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, script = triton(tmp_path / "there"), tmp_path / "start.sh"
    status, found = asked(capsys, str(folder), "--write", str(script))
    assert status == 1
    assert fates(found) == {
        "addsub": "runs",
        "tagged": "runs, with a difference",
        "ver_all": "runs",
        "words": "runs",
        "plan": "does not run",
    }
    settings = becomes(found)
    assert settings["--http-thread-count"] == "no effect"
    assert settings["--exit-on-error"] == settings["max_batch_size"] == "used"
    assert found["written"] == [{"kind": "written", "path": str(script)}]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with ScriptedTriton([script], tmp_path / "log", [], {"PATH": path}) as server:
        server.wait_for("/v2/models/addsub/ready")
        server.wait_for("/v2/models/ver_all/versions/2/ready")
        assert server.get("/v2/models/plan/ready")[0] != 200


def test_a_repository_without_a_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (triton(tmp_path / "there") / "start.sh").unlink()
    _, found = asked(capsys, str(tmp_path / "there"))
    (server,) = found["server"]
    models = tmp_path.resolve() / "there" / "models"
    assert server["command"] == f"salver serve --compat triton --model-repository={models}"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--write", "{there}/new"], "is inside the deployment"),
        (["--write", "{there}"], "is there already"),
        (["--write", "{there}/../x.sh"], "one script is not enough"),
    ],
)
def test_where_nothing_is_written(
    words: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "there"
    half_plus_two(folder / "half" / "1")
    (folder / "run.sh").write_text("tensorflow_model_server --model_config_file=/c/models.config")
    (folder / "models.config").write_text(
        MODELS.replace("words", "half2").replace("/models/half2", "/x/half")
    )
    before = snapshot(tmp_path)
    assert main(["migrate", str(folder), *(word.format(there=folder) for word in words)]) == 1
    assert reason in capsys.readouterr().err
    assert snapshot(tmp_path) == before


def test_flags_that_are_wrong_and_files_that_are_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.sh").write_text("tritonserver --no-such-flag=1 --model-repository=/nowhere")
    (tmp_path / "b.sh").write_text("tensorflow_model_server --port=x --model_base_path=/nowhere/half")
    (tmp_path / "c.sh").write_text("torchserve --start --no-such-option --ts-config /nowhere/c.properties")
    status, found = asked(capsys, str(tmp_path))
    assert status == 1
    refused = {s["name"] for s in found["setting"] if s["becomes"] == "refused"}
    assert refused == {"--no-such-flag", "--port", "--no-such-option"}
    assert all("nowhere" in server["problem"] for server in found["server"])


def test_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", str(triton(tmp_path / "there"))]) == 1
    text = capsys.readouterr().out
    assert text.startswith("Triton, started by start.sh:2\n")
    assert "3 of 5 models run as they are, 1 with a difference, 1 not. Serve them with:" in text
    assert "--exit-on-error  " not in text
    main(["migrate", str(tmp_path / "there"), "--verbose"])
    assert "--exit-on-error  " in capsys.readouterr().out


def test_a_folder_of_nothing_and_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", str(tmp_path)]) == 1
    assert "holds no deployment of TorchServe, Triton, TensorFlow Serving" in capsys.readouterr().out
    assert main(["migrate", str(tmp_path / "no")]) == 1
    assert "is not a folder" in capsys.readouterr().err
