"""Backend for LightGBM models in its text format, run with ``Booster.predict``.

LightGBM locks a booster for readers while it predicts, so threads may share one. It knows nothing of
batching.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from salver.backends.content import head
from salver.backends.loading import choice_of, framework, loading, options_of, override
from salver.backends.protocol import SIGNATURE, LoadOptions, Traits
from salver.lazy import lazy_imports
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import Array, DataType

with lazy_imports():
    from salver.backends.columns import Table, table_of
    from salver.backends.outputs import Outputs


_FLOATS = (DataType.FP32, DataType.FP64)
_CATEGORICAL = re.compile(r"^\[categorical_feature: ([0-9,]+)\]$", re.MULTILINE)
_UNNAMED = re.compile(r"Column_\d+")


class LightgbmBackend:
    """Backend for LightGBM's text format (``Booster.save_model``).

    Options: ``output`` = ``value`` (default; ``probability`` is the same) or ``margin`` (the raw score).
    The input is FP32; declare it as FP64 in ``salver.toml`` if double precision matters.
    """

    name = "lightgbm"
    extra = "lightgbm"
    modules: tuple[str, ...] = ("lightgbm",)
    #: Its files are data, but LightGBM ends the process on a damaged one.
    traits = Traits(native=True, repeatable=True, harmless_formats=frozenset())

    def recognise(self, path: Path) -> str | None:
        """Return ``lightgbm`` for a file that begins with ``tree`` and ``version=``."""
        lines = head(path, 64).splitlines()
        if lines[:1] == [b"tree"] and lines[1:] and lines[1].startswith(b"version="):
            return "lightgbm"
        return None

    def preloads(self, manifest: Manifest) -> tuple[str, ...]:
        """See :class:`~salver.backends.protocol.ForkableBackend`."""
        return ("salver.backends.lightgbm", "lightgbm")

    def load(self, manifest: Manifest, options: LoadOptions) -> "LightgbmModel":
        """See :class:`~salver.backends.protocol.Backend`."""
        wish = options_of(manifest, ("output",))
        raw = choice_of(wish, "output", ("value", "margin", "probability")) == "margin"
        lightgbm = framework(self, "lightgbm")
        with loading(manifest):
            text = manifest.path.read_text(encoding="utf-8")
            if "\nend of trees" not in text:  # LightGBM would load a truncated file with the remaining trees
                raise LoadFailed(f"{manifest.path} is cut short: it has no 'end of trees'")
            booster = lightgbm.Booster(model_str=text)
            return LightgbmModel(booster, manifest, options.threads, raw, table_of_booster(booster, text))


class LightgbmModel:
    """Model with one booster.

    Args:
        table: Its columns; None = they have no names.
    """

    def __init__(
        self, booster: Any, manifest: Manifest, threads: int, raw: bool, table: "Table | None"
    ) -> None:
        said = (TensorSpec("input", DataType.FP32, (-1, int(booster.num_feature()))),)
        groups = int(booster.num_model_per_iteration())
        shape = (-1, groups) if groups > 1 else (-1,)
        gives = (TensorSpec("output", DataType.FP64, shape),)
        self.signature = Signature(
            override(said, manifest.config.inputs, "inputs", _FLOATS),
            override(gives, manifest.config.outputs, "outputs", _FLOATS),
            True,
            "lightgbm_text",
        )
        self._check = Outputs(self.signature, manifest.id.name).check
        self._table = table
        if table is not None:
            self.signature = table.beside(self.signature)
        self._booster: Any = booster
        self._threads = threads
        self._raw = raw

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        values = (
            inputs["input"] if self._table is None or SIGNATURE not in inputs else self._table.matrix(inputs)
        )
        answer = self._booster.predict(values, raw_score=self._raw, num_threads=self._threads)
        return self._check({"output": answer}, inputs)

    def close(self) -> None:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        self._booster = None


def table_of_booster(booster: Any, text: str) -> "Table | None":
    """Return the columns by the booster's names, with the categories that pandas had for them."""
    names = booster.feature_name()
    if all(_UNNAMED.fullmatch(name) for name in names):
        return None
    categories = booster.pandas_categorical or []
    found = _CATEGORICAL.search(text)
    places = [int(place) for place in found[1].split(",") if place] if found else []
    if len(places) != len(categories):  # others were declared by their codes
        return None if categories else table_of(names, {})
    return table_of(names, {names[place]: known for place, known in zip(places, categories, strict=True)})
