"""Each format read and written: round-trips, hostile text, and reading on from any place."""

import contextlib
import io
import math
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from salver.features.bulk import (
    arrays,
    delimited,
    lines,
    parquet,
)
from salver.features.bulk.formats import make_writer, open_reader
from salver.features.bulk.rows import BadRow, Block, Field, Place
from salver.words.errors import InvalidInput, Unsupported
from salver.words.messages import TensorSpec
from salver.words.tensor import Array, DataType

START = Place()
HYPO = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
SUFFIXES = ("jsonl", "csv", "tsv", "parquet", "npz")


def field(name: str, datatype: DataType, *row: int, columns: tuple[str, ...] = ()) -> Field:
    return Field(TensorSpec(name, datatype, (-1, *row)), row, columns)


X = field("x", DataType.FP32, 2)
S = field("s", DataType.BYTES)


def read(path: Path, fields: list[Field], *, keep: tuple[str, ...] = (), rows: int = 7) -> list[Block]:
    return list(open_reader(path, fields, keep).blocks(START, rows))


def column(blocks: list[Block], name: str) -> list[Any]:
    return [value for b in blocks for p in b.pieces for value in p.inputs[name].tolist()]


def bad_of(blocks: list[Block]) -> list[BadRow]:
    return [bad for block in blocks for bad in block.bad]


def write(
    path: Path, fields: list[Field], chunks: list[dict[str, Array]], kept: list[dict[str, list[Any]]]
) -> None:
    """As a job does it, with a new writer for each chunk, as if each were another run."""
    keep = tuple(kept[0]) if kept else ()
    parts: list[Path] = []
    for outputs, more in zip(chunks, kept, strict=True):
        writer = make_writer(path, fields, keep, {})
        if not parts:
            parts = [path.with_name(f"{path.name}.part{i}") for i in range(writer.parts)]
            for part in parts:
                part.touch()
        for data in (writer.start(parts), writer.encode(outputs, more)):
            for part, piece in zip(parts, data, strict=True):
                with part.open("ab") as file:
                    file.write(piece)
    writer.finish(parts).replace(path)


NUMBERS: dict[DataType, st.SearchStrategy[Any]] = {
    DataType.FP32: st.floats(width=32, allow_nan=False, allow_infinity=False),
    DataType.FP64: st.floats(allow_nan=False, allow_infinity=False),
    DataType.FP16: st.floats(width=16, allow_nan=False, allow_infinity=False),
    DataType.INT8: st.integers(-128, 127),
    DataType.INT64: st.integers(-(2**63), 2**63 - 1),
    DataType.UINT64: st.integers(0, 2**64 - 1),
    DataType.BOOL: st.booleans(),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[Field, list[Array]]:
    datatype = draw(st.sampled_from(list(NUMBERS)))
    row = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    chunks = [
        np.array(
            draw(st.lists(NUMBERS[datatype], min_size=n * math.prod(row), max_size=n * math.prod(row))),
            dtype=datatype.dtype,
        ).reshape(n, *row)
        for n in draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    ]
    return field("x", datatype, *row), chunks


@HYPO
@given(tables(), st.sampled_from((*SUFFIXES, "npy")), st.integers(1, 5))
def test_numbers_survive_every_format(
    tmp_path: Path, table: tuple[Field, list[Array]], suffix: str, rows: int
) -> None:
    wanted, chunks = table
    path = tmp_path / f"file.{suffix}"
    for old in tmp_path.iterdir():
        old.unlink()
    write(path, [wanted], [{"x": chunk} for chunk in chunks], [{} for _ in chunks])
    blocks = read(path, [wanted], rows=rows)
    assert bad_of(blocks) == []
    found = np.concatenate([piece.inputs["x"] for block in blocks for piece in block.pieces])
    expected = np.concatenate(chunks)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()  # minus zero too


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@HYPO
@example([("a\rb", '"'), ("", "")], "csv")
@given(
    st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6),
    st.sampled_from(("jsonl", "csv", "tsv", "parquet")),
)
def test_text_survives(tmp_path: Path, rows: list[tuple[str, str]], suffix: str) -> None:
    path = tmp_path / f"file.{suffix}"
    for old in tmp_path.iterdir():
        old.unlink()
    texts = np.array([a.encode() for a, _ in rows] + [None], dtype=object)[:-1]
    write(path, [S], [{"s": texts}], [{"key": [b for _, b in rows]}])
    blocks = read(path, [S], keep=("key",), rows=2)
    assert bad_of(blocks) == []
    assert column(blocks, "s") == [a.encode() for a, _ in rows]
    assert [v for b in blocks for p in b.pieces for v in p.kept["key"]] == [b for _, b in rows]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_reading_goes_on_from_any_block(tmp_path: Path, suffix: str) -> None:
    path, values = tmp_path / f"file.{suffix}", np.arange(60, dtype=np.float32).reshape(30, 2)
    write(path, [X], [{"x": values}], [{"key": list(range(30))}])
    whole = read(path, [X], keep=("key",), rows=4)
    assert sum(len(p.lines) for b in whole for p in b.pieces) == 30
    for index, block in enumerate(whole):
        rest = list(open_reader(path, [X], ("key",)).blocks(block.after, 4))
        assert column(rest, "x") == column(whole[index + 1 :], "x")
        assert [b.after for b in rest] == [b.after for b in whole[index + 1 :]]
        assert [p.lines for b in rest for p in b.pieces] == [
            p.lines for b in whole[index + 1 :] for p in b.pieces
        ]
    assert whole[-1].after.at == open_reader(path, [X], ()).size


