"""Arenas: two holds on one segment, as two processes have them."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from salver.kernel.engine.shm import Arena, Block
from salver.words.tensor import Array, DataType

PLAIN = sorted({d.dtype.str for d in DataType if d is not DataType.BYTES})


@pytest.fixture
def pair() -> Iterator[tuple[Arena, Arena]]:
    writer = Arena.create("test")
    reader = Arena(os.dup(writer.fd))
    yield writer, reader
    writer.close()
    reader.close()


def plain_arrays() -> st.SearchStrategy[Array]:
    return st.sampled_from(PLAIN).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    )


@st.composite
def byte_arrays(draw: st.DrawFn) -> Array:
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    out = np.empty(int(np.prod(shape)), dtype=object)
    for index in range(len(out)):
        out[index] = draw(st.binary(max_size=20))
    return out.reshape(shape)


@given(st.dictionaries(st.text(max_size=5), plain_arrays() | byte_arrays(), max_size=5))
def test_what_is_written_is_read(arrays: dict[str, Array]) -> None:
    writer = Arena.create("test")
    reader = Arena(os.dup(writer.fd))
    try:
        for copy in (True, False):
            got = reader.read(writer.write(arrays), copy=copy)
            assert list(got) == list(arrays)
            for name, array in arrays.items():
                assert got[name].dtype == array.dtype
                assert got[name].shape == array.shape
                assert got[name].tolist() == array.tolist() or got[name].tobytes() == array.tobytes()
        del got
    finally:
        writer.close()
        reader.close()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.sampled_from([*PLAIN, "O"]))
def test_pieces_are_joined_on_their_way(rows: list[int], dtype: str) -> None:
    pieces = [np.full((count, 3), b"%d" % count if dtype == "O" else 1, dtype) for count in rows]
    writer = Arena.create("test")
    reader = Arena(os.dup(writer.fd))
    try:
        got = reader.read(writer.write_stacked({"x": pieces, "y": pieces}), copy=True)
        assert got["x"].dtype == np.dtype(dtype)
        assert got["x"].tolist() == got["y"].tolist() == np.concatenate(pieces).tolist()
    finally:
        writer.close()
        reader.close()


def test_pieces_that_do_not_fit_make_the_segment_grow(pair: tuple[Arena, Arena]) -> None:
    writer, reader = pair
    pieces = [np.full((1, 1 << 20), value, np.uint8) for value in range(3)]
    (block,) = writer.write_stacked({"x": pieces})
    assert reader.read((block,), copy=True)["x"][:, -1].tolist() == [0, 1, 2]


def test_views_are_read_only_and_follow_the_writer(pair: tuple[Arena, Arena]) -> None:
    writer, reader = pair
    blocks = writer.write({"x": np.array([1, 2], "i4")})
    view = reader.read(blocks, copy=False)["x"]
    copy = reader.read(blocks, copy=True)["x"]
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 9
    writer.write({"x": np.array([3, 4], "i4")})
    assert view.tolist() == [3, 4]
    assert copy.tolist() == [1, 2]
    copy[0] = 9


def test_a_view_outlives_growth_and_closing() -> None:
    writer = Arena.create("test")
    view = writer.read(writer.write({"x": np.arange(4, dtype="u1")}), copy=False)["x"]
    writer.write({"x": np.zeros(5_000_000, "u1")})
    writer.close()
    writer.close()
    assert view.shape == (4,)
    assert int(view.sum()) in (0, 6)


def test_what_is_being_copied_when_the_arena_is_closed_is_copied_to_the_end() -> None:
    arena = Arena.create("test")
    (block,) = arena.write({"x": np.arange(1_000_000)})
    view = arena.read((block,), copy=False)["x"]
    arena.close()
    assert int(view.sum()) == 499_999_500_000, "where it lay is still there"
    for use in (lambda: arena.write({"x": view}), lambda: arena.read((block,), copy=True)):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_arrays_start_on_cache_lines(pair: tuple[Arena, Arena]) -> None:
    blocks = pair[0].write({"a": np.zeros(3, "u1"), "b": np.zeros(65, "u1"), "c": np.zeros(1, "f8")})
    assert [block.offset for block in blocks] == [0, 64, 192]


def test_nobody_can_shrink_the_segment(pair: tuple[Arena, Arena]) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(pair[1].fd, 0)
    assert fcntl.fcntl(pair[0].fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK


def test_the_segment_has_no_name_to_leave_behind(pair: tuple[Arena, Arena]) -> None:
    assert str(Path(f"/proc/self/fd/{pair[0].fd}").readlink()) == "/memfd:salver:test (deleted)"


@pytest.mark.parametrize(
    "block",
    [
        Block("x", "<f4", (1 << 20,), 0, 8),  # longer than the segment, whatever it claims
        Block("x", "<f4", (2,), 1 << 40, 8),
        Block("x", "<f4", (2,), -64, 8),
        Block("x", "<f4", (-1,), 0, 8),
        Block("x", "<f4", (1 << 62, 1 << 62), 0, 8),
        Block("x", "<M8[ns]", (1,), 0, 8),
        Block("x", "O,O", (1,), 0, 16),
        Block("x", "nonsense", (1,), 0, 8),
        Block("x", "|O", (4,), 0, 8),  # no room for four lengths
        Block("x", "|O", (1,), 0, 9),  # the length says more than is there
        Block("x", "|O", (-1, -1), 0, 8),
        Block("x", "|O", (1,), -8, 8),
        Block("x", "|O", (1,), 1 << 40, 8),
        Block("x", "|O", (1 << 40,), 0, 1 << 50),
    ],
)
def test_a_block_that_lies_is_refused(pair: tuple[Arena, Arena], block: Block) -> None:
    writer, reader = pair
    writer.write({"x": np.array([5], "u8")})
    with pytest.raises((ValueError, TypeError)):
        reader.read((block,), copy=True)
