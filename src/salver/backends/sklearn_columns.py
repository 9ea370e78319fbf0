"""Columns of the table that a scikit-learn estimator was fitted on, read from its fitted transformers.

It runs the estimator once or a few times, to learn which columns may have missing values.
"""

import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from msgspec.structs import replace

from salver.backends.columns import MOST_COLUMNS, Category, Table, dates, texts
from salver.lazy import lazy_imports
from salver.words.errors import LoadFailed
from salver.words.messages import NULL, Column, TensorSpec
from salver.words.tensor import Array, DataType

with lazy_imports():
    from salver.backends import lightgbm, xgboost

#: More columns are not tried one by one.
_MOST_TRIED: Final = 64


class SklearnTable:
    """Table that an estimator takes.

    Args:
        days: Names of columns of dates, of which an estimator says nothing.

    Attributes:
        columns: Its columns; empty = the estimator has no names for them.
        is_matrix: All columns are numbers that no transformer selects by name, so that a matrix does as well.
    """

    def __init__(self, estimator: Any, days: Sequence[str] = ()) -> None:
        self.columns, self._known = _columns(estimator)
        if unknown := sorted(set(days) - {spec.name for spec in self.columns}):
            raise LoadFailed(
                f"option dates names {unknown[0]!r}, which is no column of the estimator",
                field="options.dates",
            )
        self._boosted = _boosted(estimator) if self.columns else None
        own = {spec.name: spec for spec in self._boosted.columns} if self._boosted is not None else {}
        columns = [own.get(spec.name, spec) for spec in self.columns]
        self.columns = tuple(_as_date(spec) if spec.name in days else spec for spec in columns)
        self.is_matrix = bool(own) or (
            not hasattr(first_step(estimator), "transformers_")
            and all(spec.datatype is not DataType.BYTES for spec in self.columns)
        )
        self._pandas: Any = None
        if not self.columns:
            return
        self._pandas = _pandas(is_needed=not self.is_matrix)
        if self._pandas is None:
            self.columns = ()
        else:
            self.columns = _with_nulls(estimator, self.columns, self.trial)

    def frame(self, inputs: Mapping[str, Array]) -> Any:
        """Return the data frame of a run's inputs.

        Raises:
            InvalidInput: a text is not UTF-8, or a value no category.
        """
        return self._pandas.DataFrame(
            {spec.name: self._column(spec, inputs[spec.name]) for spec in self.columns}
        )

    def _column(self, spec: TensorSpec, values: Array) -> Any:
        column = spec.column or Column()
        if self._boosted is not None and column.categories:
            codes = np.nan_to_num(self._boosted.numbers(spec, values), nan=-1).astype(np.int64)
            return self._pandas.Categorical.from_codes(codes, column.categories)
        if column.kind == "date":
            return dates(spec.name, values)
        if spec.datatype is DataType.BYTES:
            return texts(spec.name, values)
        if column.kind == "boolean" and not np.isnan(values).any():
            return values.astype(np.bool_)
        return values

    def trial(self, missing: Container[str] = ()) -> Any:
        """Return a data frame of two rows, with values that the transformers know."""
        inputs = {}
        for spec in self.columns:
            column = spec.column or Column()
            value: Any = column.categories[0] if column.categories else self._known.get(spec.name, 0)
            if spec.datatype is DataType.BYTES:
                value = str(value or "").encode() if column.kind == "text" else b"2000-01-01"
            if spec.name in missing:
                value = NULL if spec.datatype is DataType.BYTES else np.nan
            inputs[spec.name] = np.array([value] * 2, spec.datatype.dtype)
        return self.frame(inputs)


def _boosted(estimator: Any) -> "Table | None":
    """Return the columns of a booster with categories that has scikit-learn's interface; None for others."""
    first = first_step(estimator)
    table: Table | None = None
    if hasattr(first, "booster_"):
        table = lightgbm.table_of_booster(first.booster_, first.booster_.model_to_string())
    elif hasattr(first, "get_booster"):
        table = xgboost.table_of_booster(first.get_booster())
    if table is None or not any(spec.column is not None and spec.column.categories for spec in table.columns):
        return None
    return table


def first_step(estimator: Any) -> Any:
    """Return the first step of a pipeline, or the estimator itself."""
    while getattr(estimator, "steps", None):
        estimator = estimator.steps[0][1]
    return estimator


def _as_date(spec: TensorSpec) -> TensorSpec:
    return replace(spec, datatype=DataType.BYTES, column=replace(spec.column or Column(), kind="date"))