def test_a_parquet_file_is_the_same_however_its_rows_came(tmp_path: Path) -> None:
    values = np.arange(200_000, dtype=np.int32)
    n = field("n", DataType.INT32)
    for name, cut in (("a", 1000), ("b", 70_001)):
        chunks = [values[i : i + cut] for i in range(0, len(values), cut)]
        write(tmp_path / f"{name}.parquet", [n], [{"n": c} for c in chunks], [{} for _ in chunks])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    groups = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [65536] * 3 + [3392]
    assert column(read(tmp_path / "a.parquet", [n], rows=50_000), "n") == values.tolist()


CSV_ROWS = [
    (b'"1","2"\r\n', None),
    (b"1,2,3\n", "the row has 3 cells, the header 2"),
    (b"one,2\n", "x holds 'one', which is no FP32"),
    (b",2\n", "Write nan for a missing number"),
    (b"1_000,2\n", "'1_000'"),
    (b"1e400,2\n", None),
    (b"1e39,2\n", "too large for FP32"),
    (b"nan,-inf\n", None),
    (b"1,2\x00\n", "x holds"),
    (b"\xff,2\n", "not UTF-8"),
    (b'"1"x,2\n', "expected after"),
    (b"\n", ...),
    (b"3,4\n", None),
]


def test_bad_csv_rows_are_named_and_nothing_else_suffers(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_bytes(b"\xef\xbb\xbfx_0,x_1\r\n" + b"".join(text for text, _ in CSV_ROWS))
    for rows in (1, 3, 100):
        blocks = read(path, [X], rows=rows)
        bad = {b.line: b.reason for b in bad_of(blocks)}
        good = [line for b in blocks for p in b.pieces for line in p.lines]
        for line, (text, said) in enumerate(CSV_ROWS, 2):
            if said is None:
                assert line in good, text
            elif said is not ...:
                assert str(said) in bad[line], text
        assert len(good) + len(bad) == len(CSV_ROWS) - 1


def test_a_quote_that_is_never_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in.csv"
    path.write_text('s\na\n"b\nc\nd\n')
    blocks = read(path, [S])
    assert column(blocks, "s") == [b"a"]
    assert [(b.line, "is a quote never closed?" in b.reason) for b in bad_of(blocks)] == [(3, True)]
    monkeypatch.setattr(delimited, "MAX_ROW", 20)
    path.write_text('s\n"b\n' + "c\n" * 10 + "last\n")
    blocks = read(path, [S])
    assert column(blocks, "s") == [b"c", b"last"]
    assert bad_of(blocks)[0].line == 2


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_line_without_end_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr(lines, "MAX_ROW", 100)
    head, row = ("s\n", "{}") if suffix == "csv" else ("", '{{"s": "{}"}}')
    path = tmp_path / f"in.{suffix}"
    path.write_text(head + "".join(row.format(text) + "\n" for text in ("a", "x" * 5000, "b")))
    blocks = read(path, [S])
    assert column(blocks, "s") == [b"a", b"b"]
    assert "over the limit of 100" in bad_of(blocks)[0].reason


def test_blocks_of_long_lines_hold_fewer_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "MAX_BLOCK", 100)
    path = tmp_path / "in.csv"
    path.write_text("s\n" + "y" * 60 + "\n" + ("z" * 60 + "\n") * 5)
    assert [len(b.pieces[0].lines) for b in read(path, [S], rows=100)] == [2, 2, 2]


@pytest.mark.parametrize("suffix", ["parquet", "npz"])
def test_blocks_of_large_rows_hold_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    for module in (arrays, parquet):
        monkeypatch.setattr(module, "MAX_BLOCK", 4096)
    path, wide = tmp_path / f"in.{suffix}", field("x", DataType.FP64, 100)
    write(path, [wide], [{"x": np.random.default_rng(1).random((20, 100))}], [{}])
    sizes = [len(block.pieces[0].lines) for block in read(path, [wide], rows=20)]
    assert sum(sizes) == 20
    assert max(sizes) in (4, 5)


