"""Reading and writing of numpy files.

``.npy`` holds one array, ``.npz`` several by name; rows are along axis 0. A ``.npy`` is read through the page
cache, a member of a ``.npz`` as a stream, so that neither has to fit in memory. It knows no server.
"""

import ast
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from salver.encoding.values import cast
from salver.features.bulk.lines import MAX_BLOCK, MAX_ROW, open_file
from salver.features.bulk.rows import Block, Field, Place, assemble, check_keep, settled
from salver.words.errors import InvalidInput
from salver.words.tensor import Array, DataType, as_bytes, bf16_from_fp32

#: Exceptions of numpy and zipfile for invalid files.
_DAMAGE: Final = (
    OSError, ValueError, EOFError, NotImplementedError, RuntimeError, tokenize.TokenError, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip
_MAGIC: Final = b"\x93NUMPY\x01\x00"
#: Size of our own headers: room for any shape, because the number of rows is filled in later.
_HEAD: Final = 1024


class _Member:
    """One array of a file, read from its first row."""

    def __init__(self, stream: IO[bytes], size: int, name: str) -> None:
        self._stream, self._name = stream, name
        try:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else _header_2
            shape, fortran, dtype = read(stream)
        except _DAMAGE as error:
            raise InvalidInput(f"{name} is not a readable array: {error}") from None
        self.dtype: np.dtype[Any] = dtype
        if dtype.hasobject or dtype.fields:
            raise InvalidInput(f"{name} holds {dtype}, not numbers or text")
        if not shape or min(shape) < 0:
            raise InvalidInput(f"{name} is a single value, without rows")
        if fortran and len(shape) > 1:
            raise InvalidInput(f"{name} is in Fortran order", fix="Save numpy.ascontiguousarray of it.")
        self.rows, self.tail = shape[0], shape[1:]
        self.row_bytes = math.prod(self.tail) * self.dtype.itemsize
        self._data = stream.tell()
        if self.row_bytes > MAX_ROW:
            raise InvalidInput(f"{name} has rows of {self.row_bytes} bytes, over the limit of {MAX_ROW}")
        if self._data + self.rows * self.row_bytes > size:
            raise InvalidInput(f"{name} ends before its last row")

    def go_to(self, row: int) -> None:
        self._stream.seek(self._data + row * self.row_bytes)

    def take(self, rows: int) -> Array:
        try:
            data = self._stream.read(rows * self.row_bytes)
        except _DAMAGE as error:
            raise InvalidInput(f"{self._name} is damaged: {error}") from None
        if len(data) < rows * self.row_bytes:
            raise InvalidInput(f"{self._name} ends before its last row")
        return np.frombuffer(data, self.dtype).reshape(rows, *self.tail)


def _header_2(stream: IO[bytes]) -> Any:
    return np.lib.format.read_array_header_2_0(stream)


class ArrayReader:
    """Reader of the rows of the arrays for the inputs and the kept columns."""

    unit = "row"

    def __init__(self, path: Path, fields: Sequence[Field], keep: Sequence[str]) -> None:
        self._fields, self._keep = fields, keep
        self.notes: list[str] = []
        self.kept_types: dict[str, Any] = {}
        self._array = {field.name: _array_of(field) for field in fields}
        self._members = self._open_npy(path) if path.suffix.lower() == ".npy" else self._open_npz(path)
        lengths = {name: member.rows for name, member in self._members.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{name} {rows}" for name, rows in lengths.items())
            raise InvalidInput(f"the arrays of {path} have different numbers of rows: {shown}")
        self.size = next(iter(lengths.values()))

    def _open_npy(self, path: Path) -> dict[str, _Member]:
        if len(self._fields) != 1 or self._keep:
            what = "no columns to keep"
            if not self._keep:
                what = f"one array, the model has {len(self._fields)} inputs"
            raise InvalidInput(f"{path} holds {what}", fix="Use .npz, with one array a name.")
        file = open_file(path)
        return {self._array[self._fields[0].name]: _Member(file, path.stat().st_size, str(path))}

    def _open_npz(self, path: Path) -> dict[str, _Member]:
        try:
            archive = zipfile.ZipFile(open_file(path))
            there = [name.removesuffix(".npy") for name in archive.namelist()]
            wanted = list(dict.fromkeys([*self._array.values(), *self._keep]))
            check_keep(wanted, there, path)
            streams = {name: archive.open(f"{name}.npy") for name in wanted}
            sizes = {name: archive.getinfo(f"{name}.npy").file_size for name in wanted}
        except (*_DAMAGE, KeyError) as error:
            raise InvalidInput(f"{path} is not a readable archive: {error}") from None
        if extra := [name for name in there if name not in wanted]:
            self.notes.append(f"ignored: {', '.join(extra)}")
        return {name: _Member(streams[name], sizes[name], f"{name} in {path}") for name in wanted}

    def blocks(self, place: Place, rows: int) -> Iterator[Block]:
        """Yield blocks of ``rows`` rows, fewer if they are large."""
        at = place.at
        size = sum(member.row_bytes for member in self._members.values())
        rows = max(1, min(rows, MAX_BLOCK // max(size, 1)))
        for member in self._members.values():
            member.go_to(at)
        while at < self.size:
            count = min(rows, self.size - at)
            arrays = {name: member.take(count) for name, member in self._members.items()}
            lines = list(range(at + 1, at + count + 1))
            raw = {f.name: arrays[self._array[f.name]] for f in self._fields}
            kept = {name: _listed(arrays[name]) for name in self._keep}
            pieces, bad = assemble(lines, raw, kept, self._fields, from_rows)
            at += count
            yield Block(pieces, bad, Place(at, at))


def _array_of(field: Field) -> str:
    if len(field.columns) > 1:
        raise InvalidInput(f"{field.name} can be only one array", fix="Give --columns one name for it.")
    if not field.columns:
        return field.name
    return field.columns[0]


def _listed(array: Array) -> list[Any]:
    """Return rows to keep: numbers in their own width, else Python objects."""
    if array.dtype.kind in "biuf":
        return list(array)
    return list(array.tolist())


def from_rows(array: Array, field: Field) -> Array:
    """Convert rows of numbers or text to the input's array.

    Raises:
        InvalidInput: they are of another kind or shape, or out of the datatype's range.
    """
    datatype = field.spec.datatype
    if datatype is DataType.BYTES:
        try:
            array = as_bytes(array)
        except ValueError as error:
            raise InvalidInput(f"{field.name}: {error}") from None
    elif array.dtype.kind not in "biuf":
        raise InvalidInput(f"{field.name} must hold numbers for {datatype.name}, not {array.dtype}")
    elif datatype is DataType.BF16:
        array = bf16_from_fp32(array)
    else:
        array = cast(array.astype(array.dtype.newbyteorder("="), copy=False), datatype, field.name)
    return np.ascontiguousarray(settled(array, field))


class ArrayWriter:
    """Writer with one part per array; ``.npz`` joins them at the end."""

    def __init__(self, target: Path, fields: Sequence[Field], keep: Sequence[str]) -> None:
        self._alone = target.suffix.lower() == ".npy"
        self._names = [*keep, *(field.name for field in fields)]
        self._forms: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self._empty = {f.name: (f.spec.datatype.dtype, tuple(max(n, 0) for n in f.row)) for f in fields}
        self.parts = len(self._names)
        if self._alone and self.parts != 1:
            raise InvalidInput(
                f"{target} can hold one array, not {', '.join(self._names)}",
                fix="Write .npz, or choose one with --output and without --keep.",
            )
        if texts := [f.name for f in fields if f.spec.datatype is DataType.BYTES]:
            raise InvalidInput(
                f"{target} cannot hold {', '.join(texts)}, which is text",
                fix="Write .jsonl, .csv or .parquet, or choose other outputs with --output.",
            )

    def start(self, parts: Sequence[Path]) -> list[bytes]:
        """Write nothing: a header is written with the first rows."""
        for name, part in zip(self._names, parts, strict=True):
            if part.stat().st_size:
                with part.open("rb") as file:
                    head = ast.literal_eval(file.read(_HEAD)[10:].decode("latin-1").strip())
                self._forms[name] = np.dtype(head["descr"]), tuple(head["shape"][1:])
        return [b""] * self.parts

    def encode(self, outputs: Mapping[str, Array], kept: Mapping[str, list[Any]]) -> list[bytes]:
        """Return the rows as they are in memory.

        Raises:
            InvalidInput: the rows differ in shape or kind from earlier ones.
        """
        return [
            self._encode(name, outputs[name] if name in outputs else np.array(kept[name]))
            for name in self._names
        ]

    def _encode(self, name: str, array: Array) -> bytes:
        if array.dtype.kind not in "biuf":
            raise InvalidInput(
                f"{name} is not made of numbers, which an array file needs",
                fix="Write .jsonl, .csv or .parquet, or do not keep it.",
            )
        if not array[0].size:
            raise InvalidInput(f"{name} has rows without elements", fix="Write .jsonl, which can hold them.")
        head = b""
        if name not in self._forms:
            self._forms[name] = array.dtype, array.shape[1:]
            head = _header(array.dtype, (0, *array.shape[1:]))
        dtype, tail = self._forms[name]
        if array.shape[1:] != tail or not np.can_cast(array.dtype, dtype):
            raise InvalidInput(
                f"{name} has rows of {array.dtype}{list(array.shape[1:])} after rows of {dtype}{list(tail)}",
                fix="Write .jsonl, whose rows may differ.",
            )
        return head + np.ascontiguousarray(array, dtype).tobytes()

    def finish(self, parts: Sequence[Path]) -> Path:
        """Fill in the number of rows; join the arrays of a ``.npz`` without compression."""
        for name, part in zip(self._names, parts, strict=True):
            dtype, tail = self._forms.get(name) or self._empty.get(name) or (np.dtype("int64"), ())
            row = int(np.prod(tail, dtype=np.int64)) * dtype.itemsize
            with part.open("r+b") as file:
                body = max(part.stat().st_size - _HEAD, 0)
                file.write(_header(dtype, (body // row if row else 0, *tail)))
        if self._alone:
            return parts[0]
        whole = parts[0].with_name(f"{parts[0].name}.whole")
        with zipfile.ZipFile(whole, "w") as archive:
            for name, part in zip(self._names, parts, strict=True):
                entry = zipfile.ZipInfo(f"{name}.npy")  # with a fixed date, for reproducible bytes
                with part.open("rb") as file, archive.open(entry, "w", force_zip64=True) as member:
                    while data := file.read(1 << 20):
                        member.write(data)
        return whole


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    form = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    text = f"{form!r}".ljust(_HEAD - 11) + "\n"
    return _MAGIC + (_HEAD - 10).to_bytes(2, "little") + text.encode("latin-1")
