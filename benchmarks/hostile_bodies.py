"""How long do others wait while somebody sends bodies that are hard to decode?

Starts a server, measures a health check and a tiny model while it is quiet, then under each attack, and
prints p50 and p99 of both with what they are above quiet. Two callers send each attack over and over.

Run: .venv/bin/python benchmarks/hostile_bodies.py [--seconds 6] [--attack NAME]
"""

import argparse
import gzip
import http.client
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from zoo import infer_body, write_identity, write_mlp

from salver.testing.process import ServerProcess

_PATH = "/v2/models/mlp/infer"
_BYTES = "/v2/models/identity_bytes/infer"
_ECHO = "/v2/models/identity_fp32/infer"
_TINY = json.dumps(infer_body()).encode()
_GZIP = {"Content-Encoding": "gzip"}


def _tensor(data: bytes, count: int) -> bytes:
    return b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,%d],"data":[%b]}]}' % (count, data)


def _attacks() -> Mapping[str, Callable[[], tuple[str, bytes, dict[str, str]]]]:
    numbers = b"0.123456789012345," * 3_300_000
    strings = json.dumps(
        {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 1], "data": ["a"] * 5_000_000}]}
    )
    named = [{"name": f"x{index}", "datatype": "FP32", "shape": [1], "data": [1]} for index in range(100_000)]
    lists = b'{"inputs":[' + b"[]," * 15_000_000 + b"[]]}"
    zeros = b"0," * 31_000_000
    raw = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "BYTES",
                    "shape": [1, 250_000],
                    "parameters": {"binary_data_size": 1_000_000},
                }
            ]
        }
    ).encode()

    def echoed(is_binary: bool, **asked: int) -> tuple[str, bytes, dict[str, str]]:
        given = {"binary_data_size": 60_000_000}
        entry = {"name": "x", "datatype": "FP32", "shape": [1, 15_000_000], "parameters": given}
        wanted = {"name": "y", "parameters": {"binary_data": is_binary, **asked}}
        head = json.dumps({"inputs": [entry], "outputs": [wanted]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head)), "Accept-Encoding": "gzip"}
        return _ECHO, head + bytes(60_000_000), headers if is_binary else dict([*headers.items()][:1])

    return {
        "64 kB gzip of zeros": lambda: (_PATH, gzip.compress(bytes(63 << 20)), _GZIP),
        "125 kB gzip of JSON": lambda: (_PATH, gzip.compress(_tensor(zeros + b"0", 31_000_001)), _GZIP),
        "100,000 named inputs": lambda: (_PATH, json.dumps({"inputs": named}).encode(), {}),
        "60 MB of JSON": lambda: (_PATH, _tensor(numbers + b"1", 3_300_001), {}),
        "62 MB of small numbers": lambda: (_PATH, _tensor(zeros + b"0", 31_000_001), {}),
        "45 MB of empty lists": lambda: (_PATH, lists, {}),
        "5,000,000 strings": lambda: (_BYTES, strings.encode(), {}),
        "250,000 raw strings": lambda: (
            _BYTES,
            raw + bytes(1_000_000),
            {"Inference-Header-Content-Length": str(len(raw))},
        ),
        "60 MB of TensorFlow's JSON": lambda: (
            "/v1/models/mlp:predict",
            b'{"instances":[[' + numbers + b"1]]}",
            {},
        ),
        "a long answer in JSON": lambda: echoed(False),
        "a long answer, compressed": lambda: echoed(True),
        "the best of many classes": lambda: echoed(False, classification=200_000),
        "generate with empty lists": lambda: ("/v2/models/mlp/generate", lists.replace(b"inputs", b"x"), {}),
    }


def _ask(host: str, port: int, verb: str, path: str, body: bytes, headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection(host, port, timeout=120)
    try:
        connection.request(verb, path, body, headers)
        reply = connection.getresponse()
        reply.read()
        return reply.status
    finally:
        connection.close()


class _Probe(threading.Thread):
    """Asks again and again on one connection, and notes how long each answer takes."""

    def __init__(self, server: ServerProcess, verb: str, path: str, body: bytes | None, until: float) -> None:
        super().__init__()
        self._connection = http.client.HTTPConnection(server.host, server.port, timeout=120)
        self._request = (verb, path, body)
        self._until = until
        self.times: list[float] = []

    def run(self) -> None:
        while time.monotonic() < self._until:
            begin = time.perf_counter()
            self._connection.request(*self._request)
            self._connection.getresponse().read()
            self.times.append(time.perf_counter() - begin)
            time.sleep(0.005)
        self._connection.close()


def _measure(server: ServerProcess, seconds: float) -> list[tuple[float, float]]:
    """p50 and p99 of the health check and of the tiny model, in ms."""
    end = time.monotonic() + seconds
    probes = [
        _Probe(server, "GET", "/v2/health/live", None, end),
        _Probe(server, "POST", _PATH, _TINY, end),
    ]
    for probe in probes:
        probe.start()
    for probe in probes:
        probe.join()
    return [
        (statistics.median(probe.times) * 1e3, statistics.quantiles(probe.times, n=100)[98] * 1e3)
        for probe in probes
    ]


def _attack(
    server: ServerProcess, work: tuple[str, bytes, dict[str, str]], seconds: float
) -> tuple[list[tuple[float, float]], dict[int, int]]:
    """What others measure meanwhile, and how often the attack was answered with which status."""
    path, body, headers = work
    stop = threading.Event()
    answers: dict[int, int] = {}

    def send() -> None:
        while not stop.is_set():
            try:
                status = _ask(server.host, server.port, "POST", path, body, headers)
            except OSError:
                status = 0
            answers[status] = answers.get(status, 0) + 1

    senders = [threading.Thread(target=send) for _ in range(2)]
    for sender in senders:
        sender.start()
    time.sleep(0.5)
    found = _measure(server, seconds)
    stop.set()
    for sender in senders:
        sender.join()
    return found, answers


def main() -> None:
    """Print a table."""
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=6.0)
    options.add_argument("--attack", default="")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "models"
        write_mlp(root / "mlp", 1)
        write_identity(root, "BYTES")
        write_identity(root, "FP32")
        with ServerProcess([root], Path(folder) / "log") as server:
            server.wait_ready()
            for name, make in _attacks().items():
                if given.attack in name:
                    quiet = _measure(server, given.seconds)
                    found, answers = _attack(server, make(), given.seconds)
                    for what, before, now in zip(("health", "tiny model"), quiet, found, strict=True):
                        print(
                            f"{name:28} {what:10} quiet p50 {before[0]:6.1f} p99 {before[1]:6.1f} ms, "
                            f"attacked p50 {now[0]:6.1f} p99 {now[1]:6.1f} ms, +{now[1] - before[1]:.1f} ms",
                            flush=True,
                        )
                    print(f"{'':28} answered {answers}", flush=True)


if __name__ == "__main__":
    main()
