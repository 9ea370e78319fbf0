"""Reader of predict requests with large numeric tensors, without a Python object for each number.

simdjson returns the numbers of nested lists as one buffer. To check that the lists are regular, the text
without its numbers is compared with that of lists of that shape. All other requests, and wrong ones, are left
to the slow reader, which has the error texts. Pure.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
import orjson
import simdjson

from salver.dialects.tensorflow.json_tensors import FLOATS, RANGES, rounded
from salver.dialects.tensorflow.rules import DEFAULT
from salver.encoding.values import MAX_RANK
from salver.words.messages import Signature
from salver.words.tensor import Array, DataType, Tensor

#: Size from which this reader is faster, in bytes.
LARGE: Final = 8_192
_MOST_ARRAYS: Final = 256
_NUMBERS: Final = b"0123456789.eE+- \t\r\n"


class LargeRequest(msgspec.Struct, frozen=True):
    """Parsed request.

    Attributes:
        key: Name of the signature; empty = not given.
        in_columns: Whether the tensors are in ``inputs``.
    """

    key: str
    in_columns: bool
    tensors: tuple[Tensor, ...]


def read_large(body: bytes, signature: Signature) -> LargeRequest | None:
    """Return the request; None if it is irregular or wrong, or has tensors other than numbers."""
    try:
        return _Reader(body, signature).read()
    except (ValueError, RuntimeError, TypeError, KeyError, IndexError, OverflowError):
        return None


class _Reader:
    def __init__(self, body: bytes, signature: Signature) -> None:
        self._body = body
        self._signature = signature
        self._parser = simdjson.Parser()
        self._skeleton: list[bytes] = []
        self._arrays = 0

    def read(self) -> LargeRequest:
        root: Any = self._parser.parse(self._body)
        key, form, columns = "", "", {}
        opening = b"{"
        for name in _keys(root):
            self._skeleton.append(opening + _bare(name) + b":")
            opening = b","
            if name == "signature_name":
                key = root[name]
                self._skeleton.append(_bare(key))
            elif name in ("instances", "inputs") and not form:
                form = name
                chosen = self._signature.named(root.get("signature_name") or DEFAULT)
                kinds = {spec.name: spec.datatype for spec in _known(chosen).inputs}
                columns = self._tensors(root[name], kinds, by_row=name == "instances")
                if columns.keys() != kinds.keys():
                    raise ValueError("not its inputs")
            else:
                raise ValueError("another key")
        self._skeleton.append(b"}")
        if not form or b"".join(self._skeleton) != self._body.translate(None, _NUMBERS):
            raise ValueError("irregular")
        tensors = tuple(Tensor(name, kinds[name], array) for name, array in columns.items())
        return LargeRequest(key, form == "inputs", tensors)

    def _tensors(self, value: Any, kinds: Mapping[str, DataType], *, by_row: bool) -> dict[str, Array]:
        kind = type(value)
        if kind is simdjson.Object and not by_row:
            return self._named(value, kinds)
        if kind is not simdjson.Array:
            raise TypeError("neither a list nor an object")
        if not by_row or type(value[0]) is not simdjson.Object:
            (name,) = kinds
            return {name: self._numbers(value, kinds[name])}
        rows = []
        opening = b"["
        for row in value:
            self._skeleton.append(opening)
            opening = b","
            rows.append(self._named(row, kinds))
            if rows[-1].keys() != kinds.keys():
                raise ValueError("not its inputs")
        self._skeleton.append(b"]")
        return {name: _stacked([row[name] for row in rows]) for name in rows[0]}

    def _named(self, value: Any, kinds: Mapping[str, DataType]) -> dict[str, Array]:
        found = {}
        opening = b"{"
        for name in _keys(value):
            self._skeleton.append(opening + _bare(name) + b":")
            opening = b","
            found[name] = self._numbers(value[name], kinds[name])
        self._skeleton.append(b"}")
        return found

    def _numbers(self, value: Any, datatype: DataType) -> Array:
        self._arrays += 1
        if self._arrays > _MOST_ARRAYS or type(value) is not simdjson.Array:
            raise ValueError("many, or no list")
        shape = []
        inner = value
        while type(inner) is simdjson.Array:
            shape.append(len(inner))
            inner = inner[0]  # an IndexError where it is empty
        if len(shape) > MAX_RANK:
            raise ValueError("too deep")
        skeleton = b""
        for extent in reversed(shape):
            skeleton = b"[" + (skeleton + b",") * (extent - 1) + skeleton + b"]"
        self._skeleton.append(skeleton)
        return _checked(value, datatype).reshape(shape)


def _known(signature: Signature | None) -> Signature:
    if signature is None:
        raise ValueError("no such signature")
    return signature


def _keys(value: Any) -> list[str]:
    """Return the keys of an object; each must occur once and have no NUL, at which simdjson cuts it."""
    if type(value) is not simdjson.Object:
        raise TypeError("no object")
    keys = list(value.keys())
    if "\0" in "".join(keys) or len(set(keys)) < len(keys):
        raise ValueError("a key is given twice, or has a NUL")
    return keys


def _bare(text: str) -> bytes:
    """Return a string without the characters of numbers; one with other escapes will not match the body."""
    return orjson.dumps(text).translate(None, _NUMBERS)


def _stacked(arrays: list[Array]) -> Array:
    if len({array.shape for array in arrays}) > 1:
        raise ValueError("rows differ")
    return np.stack(arrays)


def _checked(value: Any, datatype: DataType) -> Array:
    if datatype in FLOATS:
        return rounded(np.frombuffer(value.as_buffer(of_type="d"), np.float64), datatype)
    least, most = RANGES[datatype]
    kind, dtype = ("u", np.uint64) if least == 0 else ("i", np.int64)
    wide = np.frombuffer(value.as_buffer(of_type=kind), dtype)
    if wide.size and (int(wide.min()) < least or int(wide.max()) > most):
        raise ValueError("out of range")
    return wide.astype(datatype.dtype)
