"""Types of a pipeline's edges: datatype, shape and the list that the rows belong to.

Axis 0 of every edge is the row. The rows of most edges are those of the request; a step that takes a list
apart, and a condition, make rows of their own, whose :data:`Axis` is a path from the request's rows. Steps
describe their inputs and outputs by patterns such as ``FP32[rows, tokens, width]``. Pure.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from salver.words.tensor import DATATYPES, DataType

#: Path of steps and conditions that made the rows; empty = the rows of the request.
Axis = tuple[str, ...]
_FORM: Final = re.compile(r"([A-Z][A-Z0-9]*)\[([^\[\]]*)\]")
_NAME: Final = re.compile(r"[a-z][a-z_]*")
#: Names of several datatypes in patterns; an output has the datatype that the input has.
_CLASSES: Final[Mapping[str, frozenset[DataType]]] = {
    "FLOAT": frozenset((DataType.FP16, DataType.FP32, DataType.FP64)),
    "INT": frozenset(kind for kind in DataType if kind.is_integer),
    "NUMBER": frozenset(kind for kind in DataType if kind not in (DataType.BF16, DataType.BYTES)),
    "ANY": frozenset(DataType),
}
_REST: Final = "..."
_LEAST: Final = {"FLOAT": DataType.FP32}
#: What a pattern's names stand for: extents, the extents of ``...``, and the datatype.
Bindings = dict[str, int | tuple[int, ...] | DataType]


class EdgeType(NamedTuple):
    """Type of an edge.

    Attributes:
        shape: Extents with the rows first; -1 = any extent.
    """

    datatype: DataType
    shape: tuple[int, ...]
    axis: Axis = ()

    def __str__(self) -> str:
        """Return it as error texts show it, such as ``INT64[-1,-1]``."""
        return f"{self.datatype.name}[{','.join(map(str, self.shape))}]"


class Pattern(NamedTuple):
    """Type of a step's input or output.

    Attributes:
        kind: Name of a datatype, or ``FLOAT``, ``INT``, ``NUMBER`` or ``ANY``.
        is_item: Its rows are the items of a list, not the step's rows.
        extents: Extents after the rows: a number, a name, or ``...`` for any number of them.
    """

    kind: str
    is_item: bool
    extents: tuple[int | str, ...]

    def __str__(self) -> str:
        """Return it as error texts show it."""
        shown = (extent if extent == _REST or isinstance(extent, int) else -1 for extent in self.extents)
        return f"{self.kind}[{','.join(map(str, (-1, *shown)))}]"

    def matches(self, found: EdgeType, bound: Bindings) -> bool:
        """Return whether an edge fits; ``bound`` gets what its names stand for."""
        return self._binds_kind(found.datatype, bound) and self._binds_shape(found.shape[1:], bound)

    def _binds_kind(self, datatype: DataType, bound: Bindings) -> bool:
        if self.kind in DATATYPES:
            return datatype is DATATYPES[self.kind]
        return datatype in _CLASSES[self.kind] and bound.setdefault(self.kind, datatype) is datatype

    def _binds_shape(self, shape: tuple[int, ...], bound: Bindings) -> bool:
        extents: list[int | str] = list(self.extents)
        if _REST in extents:
            at = extents.index(_REST)
            size = len(shape) - len(extents) + 1
            if size < 0 or not _binds_rest(shape[at : at + size], bound):
                return False
            extents[at : at + 1] = shape[at : at + size]
        if len(extents) != len(shape):
            return False
        return all(_binds_extent(*pair, bound) for pair in zip(extents, shape, strict=True))

    def filled(self, bound: Bindings, axis: Axis) -> EdgeType | None:
        """Return the type with the names replaced; None = its datatype or its rank is not known."""
        datatype = DATATYPES.get(self.kind) or bound.get(self.kind) or _LEAST.get(self.kind)
        if not isinstance(datatype, DataType) or (_REST in self.extents and _REST not in bound):
            return None
        shape: list[int] = [-1]
        for extent in self.extents:
            value: Any = extent
            if isinstance(extent, str):
                value = bound.get(extent, -1)
            shape += value if isinstance(value, tuple) else (value,)
        return EdgeType(datatype, tuple(shape), axis)


def _binds_rest(shape: tuple[int, ...], bound: Bindings) -> bool:
    known = bound.setdefault(_REST, shape)
    if not isinstance(known, tuple) or len(known) != len(shape):
        return False
    if not all(a == b or a < 0 or b < 0 for a, b in zip(known, shape, strict=True)):
        return False
    bound[_REST] = tuple(max(pair) for pair in zip(known, shape, strict=True))
    return True


def _binds_extent(wanted: int | str, extent: int, bound: Bindings) -> bool:
    known = wanted
    if isinstance(wanted, str):
        known = bound.get(wanted, -1)  # type: ignore[assignment]  # names of extents are bound to numbers
        if isinstance(known, int) and known < 0:
            bound[wanted] = extent
    return known == extent or extent < 0 or (isinstance(known, int) and known < 0)


def pattern(text: str) -> Pattern:
    """Return the pattern that a step declares.

    Raises:
        ValueError: it is not of the form ``KIND[rows, …]`` or ``KIND[items, …]``.

    >>> str(pattern("FLOAT[rows, ..., 4]"))
    'FLOAT[-1,...,4]'
    """
    match = _FORM.fullmatch(text.replace(" ", ""))
    first, *rest = match[2].split(",") if match else [""]
    if match is None or first not in ("rows", "items") or not (match[1] in DATATYPES or match[1] in _CLASSES):
        raise ValueError(f"{text!r} is no type such as FP32[rows, tokens] or ANY[items, ...]")
    extents: list[int | str] = []
    for part in rest:
        if part.isdecimal():
            extents.append(int(part))
        elif part == _REST or _NAME.fullmatch(part):
            extents.append(part)
        else:
            raise ValueError(f"{text!r} has the extent {part!r}; it is a number, a name or ...")
    if extents.count(_REST) > 1:
        raise ValueError(f"{text!r} has ... twice")
    return Pattern(match[1], first == "items", tuple(extents))


def edge_type(text: str) -> EdgeType:
    """Return the type of a pipeline's input as its file gives it.

    Raises:
        ValueError: it is not of the form ``FP32[-1, 4]``.

    >>> str(edge_type("FP32[-1, 4]"))
    'FP32[-1,4]'
    """
    match = _FORM.fullmatch(text.replace(" ", ""))
    shape = match[2].split(",") if match else []
    if (
        match is None
        or match[1] not in DATATYPES
        or shape[0] != "-1"
        or not all(extent == "-1" or extent.isdecimal() for extent in shape)
    ):
        raise ValueError(f"{text!r} is no type such as BYTES[-1] or FP32[-1,4], with -1 for the rows")
    return EdgeType(DATATYPES[match[1]], tuple(map(int, shape)))
