"""Claim: Salver keeps up with a bare prototype of its own front, and leaves every peer behind.

    python benchmarks/throughput.py                                        # everything, about an hour
    python benchmarks/throughput.py --only salver,prototype,floor --cells tiny --seconds 3 --rounds 1

A cell is a model, a transport and a number of connections. Systems take turns within each round
(in an order drawn from the seed), each started for its turn and warmed up; only one runs at a time.
Beside the load a second client asks another row ten times a second and compares with bare ONNX
Runtime; a system that answers wrongly, or with an error, has "–" in that cell, with the reason. A cell during
which other programs or other machines took more than 3 % of the processors is repeated.
"""

import argparse
import contextlib
import http.client
import json
import random
import shutil
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forms
import grpc
import host
import load
import models
import processes
import report
import tax
from models import Model
from peers import environment
from processes import Launch, Server
from systems import System, all_systems

RESULTS = Path(__file__).resolve().parent / "results"
CONNECTIONS = {
    "tiny": (1, 16, 64, 256),
    "medium": (1, 16, 32, 64),
    "image": (1, 4, 16, 64),
    "mobilenet": (1, 4, 16),
}
#: Images are sent as JSON in this model's cells alone.
IN_JSON = "mobilenet"
PAGE = models.ROOT / "docs" / "explanation" / "benchmark-results.md"
LOGS = models.CACHE / "logs"
Cell = tuple[str, str, int]


class Watch:
    """Checks answers beside the load, with a row that the load does not send."""

    def __init__(self, form: forms.Form, model: Model, port: int, which: int) -> None:
        self._client = forms.Client(form, model, port)
        self._which = which
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.wrong = ""
        self.checks = 0

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            try:
                self._client.check(self._which)
                self.checks += 1
            except forms.WrongAnswer as error:
                self.wrong = str(error)
                return
            except (OSError, http.client.HTTPException, grpc.RpcError) as error:
                self.wrong = f"no answer: {forms.reason(error)[:200]}"
                return

    def __enter__(self) -> "Watch":
        self._client.check(0)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        self._client.close()


def measure(
    server: Server, system: System, form: forms.Form, port: int, cell: Cell, given: argparse.Namespace
) -> dict[str, Any]:
    """One cell of one system in one round: the least disturbed of up to so many tries."""
    best: dict[str, Any] = {}
    for _ in range(given.tries):
        got = attempt(server, system, form, port, cell, given)
        if not best or got.get("others", 0.0) < best.get("others", 0.0):
            best = got
        if best.get("others", 0.0) <= report.MOST_OTHERS:
            break
    return best


def attempt(
    server: Server, system: System, form: forms.Form, port: int, cell: Cell, given: argparse.Namespace
) -> dict[str, Any]:
    """Figures, or ``{"failed": reason}``."""
    model, connections = models.MODELS[cell[0]], cell[2]
    body = form.encode(model.samples[0])
    pin = ["taskset", "-c", "1"] if given.pin else []
    try:
        load.generate(form, body, port, connections, given.warm_up, pin)
        with Watch(form, model, port, which_row(system)) as watch:
            rows, batches = tax.counts(model, port) if system.counts_batches else (0, 0)
            others, before = host.Others(server.cpu_seconds), server.cpu_seconds()
            sample = load.generate(form, body, port, connections, given.seconds, pin)
            spent, share = server.cpu_seconds() - before, others.share()
            ended = tax.counts(model, port) if system.counts_batches else (0, 0)
        if watch.wrong:
            return {"failed": watch.wrong}
    except (load.LoadFailed, forms.WrongAnswer, OSError, http.client.HTTPException, grpc.RpcError) as error:
        return {"failed": forms.reason(error)}
    if sample.errors:
        return {"failed": f"{sample.errors} of {sample.requests + sample.errors} requests failed"}
    return {
        "rate": round(sample.rate, 1),
        "requests": sample.requests,
        "p50_ms": round(sample.p50_ms, 4),
        "p99_ms": None if sample.p99_ms is None else round(sample.p99_ms, 3),
        "cpu_s_per_1000": round(spent / sample.requests * 1000, 5),
        "batch": round((ended[0] - rows) / max(1, ended[1] - batches), 2),
        "checks": watch.checks,
        "others": round(share, 4),
    }


@contextlib.contextmanager
def started(system: System, model: Model, given: argparse.Namespace) -> Iterator[tuple[Server, int]]:
    """The system serving the model, already giving right answers in each of its forms."""
    port = processes.free_port(system.ports)
    folder = LOGS / system.name
    folder.mkdir(parents=True, exist_ok=True)
    launch = system.launch(model, port, folder)
    if given.pin:
        launch = Launch(["taskset", "-c", "0", *launch.argv], launch.env, launch.cwd)
    ready = next(form for form in system.forms(model).values() if not isinstance(form, str))
    log = folder / f"{model.name}.log"
    which = which_row(system)
    with processes.running(
        launch, log, lambda: forms.is_right(ready, model, port, which), system.ready_seconds
    ) as server:
        if system.warm_up_seconds:
            body = ready.encode(model.samples[0])
            load.generate(ready, body, port, 16, system.warm_up_seconds)
        yield server, port


def which_row(system: System) -> int:
    """The checks' row: the second, save for the floor, which knows only the first one's answer."""
    return 0 if system.name == "floor" else 1


