"""Steps on columns of a table: missing values, scales, categories and buckets, and the matrix of a model.

Each step has parameters by column. Its inputs and outputs are these columns, so that a column goes by its
name from step to step. Numbers are FP64 with NaN where a value is missing, as in training; a missing text is
:data:`~salver.words.messages.NULL`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import msgspec
import numpy as np

from salver.features.pipelines.directory import inside
from salver.features.pipelines.steps.step import Arrays, Run, Step
from salver.words.errors import InvalidInput, LoadFailed
from salver.words.messages import NULL, Column
from salver.words.tensor import DATATYPES, Array

_MOST: Final = 1 << 26  # bytes of a file of fitted values
_MOST_SHOWN: Final = 40
NUMBER: Final = "NUMBER[rows]"
TEXT: Final = "BYTES[rows]"
_FP64: Final = "FP64[rows]"
#: A text, a number, or None for a missing value.
Category = str | float | None


class ColumnStep(Step, frozen=True):
    """A step with parameters for each of its columns.

    Attributes:
        values: Parameters by column.
        fitted: JSON file with them in place of ``values``: an object by kind of step, then by column.
        columns: Columns of the file that this step takes; empty = all.
    """

    kind: ClassVar[str]
    by_name: ClassVar = True

    values: dict[str, Any] = msgspec.field(default_factory=dict)
    fitted: str = ""
    columns: tuple[str, ...] = ()

    def parameters(self, folder: Path) -> Mapping[str, Any]:
        """Return the parameters by column. Raises LoadFailed."""
        found: Any = self.values
        if self.fitted:
            if self.values:
                raise LoadFailed(f"{self.kind}: it has both `values` and `fitted`", fix="Keep one of them.")
            found = read_fitted(folder, self.fitted, self.kind)
        if self.columns:
            for name in self.columns:
                if name not in found:
                    raise LoadFailed(f"{self.kind}: there are no values for the column {name!r}")
            found = {name: found[name] for name in self.columns}
        if not isinstance(found, dict) or not found:
            fix = 'Write, for example: values = { age = … }, or fitted = "prepare.json"'
            raise LoadFailed(f"{self.kind}: there are no values by column", fix=fix)
        check_names(self.kind, found)
        return found

    def converted(self, folder: Path, type: Any, form: str) -> dict[str, Any]:
        """Return the parameters as a type. Raises LoadFailed, which shows the form."""
        found = {}
        for name, told in self.parameters(folder).items():
            try:
                found[name] = msgspec.convert(told, type)
            except msgspec.ValidationError as error:
                raise LoadFailed(f"{self.kind}: the values of {name!r} must be {form}") from error
        return found


def check_names(kind: str, names: Sequence[str] | Mapping[str, Any]) -> None:
    """Raise LoadFailed for a column whose name cannot be an edge."""
    for name in names:
        if "." in name or not name:
            fix = "Give it a name without dots, in the data as well."
            raise LoadFailed(f"{kind}: the name of the column {name!r} is empty or has a dot", fix=fix)


def read_fitted(folder: Path, name: str, kind: str) -> Any:
    """Return what a file of fitted values has for a kind of step. Raises LoadFailed."""
    path = inside(folder, name)
    try:
        with path.open("rb") as file:
            content = file.read(_MOST + 1)
        table = msgspec.json.decode(content[:_MOST])
    except OSError as error:
        raise LoadFailed(f"{path} cannot be read: {error.strerror or error}") from error
    except msgspec.DecodeError as error:
        raise LoadFailed(f"{path} is not JSON, or larger than {_MOST} bytes: {error}") from error
    if not isinstance(table, dict) or kind not in table:
        raise LoadFailed(f"{path} has no values for the step {kind}", fix=f'Add "{kind}": {{…}} to it.')
    return table[kind]


def numbers(values: Array) -> Array:
    """Return a column as FP64."""
    return values.astype(np.float64, copy=False)


def _each(functions: Mapping[str, Callable[[Array], Array]]) -> Run:
    def run(arrays: Arrays) -> Arrays:
        return {name: function(arrays[name]) for name, function in functions.items()}

    return run


class Impute(ColumnStep, frozen=True):
    """A value for those that are missing: a number or a text for each column."""

    kind: ClassVar = "impute"

    def described(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        fills = self._fills(folder)
        return (
            {name: TEXT if isinstance(fill, str) else NUMBER for name, fill in fills.items()},
            {name: TEXT if isinstance(fill, str) else _FP64 for name, fill in fills.items()},
        )

    def table_columns(self, folder: Path) -> dict[str, Column]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        return {name: _column(isinstance(fill, str)) for name, fill in self._fills(folder).items()}

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        return _each({name: _filled(fill) for name, fill in self._fills(folder).items()})

    def _fills(self, folder: Path) -> dict[str, str | float]:
        return self.converted(folder, str | float, "a number or a text")


def _filled(fill: str | float) -> Callable[[Array], Array]:
    if isinstance(fill, str):
        text = fill.encode()

        def texts(values: Array) -> Array:
            missing = values == NULL
            if not missing.any():
                return values
            found = values.copy()
            found[missing] = text
            return found

        return texts

    def filled(values: Array) -> Array:
        found = numbers(values)
        missing = np.isnan(found)
        return np.where(missing, fill, found) if missing.any() else found

    return filled


def _column(is_text: bool, categories: Sequence[Any] = (), *, takes_null: bool = True) -> Column:
    return Column("text" if is_text else "number", tuple(categories), takes_null)


class Scale(ColumnStep, frozen=True):
    """``(x - center) / scale``, with ``[center, scale]`` for each column; missing values stay missing.

    Mean and standard deviation, minimum and range, or median and the range of the middle half.
    """

    kind: ClassVar = "scale"

    def described(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        names = self._pairs(folder)
        return dict.fromkeys(names, NUMBER), dict.fromkeys(names, _FP64)

    def table_columns(self, folder: Path) -> dict[str, Column]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        return dict.fromkeys(self._pairs(folder), _column(False))

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        pairs = self._pairs(folder)
        return _each({name: _scaled(*pair) for name, pair in pairs.items()})

    def _pairs(self, folder: Path) -> dict[str, tuple[float, float]]:
        pairs = self.converted(folder, tuple[float, float], "[center, scale]")
        for name, pair in pairs.items():
            if not pair[1]:
                raise LoadFailed(f"scale: the scale of {name!r} is 0", fix="Write 1 for a constant column.")
        return pairs


def _scaled(center: float, scale: float) -> Callable[[Array], Array]:
    return lambda values: (numbers(values) - center) / scale


class _Coded(ColumnStep, frozen=True):
    """Step with the categories of each column."""

    def categories(self, folder: Path) -> dict[str, tuple[Category, ...]]:
        """Return the categories by column. Raises LoadFailed."""
        form = "a list of texts, or of numbers (null = missing)"
        found = self.converted(folder, tuple[Category, ...], form)
        for name, values in found.items():
            kinds = {type(value) for value in values if value is not None}
            if len(kinds) > 1 or not values or len(set(values)) != len(values):
                raise LoadFailed(f"{self.kind}: the values of {name!r} must be {form}, each once")
        return found

    def _takes_other(self) -> bool:
        raise NotImplementedError

    def _takes_missing(self) -> bool:
        return self._takes_other()

    def table_columns(self, folder: Path) -> dict[str, Column]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        found = {}
        for name, values in self.categories(folder).items():
            known = () if self._takes_other() else [value for value in values if value is not None]
            takes_null = self._takes_missing() or None in values
            found[name] = _column(_is_text(values), known, takes_null=takes_null)
        return found

    def _types(self, folder: Path) -> dict[str, str]:
        return {
            name: TEXT if _is_text(values) else NUMBER for name, values in self.categories(folder).items()
        }


def _is_text(values: Sequence[Category]) -> bool:
    return any(isinstance(value, str) for value in values)


#: Of values that are no category, and of missing ones.
_OTHER: Final = -1
_MISSING: Final = -2


def _codes(values: Sequence[Category]) -> Callable[[Array], Array]:
    """Return the function from values to the indices of their categories."""
    if _is_text(values):
        known: dict[Any, int] = {
            NULL if value is None else str(value).encode(): code for code, value in enumerate(values)
        }
        known.setdefault(NULL, _MISSING)
        of_text = known.get
        return lambda array: np.array([of_text(value, _OTHER) for value in array.tolist()], np.int64)
    of_number = {value: code for code, value in enumerate(values)}
    missing = of_number.pop(None, _MISSING)
    find = of_number.get

    def codes(array: Array) -> Array:
        listed = numbers(array).tolist()
        return np.array([find(value, _OTHER) if value == value else missing for value in listed], np.int64)

    return codes


def _refuse(name: str, values: Array, codes: Array) -> None:
    odd = codes < 0
    if odd.any():
        row = int(odd.argmax())
        value = values[row]
        shown = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        said = f"has no category {shown[:_MOST_SHOWN]!r}"
        if codes[row] == _MISSING:
            said = "is missing, and no category stands for that"
        raise InvalidInput(f"row {row}: column {name!r} {said}", field=name)


class OneHot(_Coded, frozen=True):
    """A number for each category of a column: 1 for the one that the value is, and else 0.

    Attributes:
        unknown: ``zeros`` = other values, and missing ones, get no 1; else they are an error.
    """

    kind: ClassVar = "one-hot"

    unknown: Literal["refuse", "zeros"] = "refuse"

    def _takes_other(self) -> bool:
        return self.unknown == "zeros"

    def described(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        sizes = {name: len(values) for name, values in self.categories(folder).items()}
        return self._types(folder), {name: f"FP64[rows, {size}]" for name, size in sizes.items()}

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        known = {name: (_codes(values), len(values)) for name, values in self.categories(folder).items()}

        def run(arrays: Arrays) -> Arrays:
            found = {}
            for name, (codes_of, size) in known.items():
                codes = codes_of(arrays[name])
                if self.unknown == "refuse":
                    _refuse(name, arrays[name], codes)
                found[name] = (codes[:, None] == np.arange(size)).astype(np.float64)
            return found

        return run


class Ordinal(_Coded, frozen=True):
    """The index of a value among the categories of its column; NaN for a missing value.

    Attributes:
        unknown: Number for other values; else they are an error.
    """

    kind: ClassVar = "ordinal"

    unknown: float | Literal["refuse"] = "refuse"

    def _takes_other(self) -> bool:
        return self.unknown != "refuse"

    def _takes_missing(self) -> bool:
        return True

    def described(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        types = self._types(folder)
        return types, dict.fromkeys(types, _FP64)

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        known = {name: _codes(values) for name, values in self.categories(folder).items()}

        def run(arrays: Arrays) -> Arrays:
            found = {}
            for name, codes_of in known.items():
                codes = codes_of(arrays[name])
                if self.unknown == "refuse":
                    _refuse(name, arrays[name], np.where(codes == _MISSING, 0, codes))
                values = codes.astype(np.float64)
                values[codes == _MISSING] = np.nan
                if self.unknown != "refuse":
                    values[codes == _OTHER] = self.unknown
                found[name] = values
            return found

        return run


class Bucketise(ColumnStep, frozen=True):
    """The number of the bucket of a value, from ascending edges: 0 below the first, one more from each on.

    A missing value is an error.
    """

    kind: ClassVar = "bucketise"

    def described(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        names = self._edges(folder)
        return dict.fromkeys(names, NUMBER), dict.fromkeys(names, _FP64)

    def table_columns(self, folder: Path) -> dict[str, Column]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        return dict.fromkeys(self._edges(folder), _column(False, takes_null=False))

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        edges = self._edges(folder)

        def run(arrays: Arrays) -> Arrays:
            found = {}
            for name, own in edges.items():
                values = numbers(arrays[name])
                if (missing := np.isnan(values)).any():
                    row = int(missing.argmax())
                    raise InvalidInput(f"row {row}: column {name!r} is missing", field=name)
                found[name] = np.searchsorted(own, values, side="right").astype(np.float64)
            return found

        return run

    def _edges(self, folder: Path) -> dict[str, Array]:
        told = self.converted(folder, tuple[float, ...], "a list of ascending numbers")
        found = {name: np.array(edges, np.float64) for name, edges in told.items()}
        for name, edges in found.items():
            if not len(edges) or not (np.diff(edges) > 0).all():
                raise LoadFailed(f"bucketise: the values of {name!r} must be a list of ascending numbers")
        return found


class Matrix(Step, frozen=True):
    """Columns side by side, in their order: the input of a model.

    Attributes:
        columns: Names of numbers, or of the outputs of other steps on columns.
        fitted: JSON file with the names in place of ``columns``, under ``matrix``.
        to: Datatype of the matrix.
    """

    outputs: ClassVar = {}
    by_name: ClassVar = True

    columns: tuple[str, ...] = ()
    fitted: str = ""
    to: Literal["FP32", "FP64"] = "FP32"

    def described(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        return dict.fromkeys(self._names(folder), "NUMBER[rows, ...]"), {"matrix": f"{self.to}[rows, width]"}

    def table_columns(self, folder: Path) -> dict[str, Column]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        return dict.fromkeys(self._names(folder), _column(False))

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        names, dtype = self._names(folder), DATATYPES[self.to].dtype

        def run(arrays: Arrays) -> Arrays:
            parts = [arrays[name] for name in names]
            rows = len(parts[0])
            flat = [part.reshape(rows, int(np.prod(part.shape[1:]))) for part in parts]
            return {"matrix": np.concatenate(flat, axis=1, dtype=dtype, casting="unsafe")}

        return run

    def _names(self, folder: Path) -> tuple[str, ...]:
        found: Any = self.columns
        if self.fitted and not found:
            found = read_fitted(folder, self.fitted, "matrix")
        try:
            names = msgspec.convert(found, tuple[str, ...])
        except msgspec.ValidationError as error:
            raise LoadFailed("matrix: the columns must be a list of names") from error
        if not names or len(set(names)) != len(names):
            fix = 'Write, for example: columns = ["age", "height"]'
            raise LoadFailed("matrix: there are no columns, or one is there twice", fix=fix)
        check_names("matrix", names)
        return names
