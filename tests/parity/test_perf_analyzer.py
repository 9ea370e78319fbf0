"""NVIDIA's perf_analyzer, unmodified, against a running server: whether it works, and not how fast.

``python benchmarks/peers/environment.py perf_analyzer`` makes the environment in which it lies.
"""

import csv
import fcntl
import json
import os
import subprocess
from ctypes.util import find_library
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from salver.testing.process import TritonProcess

ENVIRONMENT = Path(__file__).parents[2] / ".envs" / "perf_analyzer"
#: Not the script in ``bin``, which ends with 0 whatever happened, and leaves this behind when it is killed.
PROGRAM = "lib/python3*/site-packages/perf_analyzer/bin/perf_analyzer"
#: Three windows of 200 ms in which something was answered, however much they differ. No ``--request-count``:
#: it forgets what was answered before it begins to count, and then waits for more than it asks for.
WINDOWS = ("-p", "200", "-s", "1000000", "-r", "150")

pytestmark = pytest.mark.skipif(
    not any(ENVIRONMENT.glob(PROGRAM)),
    reason="make it first: python benchmarks/peers/environment.py perf_analyzer",
)


class Report(NamedTuple):
    """What it printed, and the row of its table."""

    text: str
    row: dict[str, str]


class Analyzer:
    """Runs it once, bounded in time."""

    def __init__(self, server: TritonProcess, folder: Path) -> None:
        self._server = server
        self._folder = folder
        (self._program,) = map(str, ENVIRONMENT.glob(PROGRAM))

    def __call__(self, model: str, *flags: str) -> Report:
        is_grpc = "grpc" in flags
        port = self._server.grpc_port if is_grpc else self._server.port
        table = self._folder / "table.csv"
        table.unlink(missing_ok=True)
        command = [self._program, "-m", model, "-u", f"127.0.0.1:{port}", "--service-kind", "triton"]
        command += [*WINDOWS, "-f", str(table), *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        text = done.stdout + done.stderr
        assert done.returncode == 0, text[-3000:]
        for word in ("had error", "Failed", "failed", "Error"):  # in the last requests: it ends with 0
            assert word not in text, text[-3000:]
        assert "Request count: " in text, text[-3000:]
        (row,) = csv.DictReader(table.read_text().splitlines())
        assert float(row["Inferences/Second"]) > 0
        return Report(text, row)

    def given(self, document: Any) -> str:
        """A file for ``--input-data``."""
        path = self._folder / "data.json"
        path.write_text(json.dumps(document))
        return str(path)


@pytest.fixture
def analyze(triton: TritonProcess, tmp_path: Path) -> Analyzer:
    return Analyzer(triton, tmp_path)


@pytest.mark.clause("TR-A8")
@pytest.mark.parametrize("wire", ["http", "grpc"])
@pytest.mark.parametrize("mode", [(), ("--async", "--concurrency-range", "4"), ("--sync", "-b", "3")])
def test_one_after_the_other_and_side_by_side(analyze: Analyzer, wire: str, mode: tuple[str, ...]) -> None:
    report = analyze("addsub", "-i", wire, *mode)
    assert "Successful request count" in report.text


@pytest.mark.clause("TR-A8")
@pytest.mark.parametrize("wire", ["http", "grpc"])
def test_at_a_rate(analyze: Analyzer, wire: str) -> None:
    rate = ("--request-rate-range", "60", "--request-distribution", "poisson")
    assert analyze("addsub", "-i", wire, *rate).row["Request Rate"] == "60"


@pytest.mark.clause("TR-A8")
@pytest.mark.parametrize(
    ("model", "flags"),
    [
        ("ident_fp32", ("--shape", "X:5", "--input-data", "zero")),
        ("ident_int64", ("--shape", "X:5", "--input-data", "random", "-i", "grpc")),
        ("ident_string", ("--shape", "X:3", "--string-length", "8")),
        ("ver_all", ("-x", "1")),
    ],
)
def test_made_up_inputs(analyze: Analyzer, model: str, flags: tuple[str, ...]) -> None:
    analyze(model, *flags)


@pytest.mark.clause("TR-A8")
def test_inputs_from_a_file_and_answers_checked(analyze: Analyzer) -> None:
    ones = [1, 1, 1, 1]
    data = [{"INPUT0": [1, 2, 3, 4], "INPUT1": {"content": ones, "shape": [4]}}]
    expected = [{"OUTPUT0": [2, 3, 4, 5], "OUTPUT1": [0, 1, 2, 3]}]
    analyze("addsub", "--input-data", analyze.given({"data": data, "validation_data": expected}))


@pytest.mark.clause("TR-A8", "TR-S8")
def test_a_decoupled_model_on_a_stream(analyze: Analyzer) -> None:
    data = [{"IN": {"content": [1, 2, 3], "shape": [3]}}, {"IN": {"content": [4], "shape": [1]}}]
    flags = ("-i", "grpc", "--streaming", "--async", "--concurrency-range", "2")
    report = analyze("repeat", *flags, "--input-data", analyze.given({"data": data}))
    assert "Detected decoupled model" in report.text
    assert "Response Throughput" in report.text


@pytest.mark.clause("TR-A8", "TR-S4")
@pytest.mark.parametrize("flags", [("-i", "grpc", "--streaming", "--async"), ("-i", "http", "--sync")])
def test_sequences(analyze: Analyzer, flags: tuple[str, ...]) -> None:
    # Over HTTP without --sync, it has several requests of a sequence under way, each on a connection of its
    # own: one may overtake the first one, where answers are late.
    shape = ("--sequence-length", "5", "--num-of-sequences", "2", "--input-data", "zero")
    shape += ("--request-rate-range", "30")
    report = analyze("seq_oldest", *flags, *shape)
    assert "Successful request count" in report.text


@pytest.mark.clause("TR-A8", "TR-R14")
@pytest.mark.skipif(
    find_library("cudart") is None, reason="perf_analyzer's shared memory needs CUDA's library libcudart.so"
)
@pytest.mark.parametrize("wire", ["http", "grpc"])
def test_through_shared_memory(analyze: Analyzer, wire: str) -> None:
    flags = ("--shared-memory", "system", "--output-shared-memory-size", "64", "-b", "2")
    flags += ("--concurrency-range", "2")
    segments = os.open("/dev/shm", os.O_RDONLY)
    try:
        # Its segments have the names of tensors, and each run removes them, another's as well.
        fcntl.flock(segments, fcntl.LOCK_EX)
        analyze("addsub", "-i", wire, *flags)
    finally:
        os.close(segments)


@pytest.mark.clause("TR-A8", "TR-R16")
def test_metrics_while_it_asks(analyze: Analyzer, triton: TritonProcess) -> None:
    url = f"http://127.0.0.1:{triton.metrics_port}/metrics"
    flags = ("--collect-metrics", "--metrics-url", url, "--metrics-interval", "200", "--verbose-csv")
    report = analyze("addsub", *flags)
    assert "Server Prometheus Metrics" in report.text
    assert float(report.row["Server Compute Infer"]) >= 0
