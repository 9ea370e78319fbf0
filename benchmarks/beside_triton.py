"""Claim: a Triton repository is served at least as fast as by Triton, and ONNX files much faster.

    python benchmarks/beside_triton.py [--seconds 4] [--rounds 3] [--only python] [--publish]

Both servers get the same repository, byte for byte: a model of Triton's Python backend that calls ONNX
Runtime, one instance, each in a host process of its own (``python``). Beside it Salver serves the same
ONNX file itself (``native``). The answers of all three to some hundred inputs are compared bit by bit
first. Systems take turns within a round; figures are ratios within a round, and their median.
"""

import argparse
import random
import shutil
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import forms
import host
import models
import numpy as np
import page
import systems
import throughput
from forms import Form
from models import MODELS, Model
from peers import environment
from peers.triton import peer
from processes import Launch
from systems import System

PAGE = models.ROOT / "docs" / "explanation" / "triton-benchmarks.md"
MODEL = MODELS["tiny"]
CONNECTIONS = (1, 16, 64)
#: Least share of tritonserver's rate, by system and connections.
WANTED = {"python": {1: 1.0, 16: 1.0, 64: 1.0}, "salver": {1: 1.3, 16: 1.8, 64: 1.8}}
_INPUTS = 300


def _python(model: Model, port: int, folder: Path) -> Launch:
    command = Path(sys.executable).with_name("salver")
    repository = peer.repository(model, folder)
    argv = [str(command), "serve", str(repository), "--port", str(port), "--control", "none"]
    return Launch(argv, cwd=folder)


def _systems() -> dict[str, System]:
    known = systems.all_systems()
    python = System("python", "salver", _python, forms.oip, "the same repository", counts_batches=True)
    native = known["salver"]
    return {"triton": known["triton"], "python": python, "salver": native}


def answers(system: System, given: argparse.Namespace) -> dict[str, list[bytes]]:
    """What it says to the same inputs, as bytes, over both transports."""
    said: dict[str, list[bytes]] = {}
    rows = np.random.default_rng(3).standard_normal((_INPUTS, 1, *MODEL.shape)).astype(np.float32)
    with throughput.started(system, MODEL, given) as (_, port):
        offset = {"port_offset": 1} if system.name == "triton" else {}
        for name, form in {"http": forms.oip_binary(MODEL), "grpc": forms.oip_grpc(MODEL, **offset)}.items():
            client = forms.Client(form, MODEL, port)
            said[name] = [_bits(client, form, row) for row in rows]
            client.close()
    return said


def _bits(client: forms.Client, form: Form, row: models.Floats) -> bytes:
    body, headers = client.ask(form.encode(row))
    return np.asarray(form.decode(body, headers), np.float32).tobytes()


def measure(given: argparse.Namespace, chosen: Mapping[str, System]) -> list[dict[str, Any]]:
    """One entry a round: figures by system and cell."""
    rng, rounds = random.Random(given.seed), []
    for number in range(given.rounds):
        got: dict[str, Any] = {}
        order = list(chosen.values())
        rng.shuffle(order)
        for system in order:
            cells = [("tiny", transport, n) for transport in ("http", "grpc") for n in given.connections]
            for cell, figures in throughput.turn(system, MODEL, cells, given):
                got[f"{system.name}/{cell[1]}/{cell[2]}"] = figures
                print(
                    f"{number + 1}/{given.rounds} {system.name:7} {cell[1]} {cell[2]:3} {figures}", flush=True
                )
        rounds.append(got)
    return rounds


def ratio(rounds: list[dict[str, Any]], system: str, cell: str, field: str) -> float | None:
    """Median over the rounds of the system's figure over Triton's."""
    pairs = [(r.get(f"{system}/{cell}", {}), r.get(f"triton/{cell}", {})) for r in rounds]
    found = [ours[field] / theirs[field] for ours, theirs in pairs if ours.get(field) and theirs.get(field)]
    return statistics.median(found) if len(found) == len(rounds) else None


def report(result: Mapping[str, Any]) -> str:
    lines = [
        "| served | over | connections | rate, × Triton's | wanted | p99, × Triton's | CPU a request | |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for system, wanted in WANTED.items():
        if system not in result["systems"]:
            continue
        for transport in ("http", "grpc"):
            for connections in result["settings"]["connections"]:
                cell = f"{transport}/{connections}"
                rate, p99, cpu = (
                    ratio(result["rounds"], system, cell, field)
                    for field in ("rate", "p99_ms", "cpu_s_per_1000")
                )
                least = wanted.get(connections, 1.0)
                holds = rate is not None and rate >= least
                if system == "python":
                    holds = holds and (p99 is None or p99 <= 1.0)
                first, *others = ("–" if value is None else f"{value:.2f}" for value in (rate, p99, cpu))
                verdict = "pass" if holds else "**missed**"
                figures = (system, transport, connections, first, f"{least:g}", *others, verdict)
                lines.append(f"| {' | '.join(map(str, figures))} |")
    same = result["same"]
    lines += [
        "",
        f"Answers to {_INPUTS} inputs, over HTTP and over gRPC: {same}.",
        "",
        page.provenance(result),
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=page.words, default=["python", "salver"], help="python,salver")
    parser.add_argument("--connections", type=lambda t: [int(n) for n in page.words(t)], default=CONNECTIONS)
    parser.add_argument("--seconds", type=int, default=4, help="of load in each cell and round")
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    page.add_arguments(parser, "triton")
    given = parser.parse_args(argv)
    given.pin, given.tries = False, 4
    if missing := [name for name in ("wrk", "h2load") if not shutil.which(name)]:
        sys.exit(f"{' and '.join(missing)} not found: apt-get install wrk nghttp2-client")
    if not environment.make("triton"):
        return 1
    models.make()
    chosen = {name: system for name, system in _systems().items() if name in {"triton", *given.only}}
    quiet = host.Quiet()
    said = {name: answers(system, given) for name, system in chosen.items()}
    theirs = said["triton"]
    differ = {
        name: sum(a != b for way in ours for a, b in zip(ours[way], theirs[way], strict=True))
        for name, ours in said.items()
    }
    same = ", ".join(
        f"{name} bit for bit as Triton's" if not count else f"{name} differs in {count} of {2 * _INPUTS}"
        for name, count in differ.items()
        if name != "triton"
    )
    result = {
        "settings": {
            "seconds": given.seconds,
            "rounds": given.rounds,
            "connections": list(given.connections),
        },
        "systems": {name: system.settings for name, system in chosen.items()},
        "same": same,
        "rounds": measure(given, chosen),
        "host": host.facts(),
        "noise": quiet.verdict(),
    }
    page.write(given, "triton", result, report(result), PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