def turn(
    system: System, model: Model, cells: list[Cell], given: argparse.Namespace
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """One system's turn on one model: its cells, on one server or on a new one for each."""
    offered = system.forms(model)
    reason = system.missing()
    todo = []
    for cell in cells:
        form = offered.get(cell[1], "only forms of its own")
        if reason or isinstance(form, str):
            yield cell, {"failed": reason or form}
        else:
            todo.append((cell, form))
    for group in [[one] for one in todo] if system.is_fragile else [todo]:
        if not group:
            continue
        left = dict(group)
        try:
            with started(system, model, given) as (server, port):
                for cell, form in group:
                    yield cell, measure(server, system, form, port, cell, given)
                    del left[cell]
        except (processes.Unready, load.LoadFailed) as error:
            for cell in left:
                yield cell, {"failed": str(error)}


def run(given: argparse.Namespace, systems: dict[str, System]) -> dict[str, Any]:
    """All rounds of all cells."""
    rng = random.Random(given.seed)
    rounds: dict[Cell, dict[str, list[dict[str, Any]]]] = {}
    quiet = host.Quiet()
    for number in range(given.rounds):
        for name in given.cells:
            cells = [
                (name, transport, count)
                for transport in given.transports
                if transport != "json" or name == IN_JSON
                for count in CONNECTIONS[name]
                if not given.connections or count in given.connections
            ]
            order = [
                system for system in systems.values() if name == "tiny" or system.name not in given.tiny_only
            ]
            rng.shuffle(order)
            for system in order:
                for cell, got in turn(system, models.MODELS[name], cells, given):
                    rounds.setdefault(cell, {}).setdefault(system.name, []).append(got)
                    said = got.get("failed", "").splitlines()[:1] or [f"{got.get('rate', 0):>9,.0f}/s"]
                    label = f"{number + 1}/{given.rounds} {'/'.join(map(str, cell)):16} {system.name:10}"
                    print(label, said[0][:90], flush=True)
    return {
        "host": host.facts(),
        "settings": {name: vars(given)[name] for name in ("seconds", "rounds", "seed", "pin")},
        "noise": quiet.verdict(),
        "systems": {s.name: {"kind": s.kind, "settings": s.settings} for s in systems.values()},
        "cells": [
            {
                "model": cell[0],
                "transport": cell[1],
                "connections": cell[2],
                "systems": {name: _summary(cell[0], got) for name, got in by_system.items()},
            }
            for cell, by_system in rounds.items()
        ],
    }


def _summary(model: str, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds with their spread; one failed round fails the cell."""
    failed = [got["failed"] for got in rounds if "failed" in got]
    if failed:
        return {"failed": failed[0]}
    rates = [got["rate"] for got in rounds]
    p99 = [got["p99_ms"] for got in rounds if got["p99_ms"] is not None]
    batch = statistics.median(got["batch"] for got in rounds)
    cpu = statistics.median(got["cpu_s_per_1000"] for got in rounds)
    return {
        "rate": statistics.median(rates),
        "rate_min": min(rates),
        "rate_max": max(rates),
        "p50_ms": statistics.median(got["p50_ms"] for got in rounds),
        "p99_ms": statistics.median(p99) if len(p99) == len(rounds) else None,
        "cpu_s_per_1000": cpu,
        **({"batch": batch, **tax.serving_tax(model, batch, cpu)} if batch else {}),
        "checks": sum(got["checks"] for got in rounds),
        "others": max(got["others"] for got in rounds),
    }


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=_words, default=[], help="systems, comma-separated (default: all)")
    parser.add_argument(
        "--tiny-only", type=_words, default=[], help="systems measured with the tiny model alone"
    )
    parser.add_argument("--cells", type=_words, default=list(CONNECTIONS), help="tiny,medium,image,mobilenet")
    parser.add_argument("--transports", type=_words, default=["http", "json", "grpc"], help="http,json,grpc")
    parser.add_argument("--connections", type=lambda text: [int(n) for n in _words(text)], default=[])
    parser.add_argument("--seconds", type=int, default=3, help="of load in each cell and round")
    parser.add_argument("--warm-up", type=int, default=1, help="seconds of load thrown away before")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tries", type=int, default=4, help="of a cell that other programs disturb")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pin", action="store_true", help="server on core 0, generator on core 1")
    parser.add_argument("--out", type=Path, help="where to write the result (default: a file under raw/)")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="also write results/throughput.json and the documentation's page",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    given = _arguments(argv)
    systems = all_systems()
    if unknown := ({*given.only, *given.tiny_only} - set(systems)) | (set(given.cells) - set(CONNECTIONS)):
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; systems are {', '.join(systems)}")
    if missing := [name for name in ("wrk", "h2load") if not shutil.which(name)]:
        sys.exit(f"{' and '.join(missing)} not found: apt-get install wrk nghttp2-client")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server outlives us
    models.make()
    chosen = {name: systems[name] for name in given.only or systems}
    for system in chosen.values():
        if system.environment:
            environment.make(system.environment)
    result = run(given, chosen)
    text = json.dumps(result, indent=1)
    out = given.out or RESULTS / "raw" / f"throughput-{time.strftime('%m%d-%H%M%S')}.json"
    paths = [out, *([RESULTS / "throughput.json"] if given.publish else [])]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    print(report.tables(result))
    if given.publish:
        PAGE.write_text(f"# Benchmark results\n\n{report.INTRODUCTION}\n\n{report.tables(result)}\n")
    print(f"written to {', '.join(map(str, paths))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
