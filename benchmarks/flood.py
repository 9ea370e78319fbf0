"""Claim: one key at 20 times its limit beside one within its own takes nothing from that.

    python benchmarks/flood.py [--rounds 20] [--seconds 1.5] [--publish]

A server of the tiny model with keys, JSON over HTTP/1.1 and gRPC. The steady key offers 400 requests/s, the
flooding one 20 times its limit of 100/s, each from a generator of its own on its own connections, by Poisson
processes. Rounds of the steady one alone, beside the flood, and beside the same flood at a server of its own
take turns; medians of their ratios are shown. The last tells what the generators and the other server take
from the machine, whatever is flooded. Beside them, the CPU time of a refusal and of the cheapest answer, of
the whole server with its system calls: as many requests as it can take, on 16 connections.

Exits with 1 if a target is missed.
"""

import argparse
import statistics
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import forms
import host
import models
import numpy as np
import openloop
import page
import processes
from openloop import Call, Outcome, Question

STEADY, LIMIT, TIMES = 400, 100, 20
GOODPUT, P99, SHARE = 0.98, 1.2, 0.4
#: Seconds in which an answer counts.
IN_TIME = 1.0
CLOSED = 8000  # requests of a closed loop
_RPC = "/inference.GRPCInferenceService/ModelInfer"


@contextmanager
def served(folder: Path) -> Iterator[tuple[processes.Server, int, dict[str, str]]]:
    """A server with keys, its port, and the keys."""
    from salver.features.access.key_format import new_key
    from salver.features.access.keys_file import KeyRecord, hash_of, written
    from salver.features.access.limits import LimitRules

    rules = {"free": None, "steady": LimitRules("1000/s+1000", at_once=1000)}
    rules |= {"flood": LimitRules(f"{LIMIT}/s+{LIMIT}"), "spent": LimitRules("0/s")}
    keys = {name: new_key() for name in rules}
    records = [KeyRecord(name, name, hash_of(keys[name]), ("infer",), limits=rules[name]) for name in rules]
    (folder / "keys.toml").write_text(written(records))
    model, port = models.MODELS["tiny"], processes.free_port()
    command = str(Path(sys.executable).with_name("salver"))
    argv = [command, "serve", str(model.path), "--port", str(port), "--threads", "1"]
    launch = processes.Launch([*argv, "--keys-file", str(folder / "keys.toml")], cwd=folder)

    def is_ready() -> bool:
        try:
            return bool(np.all(openloop.run(port, [0.0], [question("http", keys["free"])]).status == 200))
        except openloop.Failed:
            return False

    with processes.running(launch, folder / "log", is_ready) as server:
        yield server, port, keys


def question(kind: str, key: str) -> Any:
    """A request with a key."""
    model = models.MODELS["tiny"]
    headers = {"authorization": f"Bearer {key}"}
    if kind == "grpc":
        return Call(_RPC, forms.oip_grpc(model).encode(model.samples[0]), headers)
    form = forms.oip_json(model)
    return Question(form.path, form.encode(model.samples[0]), {**form.headers, **headers})


def offered(
    at: tuple[int, dict[str, str]],
    flooded: tuple[int, dict[str, str]] | None,
    kind: str,
    given: argparse.Namespace,
) -> Outcome:
    """What becomes of the steady key's requests at a server, by its port and keys, while one is flooded."""
    rng = np.random.default_rng(given.seed)
    due = openloop.poisson(STEADY, given.seconds, rng)
    other = openloop.poisson(LIMIT * TIMES, given.seconds, rng)
    port, keys = at
    if flooded is None:
        return openloop.run(port, due, [question(kind, keys["steady"])])
    args = flooded[0], other, [question(kind, flooded[1]["flood"])]
    flood = threading.Thread(target=openloop.run, args=args)
    flood.start()
    found = openloop.run(port, due, [question(kind, keys["steady"])])
    flood.join()
    return found


def closed(server: processes.Server, port: int, kind: str, key: str, status: int) -> float:
    """CPU microseconds of a request, of as many as the server can take."""
    before = server.cpu_seconds()
    due = np.zeros(CLOSED)
    found = openloop.run(port, due, [question(kind, key)], connections=16, opened=16, timeout=60)
    assert np.all(found.status == status), np.unique(found.status, return_counts=True)
    return (server.cpu_seconds() - before) / CLOSED * 1e6


def measure(kind: str, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Medians of all rounds, over one protocol."""
    goodputs, p99s, elsewhere, alone_ms, shares, answers = [], [], [], [], [], []
    for name in ("one", "other"):
        (folder / name).mkdir()
    with (
        served(folder / "one") as (server, port, keys),
        served(folder / "other") as (_, other, others_keys),
    ):
        own = port, keys
        refused = 503 if kind == "grpc" else 429  # the generator's word for trailers alone
        for name, status in (("free", 200), ("spent", refused)):
            closed(server, port, kind, keys[name], status)
        for _ in range(given.rounds):
            every = [offered(own, flooded, kind, given) for flooded in (None, own, (other, others_keys))]
            good = [int(found.within(IN_TIME).sum()) for found in every]
            tails = [float(np.nanpercentile(found.latency, 99)) * 1e3 for found in every]
            goodputs.append(good[1] / good[0])
            p99s.append(tails[1] / tails[0])
            elsewhere.append(tails[2] / tails[0])
            alone_ms.append(tails[0])
            answer = closed(server, port, kind, keys["free"], 200)
            refusal = closed(server, port, kind, keys["spent"], refused)
            shares.append(refusal / answer)
            answers.append(answer)
    return {
        "kind": kind,
        "goodput": statistics.median(goodputs),
        "p99": statistics.median(p99s),
        "p99_range": [min(p99s), max(p99s)],
        "p99_alone_ms": statistics.median(alone_ms),
        "p99_elsewhere": statistics.median(elsewhere),
        "refusal_share": statistics.median(shares),
        "answer_us": statistics.median(answers),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table. Pure."""
    lines = [
        "| | goodput beside the flood | p99 beside the flood | p99, the flood elsewhere | CPU of a refusal |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        low, high = row["p99_range"]
        lines.append(
            f"| {row['kind']} | {row['goodput']:.1%} | {row['p99']:.2f} × ({low:.2f} to {high:.2f}) of "
            f"{row['p99_alone_ms']:.1f} ms | {row['p99_elsewhere']:.2f} × | {row['refusal_share']:.0%} "
            f"of {row['answer_us']:.0f} µs |"
        )
    return "\n".join([*lines, f"| required | ≥ {GOODPUT:.0%} | ≤ {P99} × | | ≤ {SHARE:.0%} |"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each round")
    parser.add_argument("--seed", type=int, default=7)
    page.add_arguments(parser, "flood")
    given = parser.parse_args()
    models.make()
    quiet, rows = host.Quiet(), []
    for kind in ("http", "grpc"):
        with page.scratch("flood") as folder:
            rows.append(measure(kind, given, folder))
    result = {"host": host.facts(), "noise": quiet.verdict(), "rows": rows}
    page.write(given, "flood", result, f"{page.provenance(result)}\n\n{table(rows)}\n")
    is_held = all(
        row["goodput"] >= GOODPUT and row["p99"] <= P99 and row["refusal_share"] <= SHARE for row in rows
    )
    return int(not is_held)


if __name__ == "__main__":
    sys.exit(main())