JSON_ROWS = [
    (b'{"x": [1, 2]}', None),
    (b'  {"x": [[1, 2]]}', "x has shape [1, 2]"),
    (b'{"x": 1}', "x has shape []"),
    (b'{"x": [1, "2"]}', "must hold numbers"),
    (b'{"x": [1, null]}', "must hold numbers"),
    (b'{"x": [NaN, 1]}', "not JSON"),
    (b'{"x": [1, 1e39]}', "too large for FP32"),
    (b'{"y": [1, 2]}', "has no 'x'"),
    (b'{"x": [1, 2]', "not JSON"),
    (b"[1, 2]", "a list, not an object"),
    (b'{"x": ' + b"[" * 3000 + b"]" * 3000 + b"}", "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (b'{"x": [1, 2], "more": {"a": 1}}', None),
]


def test_bad_json_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(text for text, _ in JSON_ROWS))  # no end of line after the last
    for rows in (1, 4, 100):
        blocks = read(path, [X], rows=rows)
        bad = {b.line: b.reason for b in bad_of(blocks)}
        for line, (text, said) in enumerate(JSON_ROWS, 1):
            assert said is None or said in bad[line], text
        assert column(blocks, "x") == [[1, 2], [1, 2]]


def test_rows_of_different_lengths_become_pieces_in_order(tmp_path: Path) -> None:
    path, free = tmp_path / "in.jsonl", field("t", DataType.INT64, -1)
    path.write_text("\n".join(f'{{"t": {t}}}' for t in ([1], [2], [3, 4], [5, 6], [7], 8)))
    (block,) = read(path, [free])
    assert [p.inputs["t"].tolist() for p in block.pieces] == [[[1], [2]], [[3, 4], [5, 6]], [[7], [8]]]
    path = tmp_path / "in.csv"
    path.write_text('t\n"[1, 2]"\n[3]\n4\n')
    (block,) = read(path, [free])
    assert [p.inputs["t"].tolist() for p in block.pieces] == [[[1, 2]], [[3], [4]]]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    data = np.array([b"\xff\x00", b"ok"], dtype=object)
    write(tmp_path / "a.jsonl", [S], [{"s": data}], [{}])
    assert (tmp_path / "a.jsonl").read_text() == '{"s":{"b64":"/wA="}}\n{"s":"ok"}\n'
    assert column(read(tmp_path / "a.jsonl", [S]), "s") == [b"\xff\x00", b"ok"]
    for suffix in ("csv", "parquet"):
        with pytest.raises(InvalidInput, match=r"Write \.jsonl"):
            write(tmp_path / f"a.{suffix}", [S], [{"s": data}], [{}])
    pq.write_table(pa.table({"s": pa.array([b"\xff\x00", b"ok"])}), tmp_path / "b.parquet")
    assert column(read(tmp_path / "b.parquet", [S]), "s") == [b"\xff\x00", b"ok"]


def test_what_json_has_no_number_for_is_null(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [X], [{"x": np.array([[np.nan, np.inf]], "f4")}], [{}])
    assert (tmp_path / "a.jsonl").read_text() == '{"x":[null,null]}\n'


def test_parquet_nulls_ragged_lists_and_types(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    table = pa.table({"x": [[1.0, 2.0], None, [3.0], [4.0, 5.0]], "day": pa.array([1, 2, 3, 4], pa.date32())})
    pq.write_table(table, path)
    blocks = read(path, [X], keep=("day",))
    assert column(blocks, "x") == [[1, 2], [4, 5]]
    assert [(b.line, b.reason.split()[1]) for b in bad_of(blocks)] == [(2, "is"), (3, "has")]
    reader = open_reader(path, [X], ("day",))
    writer = make_writer(tmp_path / "out.parquet", [X], ("day",), reader.kept_types)
    part = tmp_path / "part"
    kept = {"day": blocks[0].pieces[0].kept["day"]}
    part.write_bytes(writer.encode({"x": np.zeros((2, 2), "f4")}, kept)[0])
    assert pq.read_table(writer.finish([part])).schema.field("day").type == pa.date32()
    with pytest.raises(InvalidInput, match="column x is"):
        writer.encode({"x": np.zeros((2, 2), "i8")}, kept)


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Unsupported, match=r"pip install 'salver\[parquet\]'"):
        make_writer(tmp_path / "a.parquet", [X], (), {})


