"""Claim: a large JSON tensor is decoded without a Python object per number, and encoded straight from numpy.

    python benchmarks/json_large.py [--floats 150528] [--rounds 15]

One request (1×3×224×224, 150,528 numbers) through Salver's codec, beside orjson with numpy and the
standard library with numpy; each contender takes its turn in each round. Medians; checked for equal
values first. Times are this machine's, the ratios are the claim.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import host
import numpy as np
import orjson
import throughput

from salver.dialects.oip.json_codec import OpenInferenceHttp
from salver.encoding.bodies import HttpBody
from salver.words.messages import InferRequest, InferResponse, Signature, TensorSpec
from salver.words.tensor import DataType, Tensor


def contenders(values: Any) -> tuple[bytes, Mapping[str, Callable[[], Any]], Mapping[str, Callable[[], Any]]]:
    """The body, and for each contender how it decodes it to an array and encodes the array."""
    shape = list(values.shape)
    entry = {"name": "x", "shape": shape, "datatype": "FP32", "data": values.ravel().tolist()}
    body = json.dumps({"inputs": [entry]}).encode()
    codec = OpenInferenceHttp()
    spec = TensorSpec("x", DataType.FP32, (-1, *shape[1:]))
    signature = Signature((spec,), (spec,), batched=True)
    request = InferRequest("m", ())
    response = InferResponse("m", "1", (Tensor("x", DataType.FP32, values),))

    def reply(data: Any) -> dict[str, Any]:
        described = {"name": "x", "shape": shape, "datatype": "FP32", "data": data}
        return {"model_name": "m", "outputs": [described]}

    def of(parsed: Any) -> Any:
        return np.array(parsed["inputs"][0]["data"], np.float32).reshape(shape)

    decoders = {
        "salver": lambda: codec.decode(HttpBody("m", "", body), signature).inputs[0].array,
        "orjson + numpy": lambda: of(orjson.loads(body)),
        "json + numpy": lambda: of(json.loads(body)),
    }
    encoders = {
        "salver": lambda: codec.encode(request, response).body,
        "orjson + numpy": lambda: orjson.dumps(reply(values.ravel().tolist())),
        "json + numpy": lambda: json.dumps(reply(values.ravel().tolist())).encode(),
    }
    return body, decoders, encoders


def times_ms(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median CPU milliseconds of each, taken in turns."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.thread_time()
            call()
            taken[name].append(time.thread_time() - started)
    return {name: round(statistics.median(spent) * 1e3, 3) for name, spent in taken.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--floats", type=int, default=150_528)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    values = np.random.default_rng(3).standard_normal((1, given.floats)).astype(np.float32)
    body, decoders, encoders = contenders(values)
    for name, decode in decoders.items():
        if not np.array_equal(np.asarray(decode()).reshape(values.shape), values):
            sys.exit(f"{name} decodes to other values")
    for name, encode in encoders.items():
        data = np.asarray(json.loads(encode())["outputs"][0]["data"], np.float32)
        if not np.array_equal(data.reshape(values.shape), values):
            sys.exit(f"{name} encodes other values")
    result = {
        "host": host.facts(),
        "floats": given.floats,
        "bytes": len(body),
        "decode_ms": times_ms(decoders, given.rounds),
        "encode_ms": times_ms(encoders, given.rounds),
    }
    print(f"{given.floats:,} floats, {len(body):,} bytes of JSON, median of {given.rounds}")
    print("| | decode ms | | encode ms | |\n|---|---:|---:|---:|---:|")
    for name in decoders:
        cells = []
        for what in ("decode_ms", "encode_ms"):
            spent = result[what]
            cells += [f"{spent[name]:.2f}", f"{spent[name] / spent['salver']:.1f}×"]
        print(f"| {name} | {' | '.join(cells)} |")
    throughput.RESULTS.mkdir(exist_ok=True)
    (throughput.RESULTS / "json_large.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