def _pandas(*, is_needed: bool) -> Any:
    try:
        import pandas  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        if not is_needed:
            return None
        raise LoadFailed(
            "this estimator was fitted on a table of named columns, which needs pandas",
            fix="Install it with: pip install 'salver[sklearn]'",
        ) from error
    return pandas


def _columns(estimator: Any) -> tuple[tuple[TensorSpec, ...], Mapping[str, Category]]:
    """Return the columns of an estimator, and a value of those of which one is known."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None or len(names) > MOST_COLUMNS:
        return (), {}
    # All columns are numbers, except those of transformers that have learned texts.
    columns = {str(name): TensorSpec(str(name), DataType.FP64, (-1,), column=Column()) for name in names}
    read, values = set(), {}
    for transformer, chosen in _chosen(estimator):
        if transformer == "drop":
            continue
        read.update(chosen)
        for index, name in enumerate(chosen):
            columns[name], value = _learned(columns[name], transformer, index)
            if value is not None:
                values[name] = value
    specs = tuple(
        replace(spec, column=replace(spec.column, is_read=spec.name in read))
        for spec in columns.values()
        if spec.column is not None
    )
    return specs, values


def _chosen(estimator: Any) -> Iterator[tuple[Any, list[str]]]:
    """Return the transformers of columns, each with its column names."""
    names = [str(name) for name in estimator.feature_names_in_]
    first = first_step(estimator)
    if not hasattr(first, "transformers_"):
        # Categories of gradient boosting come from a transformer of its own.
        own = getattr(first, "_preprocessor", None)
        yield first, names
        first = own
    for _, transformer, chosen in getattr(first, "transformers_", ()):
        yield transformer, _names(names, chosen)


def _names(names: Sequence[str], chosen: Any) -> list[str]:
    if isinstance(chosen, str | int):
        chosen = [chosen]
    if isinstance(chosen, slice):
        return list(names[chosen])
    listed = np.asarray(chosen)
    if listed.dtype.kind == "b":
        listed = np.flatnonzero(listed)
    return [str(c) if isinstance(c, str) else names[c] for c in listed.tolist()]


def _learned(spec: TensorSpec, transformer: Any, index: int) -> tuple[TensorSpec, Category | None]:
    """Return a column's specification with what a transformer has learned about it, and a known value."""
    text = replace(spec, datatype=DataType.BYTES, column=replace(spec.column or Column(), kind="text"))
    is_raw = True
    for _, step in getattr(transformer, "steps", [("", transformer)]):
        if hasattr(step, "vocabulary_"):
            return text, None
        # Encoders keep the categories of each column, imputers the value that fills it.
        if (categories := getattr(step, "categories_", None)) is not None:
            # Missing values are NaN among numbers and among texts.
            known = [
                value
                for value in np.asarray(categories[index]).tolist()
                if value is not None and value == value
            ]
            is_strict = is_raw and getattr(step, "handle_unknown", "") == "error"
            return _encoded(spec, text, known, is_strict=is_strict), next(iter(known), None)
        if (learned := getattr(step, "statistics_", None)) is None:
            is_raw = False  # later categories are those of other values than callers send
        elif isinstance(np.asarray(learned)[index], str):
            spec = text
    return spec, None


def _encoded(spec: TensorSpec, text: TensorSpec, known: Sequence[Category], *, is_strict: bool) -> TensorSpec:
    if any(isinstance(value, str) for value in known):
        spec = text
    column = spec.column or Column()
    if known and all(isinstance(value, bool) for value in known):
        column = replace(column, kind="boolean")
    return replace(spec, column=replace(column, categories=tuple(known) if is_strict else column.categories))


def _with_nulls(
    estimator: Any, columns: tuple[TensorSpec, ...], trial: Callable[[Sequence[str]], Any]
) -> tuple[TensorSpec, ...]:
    ask = getattr(estimator, "predict", None) or getattr(estimator, "transform", None)
    names = [spec.name for spec in columns]

    def takes(missing: Sequence[str]) -> bool:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ask(trial(missing))  # type: ignore[misc]
        except Exception:
            return False
        return True

    able = set(names)
    if not takes(names):
        able = set()
        if len(names) <= _MOST_TRIED:
            able = {name for name in names if takes([name])}
    return tuple(
        replace(spec, column=replace(spec.column, takes_null=spec.name in able))
        for spec in columns
        if spec.column is not None
    )
