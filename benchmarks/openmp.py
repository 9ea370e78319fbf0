"""Claim: OpenMP's threads that sleep between the parts of a run cost less, and answer no later.

    python benchmarks/openmp.py [--rounds 3] [--runs 60] [--publish]

A TorchScript MobileNetV2 and a forest of LightGBM run on all cores, alone and beside as many busy processes
as there are cores: with the settings of GNU's library, and with the server's (``sleep_between_parts``).
Medians of rounds in which the settings take turns.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import crowd_models
import host
import page

PAGE = page.ROOT / "docs" / "explanation" / "threads.md"
MODELS = {"TorchScript, MobileNetV2": "mobilenet-jit", "LightGBM, 300 trees of digits": "lgb-digits"}
RUN = """
import json, os, sys, time
from pathlib import Path
from salver import machine
if sys.argv[3] == "server":
    machine.sleep_between_parts()
import numpy as np
folder, runs, cores = Path(sys.argv[1]), int(sys.argv[2]), machine.usable_cores()
if (folder / "model.pt").exists():
    import torch
    torch.set_num_threads(cores)
    program, x = torch.jit.load(folder / "model.pt").eval(), torch.zeros(1, 3, 224, 224)
    def run():
        with torch.inference_mode():
            program(x)
else:
    import lightgbm
    forest, x = lightgbm.Booster(model_file=folder / "model.txt"), np.ones((64, 64), "f4")
    def run():
        forest.predict(x, num_threads=cores)
for _ in range(5):
    run()
times, cpu = [], time.process_time()
for _ in range(runs):
    began = time.perf_counter()
    run()
    times.append(time.perf_counter() - began)
print(json.dumps({"ms": 1e3 * sorted(times)[runs // 2], "cpu_ms": 1e3 * (time.process_time() - cpu) / runs}))
"""


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep as many processors busy."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(process.kill)
        yield


def measure(folder: Path, runs: int, how: str) -> dict[str, float]:
    """Return the milliseconds of a run, and of processors in it."""
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    variables = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, "-c", RUN, str(folder), str(runs), how]
    said = subprocess.run(command, check=True, capture_output=True, text=True, env=variables).stdout
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    return found


def text(result: Mapping[str, Any]) -> str:
    """Return the published part of the page."""
    lines = [
        "| | ms of a run: by default | Salver | processor ms: by default | Salver |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        cells = [f"{row[how][key]:.3g}" for key in ("ms", "cpu_ms") for how in ("default", "server")]
        lines.append(f"| {row['model']}, {row['beside']} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", page.provenance(result)])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=60)
    page.add_arguments(parser, "openmp")
    given = parser.parse_args()
    quiet, rows, cores = host.Quiet(), [], len(os.sched_getaffinity(0))
    with page.scratch("openmp") as folder:
        crowd_models.write(folder, list(MODELS.values()))
        for beside, count in (("alone", 0), (f"beside {cores} busy processes", cores)):
            for model, name in MODELS.items():
                row: dict[str, Any] = {"model": model, "beside": beside}
                with busy(count):
                    turns = [
                        {how: measure(folder / name / "1", given.runs, how) for how in ("default", "server")}
                        for _ in range(given.rounds)
                    ]
                for how in ("default", "server"):
                    row[how] = {
                        key: statistics.median(turn[how][key] for turn in turns) for key in ("ms", "cpu_ms")
                    }
                rows.append(row)
    settings = {"rounds": given.rounds, "runs": given.runs}
    result = {"host": host.facts(), "settings": settings, "noise": quiet.verdict(), "rows": rows}
    page.write(given, "openmp", result, text(result), PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
