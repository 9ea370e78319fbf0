"""Claim: floats of 1×224×224×3 go in and out in TensorFlow Serving's JSON at 60 % of orjson's speed or more.

    python benchmarks/tfs_json.py [--rounds 15] [--requests 20]

The codec reads and writes the text that TensorFlow Serving would, digits and layout included, beside orjson
and numpy alone, which print the shortest digits on one line; each contender takes its turn in each round.
Then the same through a whole server with an identity model, from the first byte sent to the last received.
Medians; values are checked first. Times are this machine's, the ratios are the claim. TensorFlow Serving's
own binary is not measured: it cannot be had where these run.
"""

import argparse
import http.client
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import host
import numpy as np
import orjson

from salver.dialects.tensorflow.json_codec import Predict
from salver.encoding.bodies import HttpBody
from salver.testing.process import ServerProcess
from salver.words.messages import InferResponse, Signature, TensorSpec
from salver.words.tensor import DataType

_RESULTS = Path(__file__).resolve().parent / "results"
_SHAPE = (1, 224, 224, 3)
_MODEL = """
class Model:
    inputs = {"x": ("FP32", [-1, 224, 224, 3])}
    outputs = {"y": ("FP32", [-1, 224, 224, 3])}

    def predict(self, inputs):
        return {"y": inputs["x"]}
"""


def contenders(values: Any, body: bytes) -> Mapping[str, Callable[[], bytes]]:
    """For each, how it reads the body to an array and writes the array again."""
    spec = TensorSpec("x", DataType.FP32, (-1, *_SHAPE[1:]))
    signature = Signature((spec,), (spec,), batched=True)
    codec = Predict()

    def salver() -> bytes:
        request = codec.decode(HttpBody("m", "", body), signature)
        return codec.encode(request, InferResponse("m", "1", request.inputs)).body

    def bare() -> bytes:
        array = np.array(orjson.loads(body)["instances"], np.float32)
        return orjson.dumps({"predictions": array}, option=orjson.OPT_SERIALIZE_NUMPY)

    def standard() -> bytes:
        array = np.array(json.loads(body)["instances"], np.float32)
        return json.dumps({"predictions": array.tolist()}).encode()

    return {"salver": salver, "orjson + numpy": bare, "json + numpy": standard}


def times_ms(calls: Mapping[str, Callable[[], bytes]], rounds: int) -> dict[str, float]:
    """Median per call; the calls take turns."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 2):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if turn >= 2:  # tables and heaps are made in the first
                spent[name].append((time.perf_counter() - begin) * 1e3)
    return {name: statistics.median(times) for name, times in spent.items()}


def through_a_server(body: bytes, bare: Callable[[], bytes], requests: int) -> tuple[dict[str, float], bytes]:
    """Medians of a request to a server and of the bare work in turns, and an answer."""
    with tempfile.TemporaryDirectory() as folder:
        version = Path(folder) / "models" / "identity" / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(_MODEL)
        with ServerProcess([version.parents[1]], Path(folder) / "log") as server:
            server.wait_ready()
            connection = http.client.HTTPConnection(server.host, server.port, timeout=60)

            def ask() -> bytes:
                connection.request("POST", "/v1/models/identity:predict", body)
                return connection.getresponse().read()

            answer = ask()
            return times_ms({"a whole request": ask, "orjson + numpy": bare}, requests), answer


def main(argv: list[str] | None = None) -> int:
    """Measure, print a table, keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=20)
    given = parser.parse_args(argv)
    values = np.random.default_rng(0).random(_SHAPE, np.float32)
    body = orjson.dumps({"instances": values}, option=orjson.OPT_SERIALIZE_NUMPY)
    calls = contenders(values, body)
    whole, answer = through_a_server(body, calls["orjson + numpy"], given.requests)
    for name, text in [*((name, call()) for name, call in calls.items()), ("the server", answer)]:
        if not np.array_equal(np.array(json.loads(text)["predictions"], np.float32), values):
            sys.exit(f"{name} answers other values")
    alone = times_ms(calls, given.rounds)
    print(f"{values.size:,} floats, {len(body):,} bytes in, {len(answer):,} out; medians\n")
    print("| in and out | ms | of orjson's and numpy's speed |\n|---|---:|---:|")
    for what, spent in (("the codec", alone), ("a request", whole)):
        for name, took in spent.items():
            print(f"| {what}: {name} | {took:.1f} | {spent['orjson + numpy'] / took:.0%} |")
    kept = {"host": host.facts(), "floats": values.size, "codec_ms": alone, "request_ms": whole}
    _RESULTS.mkdir(exist_ok=True)
    (_RESULTS / "tfs_json.json").write_text(json.dumps(kept, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