@pytest.mark.parametrize("suffix", ["parquet", "npy", "npz"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04", b"\x93NUMPY\x01\x00\x10\x00{"])
def test_files_that_are_not_what_they_are_called(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"in.{suffix}"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"in\."):
        open_reader(path, [X], ())


def test_arrays_that_do_not_fit(tmp_path: Path) -> None:
    def refused(**arrays: Any) -> str:
        np.savez(tmp_path / "in.npz", **arrays)
        with pytest.raises(InvalidInput) as caught:
            open_reader(tmp_path / "in.npz", [X, S], ())
        return str(caught.value)

    x, s = np.zeros((3, 2)), np.array(["a", "b", "c"])
    assert "has no s. It has: x" in refused(x=x).replace("no column", "no").replace(" to keep", "")
    assert "different numbers of rows: x 3, s 2" in refused(x=x, s=s[:2])
    assert "without rows" in refused(x=np.float64(1), s=s)
    assert "Fortran order" in refused(x=np.asfortranarray(np.zeros((3, 2))), s=s)
    assert "not numbers or text" in refused(x=np.array([None]), s=s)
    np.save(tmp_path / "in.npy", x)
    with pytest.raises(InvalidInput, match="holds one array, the model has 2 inputs"):
        open_reader(tmp_path / "in.npy", [X, S], ())
    whole = (tmp_path / "in.npy").read_bytes()
    (tmp_path / "in.npy").write_bytes(whole[:-8])
    with pytest.raises(InvalidInput, match="ends before its last row"):
        open_reader(tmp_path / "in.npy", [X], ())


def test_a_damaged_archive_is_noticed(tmp_path: Path) -> None:
    held = io.BytesIO()
    np.savez(held, x=np.arange(2000.0).reshape(1000, 2))
    data = bytearray(held.getvalue())
    data[5000] ^= 1
    (tmp_path / "in.npz").write_bytes(data)
    with pytest.raises(InvalidInput, match="is damaged"):
        read(tmp_path / "in.npz", [X], rows=1000)


@HYPO
@given(st.binary(max_size=60), st.integers(0, 1200), st.sampled_from((".npy", ".npz", "-packed.npz")))
def test_nothing_but_a_refusal_comes_of_noise_in_an_array_file(
    tmp_path: Path, noise: bytes, at: int, kind: str
) -> None:
    path = tmp_path / f"in{kind}"
    save: Any = {".npy": np.save, ".npz": np.savez, "-packed.npz": np.savez_compressed}[kind]
    values = np.arange(400, dtype=np.float32).reshape(200, 2)
    save(path, values) if kind == ".npy" else save(path, x=values)
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + noise + whole[at + len(noise) :])
    with contextlib.suppress(InvalidInput):
        read(path, [X])


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
@HYPO
@given(
    noise=st.binary(max_size=200) | st.text('",\r\n{}[]:x 1', max_size=60).map(str.encode),
    rows=st.integers(1, 3),
)
@example(noise=b'"', rows=1)
def test_nothing_but_bad_rows_comes_of_noise_in_a_text_file(
    tmp_path: Path, suffix: str, noise: bytes, rows: int
) -> None:
    path = tmp_path / f"in.{suffix}"
    path.write_bytes((b"x_0,x_1\n" if suffix == "csv" else b"") + noise)
    blocks = read(path, [X], rows=rows)
    places = [block.after for block in blocks]
    assert places == sorted(places, key=lambda place: place.at)
    if blocks and places[-1].at:
        assert places[-1].at == path.stat().st_size
    for block in blocks:
        found = [b.line for b in block.bad] + [line for p in block.pieces for line in p.lines]
        assert len(found) == len(set(found)) <= rows


def test_rows_and_arrays_that_are_too_large_are_refused_unread(tmp_path: Path) -> None:
    for shape, said in (((2, 1 << 40), "over the limit"), ((1 << 40, 2), "ends before its last row")):
        with (tmp_path / "in.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "<f4", "fortran_order": False, "shape": shape}
            )
            file.write(bytes(64))
        with pytest.raises(InvalidInput, match=said):
            open_reader(tmp_path / "in.npy", [X], ())


def test_an_archive_has_no_date_of_its_day(tmp_path: Path) -> None:
    write(tmp_path / "a.npz", [X], [{"x": np.ones((1, 2), "f4")}], [{}])
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert [(entry.filename, entry.date_time[0]) for entry in archive.infolist()] == [("x.npy", 1980)]


def test_columns_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("x_0,s,a,a\n1,b,2,3\n")
    for fields, keep, said in (
        ([X], (), "no column x, nor x_1"),
        ([S], ("key",), "no key to keep"),
        ([S], ("a",), "more than one column a"),
    ):
        with pytest.raises(InvalidInput, match=said):
            open_reader(path, fields, keep)
