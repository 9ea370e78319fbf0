"""Making of the task of a directory, from its files and the network's inputs and outputs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from salver.features.pipelines.directory import ModelDirectory, Reader, inside
from salver.features.pipelines.ports import Task
from salver.features.pipelines.tasks.classes import TextClassification, TextRanking, ZeroShot
from salver.features.pipelines.tasks.masks import FillMask
from salver.features.pipelines.tasks.questions import QuestionAnswering
from salver.features.pipelines.tasks.scores import sigmoid
from salver.features.pipelines.tasks.sentences import (
    Features,
    PoolingConfig,
    SentenceEmbeddings,
    normalized,
)
from salver.features.pipelines.tasks.tokens import TokenClassification
from salver.features.pipelines.texts import TextEncoder
from salver.features.pipelines.weights import read_weights
from salver.words.errors import LoadFailed
from salver.words.messages import Signature
from salver.words.tensor import Array

_Step = Callable[[Array], Array]
#: Functions of a dense layer by the class that its configuration names, which is never imported.
_ACTIVATIONS: Final[Mapping[str, _Step]] = {
    "Tanh": np.tanh,
    "Identity": lambda rows: rows,
    "ReLU": lambda rows: np.maximum(rows, 0),
    "Sigmoid": sigmoid,
}
_EXPORT: Final = "Export the directory again: optimum-cli export onnx --model {path} {path}-onnx."


class DenseConfig(msgspec.Struct, frozen=True):
    """``config.json`` of a dense layer."""

    activation_function: str = "torch.nn.modules.activation.Tanh"
    bias: bool = True


POOLING: Final = Reader(PoolingConfig)
_DENSE: Final = Reader(DenseConfig)


def task_of_network(directory: ModelDirectory, encoder: TextEncoder, network: Signature) -> Task:
    """Return the task.

    Raises:
        LoadFailed: the network does not fit it.
    """
    name = directory.task
    if name == "question-answering":
        names = [spec.name for spec in network.outputs]
        if set(names) != {"start_logits", "end_logits"}:
            raise _unfit(directory, network, "start_logits and end_logits")
        return QuestionAnswering(encoder, names[0] == "start_logits")
    if name == "sentence-embeddings":
        return _embeddings(directory, encoder, network)
    if name == "feature-extraction":
        return Features()
    if len(network.outputs) != 1:
        raise _unfit(directory, network, "logits")
    if name == "fill-mask":
        return FillMask(encoder)
    classes = network.outputs[0].shape[-1]
    if classes < 1:
        classes = directory.config.num_labels or len(directory.config.id2label or {}) or 2
    if name == "token-classification":
        return TokenClassification(directory, classes, encoder)
    kinds: dict[str, Callable[[ModelDirectory, int], Task]] = {
        "text-classification": TextClassification,
        "text-ranking": TextRanking,
        "zero-shot-classification": ZeroShot,
    }
    return kinds[name](directory, classes)


def _unfit(directory: ModelDirectory, network: Signature, wanted: str) -> LoadFailed:
    found = ", ".join(spec.name for spec in network.outputs)
    return LoadFailed(
        f"{directory.path} is for {directory.task}, whose network gives {wanted}; this one gives {found}",
        fix=_EXPORT.format(path=directory.path),
    )


def _embeddings(directory: ModelDirectory, encoder: TextEncoder, network: Signature) -> Task:
    pooling = PoolingConfig()
    width = network.outputs[0].shape[-1]
    steps: list[_Step] = []
    has_pooling = False
    for module in directory.modules[1:]:
        folder = inside(directory.path, module.path)
        if module.kind == "Pooling":
            pooling, has_pooling = POOLING.read(folder / "config.json"), True
            width *= len(pooling.modes)
        elif module.kind == "Normalize":
            steps.append(normalized)
        elif module.kind == "Dense":
            step, width = _dense(folder)
            steps.append(step)
        elif module.kind != "Dropout":
            raise LoadFailed(
                f"{directory.path}/modules.json has the module {module.type[:200]!r}, which is unknown",
                fix="It knows Pooling, Dense, Normalize and Dropout.",
            )
    if directory.modules and not has_pooling:
        raise LoadFailed(
            f"{directory.path}/modules.json has no Pooling, so its texts have no embedding",
            fix="Save the directory again with sentence-transformers.",
        )
    return SentenceEmbeddings(directory, encoder, pooling, steps, width)


def _dense(folder: Path) -> tuple[_Step, int]:
    """Return a dense layer and the numbers that it gives."""
    config = _DENSE.read(folder / "config.json")
    activation = _ACTIVATIONS.get(config.activation_function.rpartition(".")[2])
    if activation is None or not config.activation_function.startswith("torch."):
        raise LoadFailed(
            f"{folder}/config.json names the activation {config.activation_function[:200]!r}, which is "
            "unknown",
            fix=f"It knows: {', '.join(_ACTIVATIONS)} of torch.nn.",
        )
    weights = read_weights(folder / "model.safetensors")
    matrix = weights.get("linear.weight")
    if matrix is None or matrix.ndim != 2:
        raise LoadFailed(f"{folder}/model.safetensors has no matrix linear.weight")
    bias = weights.get("linear.bias", np.zeros(len(matrix), np.float32))
    transposed = np.ascontiguousarray(matrix.T)

    def step(rows: Array) -> Array:
        return activation(rows @ transposed + bias)

    return step, len(matrix)
