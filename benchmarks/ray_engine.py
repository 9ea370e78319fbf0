"""Claim: on Ray, Salver answers five times the requests of plain Ray Serve for a tiny model.

    python benchmarks/ray_engine.py [--models tiny,medium] [--connections 64] [--seconds 5] [--rounds 3]

Salver with its local engine, Salver with one actor, and plain Ray Serve with one replica answer the same rows
in turns. Each runs alone: Ray's processes take cores even while they wait.
"""

import argparse
import math
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import forms
import load
import models
import processes
from models import ROOT, Model
from processes import Launch
from systems import all_systems

SALVER = str(Path(sys.executable).with_name("salver"))
RAY = {
    "PYTHONPATH": str(ROOT / ".envs" / "ray-2.60"),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_METRICS_COLLECTION": "0",
}
START_S = 180


def measure(name: str, model: Model, given: argparse.Namespace) -> tuple[float, float]:
    """Return the requests a second and the p99 in milliseconds of a server in one run."""
    with tempfile.TemporaryDirectory() as folder:
        port = processes.free_port(2)
        form = forms.oip(model)["http"]
        if name == "ray serve":
            peer = all_systems()["rayserve"]
            launch, form = peer.launch(model, port, Path(folder)), peer.forms(model)["http"]
        else:
            argv = [SALVER, "serve", str(model.path), "--port", str(port), "--threads", "1"]
            launch = Launch([*argv, "--engine", name], RAY if name == "ray" else {})
        assert not isinstance(form, str)
        is_up = partial(forms.is_right, form, model, port)
        body = form.encode(model.samples[0])
        with processes.running(launch, Path(folder) / "log", is_up, START_S):
            load.generate(form, body, port, given.connections, 2)
            sample = load.generate(form, body, port, given.connections, given.seconds)
    if sample.errors:
        raise SystemExit(f"{sample.errors} requests failed")
    return sample.rate, sample.p99_ms or math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="tiny,medium")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    models.make()
    print("| model | server | requests/s | p99 ms | times Ray Serve |\n|---|---|---|---|---|")
    for model in (models.MODELS[name] for name in given.models.split(",")):
        names = ("local", "ray", "ray serve")
        rounds = [{name: measure(name, model, given) for name in names} for _ in range(given.rounds)]
        middle = {
            name: [statistics.median(column) for column in zip(*(each[name] for each in rounds), strict=True)]
            for name in names
        }
        for name, (rate, p99) in middle.items():
            times = rate / middle["ray serve"][0]
            print(f"| {model.name} | {name} | {rate:,.0f} | {p99:.1f} | {times:.2f} |", flush=True)


if __name__ == "__main__":
    main()
