"""Servers of recorded configurations of TorchServe.

``torchserve_configs.json`` says of each: the lines of ``config.properties``, further options, the
environment, which models must be up, what is registered first. The command is Salver's unless told otherwise.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fork_server
from torchserve_models import copied
from torchserve_replay import Case, Target, ask

from salver.testing.process import free_port

CONFIGS: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("torchserve_configs.json").read_text()
)
PORTS = ("inference", "management", "metrics", "grpc-inference", "grpc-management")
SALVER = (str(fork_server.COMMAND), "torchserve")
_WITHIN_S = 120.0
_SOURCE = str(Path(__file__).parents[2] / "src")


@contextlib.contextmanager
def serving(name: str, folder: Path, command: Sequence[str] = SALVER) -> Iterator[Target]:
    """Start a server of a configuration, in a new folder or in that of its predecessor."""
    if not (folder / "models").exists():
        copied(folder)
    with started(name, CONFIGS[name], folder, command) as target:
        yield target


@contextlib.contextmanager
def started(
    name: str, config: dict[str, Any], folder: Path, command: Sequence[str] = SALVER
) -> Iterator[Target]:
    """Start a server of any configuration, on the stores in a folder."""
    ports = _free_ports()
    target = Target({port: ports[config.get("ports", {}).get(port, port)] for port in PORTS}, folder)
    words = {f"{{{{{port.upper().replace('-', '_')}}}}}": str(number) for port, number in ports.items()}
    words |= {"{{MODELS}}": str(folder / "models"), "{{WORKFLOWS}}": str(folder / "workflows")}

    def filled(text: str) -> str:
        for word, value in words.items():
            text = text.replace(word, value)
        return text

    arguments = ["--start", "--foreground", *map(filled, config["args"])]
    if config["properties"] is not None:
        (folder / "config.properties").write_text(filled("\n".join(config["properties"])))
        arguments += ["--ts-config", str(folder / "config.properties")]
    else:  # as in the file of the server before it
        target = target._replace(ports=_ports_of(folder / "config.properties"))
    (folder / "tmp").mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "TMPDIR": str(folder / "tmp"),
        "TEMP": str(folder / "tmp"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": _SOURCE,  # from wherever it is started
    }
    if command is SALVER:
        (folder / "bin").mkdir(exist_ok=True)
        fork_server.write_command(folder / "bin")
        command = (str(folder / "bin" / "salver"), "torchserve")
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=folder,
            env=environment | config.get("env", {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield _up(target, config, process)
        finally:
            _end(process)


def _free_ports() -> dict[str, int]:
    """Return different ports that were free a moment ago."""
    return {port: free_port() for port in PORTS}


def _ports_of(properties: Path) -> dict[str, int]:
    """Return the ports in a server's file."""
    told = dict(line.partition("=")[::2] for line in properties.read_text().splitlines())
    keys = (*(f"{port}_address" for port in PORTS[:3]), "grpc_inference_port", "grpc_management_port")
    return {port: int(told[key].rpartition(":")[2]) for port, key in zip(PORTS, keys, strict=True)}


def _up(target: Target, config: dict[str, Any], process: "subprocess.Popen[bytes]") -> Target:
    """Once the models are, and what is to be registered is."""
    _wait(target, None, process)
    for model in config["await"]:
        _wait(target, model, process)
    target = target._replace(first_keys=target.keys())
    for path in config.get("setup", ()):
        ask(target, _management("POST", path))
    return target


def _wait(target: Target, model: str | None, process: "subprocess.Popen[bytes]") -> None:
    """Until the model's workers are ready; without a model: until the server answers, whatever it says."""
    until = time.monotonic() + _WITHIN_S
    while True:
        got = ask(target, _management("GET", f"/models/{model}" if model else "/models"))
        if model is None and isinstance(got["status"], int):
            return
        if got["status"] == 200:
            workers = json.loads(got["body"])[0]["workers"]
            if workers and all(worker["status"] == "READY" for worker in workers):
                return
        if time.monotonic() > until or process.poll() is not None:
            logs = [path.read_text(errors="replace")[-4000:] for path in target.folder.glob("*.log")]
            raise RuntimeError(f"{model or 'the server'} is not up: {got}\n{logs}")
        time.sleep(0.1)


def _management(method: str, path: str) -> Case:
    headers = {"Authorization": "Bearer {{KEY:management}}"}
    request = {"method": method, "path": path, "headers": headers}
    return {"kind": "http", "port": "management", "timeout_s": 30, "compare": {}, "request": request}


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Stop a server by SIGTERM, then by force, with all its processes."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(20)
