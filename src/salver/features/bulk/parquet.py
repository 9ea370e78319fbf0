"""Reading and writing of Parquet files.

A scalar input is a column, a vector a list column or columns ``x_0``, ``x_1``, … Needs pyarrow, which is
imported on first use. It knows no server.
"""

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from salver.features.bulk.arrays import from_rows
from salver.features.bulk.jsonl import from_values
from salver.features.bulk.lines import MAX_BLOCK
from salver.features.bulk.rows import Block, Field, Place, assemble, check_keep, columns_of
from salver.words.errors import InvalidInput, Unsupported
from salver.words.tensor import Array, DataType

#: Rows of a written row group.
_GROUP: Final = 64 * 1024


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise Unsupported(
            "Parquet files need the package 'pyarrow', which is not installed",
            fix="Install it with: pip install 'salver[parquet]'",
        ) from None
    return pyarrow


class ParquetReader:
    """Reader of the columns for the inputs and the kept columns; others are not read."""

    unit = "row"

    def __init__(self, path: Path, fields: Sequence[Field], keep: Sequence[str]) -> None:
        arrow = _arrow()
        self._errors = (OSError, ValueError, arrow.ArrowException)
        try:
            self._file = arrow.parquet.ParquetFile(path)
            schema = self._file.schema_arrow
            self.size = self._file.metadata.num_rows
            names = schema.names
        except self._errors as error:
            raise InvalidInput(f"cannot read {path}: {error}") from None
        self._path, self._fields, self._keep = path, fields, keep
        check_keep(keep, names, path)
        self._columns = {field.name: columns_of(field, names, path) for field in fields}
        self._read = list(dict.fromkeys([*(c for cs in self._columns.values() for c in cs), *keep]))
        if twice := [name for name in self._read if names.count(name) > 1]:
            raise InvalidInput(f"{path} has more than one column {', '.join(twice)}")
        self.kept_types: dict[str, Any] = {name: schema.field(name).type for name in keep}
        extra = [name for name in names if name not in self._read]
        self.notes = [f"ignored: {', '.join(extra)}"] if extra else []

    def blocks(self, place: Place, rows: int) -> Iterator[Block]:
        """Yield blocks of up to ``rows`` rows, fewer if they are large, split at row groups."""
        first = 0
        for group in range(self._file.metadata.num_row_groups):
            count = self._file.metadata.row_group(group).num_rows
            if first + count > place.at:
                yield from self._group(group, first, place.at, rows)
            first += count

    def _group(self, group: int, at: int, start: int, rows: int) -> Iterator[Block]:
        described = self._file.metadata.row_group(group)
        try:
            chunks = [described.column(index) for index in range(described.num_columns)]
            size = sum(
                c.total_uncompressed_size for c in chunks if c.path_in_schema.split(".")[0] in self._read
            )
            # Fewer rows in a batch if they are large, judged by the group's average.
            rows = max(1, min(rows, MAX_BLOCK * described.num_rows // max(size, 1)))
            for batch in self._file.iter_batches(rows, row_groups=[group], columns=self._read):
                begin, at = at, at + batch.num_rows
                if begin >= start and batch.num_rows:
                    yield self._block(batch, begin)
        except self._errors as error:
            raise InvalidInput(f"{self._path} is damaged: {error}") from None

    def _block(self, batch: Any, begin: int) -> Block:
        after = begin + batch.num_rows
        found = {name: batch.column(name) for name in self._read}
        raw = {name: _Values([found[c] for c in columns]) for name, columns in self._columns.items()}
        kept = {name: found[name].to_pylist() for name in self._keep}
        lines = list(range(begin + 1, after + 1))
        pieces, bad = assemble(lines, raw, kept, self._fields, _from_columns)
        return Block(pieces, bad, Place(after, after))


class _Values:
    """Columns of one input, sliced by rows like a list."""

    def __init__(self, columns: Sequence[Any]) -> None:
        self.columns = columns

    def __getitem__(self, rows: slice) -> "_Values":
        return _Values([column[rows] for column in self.columns])


def _from_columns(values: _Values, field: Field) -> Array:
    """Convert arrow columns to the input's array: numbers without a copy if arrow allows it."""
    if any(column.null_count for column in values.columns):
        raise InvalidInput(f"{field.name} is null")
    arrays = [array for column in values.columns if (array := _numbers(column)) is not None]
    if len(arrays) == len(values.columns):
        return from_rows(arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=1), field)
    # Strings, ragged lists and mixtures take the slow way through Python values.
    lists = [[_plain(value, field) for value in column.to_pylist()] for column in values.columns]
    rows = lists[0] if len(lists) == 1 else [list(row) for row in zip(*lists, strict=True)]
    return from_values(rows, field)


def _numbers(column: Any) -> Array | None:
    """Convert a column of numbers, or of equally long lists of numbers; return None for others."""
    types = _arrow().types
    kind = column.type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        found: Array = column.to_numpy(zero_copy_only=False)
        return found
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return None
    inner = column.flatten()
    if inner.null_count or not len(column) or len(inner) % len(column):
        return None
    width = len(inner) // len(column)
    # The total is divisible by chance even for ragged lists, so each length is compared.
    if any(length.as_py() != width for length in _arrow().compute.list_value_length(column).unique()):
        return None
    values = _numbers(inner)
    if values is None:
        return None
    return values.reshape(len(column), width, *values.shape[1:])


def _plain(value: Any, field: Field) -> Any:
    """Convert a cell to JSON; bytes that are not text are left to ``b64``."""
    if isinstance(value, list):
        return [_plain(inner, field) for inner in value]
    if isinstance(value, bytes) and field.spec.datatype is DataType.BYTES:
        return {"b64": base64.b64encode(value).decode()}
    return value


class ParquetWriter:
    """Writer of an arrow stream during the job, which becomes Parquet at the end."""

    parts = 1

    def __init__(self, fields: Sequence[Field], keep: Sequence[str], kept_types: Mapping[str, Any]) -> None:
        self._arrow = _arrow()
        self._fields, self._keep, self._kept_types = fields, keep, dict(kept_types)
        self._schema: Any = None
        self._limits = (self._arrow.ArrowException, OverflowError)

    def start(self, parts: Sequence[Path]) -> list[bytes]:
        """Write nothing: the schema follows with the first rows, whose types it needs."""
        if parts[0].stat().st_size:
            with self._arrow.OSFile(str(parts[0])) as file:
                self._schema = self._arrow.ipc.open_stream(file).schema
        return [b""]

    def encode(self, outputs: Mapping[str, Array], kept: Mapping[str, list[Any]]) -> list[bytes]:
        """Return one record batch.

        Raises:
            InvalidInput: a value does not match the column's type.
        """
        head = b""
        if self._schema is None:
            self._schema = self._make_schema(kept)
            head = self._schema.serialize().to_pybytes()
        columns = []
        for entry in self._schema:
            try:
                if entry.name in outputs:
                    columns.append(self._column(outputs[entry.name], entry.type))
                else:
                    columns.append(self._arrow.array(kept[entry.name], entry.type))
            except self._limits as error:
                raise InvalidInput(
                    f"the column {entry.name} is {entry.type} in the output, and a row does not fit: {error}",
                    fix="Write .jsonl, whose rows may differ.",
                ) from None
        batch = self._arrow.record_batch(columns, schema=self._schema)
        return [head + batch.serialize().to_pybytes()]

    def _make_schema(self, kept: Mapping[str, list[Any]]) -> Any:
        types = {}
        for name in self._keep:
            found = self._kept_types.get(name)
            if found is None:
                try:
                    found = self._arrow.infer_type(kept.get(name, []))
                except self._limits as error:
                    raise InvalidInput(f"{name} cannot be kept in a Parquet file: {error}") from None
                found = self._arrow.string() if self._arrow.types.is_null(found) else found
            types[name] = found
        for field in self._fields:
            datatype = field.spec.datatype
            if datatype is DataType.BYTES:
                kind = self._arrow.string()
            elif datatype is DataType.BF16:
                kind = self._arrow.float32()
            else:
                kind = self._arrow.from_numpy_dtype(datatype.dtype)
            for _ in field.row:
                kind = self._arrow.list_(kind)
            types[field.name] = kind
        return self._arrow.schema(list(types.items()))

    def _column(self, array: Array, kind: Any) -> Any:
        if array.dtype == object:
            flat = self._arrow.array(array.ravel().tolist(), self._arrow.binary()).cast(self._arrow.string())
        else:
            flat = self._arrow.array(array.ravel())
        # Nest the flat values from the innermost axis outwards: arrow has no multi-dimensional columns.
        for axis in range(array.ndim - 1, 0, -1):
            offsets = np.arange(math.prod(array.shape[:axis]) + 1, dtype=np.int32) * array.shape[axis]
            flat = self._arrow.ListArray.from_arrays(offsets, flat)
        if flat.type != kind:
            raise self._arrow.ArrowInvalid(f"the model gives {flat.type}")
        return flat

    def finish(self, parts: Sequence[Path]) -> Path:
        """Write row groups of one size, regardless of how rows arrived."""
        whole = parts[0].with_name(f"{parts[0].name}.whole")
        if not parts[0].stat().st_size:
            schema = self._make_schema({})
            self._arrow.parquet.write_table(schema.empty_table(), whole)
            return whole
        with self._arrow.OSFile(str(parts[0])) as file:
            stream = self._arrow.ipc.open_stream(file)
            with self._arrow.parquet.ParquetWriter(whole, stream.schema) as out:
                for table in self._groups(stream):
                    out.write_table(table.combine_chunks(), row_group_size=_GROUP)
        return whole

    def _groups(self, stream: Any) -> Iterator[Any]:
        waiting, rows = list[Any](), 0
        # Regroup the batches, whose sizes depend on the requests, so that the file is reproducible.
        for batch in stream:
            while rows + batch.num_rows >= _GROUP:
                missing = _GROUP - rows
                yield self._arrow.Table.from_batches([*waiting, batch.slice(0, missing)])
                waiting, rows, batch = [], 0, batch.slice(missing)
            if batch.num_rows:
                waiting.append(batch)
                rows += batch.num_rows
        if waiting:
            yield self._arrow.Table.from_batches(waiting)
