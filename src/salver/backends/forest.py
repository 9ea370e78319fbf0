"""Tree models with the interface of Triton's FIL backend (TR-C12).

One input ``input__0`` and one output ``output__0`` of FP32, whatever the framework: scores, probabilities of
all classes, or the number of the class. It knows no framework.
"""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from msgspec.structs import replace

from salver.backends.loading import choice_of, options_of, override
from salver.backends.outputs import Outputs
from salver.backends.protocol import Backend, LoadOptions, RunnableModel
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import Array, DataType

#: Options for this interface.
OPTIONS: Final = ("interface", "output_class", "predict_proba", "threshold", "model_type", "trusted")
_SWITCH: Final = ("false", "true")
#: Backends by FIL's names of their file formats.
_TYPES: Final[Mapping[str, str]] = {
    "xgboost": "xgboost",
    "xgboost_json": "xgboost",
    "xgboost_ubj": "xgboost",
    "lightgbm": "lightgbm",
    "": "",
}


def load(backend: Backend, manifest: Manifest, options: LoadOptions) -> RunnableModel:
    """Load a model whose option ``interface`` is ``fil``, as :meth:`Backend.load`.

    Raises:
        LoadFailed: an option is unknown, or does not apply to this file.
    """
    wish = options_of(manifest, OPTIONS)
    wanted = wish.get("model_type", "")
    if wanted not in _TYPES:
        raise LoadFailed(
            f"option model_type = {wanted!r} is none that is served here",
            field="options.model_type",
            fix=f"Save the model as one of: {', '.join(filter(None, _TYPES))}.",
        )
    if _TYPES[wanted] not in ("", backend.name):
        raise LoadFailed(
            f"option model_type says {wanted}, but {manifest.path} is a file of {backend.name}",
            field="options.model_type",
        )
    asked = {"output": "probability"} if backend.name in ("xgboost", "lightgbm") else {}
    if "trusted" in wish:
        asked["trusted"] = wish["trusted"]
    inner = replace(manifest.config, inputs=(), outputs=(), only_outputs=False, options=asked)
    return ForestModel(backend.load(replace(manifest, config=inner), options), manifest, wish)


class ForestModel:
    """Tree model with FIL's interface."""

    def __init__(self, model: RunnableModel, manifest: Manifest, wish: dict[str, str]) -> None:
        own = model.signature
        scores = next((s for s in own.outputs if s.name == "probabilities"), own.outputs[0])
        if len(own.inputs) != 1 or len(scores.shape) > 2 or not scores.datatype.is_float:
            raise LoadFailed(
                f"{manifest.path} is not a forest: it takes {len(own.inputs)} inputs, or returns no scores"
            )
        self._model = model
        self._input, self._scores = own.inputs[0].name, scores.name
        self._gives_classes = choice_of(wish, "output_class", _SWITCH) == "true"
        self._gives_all = choice_of(wish, "predict_proba", _SWITCH) == "true"
        self._threshold = _threshold(wish.get("threshold", "0.5"))
        groups = scores.shape[1] if len(scores.shape) == 2 else 1
        is_wide = groups > 2 and not self._gives_classes
        width = groups if is_wide else 1
        if self._gives_all:
            width = max(groups, 2)
        features = own.inputs[0].shape[-1]
        name, *_ = [spec.name for spec in manifest.config.inputs] or ["input__0"]
        self._output, *_ = [spec.name for spec in manifest.config.outputs] or ["output__0"]
        said = (TensorSpec(name, DataType.FP32, (-1, features)),)
        gives = (TensorSpec(self._output, DataType.FP32, (-1, width)),)
        self._name = name
        self.signature = Signature(
            override(said, manifest.config.inputs, "inputs"),
            override(gives, manifest.config.outputs, "outputs"),
            True,
            "fil",
        )
        self._check = Outputs(self.signature, manifest.id.name).check

    def __repr__(self) -> str:
        return f"<Forest {self._model!r}>"

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        scores = self._model.run({self._input: inputs[self._name]})[self._scores]
        scores = scores.reshape(len(scores), -1)
        groups = scores.shape[1]
        if self._gives_all:
            answer = scores
            if groups == 1:
                answer = np.concatenate([1 - scores, scores], axis=1)
        elif groups > 2:
            answer = scores
            if self._gives_classes:
                answer = scores.argmax(axis=1)[:, None]
        else:  # for two classes it refers to the second
            answer = scores[:, -1:] > self._threshold if self._gives_classes else scores[:, -1:]
        return self._check({self._output: answer.astype(np.float32)}, inputs)

    def close(self) -> None:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        self._model.close()


def _threshold(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise LoadFailed(f"option threshold = {text!r} is not a number", field="options.threshold")
    return value
