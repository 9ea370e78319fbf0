"""Claim: a second front process answers more callers of a small model, for little more CPU a request.

    python benchmarks/fronts.py [--fronts 1,2] [--models tiny] [--cells http:16,http:64,http:256,grpc:64]
                                [--seconds 3] [--rounds 3]

A server with each number of fronts runs all the time; they are loaded in turns, so that other work on the
machine meets all alike. CPU time is that of all processes of a server. The load generator shares the cores:
what it takes, fronts cannot use.
"""

import argparse
import contextlib
import math
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import forms
import load
import models
import processes
from models import Model
from processes import Launch, Server

SALVER = str(Path(sys.executable).with_name("salver"))
#: Seconds after which every front has its copies.
SETTLE_S = 3


class Served(NamedTuple):
    """One server: its fronts, its port, and its processes."""

    fronts: int
    port: int
    server: Server


class Cell(NamedTuple):
    """What one server did in one run: requests a second, CPU in µs a request, p99 in ms (NaN = too few)."""

    rate: float
    cpu: float
    p99: float


def measure(served: Served, form: forms.Form, body: bytes, connections: int, seconds: int) -> Cell:
    before = served.server.cpu_seconds()
    sample = load.generate(form, body, served.port, connections, seconds)
    spent = served.server.cpu_seconds() - before
    if sample.errors:
        raise SystemExit(f"{sample.errors} requests failed")
    return Cell(sample.rate, spent / sample.requests * 1e6, sample.p99_ms or math.nan)


def compare(
    servers: list[Served], model: Model, cells: list[tuple[str, int]], given: argparse.Namespace
) -> None:
    for kind, connections in cells:
        form = forms.oip(model)[kind]
        assert not isinstance(form, str)
        body = form.encode(model.samples[0])
        found: dict[int, list[Cell]] = {served.fronts: [] for served in servers}
        for number in range(given.rounds + 1):
            for served in servers:
                cell = measure(served, form, body, connections, given.seconds if number else 1)
                if number:  # the first round warms up
                    found[served.fronts].append(cell)
        middle = {
            count: Cell(*(statistics.median(column) for column in zip(*rows, strict=True)))
            for count, rows in found.items()
        }
        least = middle[min(middle)]
        for count, cell in middle.items():
            shares = f"{cell.rate / least.rate:.2f} | {cell.cpu / least.cpu:.2f}"
            numbers = f"{cell.rate:,.0f} | {cell.cpu:.1f} | {cell.p99:.1f}"
            print(f"| {model.name} | {kind} | {connections} | {count} | {numbers} | {shares} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fronts", default="1,2", help="numbers of fronts; the least is compared with")
    parser.add_argument("--models", default="tiny")
    parser.add_argument("--cells", default="http:16,http:64,http:256,grpc:64", help="form:connections")
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    models.make()
    cells = [
        (kind, int(count)) for kind, _, count in (cell.partition(":") for cell in given.cells.split(","))
    ]
    print("| model | form | connections | fronts | requests/s | CPU µs | p99 ms | rate | CPU |")
    print("|---|---|---|---|---|---|---|---|---|")
    for model in (models.MODELS[name] for name in given.models.split(",")):
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            servers = []
            for fronts in map(int, given.fronts.split(",")):
                port = processes.free_port()
                argv = [SALVER, "serve", str(model.path), "--port", str(port), "--threads", "1"]
                launch = Launch([*argv, "--fronts", str(fronts)])
                is_up = partial(forms.is_right, forms.oip_json(model), model, port)
                server = stack.enter_context(processes.running(launch, Path(folder) / f"{fronts}.log", is_up))
                servers.append(Served(fronts, port, server))
            time.sleep(SETTLE_S)
            compare(servers, model, cells, given)


if __name__ == "__main__":
    main()
