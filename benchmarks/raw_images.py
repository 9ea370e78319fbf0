"""Claim: a JPEG becomes a label faster than behind a handler that is written by hand with the same libraries.

    python benchmarks/raw_images.py [--seconds 4] [--rounds 3] [--connections 1,8] [--networks small]

MobileNetV2 with ImageNet's weights, and a network of about 2 ms, each as a Hugging Face directory; a photo of
640 x 427 and one of 1280 x 854 pixels. ``exact``, ``near`` and ``fast`` are Salver with that ``decode``,
one thread a run; ``handler`` is ``peers/fastapi/images.py``, one thread a session. All servers of a network
run at once and are loaded in turn; figures are medians over the rounds of requests/s, of the processor time
of a request, and of the ratios to the handler in the same round. Where others use the machine, the handler's
many threads get more of it than one thread a core, so that the processor time counts.
"""

import argparse
import contextlib
import http.client
import io
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import files
from pathlib import Path
from typing import Any

import load
import models
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from processes import Launch, free_port, running
from systems import python_of

HANDLER = Path(__file__).with_name("peers") / "fastapi" / "images.py"
SIZES = {"640 x 427": None, "1280 x 854": (1280, 854)}
#: Output channels of the small network's convolutions, each of which halves the image.
WIDTHS = (24, 48, 96, 128)


def networks() -> dict[str, bytes]:
    """Return the networks, with the names that Optimum gives their inputs and outputs."""
    whole = models.MODELS["mobilenet"]
    models.make()
    made = onnx.load(whole.path)
    for node in made.graph.node:
        node.input[:] = ["pixel_values" if name == "x" else name for name in node.input]
        node.output[:] = ["logits" if name == "y" else name for name in node.output]
    made.graph.input[0].name, made.graph.output[0].name = "pixel_values", "logits"
    return {"mobilenet": made.SerializeToString(), "small": _small()}


def _small() -> bytes:
    random = np.random.default_rng(0)
    nodes, weights, last, channels = [], [], "pixel_values", 3
    for i, width in enumerate(WIDTHS):
        weights.append(_weight(f"w{i}", random.normal(0, 0.1, (width, channels, 3, 3))))
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], strides=[2, 2], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        last, channels = f"r{i}", width
    weights.append(_weight("w", random.normal(0, 0.1, (channels, 1000))))
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 1000])],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made.SerializeToString()


def _weight(name: str, values: Any) -> Any:
    return numpy_helper.from_array(values.astype(np.float32), name)


def write(folder: Path, network: bytes, decode: str) -> Path:
    """Write a Hugging Face directory."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(network)
    labels = {str(i): f"class {i}" for i in range(1000)}
    config = {"architectures": ["MobileNetV2ForImageClassification"], "model_type": "mobilenet_v2"}
    (folder / "config.json").write_text(json.dumps({**config, "id2label": labels}))
    processor = {
        "image_processor_type": "MobileNetV2ImageProcessor",
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    (folder / "salver.toml").write_text(f'[options]\ndecode = "{decode}"\n')
    return folder


def photo(size: tuple[int, int] | None) -> bytes:
    from PIL import Image

    (found,) = (file for file in files("scikit-learn") or () if file.name == "china.jpg")
    data = Path(str(found.locate())).read_bytes()
    if size is None:
        return data
    larger = io.BytesIO()
    Image.open(io.BytesIO(data)).resize(size, Image.Resampling.BICUBIC).save(larger, "JPEG", quality=90)
    return larger.getvalue()


def ask(port: int, path: str, body: bytes) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", path, body, {"content-type": "image/jpeg"})
    answer = connection.getresponse()
    said = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status} {said[:300]!r}")
    return json.loads(said)


def is_ready(port: int, path: str, body: bytes) -> bool:
    try:
        return bool(ask(port, path, body))
    except (OSError, RuntimeError, http.client.HTTPException):
        return False


def measure(network: bytes, folder: Path, options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Return, for each cell and system, requests/s and milliseconds of processor time of each round."""
    photos = {name: photo(size) for name, size in SIZES.items()}
    body = photos["640 x 427"]
    found: dict[str, dict[str, list[float]]] = {}
    with contextlib.ExitStack() as stack:
        systems = {}
        for name in ("exact", "near", "fast", "handler"):
            path, port = (
                write(folder / name / "photos", network, "exact" if name == "handler" else name),
                free_port(),
            )
            command = str(Path(sys.executable).with_name("salver"))
            launch = Launch([command, "serve", str(path), "--port", str(port), "--threads", "1"])
            url = "/v1/models/photos"
            if name == "handler":
                launch, url = Launch([str(python_of("fastapi")), str(HANDLER), str(path), str(port)]), "/jpeg"
            server = stack.enter_context(
                running(launch, folder / f"{name}.log", lambda port=port, url=url: is_ready(port, url, body))
            )
            systems[name] = (server, port, url)
        tops = {
            name: [ask(port, url, data)[0]["label"] for data in photos.values()]
            for name, (_, port, url) in systems.items()
        }
        if len({tuple(top) for top in tops.values()}) != 1:
            raise SystemExit(f"the systems' answers differ: {tops}")
        for _ in range(options.rounds):
            for size, data in photos.items():
                for connections in options.connections:
                    for name, (server, port, url) in systems.items():
                        sample, spent = _cell(server, port, url, data, connections, options.seconds, folder)
                        cell = found.setdefault(f"{size}, {connections}", {})
                        cell.setdefault(name, []).append(sample)
                        cell.setdefault(f"{name} ms", []).append(spent)
    return found


def _cell(
    server: Any, port: int, url: str, data: bytes, connections: int, seconds: int, folder: Path
) -> tuple[float, float]:
    (folder / "body").write_bytes(data)
    lua = load._LUA % {"body": folder / "body", "headers": 'wrk.headers["content-type"] = "image/jpeg"'}
    (folder / "load.lua").write_text(lua + load.DONE)
    before = server.cpu_seconds()
    sample = load.wrk(folder / "load.lua", f"http://127.0.0.1:{port}{url}", connections, seconds)
    if sample.errors:
        raise SystemExit(f"{sample.errors} errors at {url}")
    return sample.rate, 1e3 * (server.cpu_seconds() - before) / sample.requests


def report(name: str, found: Mapping[str, Mapping[str, list[float]]]) -> None:
    median = statistics.median
    print(f"{name}: requests/s and processor ms; in brackets the ratio to the handler")
    for cell, got in found.items():
        parts = [f"handler {median(got['handler']):.0f}/s {median(got['handler ms']):.1f} ms"]
        for system in ("exact", "near", "fast"):
            rates = [own / other for own, other in zip(got[system], got["handler"], strict=True)]
            spent = [other / own for own, other in zip(got[f"{system} ms"], got["handler ms"], strict=True)]
            parts.append(
                f"{system} {median(got[system]):.0f}/s ({median(rates):.2f}) "
                f"{median(got[f'{system} ms']):.1f} ms ({median(spent):.2f})"
            )
        print(f"  {cell} connections: " + "; ".join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8])
    parser.add_argument("--networks", type=lambda text: text.split(","), default=["mobilenet", "small"])
    options = parser.parse_args()
    made = networks()
    for name in options.networks:
        folder = Path(tempfile.mkdtemp(prefix="salver-images-"))
        try:
            report(name, measure(made[name], folder, options))
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
