"""Claim: on Ray, Salver answers five times the requests of plain Ray Serve for a tiny model.

    python benchmarks/ray_engine.py [--models tiny,medium] [--connections 64] [--seconds 4] [--rounds 3]

Plain Ray Serve with one replica, Salver with its local engine and Salver with one actor get the same rows as
the same JSON, in turns. Each runs alone: Ray's processes take cores even while they wait. Requests a second
and processor time are those of a closed loop. Latencies are those of the same arrivals at all three, at half
of the rate that Ray Serve can answer.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import forms
import load
import models
import numpy as np
import openloop
import processes
from models import ROOT, Model
from openloop import Floats, Question
from processes import Launch
from systems import all_systems

SALVER = str(Path(sys.executable).with_name("salver"))
RAY = {
    "PYTHONPATH": str(ROOT / ".envs" / "ray-2.60"),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_METRICS_COLLECTION": "0",
}
NAMES = ("ray serve", "local", "ray")
START_S = 180
#: Seconds of load before what is measured: Ray starts processes in advance meanwhile.
WARM_UP_S = 4


class Measured(NamedTuple):
    """Result of one run; the rate of arrivals is that of the latencies."""

    rate: float
    cpu_us: float
    latency_ms: Floats
    arrivals: float


def measure(name: str, model: Model, arrivals: float, given: argparse.Namespace) -> Measured:
    """Run a server alone.

    Args:
        arrivals: Requests a second of the open loop; 0 = half of what the server can answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        port = processes.free_port(2)
        if name == "ray serve":
            peer = all_systems()["rayserve"]
            launch, form = peer.launch(model, port, Path(folder)), peer.forms(model)["http"]
            assert not isinstance(form, str)
        else:
            argv = [SALVER, "serve", str(model.path), "--port", str(port), "--threads", "1"]
            launch = Launch([*argv, "--engine", name], RAY if name == "ray" else {})
            path = f"/v2/models/{model.name}/infer"
            form = forms.oip_binary(model)
            if not model.is_image:
                form = dataclasses.replace(
                    forms.rows_json(path, "x"), decode=forms.rows_json(path, "y").decode
                )
        is_up = partial(forms.is_right, form, model, port)
        body = form.encode(model.samples[0])
        with processes.running(launch, Path(folder) / "log", is_up, START_S) as server:
            load.generate(form, body, port, given.connections, WARM_UP_S)
            before = server.cpu_seconds()
            sample = load.generate(form, body, port, given.connections, given.seconds)
            cpu = server.cpu_seconds() - before
            arrivals = arrivals or sample.rate / 2
            due = openloop.poisson(arrivals, 2 * given.seconds, np.random.default_rng(1))
            question = Question(form.path, body, form.headers)
            outcome = openloop.run(port, due, [question], timeout=10)
    failed = sample.errors + np.count_nonzero(outcome.status != 200)
    if failed:
        raise SystemExit(f"{failed} requests to {name} failed")
    return Measured(sample.rate, 1e6 * cpu / sample.requests, 1e3 * outcome.latency, arrivals)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="tiny,medium")
    parser.add_argument("--connections", type=int, default=64, help="of the closed loop")
    parser.add_argument("--seconds", type=int, default=4, help="of the closed loop; the open one takes twice")
    parser.add_argument("--rounds", type=int, default=3, help="medians of rates, and all their latencies")
    given = parser.parse_args()
    models.make()
    print(
        "| model | server | requests/s | times Ray Serve | CPU us/request | open loop/s | p50 ms | p99 ms |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for model in (models.MODELS[name] for name in given.models.split(",")):
        rounds: dict[str, list[Measured]] = {name: [] for name in NAMES}
        for _ in range(given.rounds):
            arrivals = 0.0
            for name, found in rounds.items():
                found.append(measure(name, model, arrivals, given))
                arrivals = found[-1].arrivals
        theirs = statistics.median(each.rate for each in rounds["ray serve"])
        for name, found in rounds.items():
            rate = statistics.median(each.rate for each in found)
            cpu = statistics.median(each.cpu_us for each in found)
            arrivals = statistics.median(each.arrivals for each in found)
            p50, p99 = np.percentile(np.concatenate([each.latency_ms for each in found]), (50, 99))
            print(
                f"| {model.name} | {name} | {rate:,.0f} | {rate / theirs:.1f} | {cpu:,.0f} "
                f"| {arrivals:.0f} | {p50:.1f} | {p99:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
