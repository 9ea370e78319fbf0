"""Settings of docs/how-to/clouds.md, each started as the service would start it."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pods import Container
from waiting import until
from zoo import mlp_answer, write_mlp

from salver.testing.process import free_port

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
ROW = np.linspace(-1, 1, 16, dtype=np.float32)[None]
ASK = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": ROW.ravel().tolist()}]}

Start = Callable[..., Container]


def block(heading: str, port: int, page: str = "clouds.md") -> str:
    """Return the block of a section, with another port: all containers share this machine's address."""
    section = (HOW_TO / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.search(r"```\w+\n(.*?)```", section, re.S)
    assert found is not None
    return found[1].replace("8080", str(port))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a container whose model lies in a folder that is mounted read-only."""
    write_mlp(tmp_path / "models" / "iris", 1)
    started: list[Container] = []

    def starting(
        port: int, args: Sequence[str], variables: Mapping[str, str] | None = None, at: str = "/mnt/models"
    ) -> Container:
        mounts = ["--tmpfs", f"/{at.split('/')[1]}", "--ro-bind", str(tmp_path / "models"), at]
        given = {"HOME": "/"} | dict(variables or {})
        started.append(Container(tmp_path / "log", port, args, given, mounts))
        return started[-1]

    yield starting
    for container in started:
        container.kill()


def await_ready(container: Container, path: str) -> None:
    until(lambda: container.ask(path)[0] == 200 or container.process.poll() is not None, container.text)
    assert container.process.poll() is None, container.text()


def assert_answers(container: Container, path: str = "/v2/models/iris/infer") -> None:
    status, answer = container.ask(path, ASK)
    assert status == 200, answer
    np.testing.assert_allclose(answer["outputs"][0]["data"], mlp_answer(ROW).ravel(), rtol=1e-5)


def test_sagemaker(start: Start) -> None:
    """``docker run IMAGE serve``, with the ENTRYPOINT of the page."""
    port = free_port()
    entry = re.search(r"^ENTRYPOINT (.*)$", block("SageMaker, one model", port, "sagemaker-vertex.md"), re.M)
    assert entry is not None
    shell, option, script = json.loads(entry[1])
    assert (shell, option) == ("sh", "-c")  # so that the argument "serve" is the script's name
    execute, command, *args = shlex.split(script)
    assert (execute, command) == ("exec", "salver")
    variables = {"SAGEMAKER_BIND_TO_PORT": str(port), "SAGEMAKER_TRITON_ALLOW_METRICS": "false"}
    container = start(port, args, variables, at="/opt/ml/model")
    await_ready(container, "/ping")
    assert_answers(container, "/invocations")
    assert container.terminate() == 0


def test_vertex(start: Start) -> None:
    port = free_port()
    command = shlex.split(block("Google Vertex AI", port).replace("\\\n", ""))
    flags: dict[str, str] = dict(word[2:].split("=", 1) for word in command if "=" in word)
    assert flags["container-command"] == "salver"
    variables = {
        "AIP_MODE": "PREDICTION",
        "AIP_HTTP_PORT": flags["container-ports"],
        "AIP_HEALTH_ROUTE": flags["container-health-route"],
        "AIP_PREDICT_ROUTE": flags["container-predict-route"],
        "AIP_STORAGE_URI": "/mnt/models",
    }
    container = start(port, flags["container-args"].split(","), variables)
    await_ready(container, flags["container-health-route"])
    assert_answers(container, flags["container-predict-route"])
    assert container.terminate() == 0


def test_azure(start: Start) -> None:
    port = free_port()
    deployment: dict[str, Any] = yaml.safe_load(block("Azure Machine Learning, online endpoints", port))
    args = re.search(r'CMD (\["serve".*?\])', (HOW_TO / "clouds.md").read_text())
    assert args is not None
    variables = deployment["environment_variables"]
    container = start(port, json.loads(args[1]), variables, at=deployment["model_mount_path"])
    routes = deployment["environment"]["inference_config"]
    assert {route["port"] for route in routes.values()} == {port}
    await_ready(container, routes["readiness_route"]["path"])
    assert container.ask(routes["liveness_route"]["path"])[0] == 200
    assert_answers(container, routes["scoring_route"]["path"])


def test_cloud_run(start: Start) -> None:
    port = free_port()
    service = yaml.safe_load(block("Google Cloud Run", port))
    (asked,) = service["spec"]["template"]["spec"]["containers"]
    # Cloud Run sets PORT.
    container = start(port, asked["args"], {"PORT": str(asked["ports"][0]["containerPort"])})
    await_ready(container, asked["startupProbe"]["httpGet"]["path"])
    assert container.ask(asked["livenessProbe"]["httpGet"]["path"])[0] == 200
    assert_answers(container)
    assert container.terminate() == 0
    numbers = {word.partition("=")[0]: word.partition("=")[2] for word in asked["args"]}
    assert float(numbers["--drain-delay"]) + float(numbers["--grace-seconds"]) < 10


def test_ecs(start: Start) -> None:
    port = free_port()
    (asked,) = json.loads(block("Amazon ECS", port))["containerDefinitions"]
    container = start(port, asked["command"])
    await_ready(container, "/v2/health/ready")
    kind, program, *words = asked["healthCheck"]["command"]
    assert (kind, program) == ("CMD", "python3")
    assert subprocess.run([sys.executable, *words], timeout=60).returncode == 0
    assert_answers(container)
    numbers = {word.partition("=")[0]: word.partition("=")[2] for word in asked["command"]}
    assert float(numbers["--drain-delay"]) + float(numbers["--grace-seconds"]) < asked["stopTimeout"]
