"""Claim: most of the server's CPU time goes into the model, once the model is worth it.

    python benchmarks/tax.py [--seconds 3] [--rounds 3]      # any option of throughput.py

Serving tax = 1 - f / (CPU time of a request), where the server's CPU time is its whole process
tree's and f is what the same ONNX Runtime session costs in a bare loop, per row, at the mean batch
that the server formed under that load (read from its own statistics). ``throughput.py`` takes both
in every cell of a server that counts its batches; this runs those servers alone.
"""

import functools
import http.client
import json
import sys
import time

import models
import numpy as np
from models import MODELS, Model


def counts(model: Model, port: int) -> tuple[int, int]:
    """(rows inferred, batches run) so far, from the statistics route."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", f"/v2/models/{model.name}/stats")
    stats = json.loads(connection.getresponse().read())["model_stats"][0]
    connection.close()
    return int(stats["inference_count"]), int(stats["execution_count"])


@functools.cache
def bare_cpu_seconds(name: str, batch: int) -> float:
    """CPU seconds a row of ONNX Runtime alone, in batches of that size: the least of five spells."""
    model = MODELS[name]
    run = models.session(model.path).run
    feed = {"x": np.concatenate([model.samples[0]] * batch)}
    best = float("inf")
    for _ in range(5):
        runs, started, until = 0, time.process_time(), time.perf_counter() + 0.1
        while time.perf_counter() < until:
            run(None, feed)
            runs += 1
        best = min(best, (time.process_time() - started) / runs)
    return best / batch


def serving_tax(name: str, batch: float, cpu_s_per_1000: float) -> dict[str, float]:
    """``bare_us``, ONNX Runtime's microseconds a row, and ``tax``, the share that is not it."""
    bare = bare_cpu_seconds(name, max(1, round(batch)))
    return {"bare_us": round(bare * 1e6, 2), "tax": round(1 - bare * 1000 / cpu_s_per_1000, 3)}


if __name__ == "__main__":
    import throughput

    sys.exit(throughput.main(["--only", "salver,prototype", "--cells", "tiny,medium", *sys.argv[1:]]))
