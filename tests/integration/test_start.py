"""What a server that serves one model imports: what nobody uses is not imported."""

import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest
from zoo import write_mlp

PROGRAM = """
import json, sys
from salver.cli import main

status = main(["serve", sys.argv[1], "--port", "0", "--drain-delay", "0", "--json"])
print(json.dumps(sorted(sys.modules)))
sys.exit(status)
"""
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [0.5] * 16}]})
#: Large, and of no use to a server without a registry, tuning, gRPC or a scrape.
HEAVY = {"google.protobuf", "prometheus_client", "rich", "scipy", "sqlalchemy", "structlog"}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
    """Modules of a process that has served an ONNX model once, from its start to its end."""
    folder = tmp_path_factory.mktemp("start") / "mlp"
    write_mlp(folder, 1)
    (model,) = folder.rglob("*.onnx")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SALVER_")}
    command = [sys.executable, "-c", PROGRAM, str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        report = json.loads(process.stdout.readline())
        url = f"{report['url']}/v2/models/{report['models'][0]['name']}/infer"
        with urllib.request.urlopen(url, BODY.encode()) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        modules = json.loads(process.stdout.read().splitlines()[-1])
    assert process.returncode == 0
    return frozenset(modules)


def test_few_modules_of_ours_are_imported(imported: frozenset[str]) -> None:
    ours = sorted(name for name in imported if name.partition(".")[0] == "salver")
    assert len(ours) <= 200, ours


def test_nothing_heavy_is_imported(imported: frozenset[str]) -> None:
    assert imported & HEAVY == set()
