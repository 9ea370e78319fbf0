"""The reader of chunked bodies, from whole buffers and byte by byte."""

import pytest

from salver.transport.http1_chunks import ChunkReader

BODY = b"3;name=value\r\nabc\r\n01 \r\nd\r\n0\r\ntrailer: x\r\n\r\n"


def read(text: bytes, step: int) -> tuple[list[bytes], ChunkReader, bytes]:
    """The pieces of a body that comes in steps, the reader, and what it left."""
    reader, buffer, pieces = ChunkReader(), bytearray(), list[bytes]()
    for at in range(0, len(text), step):
        buffer += text[at : at + step]
        while not reader.fault and b"" not in pieces and (piece := reader.read(buffer)) is not None:
            pieces.append(piece)
    return pieces, reader, bytes(buffer)


@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_pieces_are_those_of_the_chunks_however_they_come(step: int) -> None:
    pieces, reader, left = read(BODY + b"POST", step)
    assert b"".join(pieces) == b"abcd" and pieces[-1] == b""
    assert (reader.size, reader.count, reader.fault, left) == (4, 2, 0, b"POST")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"x\r\n", 400),
        (b"3\n", 400),
        (b"3\r\nabcd\r\n", 400),
        (b"3;" + b"x" * 1100, 400),
        (b"0\r\nx: " + b"x" * 70_000, 431),
    ],
)
def test_a_fault_names_its_status(text: bytes, fault: int) -> None:
    assert read(text, len(text))[1].fault == fault


def test_the_size_is_known_before_the_chunk_has_come() -> None:
    pieces, reader, _ = read(b"fffff\r\n", 100)
    assert (pieces, reader.size, reader.count) == ([], 0xFFFFF, 1)
