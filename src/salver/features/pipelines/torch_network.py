"""Networks of Hugging Face directories in PyTorch, for directories that hold weights and no ONNX export.

Classes come from a table by the task, and weights from safetensors: no code of a directory runs, and nothing
is downloaded.
"""

import inspect
import os
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from salver.backends.protocol import RunnableModel
from salver.features.pipelines.directory import ModelDirectory
from salver.words.errors import LoadFailed, ModelFailed
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import Array, DataType

#: Classes of transformers by the task, and outputs with what follows the rows in their shapes.
_CLASSES: Final[Mapping[str, tuple[str, Mapping[str, tuple[str, ...]]]]] = {
    "text-classification": ("AutoModelForSequenceClassification", {"logits": ("labels",)}),
    "text-ranking": ("AutoModelForSequenceClassification", {"logits": ("labels",)}),
    "zero-shot-classification": ("AutoModelForSequenceClassification", {"logits": ("labels",)}),
    "token-classification": ("AutoModelForTokenClassification", {"logits": ("any", "labels")}),
    "question-answering": (
        "AutoModelForQuestionAnswering",
        {"start_logits": ("any",), "end_logits": ("any",)},
    ),
    "fill-mask": ("AutoModelForMaskedLM", {"logits": ("any", "words")}),
    "feature-extraction": ("AutoModel", {"last_hidden_state": ("any", "width")}),
    "sentence-embeddings": ("AutoModel", {"last_hidden_state": ("any", "width")}),
    "image-classification": ("AutoModelForImageClassification", {"logits": ("labels",)}),
    "object-detection": (
        "AutoModelForObjectDetection",
        {"logits": ("any", "any"), "pred_boxes": ("any", "any")},
    ),
    "automatic-speech-recognition": ("AutoModelForCTC", {"logits": ("any", "any")}),
}
_TEXTS: Final = ("input_ids", "attention_mask", "token_type_ids")
_EXPORT: Final = "Export it to ONNX, and serve that: optimum-cli export onnx --model {path} {path}-onnx"


class TorchNetwork(RunnableModel):
    """Network of transformers."""

    def __init__(self, torch: Any, model: Any, signature: Signature) -> None:
        self._torch = torch
        self._model = model
        self._signature = signature
        self._names = [spec.name for spec in signature.outputs]

    @property
    def signature(self) -> Signature:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        return self._signature

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        if self._model is None:
            raise ModelFailed("the model is closed")
        with self._torch.inference_mode():
            # torch.from_numpy would warn of arrays that cannot be written to.
            given = {name: self._torch.tensor(array) for name, array in inputs.items()}
            found = self._model(**given)
        return {name: found[name].numpy().astype(np.float32, copy=False) for name in self._names}

    def close(self) -> None:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        self._model = None


def torch_network(directory: ModelDirectory, transformers: Any, torch: Any, threads: int) -> TorchNetwork:
    """Return the network of a directory.

    Raises:
        LoadFailed: its task or its weights do not fit.
    """
    kind, outputs = _CLASSES.get(directory.task, ("", {}))
    if not kind:
        raise LoadFailed(
            f"{directory.path} is for {directory.task}, which needs an ONNX export",
            fix=_EXPORT.format(path=directory.path),
        )
    model = pretrained(directory, kind, transformers, torch, threads)
    config = model.config
    extents = {
        "any": -1,
        "labels": int(getattr(config, "num_labels", 0) or -1),
        "words": int(getattr(config, "vocab_size", 0) or -1),
        "width": int(getattr(config, "hidden_size", 0) or -1),
    }
    specs = tuple(
        TensorSpec(name, DataType.FP32, (-1, *(extents[part] for part in shape)))
        for name, shape in outputs.items()
    )
    return TorchNetwork(torch, model, Signature(_inputs(directory, model), specs, True, "transformers"))


def pretrained(directory: ModelDirectory, kind: str, transformers: Any, torch: Any, threads: int) -> Any:
    """Return the model of a class of transformers with a directory's weights.

    Raises:
        LoadFailed: it has not all weights, or they do not fit.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    try:
        model, report = getattr(transformers, kind).from_pretrained(
            directory.root,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype="float32",
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises whatever its classes do
        raise LoadFailed(
            f"{directory.path} could not be loaded by transformers: {str(error)[:500]}",
            fix=_EXPORT.format(path=directory.path),
        ) from error
    # They would be random. What pools the states of AutoModel is not used.
    if missing := sorted(key for key in report["missing_keys"] if kind != "AutoModel" or "pooler" not in key):
        raise LoadFailed(
            f"{directory.path} has no weights for {', '.join(missing[:5])} ({len(missing)} in all)",
            fix="Download the directory again, or set the task that it is for: [options] task.",
        )
    return model.eval()


def _inputs(directory: ModelDirectory, model: Any) -> tuple[TensorSpec, ...]:
    taken = inspect.signature(model.forward).parameters
    if directory.is_of_images:
        specs = [TensorSpec("pixel_values", DataType.FP32, (-1, 3, -1, -1))]
        if "pixel_mask" in taken:
            specs.append(TensorSpec("pixel_mask", DataType.INT64, (-1, -1, -1)))
        return tuple(specs)
    if directory.is_of_sounds:
        return (TensorSpec("input_values", DataType.FP32, (-1, -1)),)
    names = [name for name in _TEXTS if name in taken]
    if getattr(model.config, "type_vocab_size", 2) < 2 and "token_type_ids" in names:
        names.remove("token_type_ids")
    return tuple(TensorSpec(name, DataType.INT64, (-1, -1)) for name in names)
