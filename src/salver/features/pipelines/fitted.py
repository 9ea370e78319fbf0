"""Fitted values of scikit-learn's transformers, as the steps on columns take them.

Reads attributes that fitting has set; imports nothing of scikit-learn.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from salver.words.errors import InvalidInput

#: Steps on one column, in the order in which they run.
_ORDER: Final = ("impute", "bucketise", "scale", "one-hot", "ordinal")
_FIX: Final = "Serve the scikit-learn pipeline itself, or write the steps by hand."

Values = dict[str, Any]


def fitted_values(transformer: Any, columns: Sequence[str] | None = None) -> Values:
    """Return the file of fitted values of a transformer, for the option ``fitted`` of steps.

    The order of ``matrix`` is that of the transformer's output.

    Args:
        transformer: A fitted ``ColumnTransformer``, ``Pipeline`` or transformer of scikit-learn:
            SimpleImputer, StandardScaler, MinMaxScaler, RobustScaler, OneHotEncoder, OrdinalEncoder,
            KBinsDiscretizer.
        columns: Names of its columns, if it was not fitted on a data frame.

    Raises:
        InvalidInput: it has something that the steps do not do; names it.
    """
    found: Values = {}
    matrix: list[str] = []
    names = [*(columns if columns is not None else getattr(transformer, "feature_names_in_", ()))]
    if not names:
        raise InvalidInput("the names of the columns are not known", fix="Fit on a data frame, or give them.")
    for own, parts in _branches(transformer, names):
        if twice := sorted(set(own) & set(matrix)):
            raise InvalidInput(f"the column {twice[0]!r} is read twice", fix=_FIX)
        matrix += own
        last = -1
        for part in parts:
            for kind, values in _values(part, own):
                if _ORDER.index(kind) <= last:
                    raise InvalidInput(f"{kind} comes behind {_ORDER[last]}", fix=_FIX)
                last = _ORDER.index(kind)
                found.setdefault(kind, {}).update(values)
    return {**found, "matrix": matrix}


def _branches(transformer: Any, names: list[str]) -> Iterator[tuple[list[str], list[Any]]]:
    """Yield the columns of each branch with the transformers that it applies."""
    if type(transformer).__name__ != "ColumnTransformer":
        yield names, _chain(transformer)
        return
    for _, each, columns in transformer.transformers_:
        if each == "drop":
            continue
        listed = [columns] if isinstance(columns, str) else list(columns)
        own = [name if isinstance(name, str) else names[name] for name in listed]
        if own:
            yield own, [] if each == "passthrough" else _chain(each)


def _chain(transformer: Any) -> list[Any]:
    if type(transformer).__name__ == "Pipeline":
        return [part for _, each in transformer.steps for part in _chain(each)]
    is_identity = transformer in ("passthrough", None) or _is_identity(transformer)
    return [] if is_identity else [transformer]


def _is_identity(transformer: Any) -> bool:
    return type(transformer).__name__ == "FunctionTransformer" and transformer.func is None


def _values(part: Any, names: list[str]) -> list[tuple[str, Values]]:
    kind = type(part).__name__
    if kind not in _READERS:
        raise InvalidInput(f"there is no step for {kind}", fix=_FIX)
    return _READERS[kind](part, names)


def _check(part: Any, **wanted: Any) -> None:
    for name, value in wanted.items():
        if getattr(part, name) != value:
            said = f"{type(part).__name__} with {name}={getattr(part, name)!r} has no step"
            raise InvalidInput(said, fix=_FIX)


def _impute(part: Any, names: list[str]) -> list[tuple[str, Values]]:
    _check(part, add_indicator=False)
    fills = [getattr(value, "item", lambda value=value: value)() for value in part.statistics_]
    for name, fill in zip(names, fills, strict=True):
        if fill is None or fill != fill:
            raise InvalidInput(f"the column {name!r} had no values to fit on", fix=_FIX)
    return [("impute", dict(zip(names, fills, strict=True)))]


def _pairs(centers: Any, scales: Any, names: list[str]) -> list[tuple[str, Values]]:
    pairs = zip(centers, scales, strict=True)
    return [("scale", {name: [float(c), float(s)] for name, (c, s) in zip(names, pairs, strict=True)})]


def _standard(part: Any, names: list[str]) -> list[tuple[str, Values]]:
    centers = part.mean_ if part.with_mean else [0.0] * len(names)
    return _pairs(centers, part.scale_ if part.with_std else [1.0] * len(names), names)


def _min_max(part: Any, names: list[str]) -> list[tuple[str, Values]]:
    _check(part, clip=False)
    scales = [1 / scale for scale in part.scale_]
    return _pairs([-low * scale for low, scale in zip(part.min_, scales, strict=True)], scales, names)


def _robust(part: Any, names: list[str]) -> list[tuple[str, Values]]:
    centers = part.center_ if part.with_centering else [0.0] * len(names)
    return _pairs(centers, part.scale_ if part.with_scaling else [1.0] * len(names), names)


def _categories(part: Any, names: list[str]) -> Values:
    return {
        name: [None if value is None or value != value else value for value in own.tolist()]
        for name, own in zip(names, part.categories_, strict=True)
    }


def _one_hot(part: Any, names: list[str]) -> list[tuple[str, Values]]:
    _check(part, drop=None, min_frequency=None, max_categories=None)
    return [("one-hot", _categories(part, names))]


def _ordinal(part: Any, names: list[str]) -> list[tuple[str, Values]]:
    _check(part, min_frequency=None, max_categories=None)
    # A missing value is listed last, and becomes NaN all the same.
    found = _categories(part, names)
    return [("ordinal", {name: [value for value in own if value is not None] for name, own in found.items()})]


def _bins(part: Any, names: list[str]) -> list[tuple[str, Values]]:
    edges = {name: own[1:-1].tolist() for name, own in zip(names, part.bin_edges_, strict=True)}
    found: list[tuple[str, Values]] = [("bucketise", edges)]
    if part.encode != "ordinal":
        counts = zip(names, part.n_bins_.tolist(), strict=True)
        found.append(("one-hot", {name: [float(code) for code in range(count)] for name, count in counts}))
    return found


_READERS: Final[dict[str, Callable[[Any, list[str]], list[tuple[str, Values]]]]] = {
    "SimpleImputer": _impute,
    "StandardScaler": _standard,
    "MinMaxScaler": _min_max,
    "RobustScaler": _robust,
    "OneHotEncoder": _one_hot,
    "OrdinalEncoder": _ordinal,
    "KBinsDiscretizer": _bins,
}
