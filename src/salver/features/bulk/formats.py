"""Which format is a file, by its suffix?

It knows the formats and nothing that is in them.
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
    """Its suffix, in lower case.

    Raises:
        InvalidInput: it is none of a format that is known.
    """
    suffix = path.suffix.lower()
    if suffix not in _ALL:
        raise InvalidInput(
            f"{path} has the suffix {suffix!r}, which is no known format",
            fix=f"Use one of {', '.join(_ALL)}.",
        )
    return suffix


def open_reader(path: Path, fields: Sequence[Field], keep: Sequence[str]) -> Reader:
    """A reader of the file's rows.

    Raises:
        InvalidInput: it cannot be read, or lacks what the model needs.
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
    """A writer of answers.

    Args:
        path: Of the whole file; it is not opened.
        fields: The outputs.
        keep: Columns carried through.
        kept_types: What the reader knows of their types.

    Raises:
        InvalidInput: the format cannot hold them.
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
