"""File formats by suffix.

It knows the formats but not their content.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from salver.features.bulk.arrays import ArrayReader, ArrayWriter
from salver.features.bulk.delimited import DelimitedReader, DelimitedWriter
from salver.features.bulk.jsonl import JsonlReader, JsonlWriter
from salver.features.bulk.parquet import ParquetReader, ParquetWriter
from salver.features.bulk.rows import Field, Reader, Writer
from salver.words.errors import InvalidInput

_DELIMITERS: Final = {".csv": ",", ".tsv": "\t"}
_JSON: Final = (".jsonl", ".ndjson")
_ARRAYS: Final = (".npy", ".npz")
_ALL: Final = (*_JSON, *_DELIMITERS, ".parquet", *_ARRAYS)


def format_of(path: Path) -> str:
    """Return the lower-case suffix of a file.

    Raises:
        InvalidInput: it is not that of a known format.
    """
    suffix = path.suffix.lower()
    if suffix not in _ALL:
        raise InvalidInput(
            f"{path} has the suffix {suffix!r}, which is not a known format",
            fix=f"Use one of {', '.join(_ALL)}.",
        )
    return suffix


def open_reader(path: Path, fields: Sequence[Field], keep: Sequence[str]) -> Reader:
    """Return a reader of the file's rows.

    Raises:
        InvalidInput: it cannot be read, or lacks inputs of the model.
        Unsupported: its format needs a package that is not installed.
    """
    suffix = format_of(path)
    if suffix in _DELIMITERS:
        return DelimitedReader(path, fields, keep, _DELIMITERS[suffix])
    if suffix == ".parquet":
        if not path.stat().st_size:
            raise InvalidInput(f"{path} is empty, which a Parquet file never is")
        return ParquetReader(path, fields, keep)
    if suffix in _ARRAYS:
        return ArrayReader(path, fields, keep)
    return JsonlReader(path, fields, keep)


def make_writer(
    path: Path, fields: Sequence[Field], keep: Sequence[str], kept_types: Mapping[str, Any]
) -> Writer:
    """Return a writer of answers.

    Args:
        path: Path of the whole file, which is not opened.
        fields: Outputs of the model.
        keep: Columns copied from the source.
        kept_types: Their types as known to the reader.

    Raises:
        InvalidInput: the format cannot store them.
        Unsupported: it needs a package that is not installed.
    """
    suffix = format_of(path)
    if suffix in _DELIMITERS:
        return DelimitedWriter(fields, keep, _DELIMITERS[suffix])
    if suffix == ".parquet":
        return ParquetWriter(fields, keep, kept_types)
    if suffix in _ARRAYS:
        return ArrayWriter(path, fields, keep)
    return JsonlWriter()
