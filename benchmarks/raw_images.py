"""Claim: a JPEG becomes a label faster than behind a handler that is written by hand with the same libraries.

    python benchmarks/raw_images.py [--seconds 4] [--rounds 3] [--connections 1,8] [--networks small]

MobileNetV2 with ImageNet's weights, and a network of about 2 ms, each as a Hugging Face directory; a photo
of 640 x 427 and one of 1280 x 854 pixels. ``exact``, ``near`` and ``fast`` are Salver with that ``decode``,
one thread a run; ``handler`` is ``peers/fastapi/images.py``, one thread a session; ``triton`` an ensemble
of a Python step and the native backend, if TRITON_BACKENDS names it. Figures are medians over the rounds of
requests/s, of the processor time of a request, and of the ratios to the handler in the same round. Where
others use the machine, the handler's many threads get more of it than one thread a core, so that the
processor time counts.
"""

import io
import json
import os
import tempfile
from collections.abc import Iterator
from importlib.metadata import files
from pathlib import Path
from typing import Any

import models
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from peers.triton_ensemble import ensemble
from processes import Launch
from raw_cells import Subject, arguments, measure, report, salver
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


def subjects(network: bytes, folder: Path) -> Iterator[Subject]:
    """Salver in its three ways to decode, the handler, and Triton's ensemble where its backend is."""
    sent = {"content-type": "image/jpeg"}
    for name in ("exact", "near", "fast"):
        path = write(folder / f"{name}-model" / "photos", network, name)
        yield Subject(
            name, salver(path, "--threads", "1"), "/v1/models/photos", label, headers=lambda _: sent
        )

    def handler(port: int, own: Path) -> Launch:
        return Launch(
            [str(python_of("fastapi")), str(HANDLER), str(folder / "exact-model" / "photos"), str(port)]
        )

    yield Subject("handler", handler, "/jpeg", label, headers=lambda _: sent)
    if ensemble.BACKENDS in os.environ:
        launch = ensemble.launch(
            "images.py",
            folder / "exact-model" / "photos" / "model.onnx",
            [],
            [("pixel_values", "TYPE_FP32", "3, 224, 224")],
            ("logits", "1000"),
        )
        path = "/v2/models/both/infer"
        yield Subject("triton", launch, path, best, ensemble.body, ensemble.headers, ports=2)


def label(answer: bytes) -> object:
    return json.loads(answer)[0]["label"]


def best(answer: bytes) -> object:
    return f"class {ensemble.output(answer)[0].argmax()}"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--networks", type=lambda text: text.split(","), default=["mobilenet", "small"])
    options = parser.parse_args()
    made = networks()
    photos = {name: photo(size) for name, size in SIZES.items()}
    for name in options.networks:
        with tempfile.TemporaryDirectory(prefix="salver-images-") as folder:
            report(name, measure(subjects(made[name], Path(folder)), photos, Path(folder), options))


if __name__ == "__main__":
    main()
