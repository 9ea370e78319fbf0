"""Check that the built wheel works where there is nothing but it and ONNX Runtime.

For each supported Python of this machine: installs the wheel into a new virtual environment, serves a small
model from an empty folder, asks it once over HTTP, and looks at what the server did: files that it wrote,
and connections that it opened.
Usage: wheel_check.py dist/salver-*.whl
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import onnx
import psutil
from onnx import TensorProto, helper

ROOT = Path(__file__).parent.parent


def doubler(path: Path) -> None:
    """Writes y = x + x over rows of three."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "doubler",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def pythons() -> list[str]:
    """Paths of this interpreter, and of newer versions on the PATH that can make virtual environments."""
    found = [sys.executable]
    for minor in range(sys.version_info.minor + 1, 15):
        path = shutil.which(f"python3.{minor}")
        probe = [path, "-c", "import ensurepip"]
        if path and subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            found.append(path)
    return found


def install(python: str, wheel: Path, folder: Path) -> Path:
    """A new environment with the wheel and ONNX Runtime, at the tested versions; its bin folder."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    binaries = folder / "bin"
    pins = (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    for name in ("base", "frameworks"):
        pins += (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(pin for pin in pins if "==" in pin))
    pip = [binaries / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--constraint", constraints, wheel, "onnxruntime"], check=True)
    return binaries


def ask(url: str) -> list[float]:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}
    request = urllib.request.Request(f"{url}/v2/models/doubler/infer", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=10) as reply:
        data: list[float] = json.load(reply)["outputs"][0]["data"]
        return data


def connections(server: psutil.Process) -> list[str]:
    """Connections of the server and its children to others than the caller on loopback."""
    family = [server, *server.children(recursive=True)]
    return [
        f"{process.name()}: {c.laddr} -> {c.raddr} {c.status}"
        for process in family
        for c in process.net_connections(kind="inet")
        if c.raddr and not c.raddr.ip.startswith("127.")
    ]


def check(binaries: Path, model: Path, empty: Path) -> None:
    """Serves, asks, looks."""
    command = [binaries / "salver", "serve", model, "--port", "0", "--json"]
    environment = {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "HOME": str(empty),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    began = time.monotonic()
    with subprocess.Popen(command, cwd=empty, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            ready = json.loads(server.stdout.readline())
            print(f"ready after {time.monotonic() - began:.2f} s, the interpreter's start included")
            assert ask(ready["url"]) == [2, 4, 6]
            opened = connections(psutil.Process(server.pid))
            assert not opened, f"the server opened connections: {opened}"
        finally:
            server.send_signal(signal.SIGTERM)
            status = server.wait(30)
    assert status == 0, f"the server ended with {status} after SIGTERM"
    written = sorted(path.name for path in empty.iterdir())
    assert not written, f"the server wrote into the working or home folder: {written}"


def main() -> None:
    wheel = Path(sys.argv[1]).resolve()
    for python in pythons():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            binaries = install(python, wheel, folder / "venv")
            doubler(folder / "doubler.onnx")
            empty = folder / "empty"
            empty.mkdir()
            check(binaries, folder / "doubler.onnx", empty)
        print(f"{wheel.name}: installed alone by {python}, served, wrote nothing, opened no connection")


if __name__ == "__main__":
    main()
