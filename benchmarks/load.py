"""How is load made, and what is read from the generator?

``wrk`` for HTTP/1.1 and ``h2load`` for gRPC: closed loops, so a slow server is asked less often.
They say what a server can carry; latency under a fixed rate is what ``salver bench`` is for.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import frames
import numpy as np
from forms import Form

#: Below this many samples a p99 says too little (margin (1 - p) / 4 at 99 % confidence).
P99_SAMPLES = 10_500

#: The end of a script of wrk's, which tells what was measured.
DONE = """
done = function(summary, latency)
  local e = summary.errors
  print(string.format('RESULT {"requests": %d, "micros": %d, "p50": %d, "p99": %d, "errors": %d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.timeout + e.status))
end
"""
_LUA = """
local file = io.open("%(body)s", "rb")
wrk.method, wrk.body = "POST", file:read("*a")
file:close()
%(headers)s
"""


@dataclass(frozen=True)
class Sample:
    """One run of a generator. Latencies in milliseconds."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float | None
    errors: int

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


class LoadFailed(Exception):
    """The generator gave no figures; the message is the end of what it said."""


def generate(
    form: Form, body: bytes, port: int, connections: int, seconds: int, pin: Sequence[str] = ()
) -> Sample:
    """Load for ``seconds`` from ``connections`` connections, one request in flight on each."""
    with tempfile.TemporaryDirectory(prefix="salver-bench-") as folder:
        run = _wrk if form.transport == "http" else _h2load
        return run(form, body, port + form.port_offset, connections, seconds, pin, Path(folder))


def _call(argv: list[str], seconds: int) -> str:
    try:
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=seconds + 30)
    except subprocess.TimeoutExpired as error:
        raise LoadFailed(f"{argv[0]} did not end") from error
    if done.returncode:
        raise LoadFailed(f"{argv[0]} exited {done.returncode}: {(done.stderr or done.stdout)[-300:]}")
    return done.stdout


def _wrk(
    form: Form, body: bytes, port: int, connections: int, seconds: int, pin: Sequence[str], folder: Path
) -> Sample:
    (folder / "body").write_bytes(body)
    headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in form.headers.items())
    (folder / "load.lua").write_text(_LUA % {"body": folder / "body", "headers": headers} + DONE)
    url = f"http://127.0.0.1:{port}{form.path}"
    return wrk(folder / "load.lua", url, connections, seconds, pin)


def wrk(script: Path, url: str, connections: int, seconds: int, pin: Sequence[str] = ()) -> Sample:
    """What a script of wrk's measures, whose ``done`` prints as the one above does."""
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), url]
    said = _call([*pin, *argv], seconds)
    found = re.search(r"^RESULT (\{.*\})$", said, re.MULTILINE)
    if not found:
        raise LoadFailed(f"wrk gave no result: {said[-300:]}")
    got = json.loads(found[1])
    if not got["requests"]:
        raise LoadFailed(f"not one reply in {seconds} s")
    p99 = got["p99"] / 1e3 if got["requests"] >= P99_SAMPLES else None
    return Sample(got["requests"], got["micros"] / 1e6, got["p50"] / 1e3, p99, got["errors"])


def _h2load(
    form: Form, body: bytes, port: int, connections: int, seconds: int, pin: Sequence[str], folder: Path
) -> Sample:
    (folder / "body").write_bytes(frames.frame(body))
    log = folder / "log"
    headers = {"content-type": "application/grpc", "te": "trailers", **form.headers}
    argv = ["h2load", "-t1", f"-c{connections}", "-m1", f"-D{seconds}", f"-d{folder / 'body'}"]
    argv += [f"-H{name}: {value}" for name, value in headers.items()]
    said = _call([*pin, *argv, f"--log-file={log}", f"http://127.0.0.1:{port}{form.path}"], seconds)
    counts = re.search(r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said)
    took = re.search(r"finished in ([\d.]+)(ms|s|us)", said)
    columns = log.read_bytes().split() if log.exists() else []
    if not counts or not took or not columns:
        raise LoadFailed(f"h2load gave no result: {said[-300:]}")
    requests = int(counts[2])
    micros = np.array(columns[2::3], np.float64)
    statuses = np.array(columns[1::3])
    errors = int(np.count_nonzero(statuses != b"200")) + int(counts[3]) + int(counts[5])
    p99 = float(np.percentile(micros, 99)) / 1e3 if requests >= P99_SAMPLES else None
    return Sample(requests, seconds, float(np.median(micros)) / 1e3, p99, errors)
