"""Claim: most of the server's CPU time goes into the model, once the model is worth it.

    python benchmarks/tax.py [--only salver,prototype] [--seconds 3]

Serving tax = 1 - f / (CPU time of a request), where the server's CPU time is its whole process
tree's and f is what the same ONNX Runtime session costs in a bare loop, per row, at the mean batch
that the server formed under that load (read from its own statistics).
"""

import argparse
import http.client
import json
import sys
import time
from typing import Any

import host
import load
import numpy as np
import throughput
from systems import System, all_systems

import models
from models import Model


def counts(model: Model, port: int) -> tuple[int, int]:
    """(rows inferred, batches run) so far, from the statistics route."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", f"/v2/models/{model.name}/stats")
    stats = json.loads(connection.getresponse().read())["model_stats"][0]
    connection.close()
    return int(stats["inference_count"]), int(stats["execution_count"])


def bare_cpu_seconds(model: Model, batch: int, seconds: float = 1.0) -> float:
    """CPU seconds a row of ONNX Runtime alone, in batches of that size: the least of five spells."""
    run = models.session(model.path).run
    feed = {"x": np.concatenate([model.samples[0]] * batch)}
    best = float("inf")
    for _ in range(5):
        runs, started, until = 0, time.process_time(), time.perf_counter() + seconds / 5
        while time.perf_counter() < until:
            run(None, feed)
            runs += 1
        best = min(best, (time.process_time() - started) / runs)
    return best / batch


def measure(system: System, model: Model, given: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each transport and number of connections."""
    rows = []
    with throughput.started(system, model, given) as (server, port):
        for transport, form in system.forms(model).items():
            if isinstance(form, str):
                continue
            body = form.encode(model.samples[0])
            for connections in (1, 16, 64):
                load.generate(form, body, port, connections, 1)
                before, spent = counts(model, port), server.cpu_seconds()
                sample = load.generate(form, body, port, connections, given.seconds)
                spent = (server.cpu_seconds() - spent) / sample.requests
                after = counts(model, port)
                batch = (after[0] - before[0]) / max(1, after[1] - before[1])
                bare = bare_cpu_seconds(model, max(1, round(batch)))
                rows.append(
                    {
                        "system": system.name,
                        "cell": f"{model.name}/{transport}/{connections}",
                        "rate": round(sample.rate),
                        "cpu_us": round(spent * 1e6, 1),
                        "batch": round(batch, 1),
                        "bare_us": round(bare * 1e6, 1),
                        "tax": round(1 - bare / spent, 3),
                    }
                )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="salver,prototype", help="salver, prototype, triton")
    parser.add_argument("--cells", default="tiny,medium")
    parser.add_argument("--seconds", type=int, default=3)
    given = parser.parse_args()
    given.pin = False
    models.make()
    systems = all_systems()
    rows = []
    print("| system | cell | req/s | CPU µs/request | mean batch | bare ONNX Runtime µs/row | serving tax |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for cell in given.cells.split(","):
        for name in given.only.split(","):
            for row in measure(systems[name], models.MODELS[cell], given):
                rows.append(row)
                print("|", " | ".join(str(value) for value in row.values()), "|", flush=True)
    throughput.RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"host": host.facts(), "rows": rows}, indent=1)
    (throughput.RESULTS / "tax.json").write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
