"""Claim: where the front is the bottleneck, a server beyond its capacity still answers most requests in time.

    python benchmarks/front_overload.py [--models tiny] [--forms json,grpc] [--cells p0.8,c2] [--publish]
    python benchmarks/front_overload.py --beside triton,torchserve
    python benchmarks/front_overload.py --fronts 1,2 --models tiny,medium

``overload.py`` has models that are the bottleneck; here reading and decoding is. The model has the objective
``latency_p99 = "50ms"``. Its capacity is the highest rate of good answers of closed loops over 2 to 256
connections; a cell is a Poisson (p) or constant (c) process at so many times that. An answer counts if it
came within 50 ms of its scheduled time. The generator (``openloop.c``, ``openloop_grpc.c``) has a core of
its own; the server has the others. Other servers are measured against their own capacity: Triton with its
native backend and a queue policy that refuses what has waited for half of the objective, TorchServe with a
queue of 100.

Exits with 1 if a target is missed.
"""

import argparse
import importlib
import json
import os
import signal
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import forms
import host
import load
import models
import numpy as np
import openloop
import page
import processes
from models import Model
from openloop import Floats, Outcome
from processes import Launch
from systems import System

CELLS = ("p0.8", "c0.8", "p1.2", "c1.2", "p2", "c2")
FORMS = {"json": forms.oip_json, "binary": forms.oip_binary, "grpc": forms.oip_grpc}
SLO_S, CONNECTIONS, CLOSED = 0.05, 2048, (2, 16, 32, 64, 256)
#: Requests that may wait in another server.
QUEUE = 100
#: Least share of the capacity that is answered in time, by the load; most seconds to a refusal, median.
SHARES = {"0.8": 0.99 * 0.8, "1.2": 0.9, "2": 0.9}
REFUSAL_S = 0.005
HEAD = (
    "| server | model | form | cell | offered/s | in time/s | of the capacity | p99 answered ms | refused "
    "| refusal p50 / p99 ms | generator's CPU |"
)


def due(cell: str, capacity: float, seconds: float, seed: int) -> Floats:
    """When requests are sent."""
    rate = capacity * float(cell[1:])
    if cell[0] == "p":
        return openloop.poisson(rate, seconds, np.random.default_rng([seed, *cell.encode()]))
    return np.arange(round(rate * seconds)) / rate


def pins() -> tuple[list[str], list[str]]:
    """What goes before the command lines of server and generator."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("this needs two cores: one is the generator's")
    server = ",".join(map(str, cores[:-1]))
    return ["taskset", "-c", server], ["taskset", "-c", str(cores[-1])]


def launch_salver(model: Model, port: int, folder: Path, fronts: int = 1) -> Launch:
    version = folder / model.name / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(model.path.read_bytes())
    (version.parent / "salver.toml").write_text(f'objective = {{ latency_p99 = "{SLO_S * 1e3:g}ms" }}\n')
    salver = str(Path(sys.executable).with_name("salver"))
    return Launch([salver, "serve", str(folder), "--port", str(port), "--fronts", str(fronts)], cwd=folder)


def oip_forms(model: Model) -> dict[str, forms.Form | str]:
    """The forms of the Open Inference Protocol."""
    return {name: form(model) for name, form in FORMS.items()}


def servers(names: list[str], fronts: list[int]) -> list[System]:
    """Salver with each number of fronts, and the others that were asked for."""
    found = []
    for count in fronts:
        name = "salver" if count == 1 else f"salver, {count} fronts"
        launch = partial(launch_salver, fronts=count)
        found.append(System(name, "salver", launch, oip_forms, "objective", counts_batches=True))
    for name in names:
        peer = importlib.import_module(f"peers.{'triton_onnx' if name == 'triton' else name}.peer")
        found.append(peer.queued(SLO_S / 2, QUEUE) if name == "triton" else peer.queued(QUEUE))
    return found


def run(system: System, model: Model, given: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Row after row."""
    server, generator = pins()
    port = processes.free_port(system.ports)
    launch = system.launch(model, port, folder)
    launch = Launch([*server, *launch.argv], launch.env, launch.cwd)
    spoken = system.forms(model)
    if system.name == "triton":
        spoken = {**spoken, "binary": forms.oip_binary(model)}
    chosen = [(name, form) for name in given.forms if not isinstance(form := spoken.get(name, ""), str)]
    if not chosen:
        return
    ready = chosen[0][1]
    with processes.running(
        launch, folder / "log", lambda: forms.is_right(ready, model, port), system.ready_seconds
    ):
        for name, form in chosen:
            asked = question(form, model)
            capacity = max(good(system, form, asked.body, port, n, given, generator) for n in CLOSED)
            for cell in given.cells:
                times = due(cell, capacity, given.seconds, given.seed)
                at = port + form.port_offset
                got = openloop.run(at, times, [asked], connections=CONNECTIONS, opened=64, pin=generator)
                about = {"system": system.name, "model": model.name, "form": name, "cell": cell}
                yield {**about, "capacity": round(capacity), **figures(got, capacity)}


def question(form: forms.Form, model: Model) -> openloop.Question | openloop.Call:
    """What is sent."""
    body = form.encode(model.samples[0])
    if form.transport == "grpc":
        return openloop.Call(form.path, body)
    return openloop.Question(form.path, body, form.headers)


