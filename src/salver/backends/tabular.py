"""Tabular models with one input per column.

MLflow stores the names and types of the columns that a model was trained on. The artefacts of most frameworks
have a single numeric input; the columns are combined into it, in order.
"""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from msgspec.structs import replace

from salver.backends.protocol import RunnableModel
from salver.words.artifacts import Manifest
from salver.words.errors import LoadFailed
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import Array, DataType

Load = Callable[[Manifest], RunnableModel]

_DOUBLES: Final = frozenset((DataType.FP64, DataType.INT64, DataType.INT32))
#: Backends whose models take NaN for a missing value.
_TAKE_NAN: Final = frozenset(("xgboost", "lightgbm"))
#: Backends whose single input is FP32 unless declared as FP64.
_DECLARED: Final = frozenset(("sklearn", "lightgbm"))


def load(manifest: Manifest, inner: Load) -> RunnableModel:
    """Return the model that ``inner`` loads, with an input for each of ``manifest.columns`` if they fit."""
    columns, config = manifest.columns, manifest.config
    plain = replace(manifest, columns=())
    if manifest.backend == "sklearn" and (days := _dates(columns)) and "dates" not in config.options:
        try:
            dated = replace(config, options={**config.options, "dates": days})
            return load(replace(manifest, config=dated), inner)
        except LoadFailed as error:
            if error.field != "options.dates":
                raise
    kinds = {column.datatype for column in columns}
    is_wide = bool(kinds & _DOUBLES) and DataType.BYTES not in kinds
    if config.inputs:
        return inner(plain)  # explicit configuration
    if is_wide and manifest.backend in _DECLARED:
        told = (TensorSpec("input", DataType.FP64, (-1, len(columns))),)
        try:
            return _with_columns(inner(replace(plain, config=replace(config, inputs=told))), manifest)
        except LoadFailed as error:
            if not error.field.startswith("inputs"):
                raise
    return _with_columns(inner(plain), manifest)


def _dates(columns: tuple[TensorSpec, ...]) -> str:
    """Return the names of columns of dates as the option of the backend, empty = none."""
    return ",".join(spec.name for spec in columns if spec.column is not None and spec.column.kind == "date")


def _with_columns(model: RunnableModel, manifest: Manifest) -> RunnableModel:
    own, columns = model.signature.inputs, manifest.columns
    if {spec.name for spec in own} == {spec.name for spec in columns}:
        return model  # it selects columns itself
    is_matrix = len(own) == 1 and len(own[0].shape) == 2 and own[0].shape[1] in (-1, len(columns))
    if not is_matrix or any(c.datatype is DataType.BYTES for c in columns) or not own[0].datatype.is_float:
        return model
    known = model.signature.table
    takes_nan = manifest.backend in _TAKE_NAN
    if known is not None:
        takes_nan = all(spec.column is not None and spec.column.takes_null for spec in known.inputs)
    return TabularModel(model, tuple(_with_nulls(spec, takes_nan=takes_nan) for spec in columns))


def _with_nulls(spec: TensorSpec, *, takes_nan: bool) -> TensorSpec:
    if spec.column is None or not spec.datatype.is_float:
        return spec
    return replace(spec, column=replace(spec.column, takes_null=takes_nan))


class TabularModel:
    """A model whose single input is combined from columns."""

    def __init__(self, model: RunnableModel, columns: tuple[TensorSpec, ...]) -> None:
        own: Signature = model.signature
        self._model = model
        self._input = own.inputs[0].name
        self._dtype = own.inputs[0].datatype.dtype
        self._names = [column.name for column in columns]
        self.signature = replace(own, inputs=columns, others=())

    def __repr__(self) -> str:
        return f"<Tabular {self._model!r}>"

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        table = np.stack([inputs[name].astype(self._dtype, copy=False) for name in self._names], axis=1)
        return self._model.run({self._input: table})

    def close(self) -> None:
        """See :class:`~salver.backends.protocol.RunnableModel`."""
        self._model.close()
