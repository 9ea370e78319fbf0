"""Claim: the server listens in under a second, before models load.

    python benchmarks/startup.py [--rounds 7]

Wall time from the start of the process to the first accepted connection, with an empty repository
and with the tiny model, beside what cannot be avoided: the interpreter alone, and with numpy.
"""

import argparse
import contextlib
import http.client
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import host
import models
import processes
import throughput

SALVER = str(Path(sys.executable).with_name("salver"))


def python_seconds(code: str) -> float:
    """Wall time of an interpreter that runs ``code`` and ends."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=models.CACHE)
    return time.perf_counter() - started


def server_seconds(target: Path, until: Callable[[int], bool]) -> float:
    """Wall time from the start of ``salver serve`` until ``until(port)``."""
    port = processes.free_port()
    launch = processes.Launch([SALVER, "serve", str(target), "--port", str(port)], cwd=models.CACHE)
    started = time.perf_counter()
    with processes.running(
        launch, throughput.LOGS / "startup.log", lambda: until(port), 20, look_every=0.002
    ):
        return time.perf_counter() - started


def is_listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def is_ready(port: int) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    return False


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    models.make()
    with tempfile.TemporaryDirectory(prefix="salver-bench-") as empty:
        measured: dict[str, Callable[[], float]] = {
            "python": lambda: python_seconds("pass"),
            "python, import numpy": lambda: python_seconds("import numpy"),
            "python, import salver": lambda: python_seconds("import salver"),
            "salver serve (empty folder): listening": lambda: server_seconds(Path(empty), is_listening),
            "salver serve tiny.onnx: listening": lambda: server_seconds(
                models.MODELS["tiny"].path, is_listening
            ),
            "salver serve tiny.onnx: ready": lambda: server_seconds(models.MODELS["tiny"].path, is_ready),
        }
        taken: dict[str, list[float]] = {name: [] for name in measured}
        for _ in range(given.rounds):
            for name, call in measured.items():
                taken[name].append(call())
    medians = {name: round(statistics.median(spent), 4) for name, spent in taken.items()}
    base = medians["python, import numpy"]
    print("| | median s | of `import numpy` |\n|---|---:|---:|")
    for name, seconds in medians.items():
        print(f"| {name} | {seconds:.3f} | {seconds / base:.2f}× |")
    listening = medians["salver serve (empty folder): listening"]
    print(f"under a second before models load: {'pass' if listening < 1 else 'FAIL'} ({listening:.2f} s)")
    throughput.RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"host": host.facts(), "seconds": medians}, indent=1)
    (throughput.RESULTS / "startup.json").write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