def good(
    system: System,
    form: forms.Form,
    body: bytes,
    port: int,
    connections: int,
    given: argparse.Namespace,
    pin: list[str],
) -> float:
    """Good answers a second of a closed loop.

    Over gRPC, the generator takes a refusal for an answer, so the server's own count is asked, if it has one.
    """
    before = answered(port) if system.counts_batches else 0
    got = load.generate(form, body, port, connections, given.warm_up, pin)
    if system.counts_batches:
        return (answered(port) - before) / got.seconds
    return (got.requests - got.errors) / got.seconds


def answered(port: int) -> int:
    """Successful requests so far, by the server's own count."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/stats", timeout=10) as reply:
        return sum(one["inference_stats"]["success"]["count"] for one in json.load(reply)["model_stats"])


def figures(got: Outcome, capacity: float) -> dict[str, Any]:
    """What one cell comes to; rates a second, times in ms."""
    answered, refused = got.status == 200, np.isin(got.status, (429, 503, 504))
    seconds = float(got.scheduled[-1])
    in_time = got.within(SLO_S).sum() / seconds
    return {
        "offered": round(len(got.scheduled) / seconds),
        "in_time": round(float(in_time)),
        "share": round(float(in_time / capacity), 3),
        "p99_ms": _ms(got.latency[answered], 99),
        "refused": round(float(refused.mean()), 3),
        "refusal_p50_ms": _ms((got.done - got.sent)[refused], 50),
        "refusal_p99_ms": _ms((got.done - got.sent)[refused], 99),
        "generator_late_p99_ms": _ms(got.lateness, 99),
        "generator_cpu": round(got.cpu_seconds / got.seconds, 2),
    }


def _ms(values: Floats, q: float) -> float | None:
    return round(float(np.percentile(values, q)) * 1e3, 1) if len(values) else None


def table(rows: list[dict[str, Any]]) -> list[str]:
    lines = [HEAD, "|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        lines.append(
            f"| {row['system']} | {row['model']} | {row['form']} | {row['cell']} | {row['offered']:,} "
            f"| {row['in_time']:,} | {row['share']:.1%} | {row['p99_ms']} | {row['refused']:.1%} "
            f"| {row['refusal_p50_ms']} / {row['refusal_p99_ms']} | {row['generator_cpu']:.0%} |"
        )
    return lines


def verdicts(rows: list[dict[str, Any]]) -> Iterator[tuple[str, str, str, bool]]:
    for row in rows:
        if not row["system"].startswith("salver"):
            continue
        where = f"{row['system'].removeprefix('salver, ')}, " if row["system"] != "salver" else ""
        where, needed = f"{where}{row['model']}, {row['form']}, {row['cell']}", SHARES[row["cell"][1:]]
        yield f"{where}: share in time", f"≥ {needed:.1%}", f"{row['share']:.1%}", row["share"] >= needed
        if row["refusal_p50_ms"] is not None:
            most = REFUSAL_S * 1e3
            measured = f"{row['refusal_p50_ms']} ms"
            yield f"{where}: refusals", f"≤ {most:g} ms", measured, row["refusal_p50_ms"] <= most
        cell = (row["model"], row["form"], row["cell"])
        peers = [other for other in rows if (other["model"], other["form"], other["cell"]) == cell]
        peers = [peer for peer in peers if not peer["system"].startswith("salver")]
        if peers:
            best = max(peer["share"] for peer in peers)
            yield (
                f"{where}: share over the best other's",
                "≥ 1",
                f"{row['share'] / best:.2f}",
                row["share"] >= best,
            )


def text(result: Mapping[str, Any]) -> str:
    rows = result["rows"]
    return "\n".join([page.provenance(result), "", *table(rows), "", *page.targets(verdicts(rows))])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=page.words, default=["tiny", "medium", "image"])
    parser.add_argument("--forms", type=page.words, default=list(FORMS), help=",".join(FORMS))
    parser.add_argument("--cells", type=page.words, default=list(CELLS), help=",".join(CELLS))
    parser.add_argument("--beside", type=page.words, default=[], help="triton,torchserve")
    parser.add_argument("--fronts", type=lambda text: [*map(int, text.split(","))], default=[1])
    parser.add_argument("--seconds", type=float, default=8, help="of load in each cell")
    parser.add_argument("--warm-up", type=int, default=3, help="seconds of each closed loop")
    parser.add_argument("--seed", type=int, default=1)
    page.add_arguments(parser, "front_overload")
    given = parser.parse_args(argv)
    known = {*models.MODELS, *CELLS, *FORMS}
    if unknown := {*given.models, *given.cells, *given.forms} - known:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server outlives us
    models.make()
    quiet, rows = host.Quiet(), []
    for name in given.models:
        for system in servers(given.beside, given.fronts):
            with page.scratch("front_overload") as folder:
                for row in run(system, models.MODELS[name], given, folder):
                    rows.append(row)
                    print("\n".join(table([row])[2:]), flush=True)
    settings = {"seconds": given.seconds, "seed": given.seed, "connections": CONNECTIONS}
    return page.finish(given, "front_overload", settings, quiet.verdict(), rows, text, verdicts)


if __name__ == "__main__":
    sys.exit(main())
