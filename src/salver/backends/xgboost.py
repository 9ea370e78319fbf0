"""Backend for XGBoost models in JSON or UBJSON format, run with ``inplace_predict``.

``inplace_predict`` is documented as thread-safe; linear boosters do not support it and are serialised. It
knows nothing of batching.
"""

import itertools
import json
import re
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from salver.backends.content import head, tail
from salver.backends.loading import choice_of, framework, loading, no_gpu, options_of, override
from salver.backends.protocol import SIGNATURE, LoadOptions, Traits
from salver.lazy import lazy_imports
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed, ModelFailed
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import Array, DataType

with lazy_imports():
    from salver.backends.columns import Category, Table, table_of
    from salver.backends.outputs import Outputs


_JSON = re.compile(rb'\s*\{\s*"(learner|version)"\s*:')
_UBJSON = re.compile(rb"\{[iUIlL][\x00-\x20]{1,8}(learner\{|version\[)", re.DOTALL)
_FLOATS = (DataType.FP32, DataType.FP64)


class XgboostBackend:
    """Backend for XGBoost's JSON and UBJSON formats (``Booster.save_model``).

    Options: ``output`` = ``value`` (default), ``margin`` (before the objective's transformation) or
    ``probability`` (like ``value``, but of every class if the objective gives only the most probable).
    Missing values are NaN.
    """

    name = "xgboost"
    extra = "xgboost"
    modules: tuple[str, ...] = ("xgboost",)
    #: Its files are data, but XGBoost does not check tree indices: a damaged file ends the process.
    traits = Traits(native=True, repeatable=True, gpu=True, harmless_formats=frozenset())

    def recognise(self, path: Path) -> str | None:
        """Return ``xgboost-json``, ``xgboost-ubj``, or ``xgboost-binary`` for the format of before 1.0."""
        start = head(path, 64)
        if start.startswith((b"binf", b"bs64")):
            return "xgboost-binary"
        if _UBJSON.match(start):
            return "xgboost-ubj"
        if _JSON.match(start):
            ends = head(path, 65_536) + tail(path, 4096)
            if b'"learner"' in ends and (b'"gradient_booster"' in ends or b'"version"' in ends):
                return "xgboost-json"
        return None

    def preloads(self, manifest: Manifest) -> tuple[str, ...]:
        """See :class:`~salver.backends.protocol.ForkableBackend`."""
        return ("salver.backends.xgboost", "xgboost")

    def load(self, manifest: Manifest, options: LoadOptions) -> "XgboostModel":
        """See :class:`~salver.backends.protocol.Backend`."""
        wish = options_of(manifest, ("output",))
        output = choice_of(wish, "output", ("value", "margin", "probability"))
        margin = output == "margin"
        if manifest.format == "xgboost-binary":
            raise LoadFailed(
                f"{manifest.path} has XGBoost's old binary format, which today's XGBoost no longer reads",
                fix="Load it with XGBoost 2 and call save_model('model.ubj').",
            )
        xgboost = framework(self, "xgboost")
        with loading(manifest):
            booster = xgboost.Booster()
            booster.load_model(bytearray(manifest.path.read_bytes()))
            booster.set_param({"nthread": options.threads, "verbosity": 0})
            device = "cpu"
            if options.gpu is not None:
                device = f"cuda:{options.gpu}"
                _move(booster, options.gpu, device)
            learner = json.loads(booster.save_config())["learner"]
            kind = learner["gradient_booster"]["name"]
            if output == "probability" and learner["objective"]["name"] == "multi:softmax":
                booster.set_param({"objective": "multi:softprob"})
            if kind == "gblinear" or device != "cpu":
                predict = _in_turn(xgboost, booster, margin)
            else:
                predict = _trees(booster, margin)
            return XgboostModel(predict, int(booster.num_features()), manifest, table_of_booster(booster))


class XgboostModel:
    """One booster; ``predict`` runs it.

    Args:
        table: Its columns; None = they have no names.
    """

    def __init__(
        self, predict: Callable[[Array], Array], features: int, manifest: Manifest, table: "Table | None"
    ) -> None:
        self._predict: Callable[[Array], Array] = predict
        trial = predict(np.zeros((2, features), np.float32))
        said = (TensorSpec("input", DataType.FP32, (-1, features)),)
        gives = (TensorSpec("output", DataType.FP32, (-1, *trial.shape[1:])),)
        self.signature = Signature(
            override(said, manifest.config.inputs, "inputs", _FLOATS),
            override(gives, manifest.config.outputs, "outputs", _FLOATS),
            True,
            "xgboost_native",
        )
        self._check = Outputs(self.signature, manifest.id.name).check
        self._table = table
        if table is not None:
            self.signature = table.beside(self.signature)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        if self._table is None or SIGNATURE not in inputs:
            return self._check({"output": self._predict(inputs["input"])}, inputs)
        return self._check({"output": self._predict(self._table.matrix(inputs).astype(np.float32))}, inputs)

    def close(self) -> None:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        self._predict = _closed


def _closed(_: Array) -> Array:
    raise ModelFailed("the model is closed")


def _trees(booster: Any, margin: bool) -> Callable[[Array], Array]:
    kind = "margin" if margin else "value"

    def predict(values: Array) -> Array:
        answer: Array = booster.inplace_predict(values, predict_type=kind, validate_features=False)
        return answer

    return predict


def _move(booster: Any, gpu: int, device: str) -> None:
    """Move a booster to a GPU. XGBoost only warns if it cannot, and stays on the CPU."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        booster.set_param({"device": device})
        found = json.loads(booster.save_config())["learner"]["generic_param"]["device"]
    if found != device:
        why = f"it uses {found} instead"
        raise no_gpu("XGBoost", gpu, why, "Check the driver with nvidia-smi, and that XGBoost has CUDA")


def _in_turn(xgboost: Any, booster: Any, margin: bool) -> Callable[[Array], Array]:
    """Return the prediction of a booster that takes no arrays in place: linear, or on a GPU."""
    turn = threading.Lock()

    def predict(values: Array) -> Array:
        matrix = xgboost.DMatrix(values, nthread=1)
        with turn:
            answer: Array = booster.predict(matrix, output_margin=margin, validate_features=False)
        return answer

    return predict


def table_of_booster(booster: Any) -> "Table | None":
    """Return the columns by the booster's names, with the categories that it was trained with."""
    names, kinds = booster.feature_names, booster.feature_types or ()
    categories: dict[str, Sequence[Category]] = {}
    if names and "c" in kinds:
        learner = json.loads(bytes(booster.save_raw("json")))["learner"]
        known = _boosted(learner["gradient_booster"]).get("model", {}).get("cats", {}).get("enc", ())
        categories = {name: _categories(each) for name, each in zip(names, known, strict=False)}
    return table_of(
        names, categories, [name for name, kind in zip(names or (), kinds, strict=False) if kind == "i"]
    )


def _boosted(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the trees of a booster, which that with dropout has inside another object."""
    inner: Mapping[str, Any] = said.get("gbtree", said)
    return inner


def _categories(said: Mapping[str, Any]) -> "Sequence[Category]":
    """Return the categories of one column; texts are stored as their bytes and where each begins."""
    values = said["values"]
    if "offsets" not in said:
        return list(values)
    ends, whole = said["offsets"], bytes(value & 0xFF for value in values)
    return [whole[a:b].decode() for a, b in itertools.pairwise(ends)]
