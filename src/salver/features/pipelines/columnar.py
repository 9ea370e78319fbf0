"""Tables in requests as Parquet or Arrow, read with pyarrow.

Both may be small and hold much. What they say of their size is checked first; what is read runs in the
process that decodes large bodies, which has a limit of memory.
"""

from collections.abc import Sequence
from typing import Any, Final

from salver.features.pipelines.tables import MOST_ROWS, Specs, Table, check_names
from salver.words.errors import InvalidInput, Unsupported

#: Forms by content type.
TYPES: Final = {
    b"application/vnd.apache.parquet": "parquet",
    b"application/x-parquet": "parquet",
    b"application/parquet": "parquet",
    b"application/vnd.apache.arrow.stream": "stream",
    b"application/vnd.apache.arrow.file": "file",
}
_MOST_BYTES: Final = 256 << 20
_MOST_HEADER: Final = 1 << 20


def read_columnar(body: bytes, form: str, specs: Specs) -> Table:
    """Return the table of a body.

    Args:
        form: One of the values of :data:`TYPES`.

    Raises:
        InvalidInput: it is none, too large, or its columns are not those of the model.
        Unsupported: pyarrow is not installed.
    """
    arrow = _arrow()
    try:
        is_parquet = form == "parquet"
        columns = _parquet(arrow, body, specs) if is_parquet else _ipc(arrow, body, form, specs)
    except MemoryError:
        raise
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise InvalidInput(
            f"the body is no {form} that can be read: {str(error)[:200]}",
            fix="Send it whole, with the content type of its format.",
        ) from error
    rows = len(columns[0][1]) if columns else 0
    if not rows:
        raise InvalidInput("the table has no rows", fix="Send at least one row.")
    return Table({name: values.to_pylist() for name, values in columns}, rows, "row {}")


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise Unsupported(
            "Parquet and Arrow need the package 'pyarrow', which is not installed",
            fix="Install it with: pip install 'salver[parquet]', or send JSON or CSV.",
        ) from None
    return pyarrow


def _parquet(arrow: Any, body: bytes, specs: Specs) -> Sequence[tuple[str, Any]]:
    file = arrow.parquet.ParquetFile(
        arrow.BufferReader(body),
        thrift_string_size_limit=_MOST_HEADER,
        thrift_container_size_limit=_MOST_HEADER,
    )
    about = file.metadata
    _check(about.num_rows, sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups)))
    names = file.schema_arrow.names
    check_names(names, specs, "the table")
    batches, rows = [], 0
    for batch in file.iter_batches(batch_size=MOST_ROWS, use_threads=False):
        rows += batch.num_rows
        _check(rows, 0)
        batches.append(batch)
    return _columns(arrow, batches, names)


def _ipc(arrow: Any, body: bytes, form: str, specs: Specs) -> Sequence[tuple[str, Any]]:
    opened = arrow.ipc.open_stream(body) if form == "stream" else arrow.ipc.open_file(body)
    names = opened.schema.names
    check_names(names, specs, "the table")
    count = opened.num_record_batches if form == "file" else MOST_ROWS
    batches, rows = [], 0
    for i in range(count):
        try:
            batch = opened.get_batch(i) if form == "file" else opened.read_next_batch()
        except StopIteration:
            break
        rows += batch.num_rows
        _check(rows, batch.nbytes)
        # Offsets and lengths of a hostile file may point anywhere.
        batch.validate(full=True)
        batches.append(batch)
    return _columns(arrow, batches, names)


def _columns(arrow: Any, batches: Sequence[Any], names: Sequence[str]) -> Sequence[tuple[str, Any]]:
    if not batches:
        return ()
    whole = arrow.Table.from_batches(batches)
    return [(name, whole.column(i)) for i, name in enumerate(names)]


def _check(rows: int, size: int) -> None:
    if rows > MOST_ROWS:
        raise InvalidInput(
            f"the table has more than {MOST_ROWS} rows", fix=f"Send at most {MOST_ROWS} at a time."
        )
    if size > _MOST_BYTES:
        raise InvalidInput(
            f"the table has {size} bytes when it is unpacked; at most {_MOST_BYTES} are allowed",
            fix="Send fewer rows at a time.",
        )
