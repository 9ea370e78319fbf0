"""The parts of the benchmarks that decide: what fails a cell, what is a tie, which target holds."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from waiting import PATIENCE_S, until

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = (
    "frames",
    "models",
    "forms",
    "processes",
    "load",
    "report",
    "host",
    "tax",
    "systems",
    "throughput",
    "page",
    "archives",
    "beside_triton",
    "beside_torchserve",
    "tensorflow_tax",
)


@pytest.fixture(scope="module")
def bench() -> Any:
    """The benchmark modules, imported as the scripts import them, and forgotten afterwards."""
    for tool in ("onnx", "onnxruntime", "grpc"):
        pytest.importorskip(tool)
    before = dict(sys.modules)
    sys.path.insert(0, str(FOLDER))
    try:
        yield SimpleNamespace(**{name: __import__(name) for name in NAMES})
    finally:
        sys.path.remove(str(FOLDER))
        for name in NAMES:
            sys.modules.pop(name, None)
            if name in before:
                sys.modules[name] = before[name]


def figures(rate: float, p50: float = 1.0, spread: float = 0.0) -> dict[str, Any]:
    return {
        "rate": rate,
        "rate_min": rate - spread,
        "rate_max": rate + spread,
        "p50_ms": p50,
        "p99_ms": None,
        "cpu_s_per_1000": 0.1,
        "checks": 5,
    }


def result(systems: dict[str, dict[str, Any]], model: str = "tiny", connections: int = 16) -> dict[str, Any]:
    native = dict.fromkeys(("triton", "triton_onnx_1", "triton_onnx_2", "mosec"), "native")
    kinds = {"salver": "salver", "prototype": "floor", **native}
    return {
        "host": {
            "cpu": "c",
            "cores": 2,
            "kernel": "k",
            "python": "3",
            "revision": "r",
            "date": "d",
            "versions": {},
        },
        "settings": {"seconds": 1, "rounds": 1, "seed": 1, "pin": False},
        "noise": {"exchange_us": [1, 1], "steal": 0.0, "load_average": 0.1, "complaints": []},
        "systems": {name: {"kind": kinds.get(name, "python"), "settings": "s"} for name in systems},
        "cells": [{"model": model, "transport": "http", "connections": connections, "systems": systems}],
    }


def test_targets_ask_each_kind_of_system_for_its_own(bench: Any) -> None:
    rows = list(
        bench.report.targets(
            result(
                {
                    "salver": figures(700),
                    "prototype": figures(1000),
                    "fastapi": figures(100),
                    "kserve": figures(100),
                    "triton": figures(350),
                    "triton_onnx_1": figures(500),
                    "triton_onnx_2": figures(700),
                    "mosec": figures(600),
                }
            )
        )
    )
    assert [(row[0], row[2], row[3], row[4]) for row in rows] == [
        ("share of the prototype's rate", "≥ 0.8", "0.70", "**FAIL**"),
        ("times native Triton, the better", "≥ 1", "1.00", "pass"),
        ("CPU over native Triton's", "≤ 1", "1.00", "pass"),
        ("times fastapi", "≥ 5", "7.00", "pass"),
        ("times kserve", "≥ 8", "7.00", "**FAIL**"),
        ("times triton", "≥ 1.8", "2.00", "pass"),
        ("times mosec", "≥ 1.3", "1.17", "**FAIL**"),
    ]


def test_one_connection_asks_twice_the_rate_and_the_prototypes_median(bench: Any) -> None:
    systems = {"salver": figures(300, 1.5), "prototype": figures(400, 1.0), "fastapi": figures(150)}
    rows = list(bench.report.targets(result(systems, connections=1)))
    assert [(row[2], row[4]) for row in rows] == [
        ("≥ 0.8", "**FAIL**"),
        ("≤ 1.3", "**FAIL**"),
        ("≥ 2", "pass"),
    ]


def test_a_failed_peer_is_a_dash_with_its_reason_and_no_target(bench: Any) -> None:
    got = result({"salver": figures(10), "mlserver": {"failed": "answered [1.]\nand more"}})
    text = bench.report.tables(got)
    assert "| mlserver | – |" in text
    assert "- mlserver: answered [1.] (tiny/http/16)" in text
    assert not list(bench.report.targets(got))


def test_overlapping_ranges_are_a_tie(bench: Any) -> None:
    text = bench.report.tables(result({"salver": figures(100, spread=10), "fastapi": figures(85, spread=6)}))
    assert "85 (tie)" in text
    assert "50 (2.00×)" in bench.report.tables(result({"salver": figures(100), "fastapi": figures(50)}))


def test_one_failed_round_fails_the_cell(bench: Any) -> None:
    good = {
        "rate": 10.0,
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "cpu_s_per_1000": 0.1,
        "batch": 0,
        "checks": 3,
        "others": 0.0,
    }
    assert bench.throughput._summary("tiny", [good, {"failed": "HTTP 500"}]) == {"failed": "HTTP 500"}
    assert bench.throughput._summary("tiny", [good, {**good, "rate": 30.0}])["rate"] == 20.0


def test_a_p99_of_too_few_samples_is_not_printed(bench: Any) -> None:
    good = {
        "rate": 10.0,
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "cpu_s_per_1000": 0.1,
        "batch": 0,
        "checks": 3,
        "others": 0.0,
    }
    assert bench.throughput._summary("tiny", [good, {**good, "p99_ms": None}])["p99_ms"] is None


def test_a_disturbed_cell_is_repeated_and_the_least_disturbed_try_counts(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter((0.5, 0.2, 0.01, 0.0))
    monkeypatch.setattr(bench.throughput, "attempt", lambda *_: {"others": next(shares)})
    given = SimpleNamespace(tries=2)
    assert bench.throughput.measure(None, None, None, 0, None, given) == {"others": 0.2}
    assert bench.throughput.measure(None, None, None, 0, None, given) == {"others": 0.01}


def test_what_others_take_is_what_nobody_here_has_taken(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = [[0] * 8, [100, 50, 0, 40, 0, 0, 0, 10]]  # user, nice, …, idle, …, stolen
    monkeypatch.setattr(bench.host, "_ticks", lambda: ticks.pop(0))
    monkeypatch.setattr(bench.host, "_HZ", 1)
    monkeypatch.setattr(bench.host.resource, "getrusage", lambda _: SimpleNamespace(ru_utime=0, ru_stime=0))
    spent = iter((0.0, 100.0))
    assert bench.host.Others(lambda: next(spent)).share() == 60 / 200


@pytest.mark.parametrize("name", ["oip_json", "oip_binary", "oip_grpc"])
def test_forms_carry_the_row(bench: Any, name: str) -> None:
    model = bench.models.MODELS["tiny"]
    form = getattr(bench.forms, name)(model)
    row = model.samples[0]
    body = form.encode(row)
    if name == "oip_grpc":
        request = bench.frames.InferRequest.FromString(body)
        assert request.raw_input_contents[0] == row.tobytes()
        assert list(request.inputs[0].shape) == [1, 16]
    elif name == "oip_binary":
        length = int(form.headers["inference-header-content-length"])
        assert np.frombuffer(body[length:], np.float32).tolist() == row.ravel().tolist()
    else:
        assert np.allclose(bench.forms.json.loads(body)["inputs"][0]["data"], row.ravel())


def test_serving_tax_is_the_share_that_is_not_the_model(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.tax, "bare_cpu_seconds", lambda name, batch: 40e-6 / batch)
    assert bench.tax.serving_tax("tiny", 3.7, 0.04) == {"bare_us": 10.0, "tax": 0.75}
    systems = {"salver": {**figures(100), "batch": 3.7, "bare_us": 10.0, "tax": 0.75}}
    assert "| salver tiny/http/16 | 3.7 | 100.0 | 10.0 | 75% |" in bench.report.tables(result(systems))


def test_a_frame_is_the_length_and_the_message(bench: Any) -> None:
    assert bench.frames.frame(b"abc") == b"\0\0\0\0\x03abc"


def test_stopping_a_server_ends_its_children_too(bench: Any, tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "pathlib.Path('child').write_text(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    launch = bench.processes.Launch([sys.executable, "-c", code], cwd=tmp_path)
    written = tmp_path / "child"
    ready = lambda: written.exists() and bool(written.read_text())  # noqa: E731
    with bench.processes.running(launch, tmp_path / "log", ready, PATIENCE_S, look_every=0.02) as server:
        child = int(written.read_text())
        assert child in server.tree()
        assert server.cpu_seconds() >= 0
    until(lambda: not bench.processes._is_alive(child))


def test_a_server_that_ends_says_why(bench: Any, tmp_path: Path) -> None:
    launch = bench.processes.Launch([sys.executable, "-c", "raise SystemExit('no such model')"])
    with (
        pytest.raises(bench.processes.Unready, match="no such model"),
        bench.processes.running(launch, tmp_path / "log", lambda: False, 20, look_every=0.02),
    ):
        pass


def test_every_peer_is_described_and_pinned(bench: Any) -> None:
    code = "import systems as s; print(*[x.environment or x.name for x in s.all_systems().values()])"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER, check=True, capture_output=True, text=True
    )
    names = said.stdout.split()
    ours = ["salver", "salver_accelerated", "salver_fronts_2", "salver_accelerated_fronts_2"]
    assert names[:6] == [*ours, "prototype", "floor"]
    for name in names[6:]:
        lines = (FOLDER / "peers" / name / "requirements.txt").read_text().split()
        ranged = ("torch>=", "torchvision>=")  # whose CPU and CUDA builds differ in version
        assert lines and all("==" in line or line.startswith(ranged) for line in lines), name


def beside(*rates: tuple[float, float, float, float]) -> dict[str, Any]:
    """A result of rounds: rate and p99 of Salver, then of Triton."""
    rounds = [
        {
            "python/http/16": {"rate": rate, "p99_ms": p99, "cpu_s_per_1000": 0.1},
            "triton/http/16": {"rate": theirs, "p99_ms": slow, "cpu_s_per_1000": 0.2},
        }
        for rate, p99, theirs, slow in rates
    ]
    return {
        **result({}),
        "systems": {"triton": "", "python": ""},
        "settings": {"connections": [16]},
        "same": "python bit for bit as Triton's",
        "rounds": rounds,
    }


@pytest.mark.parametrize(
    ("rounds", "line"),
    [
        ([(200, 1.0, 100, 2.0)], "| python | http | 16 | 2.00 | 1 | 0.50 | 0.50 | pass |"),
        ([(90, 1.0, 100, 2.0)], "| python | http | 16 | 0.90 | 1 | 0.50 | 0.50 | **missed** |"),
        ([(200, 3.0, 100, 2.0)], "| python | http | 16 | 2.00 | 1 | 1.50 | 0.50 | **missed** |"),
        (
            [(90, 1.0, 100, 2.0), (120, 1.0, 100, 2.0), (150, 9.0, 100, 2.0)],
            "| python | http | 16 | 1.20 | 1 | 0.50 | 0.50 | pass |",
        ),
    ],
)
def test_beside_triton_the_median_of_ratios_within_a_round_counts(
    bench: Any, rounds: list[tuple[float, float, float, float]], line: str
) -> None:
    assert line in bench.beside_triton.report(beside(*rounds)).splitlines()


def test_beside_triton_a_cell_that_failed_in_one_round_is_missed(bench: Any) -> None:
    got = beside((200, 1.0, 100, 2.0), (200, 1.0, 100, 2.0))
    got["rounds"][1]["triton/http/16"] = {"failed": "it fell over"}
    assert (
        "| python | http | 16 | – | 1 | – | – | **missed** |" in bench.beside_triton.report(got).splitlines()
    )


def taxed(*cells: dict[str, Any]) -> dict[str, Any]:
    """A result of rounds, each with one cell of rows over REST."""
    return {
        **result({}),
        "systems": {"onnx": ""},
        "settings": {"connections": [16]},
        "bare_us": {"1": 25.0, "32": 50.0},
        "rounds": [{"onnx/row/1/16": cell} for cell in cells],
    }


def test_tensorflow_tax_is_what_a_request_costs_beyond_the_bare_call(bench: Any) -> None:
    cells = [
        {"rate": rate, "p99_ms": None, "cpu_s_per_1000": cpu}
        for rate, cpu in [(90, 0.3), (2000, 0.1), (10, 0.05)]
    ]
    lines = bench.tensorflow_tax.report(taxed(*cells)).splitlines()
    assert "| onnx | row/1 | 16 | 90 | – | 100 | 25 | 75% |" in lines


def test_tensorflow_tax_tells_what_failed(bench: Any) -> None:
    cells = [{"rate": 90, "p99_ms": 1.0, "cpu_s_per_1000": 0.1}, {"failed": "it fell over"}]
    lines = bench.tensorflow_tax.report(taxed(*cells)).splitlines()
    assert "| onnx | row/1 | 16 | – | – | – | 25 | – |" in lines
    assert "onnx/row/1/16: it fell over" in lines


def test_tensorflow_tax_refuses_answers_that_differ_within_a_request(bench: Any) -> None:
    same = np.ones((3, 2), np.float32)
    assert bench.tensorflow_tax._first(same).tolist() == [1, 1]
    same[2, 1] = 2
    with pytest.raises(ValueError, match="equal rows"):
        bench.tensorflow_tax._first(same)


def _beside_torchserve(rate: float, memory: float, said: str = "OK") -> dict[str, Any]:
    theirs = {"rate": 100.0, "p99_ms": 4.0, "cpu_s_per_1000": 2.0, "start_s": 4.0, "memory_mb": 400.0}
    ours = {"rate": rate, "p99_ms": 1.0, "cpu_s_per_1000": 0.5, "start_s": 2.0, "memory_mb": memory}
    rounds = [
        {"torchserve/noop/1/1/16": {**theirs, "said": "OK"}, "salver/noop/1/1/16": {**ours, "said": said}}
    ]
    return {"rounds": rounds, "host": _HOST, "noise": _NOISE}


_HOST = dict.fromkeys(("cpu", "cores", "kernel", "python", "revision", "date"), "x")
_NOISE = {"exchange_us": (20, 21), "steal": 0.0, "load_average": 0.1, "complaints": []}


@pytest.mark.parametrize(
    ("rate", "memory", "said", "expected"),
    [
        (300.0, 200.0, "OK", ("3.00 | 3 | 0.25 | 0.25 | 0.50 | 0.50 | pass", "in 1 of 1 cells")),
        (299.0, 200.0, "OK", ("2.99 | 3 | 0.25 | 0.25 | 0.50 | 0.50 | **missed**", "in 1 of 1 cells")),
        (300.0, 400.0, "ok", ("3.00 | 3 | 0.25 | 0.25 | 0.50 | 1.00 | **missed**", "in 0 of 1 cells")),
    ],
)
def test_beside_torchserve_both_rate_and_memory_count(
    bench: Any, rate: float, memory: float, said: str, expected: tuple[str, str]
) -> None:
    text = bench.beside_torchserve.report(_beside_torchserve(rate, memory, said))
    assert all(part in text for part in expected)


def test_beside_torchserve_has_properties_that_both_servers_read(bench: Any, tmp_path: Path) -> None:
    text = bench.archives.properties(9000, tmp_path, "noop", {"minWorkers": 2, "batchSize": 8})
    lines = dict(line.split("=", 1) for line in text.splitlines())
    assert lines["metrics_address"] == "http://127.0.0.1:9002"
    assert lines["grpc_management_port"] == "9004"
    assert '"marName": "noop.mar", "minWorkers": 2, "batchSize": 8' in lines["models"]
